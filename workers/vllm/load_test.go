package vllm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// reporting starts a vLLM with the given /metrics.
func reporting(t testing.TB, cfg vllm.Config, metrics http.HandlerFunc) *vllm.Engine {
	t.Helper()
	return newEngine(t, start(t, fake{version: "0.31.0", models: vllmModels, routes: map[string]http.HandlerFunc{"/metrics": metrics}}).URL, cfg)
}

func text200(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func TestLoad(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		metrics string
		want    workers.Load
	}{
		"current names": {
			`# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+06
vllm:generation_tokens_total{engine="0",model_name="m"} 42 1764000000000
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="1000",sliding_window="None"} 1.0
http_requests_total{handler="none"} broken
`,
			workers.Load{Running: 7, Waiting: 3, KVCache: 0.25, KVTokens: 16000, Preemptions: 2, PromptTokens: 1500000, GeneratedTokens: 42},
		},
		"names before 0.10": {
			"vllm:num_requests_running{model_name=\"m\"} 1\nvllm:num_requests_swapped{model_name=\"m\"} 2\nvllm:num_requests_waiting{model_name=\"m\"} 4\n" +
				"vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.5\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1",
			workers.Load{Running: 1, Waiting: 6, KVCache: 0.5},
		},
		"both names of one gauge": {
			"vllm:kv_cache_usage_perc 0.5\nvllm:gpu_cache_usage_perc 0.9\n",
			workers.Load{KVCache: 0.5},
		},
		"data-parallel ranks": {
			"vllm:num_requests_running{model_name=\"m\",engine=\"0\"} 1\nvllm:num_requests_running{model_name=\"m\",engine=\"1\"} 2\n" +
				"vllm:kv_cache_usage_perc{model_name=\"m\",engine=\"0\"} 0.1\nvllm:kv_cache_usage_perc{model_name=\"m\",engine=\"1\"} 0.8\n" +
				"vllm:num_preemptions_total{model_name=\"m\",engine=\"0\"} 1\nvllm:num_preemptions_total{model_name=\"m\",engine=\"1\"} 1\n" +
				"vllm:cache_config_info{engine=\"0\",kv_cache_size_tokens=\"900\"} 1\nvllm:cache_config_info{engine=\"1\",kv_cache_size_tokens=\"800\",num_gpu_blocks=\"1\",block_size=\"16\"} 1\n",
			workers.Load{Running: 3, KVCache: 0.8, KVTokens: 800, Preemptions: 2},
		},
		"other models": {
			"vllm:num_requests_running{model_name=\"m\"} 1\nvllm:num_requests_running{model_name=\"other\"} 9\nvllm:num_requests_waiting 2\n",
			workers.Load{Running: 1, Waiting: 2, KVCache: -1},
		},
		"one model under another name": {
			"vllm:num_requests_running{model_name=\"org/m\"} 5\n",
			workers.Load{Running: 5, KVCache: -1},
		},
		"escaped labels": {
			`vllm:num_requests_running{ path = "C:\\x \"y\"\n}", model_name="m", } 5`,
			workers.Load{Running: 5, KVCache: -1},
		},
		"values out of range": {
			"vllm:num_requests_running NaN\nvllm:num_requests_waiting -3\nvllm:kv_cache_usage_perc NaN\nvllm:prompt_tokens_total +Inf\n",
			workers.Load{KVCache: -1, PromptTokens: 1 << 52},
		},
		"usage above one": {"vllm:kv_cache_usage_perc 1.01", workers.Load{KVCache: 1}},
		"a sliding window": {
			"vllm:num_requests_running 0\nvllm:cache_config_info{num_gpu_blocks=\"10\",block_size=\"16\",sliding_window=\"4096\"} 1",
			workers.Load{KVCache: -1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := reporting(t, vllm.Config{}, text200(c.metrics))
			if _, err := e.Health(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := e.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("load (-want +got):\n%s", d)
			}
		})
	}
}

func TestLoadIsUnsupported(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"no metrics":          http.NotFound,
		"nothing of vLLM":     text200("process_cpu_seconds_total 12\nllamacpp:kv_cache_usage_ratio 0\n"),
		"configuration alone": text200("vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"10\"} 1\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if l, err := reporting(t, vllm.Config{}, h).Load(t.Context()); !errors.Is(err, workers.ErrUnsupported) {
				t.Errorf("load = %+v, %v; want ErrUnsupported", l, err)
			}
		})
	}
}

func TestLoadFailures(t *testing.T) {
	t.Parallel()
	var models strings.Builder
	for i := range 65 {
		fmt.Fprintf(&models, "vllm:num_requests_running{model_name=\"m%d\"} 1\n", i)
	}
	for name, c := range map[string]struct {
		h       http.HandlerFunc
		message string
	}{
		"server error":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "answered 500"},
		"endless":          {text200(strings.Repeat("# x\n", 1<<20+1)), "longer than 4194304 bytes"},
		"endless line":     {text200(strings.Repeat("x", 1<<17)), "longer than 65536 bytes"},
		"no value":         {text200("vllm:num_requests_running{}\n"), "num_requests_running: is not of the text format"},
		"no number":        {text200("vllm:num_requests_running many\n"), "is not of the text format"},
		"label unquoted":   {text200("vllm:num_requests_running{a=b} 1\n"), "is not of the text format"},
		"label open":       {text200("vllm:num_requests_running{a=\"b} 1\n"), "is not of the text format"},
		"label escape cut": {text200("vllm:num_requests_running{a=\"b\\"), "is not of the text format"},
		"label escape end": {text200("vllm:num_requests_running{a=\"b\\\""), "is not of the text format"},
		"too many models":  {text200(models.String()), "more than 64 models"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "vllm:num_requests_running 1\n")
		}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := reporting(t, vllm.Config{}, c.h).Load(t.Context())
			check(t, err, schemas.CodeEngineUnavailable, true, c.message)
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		srv := start(t, fake{})
		srv.Close()
		_, err := newEngine(t, srv.URL, vllm.Config{}).Load(t.Context())
		check(t, err, schemas.CodeEngineUnavailable, true, "GET /metrics")
	})
	t.Run("no answer in time", func(t *testing.T) {
		t.Parallel()
		e := reporting(t, vllm.Config{HealthTimeout: 20 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		_, err := e.Load(t.Context())
		check(t, err, schemas.CodeEngineUnavailable, true, "report of its load within 20ms")
	})
}

// The series of the model that was configured count, before the engine has been asked what it serves.
func TestLoadOfTheConfiguredModel(t *testing.T) {
	t.Parallel()
	e := reporting(t, vllm.Config{Model: "b"}, text200("vllm:num_requests_running{model_name=\"a\"} 1\nvllm:num_requests_running{model_name=\"b\"} 2\n"))
	if l, err := e.Load(t.Context()); err != nil || l.Running != 2 {
		t.Errorf("load = %+v, %v; want 2 running", l, err)
	}
}

func TestSimulatorLoad(t *testing.T) {
	t.Parallel()
	sim, e := simulate(t, vllmsim.Config{Model: "m", MaxNumSeqs: 2, ITL: time.Hour, KVTokens: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	for range 3 {
		go func() {
			collect(ctx, e, completion(`{"prompt":[1,2,3],"max_tokens":40}`))
			ended <- struct{}{}
		}()
	}
	eventually(t, "three requests", func() bool { st := sim.Stats(); return st.GenerationTokens == 2 && st.Waiting == 1 })
	want := workers.Load{Running: 2, Waiting: 1, KVCache: 0.008, KVTokens: 1000, PromptTokens: 6, GeneratedTokens: 2}
	got, err := e.Load(t.Context())
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v; load (-want +got):\n%s", err, d)
	}
	cancel()
	for range 3 {
		<-ended
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"vllm:num_requests_running{model_name=\"m\",engine=\"0\"} 1\n", "vllm:kv_cache_usage_perc 0.5 123\n",
		`vllm:cache_config_info{block_size="16",num_gpu_blocks="10",a="\\\"\n"} 1.0`, "vllm:num_requests_waiting{", "vllm:", "vllm:prompt_tokens_total 1e300\n",
	} {
		f.Add(s)
	}
	var report atomic.Value
	e := newEngine(f, start(f, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, report.Load().(string))
	})).URL, vllm.Config{Model: "m"})
	f.Fuzz(func(t *testing.T, s string) {
		report.Store(s)
		l, err := e.Load(t.Context())
		if err != nil && l != (workers.Load{}) {
			t.Errorf("load %+v together with %v", l, err)
		}
		if l.Running < 0 || l.Waiting < 0 || l.KVTokens < 0 || l.KVCache > 1 || l.KVCache < 0 && l.KVCache != -1 {
			t.Errorf("load = %+v", l)
		}
	})
}
