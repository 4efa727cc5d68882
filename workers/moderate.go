package workers

import (
	"context"
	"fmt"
	"time"
)

// Moderator says what may reach an engine and what of its replies may be shown: package
// workers/moderation has one. Safe for concurrent use.
type Moderator interface {
	// Policy returns what holds for a tenant's jobs of a model, or nil if nothing is checked.
	Policy(model, tenant string) ModerationPolicy
}

// ModerationPolicy says what is checked, and what follows. Safe for concurrent use.
type ModerationPolicy interface {
	// Name is how verdicts and logs name the policy.
	Name() string
	// Audit reports whether what is found is counted and logged, and nothing else.
	Audit() bool
	// FailsOpen reports whether a text that could not be checked passes.
	FailsOpen() bool
	// Checks reports whether a stage is checked.
	Checks(stage Stage) bool
	// Input checks the texts of a request and returns one ruling for each. Every ruling is final.
	Input(ctx context.Context, texts []string) []Ruling
	// Output begins the check of a reply to a prompt. changed is called, from any goroutine and with
	// no lock of the check's held, when a ruling has changed by other means than a call. The
	// check ends with ctx.
	Output(ctx context.Context, prompt string, changed func()) ReplyCheck
}

// Stage is what is checked.
type Stage string

// The stages.
const (
	StageInput  Stage = "input"
	StageOutput Stage = "output"
)

// ReplyCheck checks the texts of one reply. Its methods and those of its texts are called one at a time.
type ReplyCheck interface {
	// Text begins one text of the reply. before is what of it was sent by an earlier attempt.
	Text(before string) TextCheck
	// Stop ends the check, and returns when nothing of it runs.
	Stop()
}

// TextCheck checks one text as it grows.
type TextCheck interface {
	// Write takes in more of the text. It keeps nothing of p.
	Write(p []byte)
	// Close says that the text is complete. Once everything has been looked at, all of it is settled.
	Close()
	// Ruling says what is known.
	Ruling() Ruling
}

// Ruling is what is known of a text. Offsets count its bytes, without those sent before.
type Ruling struct {
	// Settled is how many bytes may be shown: whatever comes after them changes nothing about them.
	Settled int
	// Edits are the replacements, in order, that end before Settled and were not in an earlier ruling.
	Edits []Edit
	// Findings are those that were not in an earlier ruling.
	Findings []Finding
	// Blocked is set when nothing beyond Settled may be shown.
	Blocked bool
	// Unchecked is why a part of the text could not be checked. Blocked says what follows.
	Unchecked error
}

// Edit replaces a part of a text.
type Edit struct {
	From, To int
	Text     string
}

// Finding is something that a policy looks for. It holds nothing of the text.
type Finding struct {
	Category string
	// Digest tells occurrences of the same text apart from others, within one process.
	Digest string
	// Masked is set if it was replaced.
	Masked bool
}

// moderateInput checks what a job brings and has its texts masked where the policy says so. It also
// finds the policy for the reply.
func (w *Worker) moderateInput(ctx context.Context, r *run, b *body) error {
	if r.tuned.Moderator == nil {
		return nil
	}
	if r.policy = r.tuned.Moderator.Policy(r.model, r.job.Tenant); r.policy == nil {
		return nil
	}
	ctx, stop := r.bounded(ctx)
	defer stop()
	r.lag = b.stopRunes()
	in, unread := &input{}, error(nil)
	if r.policy.Checks(StageInput) || !b.promptExact {
		var err error
		in, unread, err = w.readInput(ctx, b)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && r.policy.Audit():
			in, unread = &input{}, err
		case err != nil:
			return err // the engine's, and may pass
		}
	}
	r.asked = in.last(nil)
	if r.policy.Checks(StageOutput) && !r.policy.Audit() {
		if err := r.dropAlternatives(b); err != nil {
			return err
		}
	}
	switch {
	case !r.policy.Checks(StageInput):
		r.cleared = true
		return nil
	case r.policy.Audit():
		r.cleared = true
		w.auditInput(r, in, unread)
		return nil
	}
	rulings, o, err := w.awaitInput(ctx, r, in, unread)
	if err != nil {
		return err
	}
	r.asked = in.last(rulings)
	did := w.account(r, StageInput, o)
	r.pronounce(StageInput, did, o)
	switch did {
	case actionBlock, actionErrorClosed:
		return o.err(StageInput, r.policy.Name()).WithParam(in.param(rulings, b))
	case actionMask, actionErrorOpen:
		counts := o.counts()
		if r.cleared = counts == ""; !r.cleared {
			r.said = sentences(r.said, fmt.Sprintf("moderation policy %s masked %s in the request", r.policy.Name(), counts))
		}
		return in.rewrite(r, b, rulings)
	default:
		r.cleared = true
		return nil
	}
}

// loggable reports whether the job's body may be logged: no policy holds for it, or one has let it through as it is.
func (r *run) loggable() bool {
	m := r.tuned.Moderator
	return m == nil || r.cleared || m.Policy(r.model, r.job.Tenant) == nil
}

// awaitInput has the policy look at the texts while the job waits.
func (w *Worker) awaitInput(ctx context.Context, r *run, in *input, unread error) ([]Ruling, *outcome, error) {
	r.checking.Store(true)
	rulings, o := w.checkInput(ctx, r, in, unread)
	r.touch()
	r.checking.Store(false)
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	return rulings, o, nil
}

// checkInput has the policy look at the texts. unread is why some of the input is no text.
func (w *Worker) checkInput(ctx context.Context, r *run, in *input, unread error) ([]Ruling, *outcome) {
	start := time.Now()
	rulings := in.check(ctx, r.policy)
	r.metrics.moderation.seconds[StageInput].Observe(time.Since(start).Seconds())
	o := &outcome{}
	for i := range rulings {
		o.add(&rulings[i])
	}
	if unread != nil {
		o.add(&Ruling{Unchecked: unread, Blocked: !r.policy.FailsOpen()})
	}
	return rulings, o
}

// maskInput masks the texts of a job that was let through by another attempt, whose turn is still to be stored, and
// keeps the verdict on them. What became of the reply is not known here.
func (w *Worker) maskInput(ctx context.Context, r *run, b *body) error {
	r.judged, r.verdict = nil, nil // what there is may be of another reply
	if r.tuned.Moderator == nil {
		return nil
	}
	p := r.tuned.Moderator.Policy(r.model, r.job.Tenant)
	if p == nil || p.Audit() || !p.Checks(StageInput) {
		return nil
	}
	in, _, err := w.readInput(ctx, b) // a turn has messages, which are text
	if err != nil {
		return err
	}
	r.policy = p
	rulings := in.check(ctx, p)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o := &outcome{}
	for i := range rulings {
		o.add(&rulings[i])
	}
	r.pronounce(StageInput, o.action(false), o) // it has been counted
	return in.rewrite(r, b, rulings)
}
