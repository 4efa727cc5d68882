package workers_test

import (
	"context"
	"fmt"
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

// crawl makes an engine that gets on by a word every so often, until its requests are aborted.
func crawl(every time.Duration) *script {
	return newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for emit("on ") {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	})
}

// held waits until the engine has n requests.
func (b *broker) held(engine *script, n int) {
	b.t.Helper()
	waitFor(b.t, fmt.Sprintf("%d jobs to run", n), func() bool { return len(engine.seen()) >= n })
}

// moved returns how many jobs are in flight, and how many of them were delivered again: a few are
// handed back unbegun while many are fetched at once; none is later.
func (b *broker) moved() [2]int {
	b.t.Helper()
	c, err := b.js.Consumer(b.t.Context(), schemas.JobsStream(model), schemas.ClassConsumer(schemas.Standard))
	if err != nil {
		b.t.Fatal(err)
	}
	return [2]int{c.CachedInfo().NumAckPending, c.CachedInfo().NumRedelivered}
}

// renewals counts the in-progress acknowledgements of each delivery.
type renewals struct {
	mu     sync.Mutex
	of     map[string]int
	others []string // acknowledgements of another kind
}

func (b *broker) renewals() *renewals {
	b.t.Helper()
	r := &renewals{of: map[string]int{}}
	sub, err := b.nc.Subscribe("$JS.ACK."+schemas.JobsStream(model)+".>", func(msg *nats.Msg) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if string(msg.Data) == "+WPI" {
			r.of[msg.Subject]++
		} else {
			r.others = append(r.others, string(msg.Data))
		}
	})
	if err == nil {
		err = b.nc.Flush()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return r
}

// spread returns how many deliveries were renewed, the fewest and the most times that one was, and their sum.
func (r *renewals) spread() (jobs, fewest, most, sum int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.of {
		if jobs == 0 || n < fewest {
			fewest = n
		}
		jobs, most, sum = jobs+1, max(most, n), sum+n
	}
	return jobs, fewest, most, sum
}

func (r *renewals) rest() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.others)
}

// A lease costs at most three small messages for each job and term, and none of them waits behind tokens.
func TestLeasesAreRenewedThreeTimesATermOnTheirOwnConnection(t *testing.T) {
	t.Parallel()
	const jobs, term = 50, 900 * time.Millisecond
	b := newBroker(t, queue.Config{Lease: term})
	engine := crawl(50 * time.Millisecond)
	lease, _ := b.connect()
	_, js := b.connect()
	seen := b.renewals()
	s := b.runOn(js, engine, workers.Config{LeaseConn: lease, DrainTimeout: -1})
	s.ready(t)
	before := lease.Stats().OutMsgs
	began := time.Now()
	for range jobs {
		b.submit(schemas.Job{Stream: true})
	}
	b.held(engine, jobs)
	held := b.moved()
	waitFor(t, "two terms of renewals", func() bool { n, fewest, _, _ := seen.spread(); return n == jobs && fewest >= 6 })
	_, _, most, _ := seen.spread()
	took := time.Since(began)
	if got := b.moved(); got[0] != jobs || got != held {
		t.Errorf("in flight and delivered again: %v; want %v, as at first", got, held)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if bound := 3*int(took/term+1) + 1; most > bound {
		t.Errorf("a lease was renewed %d times in %s; want at most %d, three in a term of %s", most, took, bound, term)
	}
	sent := int(lease.Stats().OutMsgs - before)
	waitFor(t, "all acknowledgements", func() bool { _, _, _, sum := seen.spread(); return sum >= sent && len(seen.rest()) >= jobs })
	if _, _, _, sum := seen.spread(); sum != sent {
		t.Errorf("%d renewals came; the leases' own connection sent %d messages", sum, sent)
	}
	if rest := strings.Join(seen.rest(), " "); strings.Trim(rest, "-NAK ") != "" {
		t.Errorf("acknowledgements besides renewals: %s; want hand-backs alone", rest)
	}
}
