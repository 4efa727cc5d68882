package workers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/schemas"
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
	born time.Time
	// proved is when the broker last proved to have heard renewals, as time since born.
	proved atomic.Int64

	mu   sync.Mutex
	runs map[*run]struct{}
}

func newLeases(w *Worker) *leases {
	return &leases{w: w, nc: w.cfg.LeaseConn, born: time.Now(), runs: make(map[*run]struct{})}
}

// lapsed reports for how long nothing was renewed, if that is longer than a lease. A process that
// was frozen, or cut off from the broker, for so long has lost every lease it held: the jobs may be
// running elsewhere.
func (l *leases) lapsed() (time.Duration, bool) {
	silent := time.Since(l.born) - time.Duration(l.proved.Load())
	return silent, silent > l.term
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

// run renews until ctx ends. While the broker does not answer, nothing new is pulled.
func (l *leases) run(ctx context.Context) {
	tick := time.NewTicker(l.term / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if silent, lapsed := l.lapsed(); lapsed {
			l.abandon(fmt.Errorf("%w: nothing renewed for %s, the term is %s", ErrLeaseLost, silent.Round(time.Millisecond), l.term))
		}
		at := time.Since(l.born)
		l.renew(time.Now())
		// A connection may be dead long before it says so; only an answer proves that it is not.
		if err := l.nc.FlushTimeout(l.term / 3); err != nil {
			if l.w.gate.hold(keeperLease, schemas.CauseLease, fmt.Sprintf("leases cannot be renewed: %v", err)) {
				l.w.log.Warn().Err(err).Msg("leases cannot be renewed; pulling stops")
			}
			continue
		}
		l.proved.Store(int64(at))
		if l.w.gate.release(keeperLease) {
			l.w.log.Info().Msg("leases are renewed again")
		}
	}
}

func (l *leases) abandon(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.runs {
		r.lost.Store(true)
		r.cancel(cause)
	}
}

func (l *leases) renew(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.runs {
		if r.lost.Load() {
			continue // it is another worker's by now
		}
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
