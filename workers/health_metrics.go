package workers

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/schemas"
)

// healthMetrics are the series of a worker's health.
type healthMetrics struct {
	states       map[schemas.WorkerState]prometheus.Gauge
	changes      map[schemas.WorkerState]prometheus.Counter
	degraded     []prometheus.Gauge // in the order of schemas.WorkerCauses
	breaker      map[string]prometheus.Gauge
	transitions  map[string]prometheus.Counter
	canaryPassed prometheus.Counter
	canaryFailed prometheus.Counter
	restarts     prometheus.Counter
}

func workerStates() []schemas.WorkerState {
	return []schemas.WorkerState{schemas.WorkerStarting, schemas.WorkerReady, schemas.WorkerDegraded, schemas.WorkerDown, schemas.WorkerDraining}
}

func newHealthMetrics(reg *prometheus.Registry, model string) (*healthMetrics, error) {
	v := vectors{reg: reg}
	states := v.gauge("hxp_worker_state", "1 for the state that the worker is in.", "model", "state")
	changes := v.counter("hxp_worker_state_changes_total", "Times that the worker came into a state.", "model", "state")
	degraded := v.gauge("hxp_worker_degraded", "1 for each cause for which the worker is not ready.", "model", "cause")
	breaker := v.gauge("hxp_breaker_state", "1 for the state that the engine's circuit breaker is in.", "model", "state")
	transitions := v.counter("hxp_breaker_transitions_total", "Times that the breaker came into a state.", "model", "state")
	canaries := v.counter("hxp_canaries_total", "Trial generations, by outcome.", "model", "outcome")
	restarts := v.counter("hxp_engine_restart_requests_total", "Times that the engine was asked to restart because it hung.", "model")
	if v.err != nil {
		return nil, v.err
	}
	m := &healthMetrics{
		states: make(map[schemas.WorkerState]prometheus.Gauge), changes: make(map[schemas.WorkerState]prometheus.Counter),
		breaker: make(map[string]prometheus.Gauge), transitions: make(map[string]prometheus.Counter),
		canaryPassed: canaries.WithLabelValues(model, "passed"), canaryFailed: canaries.WithLabelValues(model, "failed"),
		restarts: restarts.WithLabelValues(model),
	}
	for _, s := range workerStates() {
		m.states[s], m.changes[s] = states.WithLabelValues(model, string(s)), changes.WithLabelValues(model, string(s))
	}
	for _, c := range schemas.WorkerCauses() {
		m.degraded = append(m.degraded, degraded.WithLabelValues(model, string(c)))
	}
	for _, s := range breakerStates() {
		m.breaker[s], m.transitions[s] = breaker.WithLabelValues(model, s), transitions.WithLabelValues(model, s)
	}
	return m, nil
}

// show writes the state and the causes out.
func (m *healthMetrics) show(before, now schemas.WorkerState, causes causeSet) {
	for s, gauge := range m.states {
		gauge.Set(oneIf(s == now))
	}
	if before != now {
		m.changes[now].Inc()
	}
	for i, gauge := range m.degraded {
		gauge.Set(oneIf(causes.has(i)))
	}
}

// showBreaker writes the breaker's new state out.
func (m *healthMetrics) showBreaker(now string) {
	for s, gauge := range m.breaker {
		gauge.Set(oneIf(s == now))
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
