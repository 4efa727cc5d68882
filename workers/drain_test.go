package workers_test

import (
	"context"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func TestDrainLetsJobsFinish(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	release := make(chan struct{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("a")
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		emit("b")
		return nil
	})
	s := b.run(engine, workers.Config{DrainTimeout: time.Minute})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	waitFor(t, "the worker to drain", func() bool { return s.Info().State == schemas.WorkerDraining })
	late := b.submit(schemas.Job{})
	close(release)
	if err := <-stopped; err != nil {
		t.Errorf("Run = %v", err)
	}
	if r := b.result(job); r.Text != "ab" || r.Attempts != 1 {
		t.Errorf("result = %q in %d attempts", r.Text, r.Attempts)
	}
	// What came later is still in the queue, untouched.
	b.settled(1)
	if n := len(engine.seen()); n != 1 {
		t.Errorf("the engine saw %d requests, want 1", n)
	}
	b.run(says("next"), workers.Config{})
	if r := b.result(late); r.Text != "next" {
		t.Errorf("the late job = %+v", r)
	}
}

func TestWhatDoesNotFinishIsHandedBackAtOnceAndNotCounted(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: time.Minute}) // so that only a hand-back can bring the job back in time
	engine, aborted := hold("half ")
	s := b.run(engine, workers.Config{DrainTimeout: 50 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	if err := s.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	<-aborted
	handed := l.next()
	if handed.Kind != schemas.Interrupted || !handed.Handback {
		t.Errorf("event = %+v, want a hand-back", handed)
	}
	b.run(says("whole"), workers.Config{MaxAttempts: 1})
	events := l.end(handed.Seq + 1)
	if got, want := kinds(events), "restarted delta usage done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
	if r := b.result(job); r.Text != "whole" || r.Attempts < 2 {
		t.Errorf("result = %q in %d attempts", r.Text, r.Attempts)
	}
	b.deadLetters(0)
}

func TestDrainByRequest(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(says("x"), workers.Config{ID: "w-drain"})
	waitFor(t, "the registry entry", func() bool {
		list, err := queue.Workers(t.Context(), b.js)
		return err == nil && len(list) == 1 && list[0].State == schemas.WorkerReady
	})
	msg, err := b.nc.Request(schemas.DrainSubject("w-drain"), nil, 5*time.Second)
	if err != nil || string(msg.Data) != `{"id":"w-drain","state":"draining"}` {
		t.Fatalf("reply = %v %v", msg, err)
	}
	waitFor(t, "the worker to leave the registry", func() bool {
		list, err := queue.Workers(t.Context(), b.js)
		return err == nil && len(list) == 0
	})
	if err := s.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestFrozenWorkerGivesUpItsJobs(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine, aborted := hold("half")
	lease, _ := b.connect()
	s := b.run(engine, workers.Config{LeaseConn: lease, DrainTimeout: -1})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	lease.Close() // nothing can be renewed any more
	<-aborted
	if err := s.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	b.run(says("whole"), workers.Config{})
	for e := l.next(); !e.Kind.Terminal(); e = l.next() {
		if e.Attempt == 1 {
			t.Errorf("attempt 1 said %s after it had lost its lease", e.Kind)
		}
	}
	if r := b.result(job); r.Text != "whole" || r.Attempts < 2 {
		t.Errorf("result = %q in %d attempts", r.Text, r.Attempts)
	}
}
