package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// look goes to the record and the Result for what the live path has not brought.
func (s *Stream) look(ctx context.Context) error {
	c := s.c
	r, err := queue.GetResult(ctx, c.js, c.cfg.Tenant, s.job.ID)
	switch {
	case err == nil:
		s.result, s.known, s.resultSeen = r, true, time.Now()
		return s.finish(ctx)
	case !errors.Is(err, queue.ErrNotFound):
		return s.tolerate(ctx, err)
	}
	s.unset = 0
	last, err := queue.LastEvent(ctx, c.js, c.cfg.Tenant, s.job.ID)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return nil
	case errors.Is(err, queue.ErrBadRecord): // the whole record tells more
	case err != nil:
		return s.tolerate(ctx, err)
	}
	s.known = true
	if last != nil && last.Seq <= s.last && last.Attempt <= s.attempt {
		return nil
	}
	_, err = s.load(ctx, s.last)
	return s.tolerate(ctx, err)
}

// load merges the record after a Seq, and what has arrived since, into ready. It returns the record.
func (s *Stream) load(ctx context.Context, after uint64) ([]schemas.Event, error) {
	record, err := queue.ReadRecord(ctx, s.c.js, s.c.cfg.Tenant, s.job.ID, after)
	if errors.Is(err, queue.ErrBadRecord) {
		// What is not an event leaves a gap if an event is missing, and is nothing to a reader if not.
		s.c.cfg.Logger.Warn().Err(err).Str("job", s.job.ID).Msg("record holds messages that are not events")
		err = nil
	}
	if err != nil {
		return nil, err
	}
	all := append(append([]schemas.Event(nil), record...), s.ready...)
	if len(s.ready) < s.c.cfg.Buffer {
		events, _ := s.in.take()
		all = append(all, events...)
	}
	s.ready = s.arrange(all)
	return record, nil
}

// tolerate turns the error of a read into the stream's. What a broker's restart brings passes: the
// stream outlives it, and looks again at the next check.
func (s *Stream) tolerate(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("read job %s: %w", s.job.ID, context.Cause(ctx))
	case passing(err):
		return nil
	case errors.Is(err, ErrNotSetUp) && s.unset < unsetTries: // or its leader is being elected
		s.unset++
		return nil
	default:
		return fmt.Errorf("read job %s: %w", s.job.ID, err)
	}
}

// fill reads the record until the first ready event can be judged. The record is written by a
// listener of its own, so it may be behind the live events for a moment.
func (s *Stream) fill(ctx context.Context, after uint64) error {
	deadline := time.Now().Add(s.c.cfg.GapWait)
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		record, err := s.load(ctx, after)
		if err != nil {
			if err := s.tolerate(ctx, err); err != nil {
				return err
			}
			deadline = time.Now().Add(s.c.cfg.GapWait) // nothing is known to be missing while the record cannot be read
		}
		if len(s.ready) == 0 {
			return nil
		}
		switch s.judge(&s.ready[0]) {
		case early:
			after = s.last
		case unopened:
			if after > 0 {
				after = 0 // its opening may be before what was delivered
				continue
			}
			// What was published before the event is recorded before it: its opening will not come any more.
			first := s.ready[0]
			if slices.ContainsFunc(record, func(r schemas.Event) bool { return r.Attempt == first.Attempt && r.Seq == first.Seq }) {
				s.admitted = first.Attempt
				return nil
			}
		default:
			return nil
		}
		if time.Now().After(deadline) {
			return s.missing(&s.ready[0])
		}
		if err := s.rest(ctx, delay); err != nil {
			return err
		}
	}
}

// missing says what is not there before e.
func (s *Stream) missing(e *schemas.Event) error {
	if e.Seq <= s.last+1 {
		return &ConflictError{Job: s.job.ID, Last: s.last, Attempt: e.Attempt, Seq: e.Seq}
	}
	return &GapError{Job: s.job.ID, From: s.last + 1, To: e.Seq - 1}
}

// rest waits between two looks at the record.
func (s *Stream) rest(ctx context.Context, d time.Duration) error {
	if pause(ctx, d, s.closed) {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("read job %s: %w", s.job.ID, context.Cause(ctx))
	}
	return fmt.Errorf("read job %s: %w", s.job.ID, ErrClosed)
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
	case s.yielded && r.Status == schemas.StatusCompleted && (s.last >= end || r.Attempts > s.attempt):
		// The text that was shown is not the text of the Result.
		return &ConflictError{Job: s.job.ID, Last: s.last, Attempt: max(r.Attempts, 1), Seq: end}
	default:
		s.ready = []schemas.Event{terminal(r, s.last+1, s.attempt, reasonLost)}
	}
	s.admitted = s.ready[0].Attempt
	return nil
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
