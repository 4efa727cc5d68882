package vllmsim

import (
	"maps"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// blockSize is how many tokens a block of the cache holds, as vLLM's default.
const blockSize = 16

// metrics are vLLM's, under vLLM's names, on a registry of the simulator's own.
type metrics struct {
	handler    http.Handler
	success    *prometheus.CounterVec
	firstToken prometheus.Histogram
	interToken prometheus.Histogram
	endToEnd   prometheus.Histogram
	queueTime  prometheus.Histogram
}

func newMetrics(s *Sim) *metrics {
	reg := prometheus.NewRegistry()
	labels := prometheus.Labels{"model_name": s.cfg.Model, "engine": "0"}
	gauge := func(name, help string, read func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "vllm:" + name, Help: help, ConstLabels: labels}, s.locked(read)))
	}
	counter := func(name, help string, read func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "vllm:" + name, Help: help, ConstLabels: labels}, s.locked(read)))
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vllm:" + name, Help: help, ConstLabels: labels, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	gauge("num_requests_running", "Number of requests in model execution batches.", func() float64 { return float64(len(s.running)) })
	gauge("num_requests_waiting", "Number of requests waiting to be processed.", func() float64 { return float64(len(s.waiting)) })
	gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", s.cacheUse)
	counter("prompt_tokens_total", "Number of prefill tokens processed.", func() float64 { return float64(s.stats.PromptTokens) })
	counter("generation_tokens_total", "Number of generation tokens processed.", func() float64 { return float64(s.stats.GenerationTokens) })
	counter("num_preemptions_total", "Cumulative number of preemptions: the simulator never preempts.", func() float64 { return 0 })
	info := maps.Clone(labels)
	info["block_size"], info["num_gpu_blocks"] = strconv.Itoa(blockSize), strconv.Itoa(s.cfg.KVTokens/blockSize)
	info["kv_cache_size_tokens"], info["sliding_window"] = strconv.Itoa(s.cfg.KVTokens), "None"
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "vllm:cache_config_info", Help: "Information of the LLMEngine CacheConfig.", ConstLabels: info,
	}, func() float64 { return 1 }))
	m := &metrics{
		handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
		success: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vllm:request_success_total", Help: "Count of processed requests.", ConstLabels: labels,
		}, []string{"finished_reason"}),
		firstToken: histogram("time_to_first_token_seconds", "Time to first token.", 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
		interToken: histogram("inter_token_latency_seconds", "Time between tokens.", 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80),
		endToEnd:   histogram("e2e_request_latency_seconds", "Time from arrival to the last token.", requestBuckets()...),
		queueTime:  histogram("request_queue_time_seconds", "Time spent waiting.", requestBuckets()...),
	}
	reg.MustRegister(m.success)
	for _, reason := range []string{finishStop, finishLength, finishAbort, finishError} {
		m.success.WithLabelValues(reason)
	}
	return m
}

func requestBuckets() []float64 {
	return []float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
}

// locked makes read safe to call from a scrape.
func (s *Sim) locked(read func() float64) func() float64 {
	return func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return read()
	}
}

// cacheUse is the share of the cache that running sequences fill.
func (s *Sim) cacheUse() float64 {
	tokens := 0
	for _, q := range s.running {
		tokens += len(q.prompt) + q.gen.produced
	}
	return float64(tokens) / float64(s.cfg.KVTokens)
}
