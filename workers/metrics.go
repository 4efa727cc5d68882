package workers

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/schemas"
)

// outcomes are how a delivery can end; their series exist from the start, at 0.
var outcomes = []string{
	"completed", "failed", "cancelled", "expired", // the job ended
	"duplicate", "superseded", // it had ended, or was running, already
	"retried", "deferred", "handed_back", "abandoned", // this delivery did not answer it
}

// Buckets: a queue is waited in for up to hours, a first token for up to minutes.
var (
	waitBuckets  = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400}
	ttftBuckets  = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 30, 60}
	tokenBuckets = []float64{.0005, .001, .0025, .005, .01, .015, .02, .03, .05, .075, .1, .25, .5, 1, 5, 15}
	abortBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}
	groupBuckets = []float64{2, 4, 8, 16, 32, 64, 128, 256, 512, maxGroup}
)

// metrics are a worker's series, looked up once. Workers that share a registry share the vectors.
type metrics struct {
	*jobMetrics
	renewals prometheus.Counter
	engineUp prometheus.Gauge
	slots    prometheus.Gauge
	// requests to the engine: those of one job, and those of a group, whose size is observed.
	single, group prometheus.Counter
	groupSize     prometheus.Observer
	capacity      *capacityMetrics
}

// jobMetrics are the series of a model's jobs, whoever runs them.
type jobMetrics struct {
	model   string
	class   map[schemas.Class]*classMetrics
	cancels map[schemas.Phase]cancelMetrics
	dead    *prometheus.CounterVec

	sessions   *sessionMetrics
	moderation *moderationMetrics
}

type classMetrics struct {
	jobs         map[string]prometheus.Counter // by outcome
	inFlight     prometheus.Gauge
	redeliveries prometheus.Counter
	prompt       prometheus.Counter
	completion   prometheus.Counter
	queueWait    prometheus.Observer
	ttft         prometheus.Observer
	interToken   prometheus.Observer
	duration     prometheus.Observer
}

type cancelMetrics struct {
	total prometheus.Counter
	abort prometheus.Observer
}

func (c *classMetrics) outcome(name string) { c.jobs[name].Inc() }

func (c *classMetrics) tokens(u *schemas.Usage) {
	if u != nil {
		c.prompt.Add(float64(u.PromptTokens))
		c.completion.Add(float64(u.CompletionTokens))
	}
}

func (m *jobMetrics) deadLetter(code schemas.Code) {
	m.dead.WithLabelValues(m.model, string(code)).Inc()
}

// newMetrics registers the vectors, or finds them where another worker did.
func newMetrics(reg *prometheus.Registry, model string) (*metrics, error) {
	v := vectors{reg: reg}
	renewals := v.counter("hxp_lease_renewals_total", "Leases renewed.", "model")
	up := v.gauge("hxp_engine_up", "1 while the engine is ready.", "model")
	slots := v.gauge("hxp_slots", "Sequences that the engine may have in flight.", "model")
	requests := v.counter("hxp_engine_requests_total", "Requests for a generation to the engine: of a single job, or of a group.", "model", "kind")
	groupSize := v.histogram("hxp_group_size", "Jobs in one request to the engine, where there are several.", groupBuckets, "model")
	capacity := newCapacityMetrics(&v, model)
	jobs, err := newJobMetrics(reg, model)
	if err != nil || v.err != nil {
		return nil, errors.Join(err, v.err)
	}
	return &metrics{
		jobMetrics: jobs, renewals: renewals.WithLabelValues(model),
		engineUp: up.WithLabelValues(model), slots: slots.WithLabelValues(model),
		single: requests.WithLabelValues(model, "single"), group: requests.WithLabelValues(model, "group"),
		groupSize: groupSize.WithLabelValues(model),
		capacity:  capacity,
	}, nil
}

func newJobMetrics(reg *prometheus.Registry, model string) (*jobMetrics, error) {
	v := vectors{reg: reg}
	jobs := v.counter("hxp_jobs_total", "Deliveries of jobs, by how they ended.", "model", "class", "outcome")
	inFlight := v.gauge("hxp_jobs_in_flight", "Jobs that the worker holds.", "model", "class")
	redeliveries := v.counter("hxp_redeliveries_total", "Jobs delivered for a second or later time.", "model", "class")
	prompt := v.counter("hxp_prompt_tokens_total", "Prompt tokens of ended jobs.", "model", "class")
	completion := v.counter("hxp_completion_tokens_total", "Generated tokens of ended jobs.", "model", "class")
	wait := v.histogram("hxp_queue_wait_seconds", "Time from the queue's acceptance to the start of an attempt.", waitBuckets, "model", "class")
	ttft := v.histogram("hxp_time_to_first_token_seconds", "Time from the start of an attempt to its first token.", ttftBuckets, "model", "class")
	token := v.histogram("hxp_inter_token_latency_seconds", "Time between tokens.", tokenBuckets, "model", "class")
	duration := v.histogram("hxp_job_duration_seconds", "Time from the queue's acceptance to the job's end.", waitBuckets, "model", "class")
	cancels := v.counter("hxp_cancels_total", "Cancelled jobs, by how far they had come.", "model", "phase")
	abort := v.histogram("hxp_cancel_to_abort_seconds", "Time from a cancel's arrival at the worker to the abort of the engine's request.", abortBuckets, "model", "phase")
	dead := v.counter("hxp_dead_letters_total", "Jobs given up, by reason.", "model", "code")
	sessions := newSessionMetrics(&v, model)
	moderation := newModerationMetrics(&v, model)
	if v.err != nil {
		return nil, v.err
	}
	m := &jobMetrics{
		model: model, dead: dead, sessions: sessions, moderation: moderation,
		class:   make(map[schemas.Class]*classMetrics),
		cancels: make(map[schemas.Phase]cancelMetrics),
	}
	for _, class := range schemas.Classes() {
		c := string(class)
		cm := &classMetrics{
			jobs:     make(map[string]prometheus.Counter),
			inFlight: inFlight.WithLabelValues(model, c), redeliveries: redeliveries.WithLabelValues(model, c),
			prompt: prompt.WithLabelValues(model, c), completion: completion.WithLabelValues(model, c),
			queueWait: wait.WithLabelValues(model, c), ttft: ttft.WithLabelValues(model, c),
			interToken: token.WithLabelValues(model, c), duration: duration.WithLabelValues(model, c),
		}
		for _, o := range outcomes {
			cm.jobs[o] = jobs.WithLabelValues(model, c, o)
		}
		m.class[class] = cm
	}
	for _, phase := range []schemas.Phase{schemas.PhaseQueued, schemas.PhasePrefill, schemas.PhaseDecode} {
		m.cancels[phase] = cancelMetrics{cancels.WithLabelValues(model, string(phase)), abort.WithLabelValues(model, string(phase))}
	}
	return m, nil
}

// vectors registers vectors on reg and keeps the first error.
type vectors struct {
	reg *prometheus.Registry
	err error
}

func (v *vectors) counter(name, help string, labels ...string) *prometheus.CounterVec {
	return register(v, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

func (v *vectors) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(v, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
}

func (v *vectors) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return register(v, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels))
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
