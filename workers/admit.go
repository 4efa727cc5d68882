package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// perform takes a delivery from the wire to its end. What it returns decides the message's fate.
func (w *Worker) perform(ctx context.Context, r *run) error {
	job, err := schemas.DecodeJob(r.msg.Subject(), r.msg.Data(), fallbackIDOf(r))
	r.job = job
	if job.Tenant == "" { // the subject's own tokens are bad; only the dead letter can tell of it
		job.ID, job.Tenant = fallbackID(r.meta), unknownTenant
	}
	if opened := w.open(r); opened != nil {
		return opened
	}
	if err != nil {
		return w.reject(ctx, r, schemas.AsError(err))
	}
	if mine, err := w.claim(ctx, r); !mine {
		return err
	}
	request, err := w.admit(ctx, r)
	switch {
	case errors.Is(err, errAnswered):
		return nil
	case err == nil:
		err = w.attempt(ctx, r, request)
	}
	return w.conclude(ctx, r, err)
}

// attempt checks what only the engine can tell, and generates. The job's deadline bounds both.
func (w *Worker) attempt(ctx context.Context, r *run, b *body) error {
	if !r.job.Deadline.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, r.job.Deadline, errExpired)
		defer stop()
	}
	err := w.fit(ctx, r.job, b, w.limits())
	if err == nil {
		if r.extra = b.sequences - 1; r.extra > 0 {
			w.slots.take(r.extra)
		}
		err = w.generate(ctx, r, &Request{ID: r.job.ID, Attempt: r.attempt, Endpoint: r.job.Endpoint, Body: b.raw, Class: r.class})
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // why it was stopped says more than how it broke off
	}
	return err
}

// unknownTenant owns what was published under a tenant that no subject can name.
const unknownTenant = "unknown"

// errAnswered says that the job has its Result already, from another attempt or from whoever cancelled it.
var errAnswered = errors.New("already answered")

// fallbackIDOf names a job that brings no id: by its message id if the publisher gave a usable one,
// since that is what the broker de-duplicates by, otherwise by its place in the stream.
func fallbackIDOf(r *run) string {
	if id := r.msg.Headers().Get(schemas.HeaderMsgID); schemas.CheckToken(id) == nil {
		return id
	}
	return fallbackID(r.meta)
}

// claim makes sure that this worker runs the job once, and reports whether this delivery is to run
// it. A run of the same message that is still here has lost its lease and is waited for; a run of
// another message with the same id makes this one a duplicate, to be acknowledged.
func (w *Worker) claim(ctx context.Context, r *run) (mine bool, err error) {
	for {
		other := w.register(r)
		if other == nil {
			return true, nil
		}
		if other.meta.Sequence.Stream != r.meta.Sequence.Stream {
			w.metrics.class[r.class].outcome("duplicate")
			w.log.Info().Str("job", r.job.ID).Str("tenant", r.job.Tenant).Str("outcome", "duplicate").Msg("job is running here already")
			return false, nil
		}
		other.cancel(fmt.Errorf("%w: delivered again as attempt %d", ErrLeaseLost, r.attempt))
		select {
		case <-other.ended:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// admit decides whether the job may run, cheapest question first, without troubling the engine.
// errAnswered if there is nothing left to do.
func (w *Worker) admit(ctx context.Context, r *run) (*body, error) {
	result, tombstone, err := w.lookUp(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case result != nil:
		return nil, w.reannounce(ctx, r, result)
	}
	if err := w.readHistory(ctx, r); err != nil {
		return nil, err
	}
	if tombstone != nil {
		return nil, errCancelled
	}
	if d := r.job.Deadline; !d.IsZero() && !time.Now().Before(d) {
		return nil, errExpired
	}
	if err := w.outOfAttempts(r); err != nil {
		return nil, err
	}
	if r.job.Session != nil {
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "session %q: this worker keeps no conversations", r.job.Session.ID).WithParam("session")
	}
	if r.attempt > 1 && r.history.delivered && r.job.OnInterrupt == schemas.FailOnInterrupt {
		return nil, schemas.Errorf(schemas.CodeEngineUnavailable, "attempt %d was interrupted and on_interrupt is %q", r.history.attempt, r.job.OnInterrupt).Permanent()
	}
	return parseBody(r.job, w.limits(), w.cfg.Slots)
}

// lookUp asks for the job's Result and tombstone at the same time.
func (w *Worker) lookUp(ctx context.Context, r *run) (*schemas.Result, *schemas.Cancel, error) {
	type found struct {
		cancel *schemas.Cancel
		err    error
	}
	tombstone := make(chan found, 1)
	go func() {
		c, err := queue.GetTombstone(ctx, w.js, r.job.Tenant, r.job.ID)
		tombstone <- found{c, err}
	}()
	result, err := queue.GetResult(ctx, w.js, r.job.Tenant, r.job.ID)
	t := <-tombstone
	if errors.Is(err, queue.ErrNotFound) {
		result, err = nil, nil
	}
	if errors.Is(t.err, queue.ErrNotFound) {
		t.cancel, t.err = nil, nil
	}
	return result, t.cancel, errors.Join(err, t.err)
}

// limits are the configured ones, narrowed by the engine's own context window.
func (w *Worker) limits() Limits {
	l := w.cfg.Limits
	w.mu.Lock()
	engine := w.health.MaxModelLen
	w.mu.Unlock()
	if engine > 0 && (l.MaxModelLen == 0 || engine < l.MaxModelLen) {
		l.MaxModelLen = engine
	}
	return l
}

// fit refuses a prompt that does not fit the window together with the tokens asked for, and bounds
// a chat that asks for none. A token is at least one byte, so most prompts fit without being counted.
func (w *Worker) fit(ctx context.Context, job *schemas.Job, b *body, limits Limits) error {
	window := limits.MaxModelLen
	if window == 0 {
		return nil
	}
	want := max(1, b.maxTokens)
	most := limits.MaxTokens[1]
	unbounded := b.maxTokens == 0 && most > 0 && most < window
	need := want
	if unbounded {
		need = most
	}
	tokens, exact := b.promptTokens, b.promptExact
	if !exact && tokens+need > window {
		n, err := w.engine.CountTokens(ctx, job.Endpoint, b.raw)
		switch {
		case err == nil:
			tokens, exact = n, true
		case !errors.Is(err, ErrUnsupported):
			return err
		}
	}
	if exact && tokens+want > window {
		return schemas.Errorf(schemas.CodeContextLengthExceeded,
			"%s is %d tokens long and asks for %d more; the model's window is %d", b.promptField, tokens, want, window).WithParam(b.promptField)
	}
	if unbounded && tokens+most <= window {
		return b.setMaxTokens(most)
	}
	return nil
}

// reannounce ends a job whose Result is stored already. If the worker that stored it did not get to
// say so, the terminal event is published for it.
func (w *Worker) reannounce(ctx context.Context, r *run, result *schemas.Result) error {
	last, err := queue.LastEvent(ctx, w.js, r.job.Tenant, r.job.ID)
	switch {
	case err != nil && !errors.Is(err, queue.ErrNotFound):
		return err
	case err == nil && last.Kind.Terminal():
	default:
		r.out.resume(result.LastSeq-1, max(r.attempt, result.Attempts))
		if err := r.out.event(terminalEvent(result)); err != nil {
			return err
		}
	}
	w.metrics.class[r.class].outcome("duplicate")
	w.log.Info().Str("job", r.job.ID).Str("tenant", r.job.Tenant).Int("attempt", r.attempt).Str("outcome", "duplicate").Msg("job has its result already")
	return errAnswered
}

// reject ends a message that is not a job anyone could run: a dead letter with the reason, a Result
// and a terminal event. What of its address was refused, DecodeJob has taken out.
func (w *Worker) reject(ctx context.Context, r *run, reason *schemas.Error) error {
	if err := w.bury(ctx, r, reason); err != nil {
		return err
	}
	if err := w.finish(ctx, r, schemas.StatusFailed, reason); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDiscard, reason)
}
