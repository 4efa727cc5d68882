package producer

import (
	"context"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// reader is what a stream knows of its place. Only the one that ranges over the events touches it.
type reader struct {
	sequence
	accepted *schemas.Event // to yield first
	ready    []schemas.Event
	follows  bool      // opened on a job that may be in any state
	after    uint64    // where the stream began
	opened   time.Time // when
	yielded  bool      // an event from the wire was yielded
	known    bool      // the job has left a trace
	done     bool      // nothing more will be yielded
	unset    int       // how many reads in a row found no stream to read
	texted   bool      // Text has yielded text of the present attempts

	result     *schemas.Result // once the job is known to have ended
	resultSeen time.Time
}

// read returns the next event, ok false at the end of the stream.
func (s *Stream) read(ctx context.Context) (e schemas.Event, ok bool, err error) {
	if a := s.accepted; a != nil {
		s.accepted = nil
		return *a, true, nil
	}
	for !s.done {
		if err := ctx.Err(); err != nil {
			return e, false, fmt.Errorf("read job %s: %w", s.job.ID, context.Cause(ctx))
		}
		if len(s.ready) > 0 {
			e, ok, err = s.step(ctx)
			if ok || err != nil {
				return e, ok, err
			}
			continue
		}
		closed := s.isClosed() // asked first: what has arrived until then is yielded
		events, check := s.in.take()
		switch {
		case len(events) > 0:
			s.ready = s.arrange(events)
		case closed:
			err = fmt.Errorf("read job %s: %w", s.job.ID, ErrClosed)
		case s.result != nil:
			err = s.finish(ctx)
		case check:
			err = s.look(ctx)
		default:
			err = s.wait(ctx)
		}
		if err != nil {
			return e, false, err
		}
	}
	s.c.forget(s)
	return e, false, nil
}

// wait returns when something has arrived, or has been silent for so long that it is time to look.
func (s *Stream) wait(ctx context.Context) error {
	idle := s.c.cfg.IdleCheck
	if s.c.cfg.UnknownAfter > 0 && s.follows && !s.known {
		left := time.Until(s.opened.Add(s.c.cfg.UnknownAfter))
		if left <= 0 {
			return fmt.Errorf("job %s: %w after %v", s.job.ID, ErrUnknownJob, s.c.cfg.UnknownAfter)
		}
		idle = min(idle, left)
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	select {
	case <-s.in.wake:
	case <-timer.C:
		return s.look(ctx)
	case <-ctx.Done():
	case <-s.closed:
	}
	return nil
}

func (s *Stream) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// step judges the first ready event. Where that takes the record, it returns with more of them ready.
func (s *Stream) step(ctx context.Context) (schemas.Event, bool, error) {
	e := &s.ready[0]
	switch s.judge(e) {
	case next:
		if e.Kind == schemas.Done && s.yielded && e.Attempt != s.attempt {
			if ok, err := s.confirm(ctx); !ok {
				return schemas.Event{}, false, err
			}
		}
		return s.pop(), true, nil
	case stale:
		s.drop()
		return schemas.Event{}, false, nil
	case early:
		return schemas.Event{}, false, s.fill(ctx, s.last)
	case unopened:
		return schemas.Event{}, false, s.fill(ctx, 0)
	default:
		return schemas.Event{}, false, &ConflictError{Job: s.job.ID, Last: s.last, Attempt: e.Attempt, Seq: e.Seq}
	}
}

func (s *Stream) drop() {
	s.ready[0] = schemas.Event{}
	s.ready = s.ready[1:]
}

// pop delivers the first ready event.
func (s *Stream) pop() schemas.Event {
	e := s.ready[0]
	s.drop()
	s.deliver(&e)
	return e
}

func (s *Stream) deliver(e *schemas.Event) {
	s.advance(e)
	s.yielded, s.known = true, true
	if s.ended {
		s.ready, s.done = nil, true
		s.finishing.Do(func() { close(s.finished) })
		s.c.forget(s)
	}
}
