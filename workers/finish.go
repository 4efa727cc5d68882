package workers

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// finishTimeout bounds one broker call that ends a job.
	finishTimeout = 10 * time.Second
	// storeAgain is the wait between two tries to store a Result.
	storeAgain = 500 * time.Millisecond
)

// conclude turns the end of an attempt into the end of the job, or into another attempt. err is nil
// for a complete reply; what is returned is for settle.
func (w *Worker) conclude(ctx context.Context, r *run, err error) error {
	r.ending.Store(true)
	// The job's own context may have ended: that is why we are here.
	ctx = context.WithoutCancel(ctx)
	switch {
	case err == nil:
		w.judge(r, nil, nil)
		return w.end(ctx, r, schemas.StatusCompleted, nil)
	case errors.Is(err, ErrLeaseLost):
		r.out.drop()
		return err
	case errors.Is(err, errCancelled):
		w.observeCancel(r, r.phase())
		return w.end(ctx, r, schemas.StatusCancelled, schemas.Errorf(schemas.CodeCancelled, "cancelled in %s", r.phase()))
	case errors.Is(err, errExpired):
		return w.end(ctx, r, schemas.StatusExpired, schemas.Errorf(schemas.CodeDeadlineExceeded,
			"the deadline %s passed in %s", r.job.Deadline.UTC().Format(time.RFC3339Nano), r.phase()))
	case errors.Is(err, ErrStopping):
		return w.handBack(r, err, schemas.Errorf(schemas.CodeEngineUnavailable, "worker %s is stopping", w.cfg.ID))
	}
	if errors.Is(err, errStoreAway) {
		return w.awaitStore(r, err)
	}
	reason := schemas.AsError(err)
	if errors.Is(err, ErrStalled) {
		reason = schemas.Errorf(schemas.CodeEngineUnavailable, "%v", err)
	}
	w.judge(r, err, reason)
	switch {
	case reason.Code == schemas.CodeMaxAttempts:
		return w.giveUp(ctx, r, reason)
	case r.declines(reason):
		return w.decline(r, reason)
	case !reason.Retryable:
		return w.end(ctx, r, schemas.StatusFailed, reason)
	case !r.opened:
		return err // nobody has been told of this attempt
	case errors.Is(err, ErrNotReceived):
		return w.handBack(r, err, reason)
	case r.job.OnInterrupt == schemas.FailOnInterrupt && r.decoding.Load():
		return w.end(ctx, r, schemas.StatusFailed, reason)
	}
	if said := r.out.event(&schemas.Event{Kind: schemas.Interrupted, Error: reason}); said != nil {
		return said
	}
	r.history.failed = append(r.history.failed, schemas.Attempt{Attempt: r.attempt, Worker: w.cfg.ID, Error: reason})
	if out := w.outOfAttempts(r); out != nil {
		return w.giveUp(ctx, r, schemas.AsError(out))
	}
	return err
}

// end finishes a job. If its Result cannot be stored, the attempt was none of the job's fault.
func (w *Worker) end(ctx context.Context, r *run, status schemas.Status, reason *schemas.Error) error {
	err := w.finish(ctx, r, status, reason)
	switch {
	case err == nil, errors.Is(err, ErrLeaseLost):
		return err
	case errors.Is(err, errStoreAway):
		return w.awaitStore(r, err)
	}
	return w.handBack(r, err, schemas.Errorf(schemas.CodeInternal, "%v", err))
}

// handBack closes an attempt, if it was opened, without counting it as failed. It returns err, or
// the error of saying so.
func (w *Worker) handBack(r *run, err error, reason *schemas.Error) error {
	if !r.opened || r.over {
		return err
	}
	if said := r.out.event(&schemas.Event{Kind: schemas.Interrupted, Handback: true, Error: reason}); said != nil {
		return said
	}
	return err
}

// giveUp ends a job that may not be tried again: the dead letter first, so that nothing is lost if
// this worker dies before it has said the rest.
func (w *Worker) giveUp(ctx context.Context, r *run, reason *schemas.Error) error {
	if err := w.bury(ctx, r, reason); err != nil {
		return err
	}
	if err := w.finish(ctx, r, schemas.StatusFailed, reason); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDiscard, reason)
}

func (w *Worker) bury(ctx context.Context, r *run, reason *schemas.Error) error {
	d := &schemas.DeadLetter{
		ID: r.job.ID, Model: r.model, Tenant: r.job.Tenant, Subject: r.msg.Subject(),
		Reason: reason, Attempts: r.history.failed, Time: time.Now().UTC(),
	}
	if d.Attempts == nil {
		d.Attempts = []schemas.Attempt{}
	}
	if data := r.msg.Data(); utf8.Valid(data) {
		d.Payload = string(data)
	} else {
		d.PayloadBase64 = data
	}
	ctx, stop := context.WithTimeout(ctx, finishTimeout)
	defer stop()
	if err := queue.PutDeadLetter(ctx, w.js, d); err != nil {
		return fmt.Errorf("store the dead letter of job %s: %w", r.job.ID, err)
	}
	r.buried = true
	r.metrics.deadLetter(reason.Code)
	return nil
}

// finish stores the Result, tells the readers, and accounts for the job. If another writer was
// first, the job is theirs and nothing is said.
func (w *Worker) finish(ctx context.Context, r *run, status schemas.Status, reason *schemas.Error) error {
	result := w.result(r, status, reason)
	err := w.settleTurn(ctx, r, result)
	if errors.Is(err, queue.ErrResultExists) {
		return w.supersede(ctx, r, result)
	}
	if err != nil {
		return err
	}
	if result.Status == schemas.StatusCompleted && r.job.Stream && result.Usage != nil {
		if err := r.out.event(&schemas.Event{Kind: schemas.UsageKind, Usage: result.Usage}); err != nil {
			return err
		}
	}
	result.LastSeq = r.out.next()
	err = w.store(ctx, r, result)
	if schemas.ErrorCode(err) == schemas.CodePayloadTooLarge {
		// The answer does not fit a message. Its deltas may have been read, but there is no complete record of it.
		result.Status, result.Text, result.Choices = schemas.StatusFailed, "", nil
		result.Error = schemas.Errorf(schemas.CodePayloadTooLarge, "the result is too large to store: %v", err)
		err = w.store(ctx, r, result)
	}
	switch {
	case errors.Is(err, queue.ErrResultExists):
		return w.supersede(ctx, r, result)
	case err != nil:
		return fmt.Errorf("store the result of job %s: %w", r.job.ID, err)
	}
	if err := r.out.event(terminalEvent(result)); err != nil {
		return err
	}
	r.metrics.class[r.class].tokens(result.Usage)
	w.announceTurn(ctx, r, result)
	w.closeAccount(r, result, string(result.Status))
	if r.late == nil {
		w.deleteBody(ctx, r)
	}
	return nil
}

// closeAccount counts and logs how a job ended here.
func (w *Worker) closeAccount(r *run, result *schemas.Result, outcome string) {
	r.metrics.class[r.class].outcome(outcome)
	r.metrics.class[r.class].duration.Observe(time.Since(r.meta.Timestamp).Seconds())
	w.logOutcome(r, result, outcome)
}

// store puts the Result where it is kept. What was generated is not thrown away because the queue
// cannot take it at the moment: the lease is kept and the result offered again, until the worker
// has drained for as long as it may. Meanwhile nothing new is pulled. Without a lease nothing is offered:
// the job may be another worker's.
func (w *Worker) store(ctx context.Context, r *run, result *schemas.Result) error {
	for {
		if lost := r.lapsed(); lost != nil {
			// Whoever else has a Result to store shuts the gate again; there may be nobody.
			w.gate.release(keeperResults)
			return lost
		}
		try, stop := context.WithTimeout(ctx, finishTimeout)
		err := queue.PutResult(try, w.js, result)
		stop()
		switch {
		case err == nil, errors.Is(err, queue.ErrResultExists):
			if w.gate.release(keeperResults) {
				w.log.Info().Msg("results can be stored again")
			}
			return err
		case schemas.ErrorCode(err) == schemas.CodePayloadTooLarge:
			return err
		case r.jobs.Err() != nil:
			return err
		}
		if w.gate.hold(keeperResults, schemas.CauseResults, "results cannot be stored: "+err.Error()) {
			w.log.Error().Err(err).Msg("results cannot be stored; pulling stops")
		}
		r.touch()
		select {
		case <-r.jobs.Done():
		case <-time.After(storeAgain):
		}
	}
}

func (w *Worker) result(r *run, status schemas.Status, reason *schemas.Error) *schemas.Result {
	now := time.Now()
	r.timings.Total = ms(now.Sub(r.meta.Timestamp))
	result := &schemas.Result{
		ID: r.job.ID, Model: r.model, Class: r.class, Tenant: r.job.Tenant, Endpoint: r.job.Endpoint,
		Status: status, Timings: r.timings, Attempts: r.attempt, Worker: w.cfg.ID, Error: reason,
		Metadata: r.job.Metadata, Created: r.meta.Timestamp.UTC(), Finished: now.UTC(),
	}
	if r.opened {
		result.ServedBy = r.servedBy()
	}
	if !r.job.Endpoint.Valid() {
		result.Endpoint = "" // the job did not decode so far
	}
	if r.answer == nil {
		return result
	}
	var err error
	if result.Choices, err = r.answer.choices(); err != nil {
		// The engine sent what is not of OpenAI's form, and would again. The stream has it as it came.
		result.Status, result.Choices = schemas.StatusFailed, nil
		result.Error = schemas.Errorf(schemas.CodeInternal, "assemble the result: %v", err).Permanent()
	}
	result.Text = r.answer.text()
	if result.Usage = r.usage; result.Usage == nil {
		result.Usage = r.answer.usage()
	}
	return result
}

func terminalEvent(r *schemas.Result) *schemas.Event {
	return &schemas.Event{Kind: r.Status.Kind(), Usage: r.Usage, Timings: &r.Timings, Error: r.Error, Turn: r.Turn}
}

func (w *Worker) logOutcome(r *run, result *schemas.Result, outcome string) {
	e := w.log.Info().Str("job", r.job.ID).Str("tenant", r.job.Tenant).Str("class", string(r.class)).Int("attempt", r.attempt).
		Str("outcome", outcome).Float64("queue_ms", result.Timings.Queue).Float64("ttft_ms", result.Timings.TTFT).Float64("total_ms", result.Timings.Total)
	if u := result.Usage; u != nil {
		e = e.Int("prompt_tokens", u.PromptTokens).Int("completion_tokens", u.CompletionTokens)
	}
	if result.Error != nil {
		w.blame(e, result.Error)
	}
	if r.verdict != nil {
		e = e.RawJSON("moderation", r.verdict)
	}
	if r.tuned.LogPrompts && r.loggable() {
		e = e.Bytes("body", r.job.Body).Str("text", result.Text)
	}
	e.Msg("job ended")
}
