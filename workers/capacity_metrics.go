package workers

import "github.com/prometheus/client_golang/prometheus"

// capacityMetrics are the series of the limit of slots and of the load that it follows.
type capacityMetrics struct {
	bounds   map[string]prometheus.Gauge
	changes  map[string]prometheus.Counter
	failures prometheus.Counter

	running, waiting, kv prometheus.Gauge
	preemptions          prometheus.Counter
	preempted            uint64 // as the engine counted last
	looked               bool
}

func newCapacityMetrics(v *vectors, model string) *capacityMetrics {
	bounds := v.gauge("hxp_slot_limit", "Sequences that may be in flight, by what bounds them; the lowest is hxp_slots.", "model", "bound")
	changes := v.counter("hxp_slot_limit_changes_total", "Changes of the limit of sequences in flight, by reason.", "model", "reason")
	failures := v.counter("hxp_engine_load_failures_total", "Looks at the engine's load that failed and changed nothing.", "model")
	running := v.gauge("hxp_engine_running", "Sequences that the engine computes, by its own count.", "model")
	waiting := v.gauge("hxp_engine_waiting", "Sequences in the engine's own queue.", "model")
	kv := v.gauge("hxp_engine_kv_cache_usage_ratio", "Part of the engine's KV cache in use.", "model")
	preemptions := v.counter("hxp_engine_preemptions_total", "Sequences that the engine preempted.", "model")
	m := &capacityMetrics{
		bounds:   make(map[string]prometheus.Gauge),
		changes:  make(map[string]prometheus.Counter),
		failures: failures.WithLabelValues(model),
		running:  running.WithLabelValues(model), waiting: waiting.WithLabelValues(model), kv: kv.WithLabelValues(model),
		preemptions: preemptions.WithLabelValues(model),
	}
	for _, b := range []string{boundConfigured, reasonWaiting, reasonKV, reasonLatency} {
		m.bounds[b] = bounds.WithLabelValues(model, b)
	}
	for _, r := range []string{reasonWaiting, reasonKV, reasonLatency, reasonPreemptions, reasonRecovery} {
		m.changes[r] = changes.WithLabelValues(model, r)
	}
	return m
}

// observe shows a load. Preemptions are counted from the first look, and anew after the engine's restart.
func (m *capacityMetrics) observe(l Load) {
	m.running.Set(float64(l.Running))
	m.waiting.Set(float64(l.Waiting))
	if l.KVCache >= 0 {
		m.kv.Set(l.KVCache)
	}
	if m.looked && l.Preemptions > m.preempted {
		m.preemptions.Add(float64(l.Preemptions - m.preempted))
	}
	m.preempted, m.looked = l.Preemptions, true
}
