package workers_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// reporter is an engine whose report of its load the test writes.
type reporter struct {
	workers.Engine
	mu    sync.Mutex
	load  workers.Load
	err   error
	looks int
}

func (r *reporter) Load(context.Context) (workers.Load, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks++
	return r.load, r.err
}

// report sets the load, and waits until the worker has looked at it n times.
func (r *reporter) report(t *testing.T, n int, load workers.Load, err error) {
	t.Helper()
	r.mu.Lock()
	r.load, r.err = load, err
	want := r.looks + n + 1 // of the last look only that it has begun is known
	r.mu.Unlock()
	waitFor(t, "looks at the load", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.looks >= want
	})
}

// reported is a worker of turnstiles that runs jobs standard jobs on an engine that reports its load.
type reported struct {
	*started
	engine *reporter
	gate   *turnstile
	reg    *prometheus.Registry
}

func (b *broker) reported(t *testing.T, cfg workers.Config, jobs int) *reported {
	t.Helper()
	r := &reported{gate: newTurnstile(), reg: prometheus.NewRegistry()}
	r.engine = &reporter{Engine: r.gate, load: workers.Load{KVCache: 0.1}}
	cfg.Registry, cfg.DrainTimeout, cfg.LoadInterval = r.reg, -1, 10*time.Millisecond
	r.started = b.run(r.engine, cfg)
	for range jobs {
		b.submit(schemas.Job{})
	}
	r.gate.await(t, jobs)
	waitFor(t, "the jobs to be counted", func() bool { return r.Info().Busy == jobs })
	return r
}

func (r *reported) value(t *testing.T, name string) float64 {
	t.Helper()
	v, ok := gauges(t, r.reg)[name]
	if !ok {
		t.Fatalf("no series %s", name)
	}
	return v
}

// reaches waits for the limit of slots.
func (r *reported) reaches(t *testing.T, what string, limit int) {
	t.Helper()
	waitFor(t, what, func() bool { return r.Info().Slots == limit })
}

func TestLimitFollowsTheEnginesQueue(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	r := b.reported(t, workers.Config{Slots: 64}, 40)
	// A burst is gone at the next look.
	r.engine.report(t, 1, workers.Load{Running: 40, Waiting: 2}, nil)
	if n := r.Info().Slots; n != 64 {
		t.Errorf("limit = %d with two waiting, want 64", n)
	}
	r.engine.report(t, 3, workers.Load{Running: 30, Waiting: 10}, nil)
	r.reaches(t, "the limit to fall to what runs and two", 32)
	if got := r.value(t, "hxp_slot_limit waiting"); got != 32 || r.value(t, "hxp_slot_limit_changes_total waiting") != 1 ||
		r.value(t, "hxp_engine_running") != 30 || r.value(t, "hxp_engine_waiting") != 10 || r.value(t, "hxp_slots") != 32 {
		t.Errorf("series = %v", gauges(t, r.reg))
	}
	b.submit(schemas.Job{})
	b.pending(schemas.Standard, 1)
	if n := len(r.gate.started()); n != 40 {
		t.Errorf("%d jobs started, want none above the limit", n)
	}
	// Others' sequences wait as well: ours make way for them.
	r.engine.report(t, 3, workers.Load{Running: 90, Waiting: 25}, nil)
	r.reaches(t, "the limit to make way", 17)
	r.engine.report(t, 3, workers.Load{Running: 40, Waiting: 1}, nil)
	if n := r.Info().Slots; n != 17 {
		t.Errorf("limit = %d while the engine is full, want 17", n)
	}
	r.engine.report(t, 1, workers.Load{Running: 40}, nil)
	r.reaches(t, "the limit to come back", 64)
	r.gate.await(t, 41)
	if r.value(t, "hxp_slot_limit_changes_total recovery") == 0 {
		t.Error("no recovery counted")
	}
	if log := r.log.String(); strings.Count(log, "slot limit changed") != 1 || !strings.Contains(log, `"reason":"waiting","busy":40,"engine_running":30,"engine_waiting":10`) {
		t.Errorf("log = %s", log)
	}
}

func TestLimitFollowsTheKVCache(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	r := b.reported(t, workers.Config{Slots: 64}, 40)
	r.engine.report(t, 2, workers.Load{Running: 40, KVCache: 0.95}, nil)
	r.reaches(t, "the limit to fall", 36)
	if got := r.value(t, "hxp_engine_kv_cache_usage_ratio"); got != 0.95 {
		t.Errorf("usage = %g", got)
	}
	// No further step before the last has had its effect.
	r.engine.report(t, 3, workers.Load{Running: 40, KVCache: 0.95}, nil)
	if n := r.Info().Slots; n != 36 {
		t.Errorf("limit = %d with 40 in flight, want 36", n)
	}
	for range 4 {
		r.gate.pass <- struct{}{}
	}
	r.reaches(t, "the limit to fall again", 32)
	r.engine.report(t, 1, workers.Load{Running: 36, KVCache: 0.85}, nil)
	for range 6 {
		r.gate.pass <- struct{}{}
	}
	waitFor(t, "jobs to end", func() bool { return r.Info().Busy == 30 })
	r.engine.report(t, 2, workers.Load{Running: 30, KVCache: 0.85, Preemptions: 9}, nil)
	r.reaches(t, "the limit to fall by preemptions", 24)
	if r.value(t, "hxp_slot_limit_changes_total preemptions") != 1 || r.value(t, "hxp_slot_limit_changes_total kv_cache") != 2 ||
		r.value(t, "hxp_engine_preemptions_total") != 9 {
		t.Errorf("series = %v", gauges(t, r.reg))
	}
	// It comes back slowly, and no further than twice of what is in flight. The engine has been restarted.
	r.engine.report(t, 2, workers.Load{Running: 30, KVCache: 0.5}, nil)
	r.reaches(t, "the limit to come back", 61)
	r.engine.report(t, 5, workers.Load{KVCache: -1, Running: 30}, nil)
	if n := r.Info().Slots; n != 61 || r.value(t, "hxp_engine_preemptions_total") != 9 {
		t.Errorf("limit = %d with 30 in flight, want 61; series %v", n, gauges(t, r.reg))
	}
}

func TestLooksThatFailChangeNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	r := b.reported(t, workers.Config{Slots: 64}, 40)
	r.engine.report(t, 3, workers.Load{Running: 30, Waiting: 10, KVTokens: 100}, nil)
	r.reaches(t, "the limit to fall", 32)
	// The health check looks at the load as well, so that not every look is one at the capacity.
	r.engine.report(t, 5, workers.Load{}, unavailable("no answer"))
	waitFor(t, "looks that fail", func() bool { return r.value(t, "hxp_engine_load_failures_total") >= 5 })
	if n := r.Info().Slots; n != 32 || r.value(t, "hxp_engine_waiting") != 10 {
		t.Errorf("limit = %d, want 32; series %v", n, gauges(t, r.reg))
	}
	r.engine.report(t, 2, workers.Load{Running: 32, Waiting: 2}, nil)
	waitFor(t, "a look that succeeds", func() bool { return strings.Contains(r.log.String(), "engine reports its load again") })
	before := r.value(t, "hxp_engine_load_failures_total")
	r.engine.report(t, 2, workers.Load{}, workers.ErrUnsupported)
	waitFor(t, "a look at nothing", func() bool { return strings.Contains(r.log.String(), "engine reports no load") })
	if got := r.value(t, "hxp_engine_load_failures_total"); got != before {
		t.Errorf("%g failures, want %g: an engine that cannot say has not failed", got, before)
	}
	for _, want := range []string{"load of the engine is not known", "engine reports its load again", "engine reports no load"} {
		if n := strings.Count(r.log.String(), want); n != 1 {
			t.Errorf("%q is in the log %d times, want once", want, n)
		}
	}
}

// The target may be for the time between tokens, and jobs that do not get a first token count as well.
func TestLimitFollowsTheLatency(t *testing.T) {
	t.Parallel()
	pace := func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		for emit("x") {
			<-time.After(5 * time.Millisecond)
		}
		return nil
	}
	silent := func(ctx context.Context, _ int, _ *workers.Request, _ func(...string) bool) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, c := range map[string]struct {
		generate func(ctx context.Context, n int, req *workers.Request, emit func(words ...string) bool) error
		cfg      workers.Config
	}{
		"between tokens": {pace, workers.Config{TargetInterToken: time.Millisecond}},
		"no first token": {silent, workers.Config{TargetLatency: time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			c.cfg.Slots, c.cfg.DrainTimeout, c.cfg.LoadInterval = 16, -1, 10*time.Millisecond
			c.cfg.Reserved.FromBatch = -1
			s := b.run(newScript(c.generate), c.cfg)
			for range 16 {
				b.submit(schemas.Job{Class: schemas.Batch})
			}
			waitFor(t, "the limit to fall", func() bool { return s.Info().Slots <= 8 })
			if log := s.log.String(); !strings.Contains(log, `"reason":"latency"`) || !strings.Contains(log, "latency_of_target") {
				t.Errorf("log = %s", log)
			}
			free := c.cfg.Tunables()
			free.TargetLatency, free.TargetInterToken = 0, 0
			if err := s.Tune(free); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the limit to come back without a target", func() bool { return s.Info().Slots == 16 })
		})
	}
}

// An engine that was slow for want of load, and then has none, does not keep batch jobs away.
func TestOldLatencyIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	var slow sync.Once
	s := b.run(newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		slow.Do(func() { <-time.After(40 * time.Millisecond) })
		emit("x")
		return nil
	}), workers.Config{Slots: 4, LoadInterval: 10 * time.Millisecond, TargetLatency: 20 * time.Millisecond})
	b.result(b.submit(schemas.Job{Class: schemas.Interactive}))
	var jobs []schemas.Job
	for range 4 {
		jobs = append(jobs, b.submit(schemas.Job{Class: schemas.Batch}))
	}
	for _, j := range jobs {
		b.result(j)
	}
	waitFor(t, "the limit", func() bool { return s.Info().Slots >= 1 })
}

func TestReservedSlots(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reserved workers.Reserved
		want     []int // started of 8 batch, then of 8 standard, then of 8 interactive jobs, with 8 slots
	}{
		"by default":   {workers.Reserved{}, []int{7, 8, 8}},
		"none":         {workers.Reserved{FromBatch: -1}, []int{8, 8, 8}},
		"from batch":   {workers.Reserved{FromBatch: 3}, []int{5, 8, 8}},
		"from both":    {workers.Reserved{FromBatch: 5, FromStandard: 2}, []int{3, 6, 8}},
		"from all but": {workers.Reserved{FromStandard: 4}, []int{4, 4, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			e := newTurnstile()
			b.run(e, workers.Config{Slots: 8, Reserved: c.reserved, DrainTimeout: -1})
			classes := []schemas.Class{schemas.Batch, schemas.Standard, schemas.Interactive}
			for i, class := range classes {
				for range 8 {
					b.submit(schemas.Job{Class: class})
				}
				e.await(t, c.want[i])
			}
			var got []int
			n := 0
			for _, class := range classes {
				for _, s := range e.started() {
					if s == class {
						n++
					}
				}
				got = append(got, n)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("started %v, class by class, want %v", got, c.want)
			}
			// What ends is followed by what is most urgent.
			e.pass <- struct{}{}
			if got := e.await(t, 9)[8:]; !slices.Equal(got, []schemas.Class{schemas.Interactive}) && c.want[1] < 8 {
				t.Errorf("then %v started", got)
			}
		})
	}
}

func TestBatchWaitsForSlack(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	r := b.reported(t, workers.Config{Slots: 16}, 4)
	calm := workers.Load{Running: 4, KVCache: 0.1}
	for name, load := range map[string]workers.Load{
		"waiting":  {Running: 3, Waiting: 1, KVCache: 0.1},
		"kv cache": {Running: 4, KVCache: 0.85},
	} {
		n := len(r.gate.started())
		r.engine.report(t, 3, load, nil)
		b.submit(schemas.Job{Class: schemas.Batch})
		b.pending(schemas.Batch, 1)
		b.submit(schemas.Job{Class: schemas.Standard})
		r.engine.report(t, 3, workers.Load{}, unavailable("no answer")) // which is no sign of slack
		b.submit(schemas.Job{Class: schemas.Standard})
		if got := r.gate.await(t, n+2)[n:]; !slices.Equal(got, []schemas.Class{schemas.Standard, schemas.Standard}) {
			t.Errorf("%s: started %v under pressure, want the standard jobs", name, got)
		}
		r.engine.report(t, 3, calm, nil)
		if got := r.gate.await(t, n+3)[n+2:]; !slices.Equal(got, []schemas.Class{schemas.Batch}) {
			t.Errorf("%s: started %v when it was over, want the batch job", name, got)
		}
	}
	// With nothing else in flight one starts whatever the pressure, or it would starve.
	r.engine.report(t, 3, workers.Load{Running: 4, KVCache: 0.85}, nil)
	n := len(r.gate.started())
	for range 2 {
		b.submit(schemas.Job{Class: schemas.Batch})
	}
	b.pending(schemas.Batch, 2)
	for range n {
		r.gate.pass <- struct{}{}
	}
	r.gate.await(t, n+1)
	b.pending(schemas.Batch, 1)
}

// Urgent jobs without end, and an engine under pressure: batch gets its share and no more.
func TestBatchKeepsItsShareUnderPressure(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	for range 150 {
		b.submit(schemas.Job{Class: schemas.Interactive})
	}
	for range 30 {
		b.submit(schemas.Job{Class: schemas.Batch})
	}
	r := &reported{gate: newTurnstile()}
	r.engine = &reporter{Engine: r.gate, load: workers.Load{KVCache: 0.85}}
	b.runUnready(r.engine, workers.Config{Slots: 8, Reserved: workers.Reserved{FromBatch: 4}, BatchShare: 0.1, DrainTimeout: -1, LoadInterval: 10 * time.Millisecond})
	for i := range 100 {
		r.gate.await(t, i+1)
		r.gate.pass <- struct{}{}
	}
	n := 0
	for _, c := range r.gate.started()[:100] {
		if c == schemas.Batch {
			n++
		}
	}
	if n < 6 || n > 12 {
		t.Errorf("%d of 100 starts were batch jobs, want about 9", n)
	}
}

// A request that the engine's cache can never hold would block the engine's queue for ever.
// Jobs that come one at a time, on waiting pulls, earn the share of the others as well.
func TestShareIsEarnedByJobsThatComeSingly(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	r := b.reported(t, workers.Config{Slots: 16, BatchShare: 0.5}, 1)
	r.engine.report(t, 3, workers.Load{Running: 1, KVCache: 0.85}, nil)
	b.submit(schemas.Job{Class: schemas.Batch})
	b.pending(schemas.Batch, 1)
	for i := range 3 {
		b.submit(schemas.Job{Class: schemas.Interactive})
		r.gate.await(t, 2+i)
	}
	b.pending(schemas.Batch, 0)
	if got := r.gate.await(t, 5); !slices.Contains(got, schemas.Batch) {
		t.Errorf("started %v, want the batch job too", got)
	}
}

func TestRequestAboveTheKVCacheIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{KVTokens: 100})
	reg := prometheus.NewRegistry()
	b.run(engine, workers.Config{Registry: reg, LoadInterval: 10 * time.Millisecond})
	if l, err := engine.Load(t.Context()); err != nil || l.KVTokens != 100 {
		t.Fatalf("load = %+v, %v", l, err)
	}
	// Until the worker has seen the load it lets such a request through; here it has.
	waitFor(t, "a look at the load", func() bool { return gauges(t, reg)["hxp_slot_limit waiting"] > 0 && sim.Stats().Running == 0 })
	b.result(b.submit(schemas.Job{}))
	for name, body := range map[string]string{
		"by its tokens":      chat("x", 200),
		"by a prompt of ids": `{"prompt":[1,2,3,4,5],"max_tokens":96}`,
		"by its prompt":      chat(strings.Repeat("word ", 200), 1),
	} {
		res := b.result(b.submit(schemas.Job{Body: json.RawMessage(body)}))
		if res.Error == nil || res.Error.Code != schemas.CodeContextLengthExceeded || !strings.Contains(res.Error.Message, "the engine's KV cache holds 100") {
			t.Errorf("%s: error = %+v, want context_length_exceeded", name, res.Error)
		}
	}
	// What sets no end is given one.
	res := b.result(b.submit(schemas.Job{Body: json.RawMessage(`{"messages":[{"role":"user","content":"x"}],"ignore_eos":true}`)}))
	if res.Error != nil || res.Usage == nil || res.Usage.TotalTokens != 100 {
		t.Errorf("result = %+v, error %+v; want 100 tokens in all", res.Usage, res.Error)
	}
}

func TestCapacityConfig(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, err := workers.New(b.js, model, says(), workers.Config{
		Slots: 4, Reserved: workers.Reserved{FromStandard: 4, FromBatch: 5}, TargetLatency: -1, TargetInterToken: -1, LoadInterval: -1,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"Reserved.FromStandard is 4; want less than Slots, 4", "Reserved.FromBatch is 5", "TargetLatency is -1ns", "TargetInterToken is -1ns", "LoadInterval is -1ns",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
}
