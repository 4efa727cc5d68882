package workers

import (
	"context"
	"slices"
	"time"
)

// poll takes in what the checks have found.
func (s *screen) poll() {
	for _, t := range s.order {
		r := t.check.Ruling()
		t.settled = r.Settled
		t.edits = append(t.edits, r.Edits...)
		s.outcome.add(&r)
	}
}

// advance lets through what is settled, and stops everything at what is blocked.
func (s *screen) advance() error {
	s.poll()
	n := 0
	for ; n < len(s.held) && s.ready(&s.held[n]); n++ {
		h := &s.held[n]
		if s.err = s.rewrite(h); s.err == nil {
			s.err = s.r.emit(&h.Delta)
		}
		if s.err != nil {
			return s.err
		}
		s.r.metrics.moderation.seconds[StageOutput].Observe(time.Since(h.since).Seconds())
	}
	s.held = slices.Delete(s.held, 0, n)
	if s.outcome.blocked {
		s.block()
	}
	return s.err
}

// ready reports whether all that a delta shows is settled. Tokens may be ahead of their text.
func (s *screen) ready(h *heldDelta) bool {
	if len(h.ahead) > 0 && !s.complete() {
		return false
	}
	for _, p := range h.pieces {
		if p.text.settled < p.to || h.tokens(p.part) && !s.reached(p) {
			return false
		}
	}
	return !slices.ContainsFunc(h.after, func(p piece) bool { return !s.reached(p) })
}

// reached reports whether all is settled that the tokens of a piece may spell.
func (s *screen) reached(p piece) bool {
	if s.r.lag == 0 {
		return p.text.settled >= p.to
	}
	at, ok := p.text.beyond(p.runes + s.r.lag)
	if !ok {
		return s.complete() // they may spell the beginning of another text
	}
	return p.text.settled >= at
}

// complete reports whether the reply is, and all of it is settled.
func (s *screen) complete() bool {
	return s.ended && !slices.ContainsFunc(s.order, func(t *shownText) bool { return t.settled < t.end })
}

// block ends the reply where it is.
func (s *screen) block() {
	r := s.r
	err := s.outcome.err(StageOutput, r.policy.Name())
	s.held = nil
	for _, p := range r.answer.parts {
		if p.finish == "" {
			p.finish = finishFiltered
		}
	}
	r.pronounce(StageOutput, r.w.account(r, StageOutput, &s.outcome), &s.outcome)
	s.err = err
	r.cancel(err) // the engine may be silent, and its slot is wanted
}

// finishFiltered is OpenAI's finish_reason of a choice that was cut off.
const finishFiltered = "content_filter"

// changed is called when a check that takes its time has come to something.
func (s *screen) changed() {
	s.mu.Lock()
	if s.err == nil && !s.stopped && !s.audit {
		_ = s.advance() // it stays in s.err
	}
	s.mu.Unlock()
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// finish has the rest of a complete reply checked and lets it through.
func (s *screen) finish(ctx context.Context) error {
	defer s.stop()
	s.r.checking.Store(true)
	defer s.r.checking.Store(false)
	defer s.r.touch()
	for s.end(); ; {
		s.mu.Lock()
		err := s.err
		if err == nil {
			err = s.advance()
		}
		done := s.complete()
		s.mu.Unlock()
		if err != nil || done {
			if err == nil {
				s.r.pronounce(StageOutput, s.r.w.account(s.r, StageOutput, &s.outcome), &s.outcome)
			}
			return err
		}
		select {
		case <-s.moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end says that the reply is complete.
func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, t := range s.order {
		t.check.Close()
	}
}

// stop forgets what is held, and returns when nothing of the check runs.
func (s *screen) stop() {
	s.mu.Lock()
	s.stopped, s.held = true, nil
	s.mu.Unlock()
	s.check.Stop()
}

// screened ends the check of an attempt's reply: of the whole of it, or with what broke it off.
func (r *run) screened(ctx context.Context, failed error) error {
	switch {
	case r.screen == nil:
		return failed
	case r.screen.audit:
		r.screen.auditRest(failed != nil)
		r.screen = nil // it goes on by itself
		return failed
	case failed == nil:
		return r.screen.finish(ctx)
	}
	r.screen.stop()
	if r.screen.err != nil {
		return r.screen.err // it has broken the reply off
	}
	return failed
}
