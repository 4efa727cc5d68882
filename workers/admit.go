package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// perform takes a delivery from the wire to its end. What it returns decides the message's fate.
func (w *Worker) perform(ctx context.Context, r *run) error {
	job, err := schemas.DecodeJob(r.msg.Subject(), r.msg.Data(), fallbackIDOf(r.msg.Subject(), r.msg.Headers(), r.meta))
	r.job, r.ref = job, job.BodyRef
	if job.Tenant == "" { // the subject's own tokens are bad: there is nobody to tell
		job.ID, job.Tenant = fallbackID(r.meta), schemas.UnknownTenant
		return w.discard(ctx, r, schemas.AsError(err))
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
		return w.storeLate(r, nil)
	case err == nil:
		err = w.attempt(ctx, r, request)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return w.storeLate(r, w.conclude(ctx, r, err))
}

// attempt checks what only the engine can tell, and generates. The job's deadline bounds both.
func (w *Worker) attempt(ctx context.Context, r *run, b *body) error {
	ctx, stop := r.bounded(ctx)
	defer stop()
	err := w.converse(ctx, r, b)
	if err == nil && b.stored == nil {
		err = w.fit(ctx, r.job, b, r.limits())
	}
	if err == nil {
		if r.extra = b.sequences - 1; r.extra > 0 {
			w.slots.take(r.extra)
		}
		err = w.reply(ctx, r, b)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // why it was stopped says more than how it broke off
	}
	return err
}

// bounded is a context that ends with the job's deadline.
func (r *run) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.job.Deadline.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, r.job.Deadline, errExpired)
}

// errAnswered says that the job has its Result already, from another attempt or from whoever cancelled it.
var errAnswered = errors.New("already answered")

// fallbackIDOf names a job that brings no id: by its message id if the publisher gave a usable one,
// since that is what the broker de-duplicates by, otherwise by its place in the stream.
func fallbackIDOf(subject string, header nats.Header, meta *jetstream.MsgMetadata) string {
	id := header.Get(schemas.HeaderMsgID)
	if _, _, tenant, err := schemas.ParseJobSubject(subject); err == nil {
		id = strings.TrimPrefix(id, schemas.MsgID(tenant, ""))
	}
	if schemas.CheckToken(id) == nil {
		return id
	}
	return fallbackID(meta)
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
		if other.source() != r.source() {
			w.logDuplicate(r, "another message with this id is running here")
			return false, nil
		}
		other.lost.Store(true)
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
	known, err := w.lookUp(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case known.result != nil:
		return nil, w.reannounce(ctx, r, known.result)
	}
	if r.meta.NumDelivered > 1 || known.recorded {
		if err := w.readHistory(ctx, r); err != nil {
			return nil, err
		}
	}
	if r.history.foreign(r) {
		w.logDuplicate(r, "another message with this id is being run")
		return nil, errAnswered
	}
	if n := int(r.meta.NumDelivered); r.history.attempt >= n {
		// This delivery has waited in a connection's buffer while the process was frozen, and the job is
		// another worker's. Should it be the broker that has lost count, the next deliveries catch up.
		return nil, fmt.Errorf("%w: this is delivery %d, and attempt %d has begun", ErrLeaseLost, n, r.history.attempt)
	}
	r.out.resume(r.history.lastSeq, r.attempt)
	if b := w.recall(ctx, r); b != nil {
		return b, nil
	}
	if known.cancelled {
		return nil, errCancelled
	}
	if d := r.job.Deadline; !d.IsZero() && !time.Now().Before(d) {
		return nil, errExpired
	}
	if err := w.closeAttempt(ctx, r); err != nil {
		return nil, err
	}
	if err := w.outOfAttempts(r); err != nil {
		return nil, err
	}
	if err := w.checkSession(r); err != nil {
		return nil, err
	}
	if r.attempt > 1 && r.history.delivered && r.job.OnInterrupt == schemas.FailOnInterrupt {
		return nil, schemas.Errorf(schemas.CodeEngineUnavailable, "attempt %d was interrupted and on_interrupt is %q", r.history.attempt, r.job.OnInterrupt).Permanent()
	}
	if err := w.isolate(r); err != nil {
		return nil, err
	}
	if err := w.fetchBody(ctx, r); err != nil {
		return nil, err
	}
	b, err := parseBody(r.job, r.limits(), r.tuned.Capabilities, w.cfg.Slots)
	if err != nil {
		return nil, err
	}
	return b, w.moderateInput(ctx, r, b)
}

// isolate lets one job at a time run its last attempt here. An engine that dies takes every job on it
// along, and all of them may come back in step with the one that killed it: alone among those that
// have failed before, the killer dies alone. A job that has to wait goes back for a moment, here or to
// another worker.
func (w *Worker) isolate(r *run) error {
	if n := len(r.history.failed); n == 0 || n < r.tuned.MaxAttempts-1 {
		return nil
	}
	select {
	case w.lastChance <- struct{}{}:
		r.last = true
		return nil
	default:
		return errLastChance
	}
}

// known is what the queue has stored of a job.
type known struct {
	result    *schemas.Result
	cancelled bool
	recorded  bool // there are events
}

// lookUp asks for the job's Result, tombstone and last event at the same time.
func (w *Worker) lookUp(ctx context.Context, r *run) (known, error) {
	var k known
	var all errgroup.Group
	ask := func(get func() error) {
		all.Go(func() error {
			if err := get(); !errors.Is(err, queue.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	ask(func() (err error) {
		k.result, err = queue.GetResult(ctx, w.js, r.job.Tenant, r.job.ID)
		return err
	})
	ask(func() error {
		_, err := queue.GetTombstone(ctx, w.js, r.job.Tenant, r.job.ID)
		k.cancelled = err == nil
		return err
	})
	ask(func() error {
		_, err := queue.LastEvent(ctx, w.js, r.job.Tenant, r.job.ID)
		k.recorded = !errors.Is(err, queue.ErrNotFound)
		if errors.Is(err, queue.ErrBadRecord) {
			return nil // the rest of the record may be better
		}
		return err
	})
	if err := all.Wait(); err != nil {
		return known{}, err
	}
	return k, nil
}

// limits are the configured ones, narrowed by the engine's own context window.
func (r *run) limits() Limits {
	l := r.tuned.Limits
	r.w.mu.Lock()
	engine := r.w.health.MaxModelLen
	r.w.mu.Unlock()
	if engine > 0 && (l.MaxModelLen == 0 || engine < l.MaxModelLen) {
		l.MaxModelLen = engine
	}
	return l
}

// fit refuses a prompt that does not fit the window together with the tokens asked for, and bounds
// a chat that asks for none. The engine's KV cache may be smaller than the window: a sequence that outgrows it
// waits for ever. A token is at least one byte, so most prompts fit without being counted.
func (w *Worker) fit(ctx context.Context, job *schemas.Job, b *body, limits Limits) error {
	window, inPool := w.span(limits)
	if window == 0 {
		return nil
	}
	what := "the model's window is"
	if inPool {
		what = "the engine's KV cache holds"
	}
	want := max(1, b.maxTokens)
	most := limits.MaxTokens[1]
	if inPool && (most == 0 || most > window) {
		most = window
	}
	unbounded := b.maxTokens == 0 && most > 0 && (inPool || most < window)
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
			"%s is %d tokens long and asks for %d more; %s %d", b.promptField, tokens, want, what, window).WithParam(b.promptField)
	}
	if inPool && exact {
		most = min(most, window-tokens)
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
		r.out.resume(max(1, result.LastSeq)-1, max(r.attempt, result.Attempts))
		if err := r.out.event(terminalEvent(result)); err != nil {
			return err
		}
	}
	r.over = true
	if r.late, err = w.owed(ctx, r, result); err != nil {
		return err
	}
	// Whoever stored it may not have got to this either. A dead letter keeps its body for a replay.
	if r.late == nil && (result.Error == nil || result.Error.Code != schemas.CodeMaxAttempts) {
		w.deleteBody(ctx, r)
	}
	w.logDuplicate(r, "the job has its result already")
	return errAnswered
}

func (w *Worker) logDuplicate(r *run, why string) {
	r.metrics.class[r.class].outcome("duplicate")
	w.log.Info().Str("job", r.job.ID).Str("tenant", r.job.Tenant).Int("attempt", r.attempt).Str("outcome", "duplicate").Msg(why)
}

// reject ends a message that is not a job anyone could run: a dead letter with the reason, a Result
// and a terminal event. What of its address was refused, DecodeJob has taken out. If the id that it
// brings is another job's, only the dead letter tells of it.
func (w *Worker) reject(ctx context.Context, r *run, reason *schemas.Error) error {
	known, err := w.lookUp(ctx, r)
	if err != nil {
		return err
	}
	if known.recorded {
		if err := w.readHistory(ctx, r); err != nil {
			return err
		}
	}
	if w.lookup(r.job.Tenant, r.job.ID) == nil && known.result == nil && !r.history.foreign(r) {
		r.out.resume(r.history.lastSeq, r.attempt)
		r.history.lose()
		return w.giveUp(ctx, r, reason)
	}
	return w.discard(ctx, r, reason)
}

// discard ends a message with nothing but a dead letter.
func (w *Worker) discard(ctx context.Context, r *run, reason *schemas.Error) error {
	if err := w.bury(ctx, r, reason); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDiscard, reason)
}
