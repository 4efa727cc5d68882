package workers_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// turnstile is an engine in which every request waits until it is let through.
type turnstile struct {
	*script
	mu    sync.Mutex
	order []schemas.Class
	pass  chan struct{}
}

func newTurnstile() *turnstile {
	e := &turnstile{pass: make(chan struct{})}
	e.script = newScript(func(ctx context.Context, _ int, req *workers.Request, _ func(...string) bool) error {
		e.mu.Lock()
		e.order = append(e.order, req.Class)
		e.mu.Unlock()
		select {
		case <-e.pass:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return e
}

func (e *turnstile) started() []schemas.Class {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.order)
}

func (e *turnstile) await(t *testing.T, n int) []schemas.Class {
	t.Helper()
	waitFor(t, "jobs to start", func() bool { return len(e.started()) >= n })
	return e.started()
}

// pending waits until the broker counts n jobs of a class as waiting: it does so a moment after it
// has acknowledged them.
func (b *broker) pending(class schemas.Class, n uint64) {
	b.t.Helper()
	consumers, err := queue.Consumers(b.t.Context(), b.js, model)
	if err != nil {
		b.t.Fatal(err)
	}
	waitFor(b.t, "jobs to be pending", func() bool {
		info, err := consumers[class].Info(b.t.Context())
		return err == nil && info.NumPending == n
	})
}

func TestUrgentJobsStartFirst(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	const slots = 64
	e := newTurnstile()
	s := b.run(e, workers.Config{Slots: slots, Reserved: workers.Reserved{FromBatch: -1}, DrainTimeout: -1})
	for range slots + 500 {
		b.submit(schemas.Job{Class: schemas.Batch})
	}
	e.await(t, slots)
	b.submit(schemas.Job{Class: schemas.Standard})
	b.submit(schemas.Job{Class: schemas.Interactive})
	b.pending(schemas.Interactive, 1)
	b.pending(schemas.Standard, 1)
	e.pass <- struct{}{}
	e.await(t, slots+1)
	e.pass <- struct{}{}
	got := e.await(t, slots+2)[slots:]
	if want := []schemas.Class{schemas.Interactive, schemas.Standard}; !slices.Equal(got, want) {
		t.Errorf("started %v after %d batch jobs, want %v", got, slots, want)
	}
	if n := len(e.started()); n != slots+2 || s.Info().Busy != slots {
		t.Errorf("%d started, %d busy; a worker holds no more than its %d slots", n, s.Info().Busy, slots)
	}
}

func TestLowerClassesKeepTheirShare(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	e := newTurnstile()
	const jobs = 200
	for _, class := range schemas.Classes() {
		for range jobs {
			b.submit(schemas.Job{Class: class})
		}
	}
	b.run(e, workers.Config{Slots: 1, StandardShare: 0.1, BatchShare: 0.05, DrainTimeout: -1})
	for i := range 100 {
		e.await(t, i+1)
		e.pass <- struct{}{}
	}
	count := make(map[schemas.Class]int)
	for _, c := range e.started()[:100] {
		count[c]++
	}
	if count[schemas.Batch] < 4 || count[schemas.Batch] > 7 || count[schemas.Standard] < 8 || count[schemas.Standard] > 11 {
		t.Errorf("of 100 starts under load: %v, want about 10 standard and 5 batch", count)
	}
}

func TestSequencesTakeSlots(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	e := newTurnstile()
	s := b.run(e, workers.Config{Slots: 4, DrainTimeout: -1})
	b.submit(schemas.Job{Body: []byte(`{"prompt":["a","b"],"n":2}`)})
	e.await(t, 1)
	waitFor(t, "four slots to be taken", func() bool { return s.Info().Busy == 4 })
	b.submit(schemas.Job{Body: []byte(`{"prompt":"c"}`)})
	if n := len(e.started()); n != 1 {
		t.Errorf("%d jobs started, want the second to wait", n)
	}
	e.pass <- struct{}{}
	e.await(t, 2)
	waitFor(t, "one slot to be taken", func() bool { return s.Info().Busy == 1 })
	e.pass <- struct{}{}
}

func TestTwoWorkersShareTheQueue(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	one, two := newTurnstile(), newTurnstile()
	b.run(one, workers.Config{Slots: 2, DrainTimeout: -1})
	b.run(two, workers.Config{Slots: 2, DrainTimeout: -1})
	for range 4 {
		b.submit(schemas.Job{})
	}
	one.await(t, 2)
	two.await(t, 2)
}

func TestLostConsumerIsSaidAndPullingGoesOn(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(says("x"), workers.Config{})
	b.result(b.submit(schemas.Job{}))
	if err := b.js.DeleteConsumer(t.Context(), schemas.JobsStream(model), schemas.ClassConsumer(schemas.Batch)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the fault in the log", func() bool { return strings.Contains(s.log.String(), "pull failed") })
	b.result(b.submit(schemas.Job{Class: schemas.Interactive}))
	if _, err := queue.Ensure(t.Context(), b.js, []string{model}, b.cfg); err != nil {
		t.Fatal(err)
	}
	b.result(b.submit(schemas.Job{Class: schemas.Batch}))
}

// TestJobAmongHeartbeats has a job come to a waiting pull together with what else a broker says, faster than the
// worker reads it.
func TestJobAmongHeartbeats(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 3 * time.Second})
	var mu sync.Mutex
	var inbox string
	sub, err := b.nc.Subscribe("$JS.API.CONSUMER.MSG.NEXT."+schemas.JobsStream(model)+".>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		// The last one that waits for a standard job.
		if strings.HasSuffix(m.Subject, string(schemas.Standard)) && strings.Contains(string(m.Data), "idle_heartbeat") {
			inbox = m.Reply
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	b.run(says("done"), workers.Config{})
	for i := range 20 {
		var to string
		waitFor(t, "a waiting pull", func() bool {
			mu.Lock()
			defer mu.Unlock()
			to, inbox = inbox, ""
			return to != ""
		})
		for range 20 {
			if err := b.nc.PublishMsg(&nats.Msg{Subject: to, Header: nats.Header{"Status": {"100"}, "Description": {"Idle Heartbeat"}}}); err != nil {
				t.Fatal(err)
			}
		}
		if r := b.result(b.submit(schemas.Job{})); r.Attempts != 1 {
			t.Fatalf("job %d was answered in attempt %d: it was delivered before, and dropped", i, r.Attempts)
		}
	}
}
