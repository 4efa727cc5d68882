package workers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// A worker that was frozen finds deliveries in its sockets that have been replaced since. Here the
// record knows an attempt that the first two deliveries come before.
func TestOvertakenDeliveryIsLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 300 * time.Millisecond})
	job := b.submit(schemas.Job{Stream: true})
	b.says(job, schemas.Event{Seq: 1, Attempt: 2, Kind: schemas.Started, Worker: "second"})
	l := b.listen(schemas.AllEvents)
	engine := says("whole")
	s := b.run(engine, workers.Config{})
	if r := b.result(job); r.Attempts != 3 || len(engine.seen()) != 1 {
		t.Errorf("result of attempt %d after %d requests; want the third delivery to be the first to run", r.Attempts, len(engine.seen()))
	}
	if e := l.end(2)[0]; e.Kind != schemas.Resumed || e.Attempt != 3 {
		t.Errorf("first event = %s of attempt %d", e.Kind, e.Attempt)
	}
	b.settled(0)
	if n := strings.Count(s.log.String(), `"outcome":"abandoned"`); n != 2 {
		t.Errorf("%d deliveries were left alone, want 2", n)
	}
}

// Readers of the newest attempt drop what an older one says, so the end has to be said by the newest.
func TestAttemptThatLostToAnOlderOneEndsItsStream(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 300 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true}, "half")
	release := make(chan struct{})
	b.run(newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("new")
		<-release
		return nil
	}), workers.Config{})
	l := b.listen(schemas.AllEvents)
	l.until(schemas.DeltaKind)
	old := &schemas.Result{
		ID: job.ID, Model: model, Class: job.Class, Tenant: tenant, Endpoint: job.Endpoint,
		Status: schemas.StatusCompleted, Text: "old", Attempts: 1, Finished: time.Now().UTC(),
	}
	if err := queue.PutResult(t.Context(), b.js, old); err != nil {
		t.Fatal(err)
	}
	close(release)
	events := l.until(schemas.Done)
	if e := events[len(events)-1]; e.Attempt < 2 {
		t.Errorf("the end is said by attempt %d, which readers drop", e.Attempt)
	}
	b.settled(0)
	if r := b.result(job); r.Text != "old" {
		t.Errorf("result = %q, want the first one stored", r.Text)
	}
}
