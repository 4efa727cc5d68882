package workers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/schemas"
)

// turnOutcomes are what can become of the turn of a job with a session; "pending" ones are counted again when
// they are stored late or found lost. summaryOutcomes are the same for summaries.
var (
	turnOutcomes    = []string{string(schemas.TurnStored), string(schemas.TurnPending), string(schemas.TurnKept), string(schemas.TurnDropped), "stored_late", "lost"}
	summaryOutcomes = []string{"asked", "not_asked", "stored", "dropped"}
)

// sessionMetrics are the series of a model's jobs with a session.
type sessionMetrics struct {
	turns     map[string]prometheus.Counter
	summaries map[string]prometheus.Counter
	truncated prometheus.Counter
	history   prometheus.Counter
	waits     prometheus.Counter
}

func newSessionMetrics(v *vectors, model string) *sessionMetrics {
	turns := v.counter("hxp_session_jobs_total", "Jobs with a session, by what became of their turn.", "model", "outcome")
	summaries := v.counter("hxp_session_summaries_total", "Summaries asked for and written, by what became of them.", "model", "outcome")
	m := &sessionMetrics{
		turns: map[string]prometheus.Counter{}, summaries: map[string]prometheus.Counter{},
		truncated: v.counter("hxp_session_truncated_total", "Jobs whose prompt did not hold the whole history.", "model").WithLabelValues(model),
		history:   v.counter("hxp_session_history_tokens_total", "Prompt tokens that came from stored history.", "model").WithLabelValues(model),
		waits:     v.counter("hxp_session_waits_total", "Deliveries handed back because conversations could not be reached.", "model").WithLabelValues(model),
	}
	for _, o := range turnOutcomes {
		m.turns[o] = turns.WithLabelValues(model, o)
	}
	for _, o := range summaryOutcomes {
		m.summaries[o] = summaries.WithLabelValues(model, o)
	}
	return m
}

func (m *sessionMetrics) turn(outcome string)    { m.turns[outcome].Inc() }
func (m *sessionMetrics) summary(outcome string) { m.summaries[outcome].Inc() }

// newSessions registers what the worker itself has of it.
func newSessions(w *Worker, reg *prometheus.Registry) (*sessions, error) {
	v := vectors{reg: reg}
	pending := v.gauge("hxp_session_pending", "Turns that wait to be stored; their jobs have ended.", "model")
	away := v.gauge("hxp_session_store_unreachable", "1 while conversations could not be reached when they were last asked for.", "model")
	if v.err != nil {
		return nil, v.err
	}
	return &sessions{
		w: w, maxLate: maxLate, proof: lateProof, back: make(chan struct{}), since: time.Now(),
		pending: pending.WithLabelValues(w.model), unreachable: away.WithLabelValues(w.model),
	}, nil
}

// countTurn counts what became of a job's turn.
func (r *run) countTurn(result *schemas.Result) {
	t, m := result.Turn, r.metrics.sessions
	switch {
	case t == nil || t.State == "":
	case r.job.Session.Summarize != "":
		m.summary(map[bool]string{true: "stored", false: "dropped"}[t.State == schemas.TurnStored])
	default:
		m.turn(string(t.State))
		if t.LeftOut != nil {
			m.truncated.Inc()
		}
	}
}
