package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// errStoreAway hands back a job whose conversation cannot be read or written now.
var errStoreAway = errors.New("conversations cannot be reached")

const (
	// storeWait bounds the delay after which a job that waits for the store comes again.
	storeWait = 5 * time.Second
	// sayWaiting is how often the record is told that a job waits: often enough to be there when it is read.
	sayWaiting = time.Minute
	// ofSession is the field that an error of the store names.
	ofSession = "session"
)

// sessions is what the jobs of a worker that have one share.
type sessions struct {
	w *Worker
	// away is why the store could not be reached when it was last called, nil if it could.
	away atomic.Pointer[string]
	// late and lateBytes are the turns that wait to be stored, and their size.
	late, lateBytes atomic.Int64
	maxLate         int64
	proof           time.Duration // [lateProof]

	mu    sync.Mutex
	back  chan struct{} // closed when the store answers again
	since time.Time     // when it last did

	pending, unreachable prometheus.Gauge
}

// reached notes whether the store answered. What changes is said once, not by every job.
func (s *sessions) reached(err error) {
	if err == nil {
		if s.away.Swap(nil) != nil {
			s.unreachable.Set(0)
			s.mu.Lock()
			close(s.back)
			s.back, s.since = make(chan struct{}), time.Now()
			s.mu.Unlock()
			s.w.log.Info().Msg("conversations can be reached again")
		}
		return
	}
	why := err.Error()
	if s.away.Swap(&why) == nil {
		s.unreachable.Set(1)
		s.w.log.Error().Err(err).Msg("conversations cannot be reached; jobs with a session wait")
	}
}

// returned is closed when the store, should it be away, answers again.
func (s *sessions) returned() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.back
}

// reachable is since when the store has been there, as far as this worker knows.
func (s *sessions) reachable() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}

// storeIsAway reports whether an error of the store is none of the session's: another try may not meet it.
func storeIsAway(err error) bool {
	for _, lasting := range []error{
		errOtherReply, conversation.ErrNotFound, conversation.ErrDeleted, conversation.ErrExists, conversation.ErrNoTurn, conversation.ErrUnfinished,
		conversation.ErrNoBranch, conversation.ErrConflict, conversation.ErrTooLarge, conversation.ErrInvalid, conversation.ErrCorrupt,
	} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// sessionFault is an error of the store as the job's: it waits for a store that is away, and fails if
// the session is at fault.
func (w *Worker) sessionFault(ctx context.Context, r *run, err error) error {
	if _, ok := errors.AsType[*schemas.Error](err); ok || ctx.Err() != nil {
		return err
	}
	if errors.Is(err, errTurnPending) {
		w.sessions.reached(nil)
		return fmt.Errorf("%w: %w", errStoreAway, err)
	}
	if storeIsAway(err) {
		w.sessions.reached(err)
		return fmt.Errorf("%w: %w", errStoreAway, err)
	}
	w.sessions.reached(nil)
	r.refused = true
	fault := conversation.WireError(err)
	if !fault.Retryable || r.opened {
		return fault
	}
	// What is damaged is tried again, and the tries are counted.
	if said := w.openOnly(r); said != nil {
		return said
	}
	return fault
}

// openOnly opens an attempt that comes to nothing.
func (w *Worker) openOnly(r *run) error {
	opening := &schemas.Event{Kind: schemas.Started}
	if r.history.attempt > 0 {
		opening.Kind, opening.Kept = schemas.Resumed, len(r.history.ids)
	}
	return w.begin(r, opening, nil)
}

// awaitStore hands a job back until its conversation can be read. It is nobody's failure. The record says
// so, which keeps the deliveries meanwhile from counting as lost; not at every one, or it would be full of that.
func (w *Worker) awaitStore(r *run, err error) error {
	r.metrics.sessions.waits.Inc()
	if r.over {
		return err // readers have heard of the end
	}
	if !r.opened && time.Since(time.UnixMicro(r.history.waited)) < sayWaiting {
		return err
	}
	if !r.opened {
		if said := w.openOnly(r); said != nil {
			return said
		}
	}
	why := "conversations cannot be reached; the job waits for them"
	if errors.Is(err, errTurnPending) {
		why = "the turn before is still to be stored; the job waits for it"
	}
	return w.handBack(r, err, schemas.Errorf(schemas.CodeInternal, "%s", why).WithParam(ofSession))
}

// storeDelay is the wait before a job asks for its conversation again: in time for its deadline, if it has not ended.
func (w *Worker) storeDelay(r *run) time.Duration {
	d := min(w.backoff(r), storeWait)
	if !r.over && !r.job.Deadline.IsZero() {
		d = min(d, max(time.Until(r.job.Deadline), time.Millisecond))
	}
	return d
}
