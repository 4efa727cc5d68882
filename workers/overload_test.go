package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// gauges returns a worker's series by name and labels other than the model.
func gauges(t testing.TB, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "model" {
					name += " " + l.GetValue()
				}
			}
			switch {
			case m.GetGauge() != nil:
				all[name] = m.GetGauge().GetValue()
			case m.GetCounter() != nil:
				all[name] = m.GetCounter().GetValue()
			}
		}
	}
	return all
}

// stopwatch is an engine whose times to the first token are taken.
type stopwatch struct {
	workers.Engine
	mu    sync.Mutex
	times []time.Duration
}

func (s *stopwatch) Generate(ctx context.Context, req *workers.Request) iter.Seq2[workers.Delta, error] {
	return func(yield func(workers.Delta, error) bool) {
		from, first := time.Now(), true
		for d, err := range s.Engine.Generate(ctx, req) {
			if first && d.Tokens > 0 {
				first = false
				s.mu.Lock()
				s.times = append(s.times, time.Since(from))
				s.mu.Unlock()
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// median returns the median since the last call, or 0.
func (s *stopwatch) median() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	times := s.times
	s.times = nil
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// flood keeps depth jobs of a class queued until ctx ends; wait waits for that.
func (b *broker) flood(ctx context.Context, class schemas.Class, depth int, body func(n int) string) (wait func()) {
	b.t.Helper()
	consumers, err := queue.Consumers(ctx, b.js, model)
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; {
			info, err := consumers[class].Info(ctx)
			for err == nil && info.NumPending < uint64(depth) && ctx.Err() == nil {
				info.NumPending++
				n++
				job := schemas.Job{ID: uuid.Must(uuid.NewV7()).String(), Model: model, Class: class, Tenant: tenant, Body: json.RawMessage(body(n))}
				job.SetDefaults()
				data, _ := json.Marshal(job)
				_, err = b.js.Publish(ctx, schemas.JobSubject(model, class, tenant), data)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return wg.Wait
}

// TestTrapUnboundedQueue loads an engine with three times what it can do, as a queue that is never
// empty does: the engine's own queue stays empty and its slots stay busy. Then the engine becomes half as
// fast, and well again: the limit follows its latency down, and back up. It runs alone, because it
// measures.
func TestTrapUnboundedQueue(t *testing.T) { //nolint:paralleltest // it measures
	const slots = 64
	b := newBroker(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{
		MaxNumSeqs: slots, TTFT: 150 * time.Millisecond, ITL: 40 * time.Millisecond, LoadFactor: 1,
	})
	reg := prometheus.NewRegistry()
	timed := &stopwatch{Engine: engine}
	s := b.run(timed, workers.Config{
		Slots: slots, DrainTimeout: -1, Registry: reg, LoadInterval: 100 * time.Millisecond, TargetLatency: 450 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	wait := b.flood(ctx, schemas.Standard, 3*slots, func(n int) string { return chat("x", 5+7*n%30) })
	defer wait()
	defer cancel()

	begun := time.Now()
	table := []string{"    time  limit  bound      busy  running  waiting  ttft p50"}
	// watch samples until the condition holds for the limit, and returns the part of the slots that was busy.
	watch := func(what string, most time.Duration, done func(limit int, since time.Duration) bool) float64 {
		t.Helper()
		var busy, all float64
		from := time.Now()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			<-tick.C
			st, info := sim.Stats(), s.Info()
			if st.Waiting >= 4 {
				t.Errorf("%s: %d sequences wait in the engine, %d run, limit %d", what, st.Waiting, st.Running, info.Slots)
			}
			busy += float64(min(info.Busy, info.Slots))
			all += float64(info.Slots)
			if n%25 == 0 {
				now := gauges(t, reg)
				bound := "configured"
				for _, name := range []string{"latency", "waiting", "kv_cache"} {
					if now["hxp_slot_limit "+name] < now["hxp_slot_limit "+bound] {
						bound = name
					}
				}
				table = append(table, fmt.Sprintf("%7.1fs %6d  %-10s %4d %8d %8d  %5.0f ms  %s",
					time.Since(begun).Seconds(), info.Slots, bound, info.Busy, st.Running, st.Waiting, inMS(timed.median()), what))
			}
			if done(info.Slots, time.Since(from)) {
				return busy / all
			}
			if time.Since(from) > most {
				t.Fatalf("%s: not within %s; limit %d, log:\n%s\n%s", what, most, info.Slots, s.log, strings.Join(table, "\n"))
			}
		}
	}
	watch("warm-up", 10*time.Second, func(_ int, since time.Duration) bool { return since > 1500*time.Millisecond })
	if busy := watch("steady", 10*time.Second, func(_ int, since time.Duration) bool { return since > 2500*time.Millisecond }); busy < 0.95 {
		t.Errorf("%.1f %% of the slots busy, want 95 %%", 100*busy)
	} else {
		t.Logf("%.1f %% of the slots busy", 100*busy)
	}
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.Slow, Factor: 2}); err != nil {
		t.Fatal(err)
	}
	watch("half as fast", 10*time.Second, func(limit int, since time.Duration) bool { return limit <= slots*2/3 && since > 3*time.Second })
	sim.ClearFaults()
	watch("well again", 20*time.Second, func(limit int, _ time.Duration) bool { return limit >= slots*9/10 })
	t.Log("\n" + strings.Join(table, "\n"))
	got := gauges(t, reg)
	if got["hxp_slot_limit_changes_total latency"] == 0 || got["hxp_slot_limit_changes_total recovery"] == 0 || got["hxp_slot_limit configured"] != slots {
		t.Errorf("series = %v", got)
	}
	if !strings.Contains(s.log.String(), `"reason":"latency"`) {
		t.Errorf("the log does not say why:\n%s", s.log)
	}
}

// TestBatchFillsTheSlack measures the time to the first token of interactive jobs, from submit to
// event, alone and beside batch jobs that fill all that they may. It runs alone, because it measures.
func TestBatchFillsTheSlack(t *testing.T) { //nolint:paralleltest // it measures
	// Ten interactive jobs at a time on average are more than 20 at one time in 600. Latencies are long, so
	// that what other processes do to this machine stays small beside them.
	const slots, reserved, jobs, gap = 64, 20, 120, 60 * time.Millisecond
	b := newBroker(t, queue.Config{})
	// Few chunks, because what writing and reading them costs this machine is not what is measured.
	_, engine := simulate(t, vllmsim.Config{MaxNumSeqs: slots, TTFT: 600 * time.Millisecond, ITL: 200 * time.Millisecond, StreamInterval: 10})
	reg := prometheus.NewRegistry()
	s := b.run(engine, workers.Config{
		Slots: slots, Reserved: workers.Reserved{FromBatch: reserved}, DrainTimeout: -1, LoadInterval: 100 * time.Millisecond, Registry: reg,
	})
	type token struct {
		job string
		at  time.Time
	}
	tokens := make(chan token, 4*jobs)
	sub, err := b.nc.Subscribe(schemas.AllEvents, func(msg *nats.Msg) {
		now := time.Now()
		var e schemas.Event
		if e.Decode(msg.Data) == nil && e.Kind == schemas.DeltaKind {
			tokens <- token{e.ID, now}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()

	measure := func(what string) (p99 time.Duration, busy float64) {
		t.Helper()
		// The same arrivals each time, as independent people make them.
		arrivals := rand.New(rand.NewPCG(1, 2))
		submitted := make(map[string]time.Time, jobs)
		var used float64
		due := time.Now()
		for range jobs {
			due = due.Add(time.Duration(arrivals.ExpFloat64() * float64(gap)))
			<-time.After(time.Until(due))
			now := time.Now()
			job := b.submit(schemas.Job{Class: schemas.Interactive, Stream: true, Body: json.RawMessage(chat("now", 1))})
			submitted[job.ID] = now
			used += float64(s.Info().Busy)
		}
		var ttft []time.Duration
		late := time.After(10 * time.Second)
		for len(ttft) < jobs {
			select {
			case k := <-tokens:
				if at, ok := submitted[k.job]; ok {
					ttft = append(ttft, k.at.Sub(at))
					delete(submitted, k.job)
				}
			case <-late:
				t.Fatalf("%s: %d of %d jobs have a first token", what, len(ttft), jobs)
			}
		}
		slices.Sort(ttft)
		t.Logf("%-11s p50 %6.1f ms  p90 %6.1f ms  p99 %6.1f ms  busy %4.1f of %d slots", what,
			inMS(ttft[jobs/2]), inMS(ttft[jobs*9/10]), inMS(ttft[jobs*99/100-1]), used/jobs, slots)
		return ttft[jobs*99/100-1], used / jobs
	}
	const bound = 1.2
	// Noise only adds: the best of up to three measurements counts on both sides.
	var alone, beside time.Duration
	for try := 1; ; try++ {
		waitFor(t, "the engine to be idle", func() bool { return s.Info().Busy == 0 })
		p99, _ := measure("alone")
		alone = best(alone, p99)
		ctx, cancel := context.WithCancel(t.Context())
		wait := b.flood(ctx, schemas.Batch, 4*slots, func(int) string { return chat("x", 10) })
		waitFor(t, "the batch load to fill its slots", func() bool { return s.Info().Busy >= slots-reserved })
		before := gauges(t, reg)["hxp_jobs_total batch completed"]
		p99, busy := measure("beside batch")
		beside = best(beside, p99)
		finished := gauges(t, reg)["hxp_jobs_total batch completed"] - before
		cancel()
		wait()
		ratio := float64(beside) / float64(alone)
		t.Logf("p99 beside batch is %.2f of alone; %.0f batch jobs finished meanwhile", ratio, finished)
		if ratio <= bound && busy >= slots-reserved && finished > 0 {
			return
		}
		if try == 3 {
			t.Fatalf("p99 of interactive jobs beside batch is %.2f of alone, want at most %g; %.1f slots busy, want %d or more", ratio, bound, busy, slots-reserved)
		}
		if err := b.purge(schemas.Batch); err != nil {
			t.Fatal(err)
		}
	}
}

func best(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// purge empties the queue of a class.
func (b *broker) purge(class schemas.Class) error {
	stream, err := b.js.Stream(b.t.Context(), schemas.JobsStream(model))
	if err != nil {
		return err
	}
	return stream.Purge(b.t.Context(), jetstream.WithPurgeSubject(schemas.JobSubject(model, class, tenant)))
}
