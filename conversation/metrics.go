package conversation

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operations are the scripts on a session, by file name; listOp is the one on a user's list.
var operations = []string{
	"append", "begin", "abort", "path", "get", "turns", "page", "create", "update", "delete", "head", "summary",
}

const listOp = "list"

// results are how an operation can end; their series exist from the start, at 0.
var results = []struct {
	name string
	err  error
}{
	{"ok", nil}, {"conflict", ErrConflict}, {"not_found", ErrNotFound}, {"deleted", ErrDeleted},
	{"too_large", ErrTooLarge}, {"unavailable", ErrUnavailable}, {"error", nil},
}

var opBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}

// metrics are the store's series. Stores that share a registry share the vectors.
type metrics struct {
	ops       *prometheus.HistogramVec
	turns     *prometheus.CounterVec
	tokens    *prometheus.CounterVec
	latency   prometheus.Observer
	truncated prometheus.Counter
	branches  prometheus.Counter
	dropped   prometheus.Counter
	unlisted  prometheus.Counter
}

func newMetrics(reg *prometheus.Registry) (*metrics, error) {
	v := vectors{reg: reg}
	m := &metrics{
		ops: register(&v, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hxp_session_operation_seconds", Help: "Time of one call to the conversation store, by its result.", Buckets: opBuckets,
		}, []string{"op", "result"})),
		turns:  v.counter("hxp_session_turns_total", "Turns stored, by how they ended.", "status"),
		tokens: v.counter("hxp_session_tokens_total", "Tokens of stored turns, prompt and completion.", "direction"),
		latency: register(&v, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hxp_session_turn_duration_seconds", Help: "Time that finished turns took, as their writers say.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, nil)).WithLabelValues(),
		truncated: v.counter("hxp_session_truncations_total", "Turns whose window left something out.").WithLabelValues(),
		branches:  v.counter("hxp_session_branches_total", "Finished turns that moved no head.").WithLabelValues(),
		dropped:   v.counter("hxp_session_dropped_messages_total", "Messages dropped to keep sessions within their bounds.").WithLabelValues(),
		unlisted:  v.counter("hxp_session_list_misses_total", "Changes that a user's list of sessions has yet to learn of.").WithLabelValues(),
	}
	if v.err != nil {
		return nil, v.err
	}
	for _, op := range append([]string{listOp}, operations...) {
		for _, r := range results {
			m.ops.WithLabelValues(op, r.name)
		}
	}
	for _, s := range statuses {
		m.turns.WithLabelValues(string(s.status))
	}
	m.tokens.WithLabelValues("prompt")
	m.tokens.WithLabelValues("completion")
	return m, nil
}

func (m *metrics) observe(op string, err error, d time.Duration) {
	result := "error"
	for _, r := range results {
		if err == nil && r.name == "ok" || r.err != nil && errors.Is(err, r.err) {
			result = r.name
			break
		}
	}
	m.ops.WithLabelValues(op, result).Observe(d.Seconds())
}

// stored counts a turn that was stored, not one that was there already.
func (m *metrics) stored(t *NewTurn, a *Appended) {
	m.turns.WithLabelValues(string(t.Status)).Inc()
	m.tokens.WithLabelValues("prompt").Add(float64(t.Usage.PromptTokens))
	m.tokens.WithLabelValues("completion").Add(float64(t.Usage.CompletionTokens))
	m.dropped.Add(float64(a.DroppedMessages))
	if t.Truncated {
		m.truncated.Inc()
	}
	if t.Status == Finished {
		m.latency.Observe(t.Latency.Seconds())
		if !a.Moved {
			m.branches.Inc()
		}
	}
}

// vectors registers vectors on reg and keeps the first error.
type vectors struct {
	reg *prometheus.Registry
	err error
}

func (v *vectors) counter(name, help string, labels ...string) *prometheus.CounterVec {
	return register(v, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

func register[C prometheus.Collector](v *vectors, c C) C {
	err := v.reg.Register(c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := there.ExistingCollector.(C); ok {
			return same
		}
	}
	if err != nil && v.err == nil {
		v.err = fmt.Errorf("register metrics: %w", err)
	}
	return c
}
