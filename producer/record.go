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

// look goes to the record and the Result for what the live path has not brought.
func (s *Stream) look(ctx context.Context) error {
	c := s.c
	switch found, err := s.outcome(ctx); {
	case err != nil:
		return s.tolerate(ctx, err)
	case found:
		return s.finish(ctx)
	}
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
	from := after
	if s.attempt == 0 {
		from = 0 // a reader that began in the middle needs what came before to tell which events are late
	}
	record, err := queue.ReadRecord(ctx, s.c.js, s.c.cfg.Tenant, s.job.ID, from)
	if errors.Is(err, queue.ErrBadRecord) {
		// What is not an event leaves a gap if an event is missing, and is nothing to a reader if not.
		s.c.cfg.Logger.Warn().Err(err).Str("job", s.job.ID).Msg("record holds messages that are not events")
		err = nil
	}
	if err != nil {
		return nil, err
	}
	all := slices.Clone(record)
	if s.attempt == 0 {
		all = (&sequence{final: s.final}).arrange(all)
		all = slices.DeleteFunc(all, func(e schemas.Event) bool { return e.Seq <= after })
	}
	all = append(all, s.ready...)
	if len(s.ready) < s.c.cfg.Buffer {
		events, _ := s.in.take()
		all = append(all, events...)
	}
	s.ready = s.arrange(all)
	s.bridge(record)
	return record, nil
}

// bridge recognises missing Seqs that nothing was lost from. A worker that has been replaced without
// knowing may go on to publish; the next attempt begins after that, and the places between hold
// only what is left out. If the record has all of them, nothing else was ever published there.
func (s *Stream) bridge(record []schemas.Event) {
	if len(s.ready) == 0 {
		return
	}
	e := &s.ready[0]
	begins := e.Kind.Opens() || e.Kind.Terminal() && e.Kind != schemas.Done
	if !begins || e.Attempt == s.attempt || e.Seq <= s.last+1 {
		return
	}
	late := map[uint64]bool{}
	for i := range record {
		if r := &record[i]; r.Attempt < e.Attempt && r.Seq > s.last && r.Seq < e.Seq {
			late[r.Seq] = true
		}
	}
	if uint64(len(late)) == e.Seq-s.last-1 {
		s.hole = e.Seq - 1
	}
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
			if s.result != nil {
				return s.missing(&s.ready[0])
			}
			if ended, err := s.ask(ctx); !ended {
				return err
			}
			continue // the Result may tell that what is missing is nobody's
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
