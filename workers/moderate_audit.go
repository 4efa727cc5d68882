package workers

import (
	"context"
	"errors"
)

// maxAudits bounds the checks that no job waits for.
const maxAudits = 64

// errAudits is why something was not audited.
var errAudits = errors.New("as many audits run as may")

// audit runs a check that no job waits for, until the worker has drained. false if too many run.
func (w *Worker) audit(check func()) bool {
	select {
	case w.audits <- struct{}{}:
	default:
		return false
	}
	w.auditing.Go(func() {
		defer func() { <-w.audits }()
		check()
	})
	return true
}

// auditInput has the texts of a job looked at while the job goes on.
func (w *Worker) auditInput(r *run, in *input, unread error) {
	if !w.audit(func() {
		_, o := w.checkInput(r.jobs, r, in, unread)
		w.account(r, StageInput, o)
	}) {
		w.account(r, StageInput, &outcome{unchecked: errAudits})
	}
}

// auditRest has the rest of a reply looked at, which is complete or was broken off.
func (s *screen) auditRest(broken bool) {
	if !s.r.w.audit(func() { s.conclude(s.r.jobs, broken) }) {
		s.settleAudit(errAudits, broken)
	}
}

// conclude waits for the end of an audit.
func (s *screen) conclude(ctx context.Context, broken bool) {
	for s.end(); ; {
		s.mu.Lock()
		s.poll()
		done := s.complete() || s.outcome.blocked
		s.mu.Unlock()
		if done {
			s.settleAudit(nil, broken)
			return
		}
		select {
		case <-s.moved:
		case <-ctx.Done():
			s.settleAudit(context.Cause(ctx), broken)
			return
		}
	}
}

// settleAudit accounts for an audit, unless it was of a reply that is tried again and has nothing to say.
func (s *screen) settleAudit(unchecked error, broken bool) {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poll()
	if unchecked != nil {
		s.outcome.unchecked = unchecked
	}
	if !broken || s.outcome.action(true) != actionPass {
		s.r.w.account(s.r, StageOutput, &s.outcome)
	}
}
