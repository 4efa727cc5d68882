package workers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// inProgress is JetStream's acknowledgement that work goes on; it restarts the deadline of a message.
var inProgress = []byte("+WPI")

// leases renews the right to run each job in flight, a third of its term apart.
//
// Renewing is bound to progress: a job whose engine has been silent for longer than it may be is
// aborted instead. The renewals travel on a connection of their own, so that a burst of tokens does
// not delay them.
type leases struct {
	w    *Worker
	nc   *nats.Conn
	term time.Duration

	mu   sync.Mutex
	runs map[*run]struct{}
}

func newLeases(w *Worker) *leases {
	return &leases{w: w, nc: w.cfg.LeaseConn, runs: make(map[*run]struct{})}
}

func (l *leases) add(r *run) {
	l.mu.Lock()
	l.runs[r] = struct{}{}
	l.mu.Unlock()
}

func (l *leases) remove(r *run) {
	l.mu.Lock()
	delete(l.runs, r)
	l.mu.Unlock()
}

// run renews until ctx ends.
func (l *leases) run(ctx context.Context) {
	tick := time.NewTicker(l.term / 3)
	defer tick.Stop()
	sent := time.Now() // when renewals last went out on a live connection
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		// A process that was frozen, or cut off from the broker, for a whole term has lost every
		// lease it held: the jobs may be running elsewhere.
		if now.Sub(sent) > l.term {
			l.abandon(fmt.Errorf("%w: nothing renewed for %s, the term is %s", ErrLeaseLost, now.Sub(sent).Round(time.Millisecond), l.term))
		}
		if l.nc.IsConnected() {
			l.renew(now)
			sent = now
		}
	}
}

func (l *leases) abandon(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.runs {
		r.cancel(cause)
	}
}

func (l *leases) renew(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.runs {
		if silent, bound := r.silence(now); silent > bound {
			r.cancel(fmt.Errorf("%w for %s in %s; the bound is %s", ErrStalled, silent.Round(time.Millisecond), r.phase(), bound))
			continue
		}
		if err := l.nc.Publish(r.msg.Reply(), inProgress); err != nil {
			l.w.fault(err, "renew a lease")
			continue
		}
		l.w.metrics.renewals.Inc()
	}
}
