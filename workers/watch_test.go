package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// probed is an engine whose load, canary and restarts a test decides on.
type probed struct {
	workers.Engine
	mu       sync.Mutex
	load     func() (workers.Load, error)
	canary   func(context.Context) error
	restart  func()
	canaries int
	restarts []string
}

func (p *probed) Load(ctx context.Context) (workers.Load, error) {
	p.mu.Lock()
	load := p.load
	p.mu.Unlock()
	if load == nil {
		return p.Engine.Load(ctx)
	}
	return load()
}

func (p *probed) Canary(ctx context.Context) error {
	p.mu.Lock()
	p.canaries++
	canary := p.canary
	p.mu.Unlock()
	if canary == nil {
		return p.Engine.Canary(ctx)
	}
	return canary(ctx)
}

func (p *probed) Restart(reason string) {
	p.mu.Lock()
	p.restarts = append(p.restarts, reason)
	restart := p.restart
	p.mu.Unlock()
	if restart != nil {
		restart()
	}
}

func (p *probed) set(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
}

func (p *probed) counts() (canaries int, restarts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.canaries, slices.Clone(p.restarts)
}

// await waits for a state with a cause, and for the registry to show it.
func (b *broker) await(s *started, state schemas.WorkerState, causes ...schemas.WorkerCause) schemas.WorkerInfo {
	b.t.Helper()
	var entry schemas.WorkerInfo
	waitFor(b.t, "the registry to show "+string(state), func() bool {
		all, err := queue.Workers(b.t.Context(), b.js)
		for _, entry = range all {
			if err == nil && entry.ID == s.ID() && entry.State == state && slices.Equal(entry.Causes, causes) {
				return true
			}
		}
		return false
	})
	return entry
}

type readyz struct {
	OK      bool
	State   schemas.WorkerState
	Since   time.Time
	Pulling bool
	Causes  []workers.Complaint
	Engine  string
	Slots   int
	Busy    int
	Checks  map[string]workers.Check
}

func probe(t *testing.T, s *started) (int, readyz) {
	t.Helper()
	rec := get(s, "/readyz")
	var r readyz
	if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil {
		t.Fatalf("/readyz = %q: %v", rec.Body, err)
	}
	return rec.Code, r
}

func wantMetrics(t *testing.T, s *started, lines ...string) {
	t.Helper()
	m := scrape(t, s)
	for _, line := range lines {
		if !strings.Contains(m, line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// vLLM's API server answers /health with 200 while its engine hangs.
func TestTrapHangWithHealthyHealth(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 450 * time.Millisecond})
	sim, inner := simulate(t, vllmsim.Config{ITL: 2 * time.Millisecond})
	engine := &probed{Engine: inner, restart: func() {}}
	s := b.run(engine, workers.Config{FirstTokenTimeout: 400 * time.Millisecond, TokenTimeout: 300 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	body := chat("hang on", 80)
	job := b.submit(schemas.Job{Stream: true, Body: json.RawMessage(body)})
	first := l.until(schemas.DeltaKind)
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.Hang}); err != nil {
		t.Fatal(err)
	}
	entry := b.await(s, schemas.WorkerDown, schemas.CauseHung)
	if _, err := inner.Health(t.Context()); err != nil {
		t.Errorf("Health = %v; the trap is that it passes", err)
	}
	if entry.Pulling || !strings.Contains(entry.Reason, "did not generate a token") {
		t.Errorf("entry = %+v", entry)
	}
	if code, r := probe(t, s); code != http.StatusServiceUnavailable || r.OK || r.Pulling || r.State != schemas.WorkerDown || r.Causes[0].Cause != schemas.CauseHung {
		t.Errorf("/readyz = %d %+v", code, r)
	}
	canaries, _ := engine.counts()
	waitFor(t, "another canary", func() bool { n, _ := engine.counts(); return n > canaries })
	if _, restarts := engine.counts(); len(restarts) != 1 || !strings.Contains(restarts[0], "did not generate a token") {
		t.Errorf("restarts = %q, want one", restarts)
	}
	sim.ClearFaults()
	events := append(first, l.end(uint64(len(first)+1))...)
	want := expect(t, body)
	if got := textOf(t, events); got != want {
		t.Errorf("text = %q, want %q", got, want)
	}
	if n := strings.Count(kinds(events), "interrupted"); n != 1 {
		t.Errorf("%d attempts were interrupted, want 1: the hung engine is not asked with a job again", n)
	}
	if r := b.result(job); r.Text != want {
		t.Errorf("result = %q, want %q", r.Text, want)
	}
	b.await(s, schemas.WorkerReady)
	wantMetrics(t, s, `hxp_engine_restart_requests_total{model="phi3"} 1`, `hxp_worker_state{model="phi3",state="ready"} 1`, `hxp_worker_state{model="phi3",state="down"} 0`)
}

func TestHangWithoutAJobOfItsOwnIsSeenByTheLoad(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := &probed{
		Engine: says("x"),
		load:   func() (workers.Load, error) { return workers.Load{Running: 2, GeneratedTokens: 7}, nil },
		canary: func(context.Context) error { return unavailable("no token within 1s") },
	}
	s := b.run(engine, workers.Config{FirstTokenTimeout: 150 * time.Millisecond, TokenTimeout: 50 * time.Millisecond})
	b.await(s, schemas.WorkerDown, schemas.CauseHung)
	if _, restarts := engine.counts(); len(restarts) != 1 {
		t.Errorf("restarts = %q, want one", restarts)
	}
	engine.set(func() { engine.canary = nil; engine.load = nil })
	b.await(s, schemas.WorkerReady)
	wantMetrics(t, s, `hxp_canaries_total{model="phi3",outcome="passed"} 1`, `hxp_worker_degraded{cause="engine_hung",model="phi3"} 0`)
}

func TestRestartIsAskedForAgainAfterTheEngineWasSeenToRestart(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	inner := says("x")
	engine := &probed{
		Engine: inner,
		load:   func() (workers.Load, error) { return workers.Load{Running: 1}, nil },
		canary: func(context.Context) error { return unavailable("no token") },
	}
	restarting := errors.Join(workers.ErrRestarting, unavailable("restarting after it hung"))
	engine.restart = func() { inner.setSick(restarting) }
	s := b.run(engine, workers.Config{FirstTokenTimeout: 100 * time.Millisecond, TokenTimeout: 100 * time.Millisecond})
	for n := 1; n <= 2; n++ {
		waitFor(t, "a restart", func() bool { _, r := engine.counts(); return len(r) == n })
		if e := b.await(s, schemas.WorkerDegraded, schemas.CauseRestarting); e.Pulling {
			t.Errorf("entry = %+v", e)
		}
		if code, _ := probe(t, s); code != http.StatusServiceUnavailable {
			t.Errorf("/readyz = %d while the engine restarts", code)
		}
		inner.setSick(nil)
	}
}

func TestBusyEngineIsNotTakenForAHungOne(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	done := make(chan struct{})
	var tokens atomic.Int64
	engine := &probed{Engine: newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		for emit("t") {
			tokens.Add(1)
			select {
			case <-done:
				return nil
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
		return ctx.Err()
	})}
	s := b.run(engine, workers.Config{TokenTimeout: 100 * time.Millisecond})
	job := b.submit(schemas.Job{})
	waitFor(t, "it to run", func() bool { return s.Info().Busy == 1 })
	engine.set(func() {
		engine.load = func() (workers.Load, error) { return workers.Load{Running: 9}, nil }
		engine.canary = func(ctx context.Context) error {
			for before := tokens.Load(); tokens.Load() < before+2; {
				select {
				case <-ctx.Done():
				case <-done:
					return nil
				case <-time.After(time.Millisecond):
				}
			}
			return unavailable("it waits its turn")
		}
	})
	waitFor(t, "canaries", func() bool { n, _ := engine.counts(); return n >= 2 })
	close(done)
	if r := b.result(job); r.Attempts != 1 {
		t.Errorf("%d attempts, want 1", r.Attempts)
	}
	if _, restarts := engine.counts(); len(restarts) != 0 {
		t.Errorf("restarts = %q of an engine that gives tokens", restarts)
	}
}

func TestEngineWithoutACanaryIsBelieved(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine := &probed{canary: func(context.Context) error { return workers.ErrUnsupported }}
	engine.Engine = newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		if n, _ := engine.counts(); n == 0 {
			<-ctx.Done()
			return ctx.Err()
		}
		emit("x")
		return nil
	})
	b.run(engine, workers.Config{FirstTokenTimeout: 100 * time.Millisecond, MaxAttempts: 9})
	if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
		t.Errorf("result = %s %v, want an answer after the canary", r.Status, r.Error)
	}
}

func TestSlowWorkerSaysSoAndPulls(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
		emit("x")
		return ctx.Err()
	}), workers.Config{TargetLatency: time.Millisecond})
	for range 12 {
		b.result(b.submit(schemas.Job{}))
	}
	e := b.await(s, schemas.WorkerDegraded, schemas.CauseSlow)
	if !e.Pulling || !e.Live() || !strings.Contains(e.Reason, "the target is 1ms") {
		t.Errorf("entry = %+v", e)
	}
	if code, r := probe(t, s); code != http.StatusOK || !r.OK || r.State != schemas.WorkerDegraded || !r.Pulling {
		t.Errorf("/readyz = %d %+v", code, r)
	}
	if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
		t.Errorf("a job while it is slow: %+v", r)
	}
	wantMetrics(t, s, `hxp_worker_state{model="phi3",state="degraded"} 1`, `hxp_worker_degraded{cause="slow",model="phi3"} 1`,
		`hxp_worker_state_changes_total{model="phi3",state="degraded"} 1`)
}

func TestSaturatedWorkerSaysSo(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newTurnstile()
	s := b.run(engine, workers.Config{Slots: 1})
	b.submit(schemas.Job{})
	engine.await(t, 1)
	b.submit(schemas.Job{})
	b.submit(schemas.Job{Class: schemas.Batch})
	e := b.await(s, schemas.WorkerDegraded, schemas.CauseSaturated)
	if !e.Pulling || !strings.Contains(e.Reason, "more jobs are queued") {
		t.Errorf("entry = %+v", e)
	}
	if code, r := probe(t, s); code != http.StatusOK || r.Busy != 1 || r.Slots != 1 || r.Engine != "script" || r.Since.IsZero() {
		t.Errorf("/readyz = %d %+v", code, r)
	}
	close(engine.pass)
	b.await(s, schemas.WorkerReady)
}

func TestCutOffWorkerSaysSo(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 900 * time.Millisecond})
	s := b.run(says("x"), workers.Config{})
	b.srv.Shutdown()
	waitFor(t, "the worker to notice", func() bool { return s.Status().State == schemas.WorkerDown })
	if st := s.Status(); st.Pulling || st.Causes[0].Cause != schemas.CauseQueue || !strings.Contains(st.Causes[0].Detail, "RECONNECTING") {
		t.Errorf("status = %+v", st)
	}
	b.restart(0)
	waitFor(t, "it to be well again", func() bool { return s.Status().State == schemas.WorkerReady })
	b.result(b.submit(schemas.Job{}))
}
