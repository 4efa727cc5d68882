package workers_test

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// footprint is what the broker and this process hold for their connections.
type footprint struct {
	Clients, Subscriptions, Goroutines int
	Consumers                          map[string]int // by stream
	Waiting                            map[schemas.Class]int
}

// pulling reports whether one pull waits for each class.
func (f footprint) pulling() bool {
	return maps.Equal(f.Waiting, map[schemas.Class]int{schemas.Interactive: 1, schemas.Standard: 1, schemas.Batch: 1})
}

func (b *broker) footprint() footprint {
	b.t.Helper()
	f := footprint{Consumers: map[string]int{}, Waiting: map[schemas.Class]int{}}
	streams := b.js.ListStreams(b.t.Context())
	for info := range streams.Info() { // the buckets are streams too
		f.Consumers[info.Config.Name] = info.State.Consumers
	}
	if err := streams.Err(); err != nil {
		b.t.Fatal(err)
	}
	consumers, err := queue.Consumers(b.t.Context(), b.js, model)
	if err != nil {
		b.t.Fatal(err)
	}
	for class, c := range consumers {
		f.Waiting[class] = c.CachedInfo().NumWaiting
	}
	f.Clients, f.Subscriptions, f.Goroutines = b.srv.NumClients(), int(b.srv.NumSubscriptions()), runtime.NumGoroutine()
	return f
}

// idle waits until a worker's pulls are out and nothing moves, and returns the counts.
func (b *broker) idle() footprint {
	b.t.Helper()
	var last footprint
	waitFor(b.t, "the counts to stand still", func() bool {
		before := last
		<-time.After(50 * time.Millisecond)
		last = b.footprint()
		return cmp.Equal(before, last) && last.pulling()
	})
	return last
}

// returnsTo waits until the counts are again what they were. A fetch whose answer was lost takes a second to notice.
func (b *broker) returnsTo(want footprint, count func() footprint) {
	b.t.Helper()
	var diff string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if diff = cmp.Diff(want, count()); diff == "" {
			return
		}
	}
	b.t.Errorf("what is held (-before +after):\n%s", diff)
}

// Both connections of a worker are cut ten times while it streams. What the worker says meanwhile is
// complete; what is on the wire at the moment of a cut may be lost, so nothing is.
//
// Not in parallel with other tests: it counts the goroutines of the process.
func TestReconnectsLeaveNothingBehind(t *testing.T) {
	const jobs, rounds = 8, 10
	// What the broker hands to a connection that it does not know to be dead comes back after a lease.
	b := newBrokerOnPort(t, queue.Config{Lease: 5 * time.Second})
	words := map[string]chan string{}
	for i := range jobs {
		words[fmt.Sprintf("job-%d", i)] = make(chan string)
	}
	engine := newScript(func(ctx context.Context, _ int, req *workers.Request, emit func(...string) bool) error {
		if req.Class == schemas.Interactive {
			emit("short")
			return nil
		}
		for {
			select {
			case word, more := <-words[req.ID]:
				if !more {
					return nil
				}
				emit(word)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	tokens, js := b.connect()
	lease, _ := b.connect()
	b.runOn(js, engine, workers.Config{LeaseConn: lease, Coalesce: -1, TokenTimeout: time.Minute}).ready(t)
	for id := range words {
		b.submit(schemas.Job{ID: id, Stream: true})
	}
	b.held(engine, jobs)
	recorded := func(last schemas.Kind, n int) {
		t.Helper()
		for id := range words {
			var record []schemas.Event
			waitFor(t, fmt.Sprintf("%d events of job %s", n, id), func() bool {
				events, err := queue.ReadRecord(t.Context(), b.js, tenant, id, 0)
				record = events
				return err == nil && len(record) > 0 && record[len(record)-1].Seq >= uint64(n)
			})
			for i, e := range record {
				if e.Seq != uint64(i+1) || e.Attempt != 1 || i == n-1 && e.Kind != last {
					t.Fatalf("event %d of job %s is %s with seq %d of attempt %d", i+1, id, e.Kind, e.Seq, e.Attempt)
				}
			}
		}
	}
	recorded(schemas.Started, 1)
	before := b.idle()
	for n := range rounds {
		for _, nc := range []*nats.Conn{tokens, lease} {
			if err := nc.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range words {
			w <- "on "
		}
		for _, nc := range []*nats.Conn{tokens, lease} {
			waitFor(t, "the connection to come back", func() bool { return nc.Stats().Reconnects == uint64(n+1) })
		}
		if r := b.result(b.submit(schemas.Job{Class: schemas.Interactive})); r.Text != "short" {
			t.Errorf("a job after reconnect %d = %s %q", n+1, r.Status, r.Text)
		}
		recorded(schemas.DeltaKind, n+2)
	}
	b.returnsTo(before, b.footprint)
	for _, w := range words {
		close(w)
	}
	recorded(schemas.Done, rounds+4) // the choice's end, usage and done
}

// The worker withdraws its pulls while the broker is away, since it cannot renew its leases.
func TestOutagesLeaveNoSubscriptions(t *testing.T) {
	t.Parallel()
	const term = 300 * time.Millisecond
	b := newBrokerOnPort(t, queue.Config{Lease: term})
	s := b.run(says("fine"), workers.Config{})
	count := func() footprint {
		f := b.footprint()
		f.Goroutines = 0 // of all the tests that run
		return f
	}
	var before footprint
	for n := range 4 {
		if n > 0 {
			b.restart(term)
			waitFor(t, "the test to reconnect", b.nc.IsConnected)
		}
		if r := b.result(b.submit(schemas.Job{})); r.Text != "fine" {
			t.Errorf("a job after outage %d = %s %q", n, r.Status, r.Text)
		}
		waitFor(t, "the worker to be ready", func() bool { ok, _ := s.Ready(); return ok })
		if n > 0 {
			b.returnsTo(before, count)
			continue
		}
		waitFor(t, "the pulls to be out", func() bool { before = count(); return before.pulling() })
	}
}
