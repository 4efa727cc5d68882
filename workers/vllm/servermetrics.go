package vllm

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// serverMetrics are a Server's series. Servers that share a registry share the vectors.
type serverMetrics struct {
	model        string
	restarts     map[string]prometheus.Counter // by reason
	startSeconds prometheus.Gauge
	memory       prometheus.Gauge
	overLimit    prometheus.Counter
	cpu          prometheus.Counter

	gpuUsed, gpuTotal, gpuUse *prometheus.GaugeVec
}

func newServerMetrics(reg *prometheus.Registry, model string) (*serverMetrics, error) {
	var errs []error
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		c, err := register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
		errs = append(errs, err)
		return c
	}
	restarts := counter("hxp_engine_restarts_total", "Ends of the engine's process that were not asked for by a stop, by reason.", "model", "reason")
	start := gauge("hxp_engine_start_seconds", "Time that the engine's last start took until it was ready.", "model")
	memory := gauge("hxp_engine_memory_bytes", "Resident memory of the engine's processes.", "model")
	over := counter("hxp_engine_memory_limit_exceeded_total", "Times that the engine's memory rose over its limit.", "model")
	cpu := counter("hxp_engine_cpu_seconds_total", "CPU time of the engine's processes.", "model")
	m := &serverMetrics{
		model:    model,
		restarts: make(map[string]prometheus.Counter),
		gpuUsed:  gauge("hxp_gpu_memory_used_bytes", "Memory of the GPU in use, by anybody.", "model", "gpu"),
		gpuTotal: gauge("hxp_gpu_memory_total_bytes", "Memory of the GPU.", "model", "gpu"),
		gpuUse:   gauge("hxp_gpu_utilization_ratio", "Part of the time in which the GPU computed, from 0 to 1.", "model", "gpu"),
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, reason := range reasons() {
		m.restarts[reason] = restarts.WithLabelValues(model, reason)
	}
	m.startSeconds, m.memory = start.WithLabelValues(model), memory.WithLabelValues(model)
	m.overLimit, m.cpu = over.WithLabelValues(model), cpu.WithLabelValues(model)
	return m, nil
}

// register registers a vector, or finds it where another Server did.
func register[C prometheus.Collector](reg *prometheus.Registry, c C) (C, error) {
	err := reg.Register(c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := there.ExistingCollector.(C); ok {
			return same, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register metrics: %w", err)
	}
	return c, nil
}

// gpus shows the readings, and no series for what is not there any more.
func (m *serverMetrics) gpus(list []GPU) {
	for _, v := range []*prometheus.GaugeVec{m.gpuUsed, m.gpuTotal, m.gpuUse} {
		v.DeletePartialMatch(prometheus.Labels{"model": m.model})
	}
	for _, g := range list {
		for v, value := range map[*prometheus.GaugeVec]float64{
			m.gpuUsed: float64(g.MemoryUsed), m.gpuTotal: float64(g.MemoryTotal), m.gpuUse: g.Utilization,
		} {
			if value >= 0 {
				v.WithLabelValues(m.model, g.Index).Set(value)
			}
		}
	}
}
