package workers

import (
	"context"
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// unanswered is [queue.ErrResultExists] if the job has a Result: the turn is then that one's, which may be still to be
// stored, and not this run's. A broker that does not say goes on to be asked when the Result is put.
func (w *Worker) unanswered(ctx context.Context, r *run) error {
	ctx, stop := context.WithTimeout(ctx, keepTimeout)
	defer stop()
	if _, err := queue.GetResult(ctx, w.js, r.job.Tenant, r.job.ID); err == nil {
		return queue.ErrResultExists
	}
	return nil
}

// supersede ends a job here that has another Result than the one that was to be stored. If that one promises a turn, it
// is stored here as well: whoever promised it may be gone, and the message is about to be acknowledged.
func (w *Worker) supersede(ctx context.Context, r *run, mine *schemas.Result) error {
	r.out.drop()
	w.sessions.release(r.late)
	r.late = nil
	theirs, err := w.otherResult(ctx, r)
	if err != nil {
		return err
	}
	if theirs != nil {
		if err := w.yieldTo(ctx, r, theirs); err != nil {
			return err
		}
		r.over = true
		if r.late, err = w.owed(ctx, r, theirs); err != nil {
			return err
		}
	}
	if r.late == nil && r.turn != nil && !r.turn.summary {
		w.abort(ctx, r, r.turn.ref)
	}
	w.closeAccount(r, mine, "superseded")
	return nil
}

// otherResult is the Result that the job has; nil if it was deleted since, and its stream with it.
func (w *Worker) otherResult(ctx context.Context, r *run) (*schemas.Result, error) {
	ctx, stop := context.WithTimeout(ctx, finishTimeout)
	defer stop()
	result, err := queue.GetResult(ctx, w.js, r.job.Tenant, r.job.ID)
	if errors.Is(err, queue.ErrNotFound) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, fmt.Errorf("read the result of job %s: %w", r.job.ID, err)
	}
	return result, nil
}

// yieldTo ends the stream of a job that another attempt has answered. Readers drop what an older
// attempt says, so if this one is newer nobody has heard of the end yet.
func (w *Worker) yieldTo(ctx context.Context, r *run, result *schemas.Result) error {
	if !r.opened || result.Attempts >= r.attempt {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, finishTimeout)
	defer stop()
	last, err := queue.LastEvent(ctx, w.js, r.job.Tenant, r.job.ID)
	if err == nil && last.Kind.Terminal() && last.Attempt >= r.attempt {
		return nil
	}
	return r.out.event(terminalEvent(result))
}
