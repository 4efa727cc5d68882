package workers

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// hands is how many jobs are ended at the same time.
	hands = 16
	// troubles is how many of them may fail before the rest is left for the next look.
	troubles = 16
	// troubleRounds is for how many Intervals a job is let be after it could not be ended.
	troubleRounds = 5
	// pendingRounds is for how many Intervals a job is let be whose turn is still to be stored.
	pendingRounds = 15
	// answerWait is how long workers have to say that they are running a job.
	answerWait = 500 * time.Millisecond
)

// settle deals with the jobs that are due.
func (b *backlog) settle(ctx context.Context) error {
	now := time.Now()
	if b.soonest == 0 || b.soonest > now.UnixNano() {
		return nil
	}
	var all errgroup.Group
	all.SetLimit(hands)
	var failed atomic.Int64
	for i := range b.jobs {
		t := &b.jobs[i]
		if t.due == 0 || t.due > now.UnixNano() {
			continue
		}
		if failed.Load() >= troubles || !b.j.lock.Held() || ctx.Err() != nil {
			break
		}
		all.Go(func() error {
			next, left, err := b.conclude(ctx, t.stored)
			switch {
			case err != nil:
				failed.Add(1)
				t.due = time.Now().Add(troubleRounds * b.j.cfg.Interval).UnixNano()
			case left:
				t.stored = 0
			case next.IsZero():
				t.due = 0
			default:
				t.due = next.UnixNano()
			}
			return err
		})
	}
	err := all.Wait()
	b.jobs = slices.DeleteFunc(b.jobs, func(t tracked) bool { return t.stored == 0 })
	b.soonest = 0
	for _, t := range b.jobs {
		if t.due > 0 && (b.soonest == 0 || t.due < b.soonest) {
			b.soonest = t.due
		}
	}
	return err
}

// conclude looks at one job that is due, ends it if it is over, and takes it out of the queue. It
// reports whether the job has left the queue, and otherwise when to look again, if ever.
func (b *backlog) conclude(ctx context.Context, stored uint64) (next time.Time, left bool, err error) {
	ctx, stop := context.WithTimeout(ctx, finishTimeout)
	defer stop()
	q, err := queue.GetJob(ctx, b.j.js, b.model, stored)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return next, true, nil
	case err != nil:
		return next, false, err
	}
	job, err := schemas.DecodeJob(q.Subject, q.Data, queuedID(b.model, q))
	if err != nil {
		return next, false, nil // a worker makes a dead letter of what is no job
	}
	result, err := queue.GetResult(ctx, b.j.js, job.Tenant, job.ID)
	if err == nil {
		return b.remove(ctx, q, job, result)
	}
	if !errors.Is(err, queue.ErrNotFound) {
		return next, false, err
	}
	request, err := queue.GetTombstone(ctx, b.j.js, job.Tenant, job.ID)
	switch {
	case err == nil:
		return b.cancel(ctx, q, job, request)
	case !errors.Is(err, queue.ErrNotFound):
		return next, false, err
	case job.Deadline.IsZero():
		return next, false, nil
	}
	if at := job.Deadline.Add(b.grace); time.Now().Before(at) {
		return at, false, nil
	}
	return b.end(ctx, q, job, schemas.StatusExpired, schemas.Errorf(schemas.CodeDeadlineExceeded,
		"the deadline %s passed while queued", job.Deadline.UTC().Format(time.RFC3339Nano)))
}

// remove takes a job out of the queue that has its Result. A worker that has only just written it is
// about to say so and to acknowledge the message; one that did not get to say so is spoken for.
func (b *backlog) remove(ctx context.Context, q *queue.QueuedJob, job *schemas.Job, result *schemas.Result) (next time.Time, left bool, err error) {
	if age := time.Since(result.Finished); age >= 0 && age < b.grace {
		return result.Finished.Add(b.grace), false, nil
	}
	if !b.j.lock.Held() {
		return time.Now(), false, nil
	}
	last, err := queue.LastEvent(ctx, b.j.js, job.Tenant, job.ID)
	switch {
	case err == nil && last.Kind.Terminal():
	case err == nil, errors.Is(err, queue.ErrNotFound), errors.Is(err, queue.ErrBadRecord):
		if err := queue.AnnounceEnd(b.j.js, job, result); err != nil {
			return next, false, err
		}
	default:
		return next, false, err
	}
	switch owed, err := b.owed(ctx, result); {
	case err != nil:
		return next, false, err
	case owed: // a worker stores the turn from the job
		return time.Now().Add(pendingRounds * b.j.cfg.Interval), false, nil
	}
	left, err = b.leave(ctx, q, job, result.Status)
	if left {
		b.removed.Inc()
	}
	return next, left, err
}

// owed reports whether a Result says that its turn is still to be stored, and is not about to expire: without it the job
// would be run again.
func (b *backlog) owed(ctx context.Context, result *schemas.Result) (bool, error) {
	if t := result.Turn; t == nil || t.State != schemas.TurnPending {
		return false, nil
	}
	results, err := b.j.js.Stream(ctx, schemas.ResultsStream)
	if err != nil {
		return false, err
	}
	kept := results.CachedInfo().Config.MaxAge
	return kept == 0 || time.Since(result.Finished) < kept*3/4, nil
}

// cancel ends a job for a canceller that did not get to do so, unless a worker says that it is running it.
func (b *backlog) cancel(ctx context.Context, q *queue.QueuedJob, job *schemas.Job, request *schemas.Cancel) (next time.Time, left bool, err error) {
	// Strings, and a time that has been read.
	data, _ := json.Marshal(schemas.Cancel{ID: job.ID, Tenant: job.Tenant, Reason: request.Reason, Requested: request.Requested})
	wait, stop := context.WithTimeout(ctx, answerWait)
	defer stop()
	_, err = b.j.js.Conn().RequestWithContext(wait, schemas.CancelSubject(job.Tenant, job.ID), data)
	switch {
	case err == nil: // and has aborted it
		return time.Now().Add(b.grace), false, nil
	case ctx.Err() != nil, !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded):
		return next, false, err
	}
	reason := schemas.Errorf(schemas.CodeCancelled, "cancelled while queued")
	if request.Reason != "" {
		reason = schemas.Errorf(schemas.CodeCancelled, "cancelled while queued: %s", request.Reason)
	}
	return b.end(ctx, q, job, schemas.StatusCancelled, reason)
}

// end gives a job its Result and terminal event, and takes it out of the queue.
func (b *backlog) end(ctx context.Context, q *queue.QueuedJob, job *schemas.Job, status schemas.Status, reason *schemas.Error) (next time.Time, left bool, err error) {
	if !b.j.lock.Held() {
		return time.Now(), false, nil
	}
	_, err = queue.EndQueued(ctx, b.j.js, queue.Ending{Job: job, Stored: q.Stored, Queued: q.Time, Status: status, Error: reason})
	switch {
	case errors.Is(err, queue.ErrResultExists): // a worker was faster, and settles it
		return time.Now().Add(b.grace), false, nil
	case errors.Is(err, queue.ErrOtherMessage): // a duplicate: its deadline is not the job's
		return next, false, nil
	case err != nil:
		return next, false, err
	}
	left, err = b.leave(ctx, q, job, status)
	switch {
	case status == schemas.StatusExpired:
		b.expired.Inc()
	case left:
		b.removed.Inc()
	}
	return next, left, err
}

// leave takes the message of a job that has ended out of the queue.
func (b *backlog) leave(ctx context.Context, q *queue.QueuedJob, job *schemas.Job, status schemas.Status) (left bool, err error) {
	if err := queue.DeleteJob(ctx, b.j.js, b.model, q.Stored); err != nil {
		if _, gone := queue.GetJob(ctx, b.j.js, b.model, q.Stored); !errors.Is(gone, queue.ErrNotFound) {
			return false, err
		}
	}
	if job.BodyRef != nil {
		if err := queue.DeleteBody(ctx, b.j.js, job.Tenant, job.ID); err != nil {
			b.j.log.Warn().Err(err).Str("job", job.ID).Str("tenant", job.Tenant).Msg("the body of a job that has ended is left in the object store")
		}
	}
	b.j.log.Info().Str("job", job.ID).Str("model", b.model).Str("tenant", job.Tenant).Str("class", string(job.Class)).
		Str("outcome", string(status)).Dur("queued", time.Since(q.Time)).Msg("queued job ended and removed")
	return true, nil
}
