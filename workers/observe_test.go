package workers_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func get(s *started, path string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec
}

func scrape(t testing.TB, s *started) string {
	t.Helper()
	rec := get(s, "/metrics")
	if rec.Code != http.StatusOK {
		t.Fatalf("/metrics = %d", rec.Code)
	}
	return rec.Body.String()
}

func TestProbes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("x")
	s := b.run(engine, workers.Config{ID: "w1"})
	if rec := get(s, "/livez"); rec.Code != http.StatusOK {
		t.Errorf("/livez = %d", rec.Code)
	}
	var ready struct {
		OK     bool
		Worker string
		Checks map[string]workers.Check
	}
	read := func() int {
		rec := get(s, "/readyz")
		ready.Checks = nil
		if err := json.Unmarshal(rec.Body.Bytes(), &ready); err != nil {
			t.Fatalf("/readyz = %q: %v", rec.Body, err)
		}
		return rec.Code
	}
	if code := read(); code != http.StatusOK || !ready.OK || ready.Worker != "w1" || !ready.Checks["engine"].OK || !ready.Checks["queue"].OK {
		t.Errorf("/readyz = %d %+v", code, ready)
	}
	engine.setSick(unavailable("gone fishing"))
	waitFor(t, "the worker to notice", func() bool { return s.Info().State == schemas.WorkerDown })
	if code := read(); code != http.StatusServiceUnavailable || ready.OK || ready.Checks["engine"].Detail != "gone fishing" {
		t.Errorf("/readyz = %d %+v", code, ready)
	}
	if rec := get(s, "/livez"); rec.Code != http.StatusOK {
		t.Errorf("/livez of a worker without engine = %d, want 200", rec.Code)
	}
	if m := scrape(t, s); !strings.Contains(m, `hxp_engine_up{model="phi3"} 0`) {
		t.Error("hxp_engine_up is not 0")
	}
}

func TestRegistryAndDiscovery(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("x")
	engine.health.Simulated = true
	engine.health.Missing = []string{"no token ids: a stream restarts where it would continue"}
	s := b.run(engine, workers.Config{ID: "w1", Slots: 7})
	waitFor(t, "the registry entry", func() bool {
		list, err := queue.Workers(t.Context(), b.js)
		return err == nil && len(list) == 1 && list[0].State == schemas.WorkerReady
	})
	list, err := queue.Workers(t.Context(), b.js)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(list[0])
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "worker-info", data)
	if w := list[0]; w.ID != "w1" || w.Model != model || w.Slots != 7 || !w.Simulated || w.Engine != "script" || w.Version != "1+script" || w.PID == 0 || w.Host == "" {
		t.Errorf("entry = %+v", w)
	}
	if n := strings.Count(s.log.String(), "no token ids"); n != 1 {
		t.Errorf("what the engine lacks was said %d times, want once", n)
	}
	msg, err := b.nc.Request("$SRV.INFO.hxp-worker", nil, 5e9)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	var info micro.Info
	if err := json.Unmarshal(msg.Data, &info); err != nil || info.Metadata["worker"] != "w1" || info.Metadata["model"] != model {
		t.Errorf("discovery = %s (%v)", msg.Data, err)
	}
}

func TestMetricsTellTheWholeStory(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	reg := prometheus.NewRegistry()
	s := b.run(says("a", "b"), workers.Config{Registry: reg})
	other, err := workers.New(b.js, "mixtral", says(), workers.Config{Registry: reg})
	if err != nil {
		t.Fatalf("two workers on one registry: %v", err)
	}
	if other.ID() == s.ID() {
		t.Errorf("two workers have one id, %s", s.ID())
	}
	if m := scrape(t, s); !strings.Contains(m, `hxp_jobs_total{class="batch",model="mixtral",outcome="expired"} 0`) {
		t.Error("series do not start at 0")
	}
	b.result(b.submit(schemas.Job{Stream: true, Class: schemas.Interactive}))
	b.settled(0)
	waitFor(t, "the job to be accounted for", func() bool {
		return strings.Contains(scrape(t, s), `hxp_jobs_in_flight{class="interactive",model="phi3"} 0`)
	})
	m := scrape(t, s)
	for _, want := range []string{
		`hxp_jobs_total{class="interactive",model="phi3",outcome="completed"} 1`,
		`hxp_prompt_tokens_total{class="interactive",model="phi3"} 3`,
		`hxp_completion_tokens_total{class="interactive",model="phi3"} 2`,
		`hxp_queue_wait_seconds_count{class="interactive",model="phi3"} 1`,
		`hxp_time_to_first_token_seconds_count{class="interactive",model="phi3"} 1`,
		`hxp_inter_token_latency_seconds_count{class="interactive",model="phi3"} 1`,
		`hxp_job_duration_seconds_count{class="interactive",model="phi3"} 1`,
		`hxp_engine_up{model="phi3"} 1`,
		`hxp_slots{model="phi3"} 256`,
	} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestMetricsClashIsAnError(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "hxp_jobs_total", Help: "another"}))
	if _, err := workers.New(b.js, model, says(), workers.Config{Registry: reg}); err == nil || !strings.Contains(err.Error(), "hxp_jobs_total") {
		t.Errorf("New = %v, want an error that names hxp_jobs_total", err)
	}
}

func TestPromptsAreLoggedOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	for _, ask := range []bool{false, true} {
		b := newBroker(t, queue.Config{})
		s := b.run(says("the answer"), workers.Config{LogPrompts: ask})
		b.result(b.submit(schemas.Job{Body: []byte(`{"prompt":"the secret"}`)}))
		waitFor(t, "the outcome line", func() bool { return strings.Contains(s.log.String(), `"outcome":"completed"`) })
		log := s.log.String()
		if got := strings.Contains(log, "the secret") && strings.Contains(log, "the answer"); got != ask {
			t.Errorf("LogPrompts %v: text in the log: %v", ask, got)
		}
	}
}
