package producer

import (
	"context"
	"errors"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Reasons of terminal events that were made from the Result because the published one is not to be had.
const (
	reasonExpired = "the event record has expired; the result is complete"
	reasonLost    = "the terminal event is not recorded; it was made from the result"
)

// longAgo is how long ago a job must have ended for its record to be taken as complete without waiting
// for the capture. It leaves room for clocks that differ.
const longAgo = time.Minute

// outcome looks for the Result and notes how the job ended.
func (s *Stream) outcome(ctx context.Context) (found bool, err error) {
	r, err := queue.GetResult(ctx, s.c.js, s.c.cfg.Tenant, s.job.ID)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		s.unset = 0
		return false, nil
	case err != nil:
		return false, err
	}
	s.unset = 0
	s.result, s.known, s.resultSeen = r, true, time.Now()
	if r.Status == schemas.StatusCompleted {
		s.final = max(r.Attempts, 1)
	}
	return true, nil
}

// ask looks for the Result where a gap cannot be filled. It reports whether the job has ended; if not,
// the error is that of the gap, or nil to look again.
func (s *Stream) ask(ctx context.Context) (ended bool, err error) {
	switch found, err := s.outcome(ctx); {
	case err != nil:
		return false, s.tolerate(ctx, err)
	case !found:
		return false, s.missing(&s.ready[0])
	case s.yielded && s.outrun():
		return false, s.mixed()
	}
	return true, nil
}

// confirm asks the Result whose text a Done ends that comes from another attempt than the one shown:
// a worker that finds the Result of an older attempt announces it under its own.
func (s *Stream) confirm(ctx context.Context) (ok bool, err error) {
	if s.result == nil {
		// One that is not found has expired: nothing contradicts what was shown.
		if _, err := s.outcome(ctx); err != nil {
			return false, s.tolerate(ctx, err)
		}
	}
	if s.final > 0 && s.final != s.attempt {
		return false, s.mixed()
	}
	return true, nil
}

// finish brings a stream to its end once the job has a Result: from what was published if it is
// recorded, and with a terminal event made from the Result if all but that one was shown. It returns
// when events are ready, the stream is done, or its end cannot be had.
func (s *Stream) finish(ctx context.Context) error {
	end := s.end()
	if s.last >= end && !s.yielded {
		s.done = true // whoever has seen the terminal event has seen everything
		return nil
	}
	if s.yielded && s.outrun() {
		return s.mixed()
	}
	wait := s.c.cfg.GapWait
	if s.follows && time.Since(s.result.Finished) > longAgo {
		wait = 0
	}
	deadline := s.resultSeen.Add(wait)
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		_, err := s.load(ctx, s.last)
		if err != nil {
			if err := s.tolerate(ctx, err); err != nil {
				return err
			}
			deadline = time.Now().Add(wait)
		}
		if len(s.ready) > 0 && s.judge(&s.ready[0]) != early {
			return nil
		}
		if s.last >= end || err == nil && time.Now().After(deadline) {
			return s.conclude(ctx)
		}
		if err := s.rest(ctx, delay); err != nil {
			return err
		}
	}
}

// conclude ends a stream from the Result alone.
func (s *Stream) conclude(ctx context.Context) error {
	r, end := s.result, s.end()
	switch {
	case len(s.ready) > 0 && s.ready[0].Seq < end:
		return s.missing(&s.ready[0])
	case s.last+1 < end:
		gap := &GapError{Job: s.job.ID, From: s.last + 1, To: end - 1}
		if s.yielded || len(s.ready) > 0 {
			return gap
		}
		_, err := queue.LastEvent(ctx, s.c.js, s.c.cfg.Tenant, s.job.ID)
		if !errors.Is(err, queue.ErrNotFound) {
			if err != nil {
				return s.tolerate(ctx, err)
			}
			return gap
		}
		s.ready = []schemas.Event{terminal(r, end, s.attempt, reasonExpired)}
		s.last = end - 1
	case s.yielded && s.final > 0 && (s.last >= end || s.final != s.attempt):
		return s.mixed()
	default:
		s.ready = []schemas.Event{terminal(r, s.last+1, s.attempt, reasonLost)}
	}
	s.admitted = s.ready[0].Attempt
	return nil
}

// outrun reports whether a newer attempt was shown than the one that the Result is of.
func (s *Stream) outrun() bool { return s.final > 0 && s.attempt > s.final }

// mixed says that the text that was shown is not the text of the Result.
func (s *Stream) mixed() error {
	return &ConflictError{Job: s.job.ID, Last: s.last, Attempt: s.final, Seq: s.end()}
}

// end is the Seq of the terminal event.
func (s *Stream) end() uint64 { return max(s.result.LastSeq, 1) }

// terminal makes the event that announces a Result.
func terminal(r *schemas.Result, seq uint64, attempt int, reason string) schemas.Event {
	return schemas.Event{
		ID: r.ID, Seq: seq, Attempt: max(attempt, r.Attempts, 1), Kind: r.Status.Kind(), TS: r.Finished.UnixMicro(),
		Usage: r.Usage, Timings: &r.Timings, Reason: reason, Error: r.Error,
	}
}
