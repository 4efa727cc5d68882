package workers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// restart stops the broker and starts it again on the same store and port.
func (b *broker) restart(pause time.Duration) {
	b.t.Helper()
	opts := b.opts.Clone()
	opts.Port = b.port
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
	<-time.After(pause)
	srv, err := server.NewServer(opts)
	if err != nil {
		b.t.Fatalf("nats-server: %v", err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		b.t.Fatal("nats-server did not come back")
	}
	b.srv = srv
}

func TestBrokerRestartInMidStream(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 2 * time.Second})
	release := make(chan struct{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("before ")
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		emit("after")
		return nil
	})
	b.run(engine, workers.Config{Coalesce: -1})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	b.restart(0)
	waitFor(t, "the test to reconnect", b.nc.IsConnected)
	close(release)
	if r := b.result(job); r.Status != schemas.StatusCompleted || r.Text != "before after" {
		t.Errorf("result = %s %q", r.Status, r.Text)
	}
	b.settled(0)
	waitFor(t, "the whole record", func() bool {
		record, err := queue.ReadRecord(t.Context(), b.js, tenant, job.ID, 0)
		return err == nil && textOf(t, record) == "before after"
	})
	if r := b.result(b.submit(schemas.Job{})); r.Text != "before after" {
		t.Errorf("a job after the restart = %+v", r)
	}
}

func TestBrokerAwayForLongerThanALease(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 600 * time.Millisecond})
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit("x")
		if n == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	b.run(engine, workers.Config{})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	b.restart(1200 * time.Millisecond)
	if r := b.result(job); r.Status != schemas.StatusCompleted || r.Attempts < 2 || r.Text != "x" {
		t.Errorf("result = %s %q in %d attempts", r.Status, r.Text, r.Attempts)
	}
	b.settled(0)
}

// A run that lost its lease but is slow to leave the engine is waited for when its job comes back
// to the same worker.
func TestRedeliveryToTheSameWorkerWaitsForTheOldRun(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: time.Minute})
	leaving := make(chan struct{})
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit(fmt.Sprint("try", n))
		if n == 1 {
			<-ctx.Done()
			<-leaving
			return ctx.Err()
		}
		return nil
	})
	b.run(engine, workers.Config{})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	b.nakOutstanding()
	// The second delivery aborts the first and waits; it has not reached the engine yet.
	close(leaving)
	if r := b.result(job); r.Text != "try2" || r.Attempts != 2 {
		t.Errorf("result = %q in %d attempts", r.Text, r.Attempts)
	}
	for e := l.next(); !e.Kind.Terminal(); e = l.next() {
		if e.Attempt == 1 {
			t.Errorf("attempt 1 said %s after attempt 2 had begun", e.Kind)
		}
	}
}

// nakOutstanding makes the broker deliver the one outstanding standard job again, as after a lapse of its lease.
func (b *broker) nakOutstanding() {
	b.t.Helper()
	// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp>.<pending>
	subject := fmt.Sprintf("$JS.ACK.%s.%s.1.1.1.%d.0", schemas.JobsStream(model), schemas.ClassConsumer(schemas.Standard), time.Now().UnixNano())
	if err := b.nc.Publish(subject, []byte("-NAK")); err != nil {
		b.t.Fatal(err)
	}
}

func TestUnreadableRecordIsRetriedNotGuessed(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true}, "half")
	if err := b.js.DeleteStream(t.Context(), schemas.EventsStream); err != nil {
		t.Fatal(err)
	}
	engine := says("whole")
	s := b.run(engine, workers.Config{})
	waitFor(t, "a retry", func() bool { return strings.Contains(s.log.String(), `"outcome":"retried"`) })
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want 0 while the record cannot be read", n)
	}
	if _, err := queue.Ensure(t.Context(), b.js, []string{model}, b.cfg); err != nil {
		t.Fatal(err)
	}
	if r := b.result(job); r.Text != "whole" {
		t.Errorf("result = %+v", r)
	}
}

func TestJobsAreKeptWhileTheirEndCannotBeStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, stream string
		engine       error
		publish      string
	}{
		{"result", schemas.ResultsStream, nil, ""},
		{"dead letter", schemas.DeadStream, unavailable("boom"), ""},
		{"dead letter of a malformed job", schemas.DeadStream, nil, "{"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
				// The lookups before the attempt still find the stream; what follows does not.
				if n == 1 {
					if err := b.js.DeleteStream(ctx, c.stream); err != nil {
						return err
					}
				}
				emit("x")
				return c.engine
			})
			s := b.run(engine, workers.Config{MaxAttempts: 1, MaxRetryDelay: 100 * time.Millisecond})
			if c.publish != "" {
				if err := b.js.DeleteStream(t.Context(), c.stream); err != nil {
					t.Fatal(err)
				}
				b.publish(schemas.JobSubject(model, schemas.Standard, tenant), "m", []byte(c.publish))
			} else {
				b.submit(schemas.Job{})
			}
			waitFor(t, "the fault in the log", func() bool {
				log := s.log.String()
				return strings.Contains(log, `"outcome":"retried"`) || strings.Contains(log, "results cannot be stored; pulling stops")
			})
			b.settled(1) // still there
			if _, err := queue.Ensure(t.Context(), b.js, []string{model}, b.cfg); err != nil {
				t.Fatal(err)
			}
			b.settled(0)
			if n := len(engine.seen()); n > 1 {
				t.Errorf("the engine saw %d requests, want no more than 1: what was generated is kept", n)
			}
		})
	}
}

func TestPublishFaultEndsTheAttempt(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	var s *started
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit("a")
		if n == 1 {
			// More than a message may hold: the event cannot be published.
			emit(strings.Repeat("x", 2<<20))
			if ctx.Err() == nil {
				emit("never")
			}
		}
		return nil
	})
	s = b.run(engine, workers.Config{MaxAttempts: 1})
	b.submit(schemas.Job{Stream: true})
	waitFor(t, "the attempt to be given up", func() bool { return strings.Contains(s.log.String(), nats.ErrMaxPayload.Error()) })
}

func TestWorkerWithoutItsBrokerStops(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 500 * time.Millisecond})
	engine, aborted := hold("x")
	s := b.run(engine, workers.Config{DrainTimeout: -1})
	l := b.listen(schemas.AllEvents)
	b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
	done := make(chan error, 1)
	go func() { done <- s.stop() }()
	<-aborted
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("Run did not return without a broker")
	}
}
