package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func (b *broker) drop(stream string) {
	b.t.Helper()
	if err := b.js.DeleteStream(b.t.Context(), stream); err != nil {
		b.t.Fatal(err)
	}
}

func (b *broker) ensure() {
	b.t.Helper()
	if _, err := queue.Ensure(b.t.Context(), b.js, []string{model}, b.cfg); err != nil {
		b.t.Fatal(err)
	}
}

func (b *broker) says(job schemas.Job, events ...schemas.Event) {
	b.t.Helper()
	for _, e := range events {
		e.ID, e.TS = job.ID, time.Now().UnixMicro()
		if err := b.nc.Publish(schemas.EventSubject(tenant, schemas.NoClient, job.ID), e.Append(nil)); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		b.t.Fatal(err)
	}
}

func TestWithoutLeasesNothingIsPulled(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine := says("never")
	lease, _ := b.connect()
	s := b.run(engine, workers.Config{LeaseConn: lease, DrainTimeout: -1})
	lease.Close()
	waitFor(t, "the worker to notice", func() bool { ok, _ := s.Ready(); return !ok })
	job := b.submit(schemas.Job{})
	b.run(says("by the other"), workers.Config{})
	if r := b.result(job); r.Text != "by the other" || len(engine.seen()) != 0 {
		t.Errorf("result = %q, %d requests at the engine of the worker without leases", r.Text, len(engine.seen()))
	}
	if _, checks := s.Ready(); checks["lease"].OK || !strings.Contains(checks["lease"].Detail, "leases cannot be renewed") {
		t.Errorf("checks = %+v", checks)
	}
}

// proxy stands between a worker and the broker and can swallow everything without hanging up.
func (b *broker) proxy(hole *atomic.Bool) string {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close() })
	pipe := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 && !hole.Load() {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.port))
			if err != nil {
				_ = near.Close()
				return
			}
			go pipe(far, near)
			go pipe(near, far)
		}
	}()
	return "nats://" + l.Addr().String()
}

// The worst cut: bytes vanish and nobody hangs up.
func TestHalfOpenConnectionLosesTheLease(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 900 * time.Millisecond})
	var hole atomic.Bool
	nc, err := nats.Connect(b.proxy(&hole), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	engine, aborted := hold("half")
	w, err := workers.New(js, model, engine, workers.Config{ID: "cut", DrainTimeout: -1, HealthInterval: 40 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	waitFor(t, "the worker to be ready", func() bool { return w.Info().State == schemas.WorkerReady })
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	hole.Store(true)
	select {
	case <-aborted:
	case <-time.After(10 * time.Second):
		t.Error("the worker that was cut off still generates")
	}
	if ok, checks := w.Ready(); ok || !nc.IsConnected() {
		t.Errorf("ready %v with %+v; the connection itself still looks well: %v", ok, checks, nc.IsConnected())
	}
	cancel()
	nc.Close()
	if err := <-done; err != nil && !strings.Contains(err.Error(), "registry") && !strings.Contains(err.Error(), "flush") && !strings.Contains(err.Error(), "closed") {
		t.Errorf("Run = %v", err)
	}
	b.run(says("whole"), workers.Config{ID: "other"})
	if r := b.result(job); r.Text != "whole" || r.Worker != "other" {
		t.Errorf("result = %q by %s", r.Text, r.Worker)
	}
}

// A Result that cannot be stored shuts the gate; whoever loses its lease meanwhile must not leave it shut.
func TestLostLeaseLeavesNoGateShut(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 900 * time.Millisecond})
	var hole atomic.Bool
	leases, err := nats.Connect(b.proxy(&hole), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.PingInterval(200*time.Millisecond), nats.MaxPingsOutstanding(1))
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n == 1 {
			if err := b.js.DeleteStream(ctx, schemas.ResultsStream); err != nil {
				return err
			}
		}
		emit("x")
		return nil
	})
	s := b.run(engine, workers.Config{LeaseConn: leases})
	job := b.submit(schemas.Job{})
	waitFor(t, "the gate to shut", func() bool { return strings.Contains(s.log.String(), "results cannot be stored; pulling stops") })
	hole.Store(true)
	waitFor(t, "the lease to lapse", func() bool { return strings.Contains(s.log.String(), `"outcome":"abandoned"`) })
	if _, err := queue.Ensure(t.Context(), b.js, []string{model}, b.cfg); err != nil {
		t.Fatal(err)
	}
	hole.Store(false)
	if r := b.result(job); r.Status != schemas.StatusCompleted {
		t.Errorf("result = %+v", r)
	}
}

func TestFencedEventsDoNotMoveTheNumbering(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true}, "half")
	stale := json.RawMessage("[" + choice(job.Endpoint, "stale", "") + "]")
	b.says(job,
		schemas.Event{Seq: 3, Attempt: 2, Kind: schemas.Restarted, Worker: "second"},
		schemas.Event{Seq: 3, Attempt: 1, Kind: schemas.DeltaKind, Choices: stale},
		schemas.Event{Seq: 4, Attempt: 1, Kind: schemas.DeltaKind, Choices: stale},
		schemas.Event{Seq: 5, Attempt: 1, Kind: schemas.DeltaKind, Choices: stale})
	l := b.listen(schemas.AllEvents)
	b.run(says("whole"), workers.Config{})
	if e := l.next(); e.Seq != 4 || e.Attempt < 3 {
		t.Errorf("attempt %d opens at seq %d; the last that counts was 3", e.Attempt, e.Seq)
	}
	b.result(job)
}

func TestJunkInTheRecordStopsNobody(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true}, "half")
	if err := b.nc.Publish(schemas.EventSubject(tenant, "x", job.ID), []byte("junk")); err != nil {
		t.Fatal(err)
	}
	b.run(says("whole"), workers.Config{})
	if r := b.result(job); r.Text != "whole" {
		t.Errorf("result = %+v", r)
	}
}

func TestWhatIsWrongWithARequestIsNotQuotedInTheLog(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(says("x"), workers.Config{})
	r := b.result(b.submit(schemas.Job{Endpoint: schemas.ChatCompletions, Body: json.RawMessage(`{"messages":{"content":"hunter2"}}`)}))
	if !strings.Contains(r.Error.Message, "hunter2") {
		t.Errorf("error = %v, want the value named to its owner", r.Error)
	}
	b.publish(schemas.JobSubject(model, schemas.Standard, tenant), "", []byte(`{"body":{},"stream":"hunter2"}`))
	waitFor(t, "both lines", func() bool { return strings.Count(s.log.String(), `"code":"invalid_request"`) >= 3 })
	if log := s.log.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, `"param":"messages"`) {
		t.Errorf("log = %s", log)
	}
}

func TestCancelBeforeTheEngineIsKept(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ran anyway")
	s := b.run(engine, workers.Config{})
	b.drop(schemas.ResultsStream) // the worker's first question hangs
	job := b.submit(schemas.Job{})
	waitFor(t, "the worker to hold it", func() bool { return s.Info().Busy == 1 })
	for {
		msg, err := b.nc.Request(schemas.CancelSubject(tenant, job.ID), nil, 50*time.Millisecond)
		if err == nil {
			if !strings.Contains(string(msg.Data), `"queued"`) {
				t.Errorf("reply = %s", msg.Data)
			}
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	b.ensure()
	if r := b.result(job); r.Status != schemas.StatusCancelled || len(engine.seen()) != 0 {
		t.Errorf("result = %s with %d requests at the engine", r.Status, len(engine.seen()))
	}
}

func TestCancelAtTheEndSaysSo(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		b.drop(schemas.ResultsStream)
		emit("x")
		return nil
	})
	b.run(engine, workers.Config{})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.UsageKind)
	if reply := b.cancel(job); reply.Phase != schemas.PhaseEnded {
		t.Errorf("phase = %s, want ended", reply.Phase)
	}
	b.ensure()
	if r := b.result(job); r.Status != schemas.StatusCompleted || len(engine.seen()) != 1 {
		t.Errorf("result = %s after %d requests", r.Status, len(engine.seen()))
	}
}

func TestSecondMessageWithAJobsIDIsDropped(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	release := make(chan struct{})
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("first")
		<-release
		return nil
	})
	b.run(engine, workers.Config{Slots: 1})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	other := says("second")
	b.run(other, workers.Config{})
	subject := schemas.JobSubject(model, job.Class, tenant)
	b.publish(subject, "", []byte(`{"id":"`+job.ID+`","body":{"prompt":"again"}}`))
	b.settled(1)
	// Nor can a broken one end the job that runs.
	b.publish(subject, "", []byte(`{"id":"`+job.ID+`","body":7}`))
	b.settled(1)
	b.deadLetters(1)
	close(release)
	if r := b.result(job); r.Text != "first" || len(other.seen()) != 0 {
		t.Errorf("result = %q, %d requests at the other engine", r.Text, len(other.seen()))
	}
	if got := kinds(l.end(3)); !strings.HasSuffix(got, "done") {
		t.Errorf("kinds = %s", got)
	}
	b.settled(0)
}
