package workers_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// quickBreaker opens after two attempts of which one failed.
var quickBreaker = workers.Breaker{Attempts: 2, FailureRate: 0.5, Wait: 60 * time.Millisecond}

func TestBreakerTriesTheEngineOutWithoutJobs(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	var broken atomic.Bool
	broken.Store(true)
	inner := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		if broken.Load() {
			return unavailable("boom")
		}
		emit("x")
		return nil
	})
	engine := &probed{Engine: inner, canary: func(context.Context) error {
		if broken.Load() {
			return unavailable("boom")
		}
		return nil
	}}
	s := b.run(engine, workers.Config{Breaker: quickBreaker, MaxAttempts: 5})
	jobs := []schemas.Job{b.submit(schemas.Job{}), b.submit(schemas.Job{})}
	waitFor(t, "the breaker to open", func() bool {
		return strings.Contains(scrape(t, s), `hxp_breaker_transitions_total{model="phi3",state="open"} 1`)
	})
	waitFor(t, "it to be tried out, in vain", func() bool { n, _ := engine.counts(); return n >= 2 })
	seen := len(inner.seen())
	if st := s.Status(); st.Pulling || st.State == schemas.WorkerReady {
		t.Errorf("status = %+v", st)
	}
	if _, checks := s.Ready(); checks["breaker"].OK || checks["breaker"].Detail == "" {
		t.Errorf("checks = %+v", checks)
	}
	waitFor(t, "it to be tried out again", func() bool { n, _ := engine.counts(); return n >= 4 })
	if n := len(inner.seen()); n != seen {
		t.Errorf("the engine saw %d jobs while the breaker was open", n-seen)
	}
	broken.Store(false)
	for _, job := range jobs {
		if r := b.result(job); r.Status != schemas.StatusCompleted {
			t.Errorf("result = %s %v", r.Status, r.Error)
		}
	}
	b.await(s, schemas.WorkerReady)
	wantMetrics(t, s, `hxp_breaker_transitions_total{model="phi3",state="closed"} 1`, `hxp_breaker_state{model="phi3",state="closed"} 1`,
		`hxp_breaker_state{model="phi3",state="open"} 0`, `hxp_breaker_state{model="phi3",state="half_open"} 0`)
}

func TestJobsOfAnOpenBreakerGoToOthers(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(&probed{
		Engine: newScript(func(context.Context, int, *workers.Request, func(...string) bool) error { return unavailable("boom") }),
		canary: func(context.Context) error { return unavailable("boom") },
	}, workers.Config{Breaker: workers.Breaker{Attempts: 1, Wait: time.Minute}})
	job := b.submit(schemas.Job{})
	b.await(s, schemas.WorkerDown, schemas.CauseBreakerOpen)
	other := b.run(says("well"), workers.Config{})
	if r := b.result(job); r.Worker != other.ID() || r.Text != "well" {
		t.Errorf("result = %+v", r)
	}
}

func TestWhatIsNoFaultOfTheEngineDoesNotCount(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(newScript(func(ctx context.Context, n int, req *workers.Request, emit func(...string) bool) error {
		switch body := string(req.Body); {
		case strings.Contains(body, "bad"):
			return schemas.Errorf(schemas.CodeInvalidRequest, "no")
		case strings.Contains(body, "unreceived") && n%2 == 0:
			return errors.Join(workers.ErrNotReceived, unavailable("refused"))
		case strings.Contains(body, "long"):
			<-ctx.Done()
			return ctx.Err()
		}
		emit("x")
		return nil
	}), workers.Config{Breaker: workers.Breaker{Attempts: 1, FailureRate: 0.01}})
	for range 3 {
		b.result(b.submit(schemas.Job{Body: []byte(`{"prompt":"bad"}`)}))
		b.result(b.submit(schemas.Job{Body: []byte(`{"prompt":"unreceived"}`)}))
		b.result(b.submit(schemas.Job{Body: []byte(`{"prompt":"long"}`), Deadline: time.Now().Add(50 * time.Millisecond)}))
	}
	id := uuid.NewString()
	l := b.listen(schemas.EventSubject("*", "*", id))
	job := b.submit(schemas.Job{ID: id, Body: []byte(`{"prompt":"long"}`)})
	l.until(schemas.Started)
	b.cancel(job)
	b.result(job)
	wantMetrics(t, s, `hxp_breaker_transitions_total{model="phi3",state="open"} 0`)
}

func TestHealthConfigIsChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, err := workers.New(b.js, model, says(), workers.Config{
		TargetLatency: -1,
		Breaker:       workers.Breaker{Window: -1, Attempts: -1, FailureRate: 2, Wait: -1, Successes: -1},
		Covers:        []workers.Cover{{Model: model}, {Model: "a.b"}, {Model: "x", After: -1}, {Model: "x"}},
	})
	if err == nil {
		t.Fatal("New took it")
	}
	for _, want := range []string{
		"TargetLatency is -1ns", "Breaker.Window", "Breaker.Attempts is -1", "Breaker.FailureRate is 2", "Breaker.Wait", "Breaker.Successes",
		`Covers[0].Model is "phi3"`, "Covers[1].Model", "Covers[2].After is -1ns", `Covers[3].Model is "x"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, lacks %q", err, want)
		}
	}
	for _, clash := range []string{"hxp_worker_state", "hxp_fallback_active", "hxp_lease_renewals_total"} {
		reg := prometheus.NewRegistry()
		reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: clash, Help: "another"}))
		_, err := workers.New(b.js, model, says(), workers.Config{Registry: reg, Covers: []workers.Cover{{Model: "x"}}})
		if err == nil || !strings.Contains(err.Error(), clash) {
			t.Errorf("New = %v, want an error that names %s", err, clash)
		}
	}
}
