//go:build chaos && linux

package chaos_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

// background drives tasks while a scenario does its harm, and returns how many were acknowledged.
func (b *bed) background(w *watch, list []*task, atOnce int, patience time.Duration) <-chan int {
	done := make(chan int, 1)
	go func() { done <- b.drive(w, list, atOnce, patience) }()
	return done
}

// TestEngineKilled kills an engine under its worker and starts it again, a few times.
func TestEngineKilled(t *testing.T) {
	const scenario = "engine-killed"
	lease := size(2*time.Second, 4*time.Second)
	b := newBed(t, 1, lease)
	e1, e2 := b.engine("e1", 20*time.Millisecond), b.engine("e2", 20*time.Millisecond)
	w1, w2 := b.worker("w1", e1, 64), b.worker("w2", e2, 64)
	w := b.watch()
	list := tasks(t, scenario, size(100, 600), 100)
	done := b.background(w, list, 40, size(time.Minute, 5*time.Minute))
	rng := random(scenario)
	kills := 0
	var jobs int
	for running := true; running; {
		select {
		case jobs = <-done:
			running = false
			continue
		case <-time.After(1500*time.Millisecond + time.Duration(rng.IntN(1000))*time.Millisecond):
		}
		victim, on := e1, w1
		if rng.IntN(2) == 0 {
			victim, on = e2, w2
		}
		at := time.Now()
		victim.kill()
		w.strike(on.id(), at)
		kills++
		pause(t.Context(), 300*time.Millisecond)
		victim.start()
		victim.ready()
	}
	r := &report{scenario: scenario, jobs: jobs, bound: lease + time.Second}
	r.judgeAll(b, w, list)
	r.note("kills=%d resumed=%d", kills, r.resumed)
	r.close(b)
	if len(r.recovery) == 0 {
		t.Error("no job was hit: nothing was shown")
	}
}

// TestEngineHung has an engine stop in the middle while its health is 200.
func TestEngineHung(t *testing.T) {
	const scenario, bound = "engine-hung", time.Second
	lease := size(2*time.Second, 4*time.Second)
	// The same for the first token: the engine may hang before it.
	b := newBed(t, 1, lease, "worker.token_timeout="+bound.String(), "worker.first_token_timeout="+bound.String())
	e1, e2 := b.engine("e1", 20*time.Millisecond), b.engine("e2", 20*time.Millisecond)
	w1 := b.worker("w1", e1, 64)
	b.worker("w2", e2, 64)
	w := b.watch()
	list := tasks(t, scenario, size(80, 400), 100)
	done := b.background(w, list, 40, size(time.Minute, 5*time.Minute))
	eventually(t, 20*time.Second, "jobs run on the engine", func() bool { return w.count(on(w1.id())) >= 10 })
	e1.inject(vllmsim.Fault{Kind: vllmsim.Hang, Duration: 6 * time.Second})
	hit := w.strike(w1.id(), time.Now())
	if !answers(e1.url + "/health") {
		t.Error("the engine's health is not 200: the scenario is not what it says")
	}
	r := &report{scenario: scenario, jobs: <-done}
	r.judgeAll(b, w, list)
	_, noticed := w.times()
	// The worker looks at the progress of its jobs when it renews their leases, a third of the term apart.
	within := bound + lease/3 + 500*time.Millisecond
	worst := percentile(noticed, 1)
	r.note("hit=%d noticed=%d worst=%s bound=%s resumed=%d", hit, len(noticed), worst.Round(time.Millisecond), within.Round(time.Millisecond), r.resumed)
	if len(noticed) == 0 || worst > within {
		r.fault("%d of %d hung jobs were noticed, the last after %s; want all within %s", len(noticed), hit, worst, within)
	}
	r.close(b)
}

// judgeAll judges what came live, what is recorded and the results.
func (r *report) judgeAll(b *bed, w *watch, list []*task) {
	b.t.Helper()
	r.judgeStreams("live", list, w.events())
	counted := r.tally
	r.judgeStreams("record", list, b.record())
	// What is no fault is counted once.
	r.late, r.restarted, r.resumed, r.failed = counted.late, counted.restarted, counted.resumed, counted.failed
	r.judgeResults(b, list)
	r.recovery, _ = w.times()
}

// TestDrain asks a worker with 64 streams to stop.
func TestDrain(t *testing.T) {
	const scenario, streams, drain = "drain", 64, time.Second
	// One failed attempt would be one too many: to be handed back is no failure.
	b := newBed(t, 1, 4*time.Second, "worker.attempts=1", "worker.drain_timeout="+drain.String())
	e1, e2 := b.engine("e1", 25*time.Millisecond), b.engine("e2", 25*time.Millisecond)
	w1 := b.worker("w1", e1, streams)
	w := b.watch()
	list := tasks(t, scenario, streams, 200)
	done := b.background(w, list, streams, time.Minute)
	eventually(t, 20*time.Second, "all jobs run", func() bool { return w.count(on(w1.id())) == streams })
	b.worker("w2", e2, streams)
	hit := w.strike(w1.id(), time.Now())
	began := time.Now()
	w1.signal(syscall.SIGTERM)
	<-w1.done
	gone := time.Since(began)
	// Half a second is the promise; the short form shares its cores with whatever else CI runs.
	r := &report{scenario: scenario, jobs: <-done, bound: drain + size(time.Second, 500*time.Millisecond)}
	r.judgeAll(b, w, list)
	r.note("handed_over=%d of %d within=%s failed_attempts=%d exit=%s after=%s", len(r.recovery), hit, r.bound, r.failed, fmt.Sprint(w1.err), gone.Round(time.Millisecond))
	if r.failed > 0 || r.restarted > 0 {
		r.fault("%d attempts count as failed and %d began again; want none", r.failed, r.restarted)
	}
	if len(r.recovery) != streams {
		r.fault("%d streams were handed over; want %d", len(r.recovery), streams)
	}
	if worst := percentile(r.recovery, 1); worst > r.bound {
		r.fault("the last stream was handed over after %s; want %s", worst, r.bound)
	}
	if w1.err != nil {
		r.fault("the worker ended with %v", w1.err)
	}
	r.close(b)
}

// TestFrozen stops a worker for three leases and lets it go on.
func TestFrozen(t *testing.T) {
	const scenario, lease = "frozen", time.Second
	b := newBed(t, 1, lease)
	e1, e2 := b.engine("e1", 40*time.Millisecond), b.engine("e2", 40*time.Millisecond)
	w1 := b.worker("w1", e1, 64)
	w := b.watch()
	list := tasks(t, scenario, size(32, 64), 200)
	done := b.background(w, list, len(list), time.Minute)
	eventually(t, 20*time.Second, "all jobs run", func() bool { return w.count(on(w1.id())) == len(list) })
	b.worker("w2", e2, 64)
	hit := w.strike(w1.id(), time.Now())
	w1.signal(syscall.SIGSTOP)
	pause(t.Context(), 3*lease)
	running := w.count(func(s *seen) bool { return !s.ended })
	w1.signal(syscall.SIGCONT)
	// The frozen worker's own waiting pull may be given a job again, which costs that one a second lease.
	r := &report{scenario: scenario, jobs: <-done, bound: 2*lease + time.Second}
	pause(t.Context(), time.Second) // what the worker still has to say, it says now
	r.judgeAll(b, w, list)
	r.note("hit=%d running_at_wake=%d late=%d resumed=%d", hit, running, r.late, r.resumed)
	if running == 0 {
		r.fault("no job was running when the worker woke: nothing was shown")
	}
	if len(r.recovery) != len(list) {
		r.fault("%d jobs went on elsewhere; want %d", len(r.recovery), len(list))
	}
	select {
	case <-w1.done:
		r.fault("the worker did not survive: %v", w1.err)
	default:
	}
	r.close(b)
}
