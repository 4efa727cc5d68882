package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// maxLate and maxLateBytes bound the turns that a worker keeps until they can be stored.
	maxLate      = 1000
	maxLateBytes = 64 << 20
	// lateLook is the time between two looks at whether a turn that waits may be tried again.
	lateLook = 100 * time.Millisecond
	// lateProof is how often it is asked whether the Result that promises the turn is still there.
	lateProof = time.Minute
)

// lateTurn is a turn that is stored after its job's Result.
type lateTurn struct {
	ref  conversation.Ref
	turn *conversation.NewTurn
	size int64
	held bool
}

// errLateFull is why a turn is not kept until it can be stored.
var errLateFull = errors.New("conversations cannot be reached, and as many turns wait for them as may")

// errResultGone is why a turn is not waited for any longer.
var errResultGone = errors.New("its job's result has expired")

// reserve makes room for a turn that waits.
func (s *sessions) reserve(l *lateTurn) error {
	for _, m := range l.turn.Messages {
		l.size += int64(len(m.Body))
	}
	l.held = true
	s.pending.Inc()
	n, size := s.late.Add(1), s.lateBytes.Add(l.size)
	if n > s.maxLate || size > maxLateBytes {
		s.release(l)
		return errLateFull
	}
	return nil
}

func (s *sessions) release(l *lateTurn) {
	if l == nil || !l.held {
		return
	}
	l.held = false
	s.pending.Dec()
	s.late.Add(-1)
	s.lateBytes.Add(-l.size)
}

// owed is the turn that a stored Result says is still to be stored, from the job and the Result alone.
func (w *Worker) owed(ctx context.Context, r *run, result *schemas.Result) (*lateTurn, error) {
	t := result.Turn
	if t == nil || t.State != schemas.TurnPending || r.job.Session == nil {
		return nil, nil
	}
	if w.cfg.Conversations == nil {
		return nil, fmt.Errorf("%w: this worker keeps none", errStoreAway)
	}
	l := &lateTurn{ref: conversation.Ref{Tenant: r.job.Tenant, ID: t.Session}}
	made, err := w.remake(ctx, r, result)
	if e, ok := errors.AsType[*schemas.Error](err); ok && !e.Retryable || errors.Is(err, errNoReply) {
		w.loseTurn(ctx, r, l.ref, err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.turn = made
	if err := w.sessions.reserve(l); err != nil {
		return nil, fmt.Errorf("%w: %w", errStoreAway, err)
	}
	return l, nil
}

// remake makes the turn of a job that has ended again.
func (w *Worker) remake(ctx context.Context, r *run, result *schemas.Result) (*conversation.NewTurn, error) {
	if err := w.fetchBody(ctx, r); err != nil {
		return nil, err
	}
	b, err := parseBody(r.job, Limits{}, Capabilities{}, maxN)
	if err != nil {
		return nil, err
	}
	if err := w.maskInput(ctx, r, b); err != nil {
		return nil, err
	}
	fresh, err := w.newMessages(b)
	if err != nil {
		return nil, err
	}
	t := &turn{fresh: fresh, view: *result.Turn}
	out, err := t.finished(r.job, result)
	if err == nil {
		out.Moderation = r.verdict
	}
	return out, err
}

// loseTurn gives up a turn that a Result has promised, so that the next one does not wait for it.
func (w *Worker) loseTurn(ctx context.Context, r *run, ref conversation.Ref, why error) {
	r.metrics.sessions.turn("lost")
	w.log.Error().Err(why).Str("job", r.job.ID).Str("tenant", r.job.Tenant).Str("session", ref.ID).Msg("a turn that waited can never be stored")
	w.abort(ctx, r, ref)
}

// storeLate holds a job that has ended until its turn is stored, so that whoever is given the job next does it
// if this worker dies. The slot is free meanwhile. A worker that stops hands the job back.
func (w *Worker) storeLate(r *run, ended error) error {
	l := r.late
	if l == nil {
		return ended
	}
	defer w.sessions.release(l)
	if ended != nil && !errors.Is(ended, ErrDiscard) {
		return ended // the Result that promises the turn is not stored
	}
	r.storing.Store(true)
	r.vacate()
	tick := time.NewTicker(lateLook)
	defer tick.Stop()
	wait, proof := lateLook, time.Now().Add(w.sessions.proof)
	var back <-chan struct{}
	for next := time.Now(); ; {
		select {
		case <-r.drain.Done():
			return ErrStopping
		case <-back:
			// The next message of the session may be here already: it was that which found the store.
			back, next = nil, time.Now()
		case <-tick.C:
		}
		if lost := r.lapsed(); lost != nil {
			return lost
		}
		if time.Now().Before(next) {
			continue
		}
		back = w.sessions.returned()
		at, err := w.append(r.drain, l.ref, l.turn)
		switch {
		case err == nil:
			w.sessions.reached(nil)
			r.metrics.sessions.turn("stored_late")
			w.log.Info().Str("job", r.job.ID).Str("tenant", r.job.Tenant).Str("session", l.ref.ID).Int64("rev", at.Rev).Msg("a turn was stored after its job had ended")
			w.deleteBody(context.WithoutCancel(r.drain), r)
			return ended
		case r.drain.Err() != nil:
			return ErrStopping
		case !storeIsAway(err):
			w.loseTurn(context.WithoutCancel(r.drain), r, l.ref, err)
			w.deleteBody(context.WithoutCancel(r.drain), r)
			return ended
		}
		w.sessions.reached(err)
		if time.Now().After(proof) {
			if w.resultGone(r) {
				w.loseTurn(r.drain, r, l.ref, errResultGone)
				return ended
			}
			proof = time.Now().Add(w.sessions.proof)
		}
		wait = min(2*wait, storeWait)
		next = time.Now().Add(wait)
	}
}

// resultGone reports whether the Result of a job has expired: then nothing promises the turn any more, and
// a job without a Result would be run again.
func (w *Worker) resultGone(r *run) bool {
	ctx, stop := context.WithTimeout(r.drain, finishTimeout)
	defer stop()
	_, err := queue.GetResult(ctx, w.js, r.job.Tenant, r.job.ID)
	return errors.Is(err, queue.ErrNotFound)
}

// vacate gives the run's slots back before it has ended, and the worker's lastChance if it held that.
func (r *run) vacate() {
	r.w.slots.give(r.held())
	r.vacated = true
	if r.last {
		<-r.w.lastChance
		r.last = false
	}
}

// held is how many slots the run holds.
func (r *run) held() int {
	if r.vacated {
		return 0
	}
	return 1 + r.extra
}
