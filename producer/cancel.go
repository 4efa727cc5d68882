package producer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// unqueueWait bounds how long a cancel waits for its job to be taken out of the queue.
const unqueueWait = time.Second

// Cancel asks for a job of the client's tenant to be stopped, from any process, and returns how far
// it had come. A worker that runs it aborts the generation and ends the job; PhaseEnded means that the
// job had ended already.
//
// A job that no worker answers for within [Config.CancelWait] is taken for queued and ended here, by
// writing its Result: this works when no worker serves the model. The first Result counts, so a worker
// that was merely slow to answer changes nothing. An id that was never submitted is cancelled likewise.
//
// The client that submitted the job also takes it out of the queue while the job's stream is open,
// so that it no longer counts against the tenant's cap. Otherwise it stays until a worker comes to it,
// which finds the Result.
func (c *Client) Cancel(ctx context.Context, jobID, reason string) (schemas.Phase, error) {
	job := schemas.Job{ID: jobID, Tenant: c.cfg.Tenant}
	var stored uint64
	c.mu.Lock()
	for _, s := range c.streams[jobID] {
		if s.job.Model != "" { // submitted here: more is known than the id
			job, stored = s.job, max(stored, s.stored)
		}
	}
	c.mu.Unlock()
	return c.cancelJob(ctx, &job, stored, reason)
}

// cancelJob cancels a job that lies at place stored of its model's queue, 0 where that is not known.
func (c *Client) cancelJob(ctx context.Context, job *schemas.Job, stored uint64, reason string) (schemas.Phase, error) {
	switch _, err := c.Result(ctx, job.ID); {
	case err == nil:
		return schemas.PhaseEnded, nil
	case !errors.Is(err, ErrNoResult):
		return "", fmt.Errorf("cancel: %w", err)
	}
	request := &schemas.Cancel{ID: job.ID, Tenant: job.Tenant, Reason: reason, Requested: time.Now().UTC()}
	// The tombstone first: a worker that takes the job from now on finds it.
	if err := queue.PutTombstone(ctx, c.js, request); err != nil {
		return "", fmt.Errorf("cancel job %s: %w", job.ID, err)
	}
	reply, err := c.ask(ctx, request)
	if err != nil {
		return "", fmt.Errorf("cancel job %s: %w", job.ID, err)
	}
	if reply != nil {
		return reply.Phase, nil
	}
	phase, err := c.cancelQueued(ctx, job, reason)
	if err == nil && phase == schemas.PhaseQueued {
		if stored > 0 {
			c.unqueue(ctx, job, stored)
		}
		if len(job.Body) == 0 || c.large(job) { // submitted elsewhere, or known to be uploaded
			c.deleteBody(ctx, job.ID)
		}
	}
	return phase, err
}

// unqueue takes a job that has ended out of the queue. Whether that works changes nothing for the job:
// a connection may not be allowed to, which looks like silence, and a worker may have been faster.
func (c *Client) unqueue(ctx context.Context, job *schemas.Job, stored uint64) {
	ctx, cancel := context.WithTimeout(ctx, unqueueWait)
	defer cancel()
	if err := queue.DeleteJob(ctx, c.js, job.Model, stored); err != nil {
		c.cfg.Logger.Debug().Err(err).Str("job", job.ID).Msg("cancelled job stays in the queue until a worker finds its result")
	}
}

// ask sends the cancel to all workers and returns the answer of the one that runs the job, or nil.
func (c *Client) ask(ctx context.Context, request *schemas.Cancel) (*schemas.CancelReply, error) {
	data, _ := json.Marshal(request) // strings and the present time
	wait, cancel := context.WithTimeout(ctx, c.cfg.CancelWait)
	defer cancel()
	msg, err := c.nc.RequestWithContext(wait, schemas.CancelSubject(request.Tenant, request.ID), data)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, err
	}
	reply := &schemas.CancelReply{}
	if err := json.Unmarshal(msg.Data, reply); err != nil {
		return nil, fmt.Errorf("the worker's answer: %w", err)
	}
	return reply, nil
}

// cancelQueued ends a job that no worker runs.
func (c *Client) cancelQueued(ctx context.Context, job *schemas.Job, reason string) (schemas.Phase, error) {
	last, subject, err := c.lastRecorded(ctx, job)
	if err != nil {
		return "", fmt.Errorf("cancel job %s: %w", job.ID, err)
	}
	now := time.Now().UTC()
	r := &schemas.Result{
		ID: job.ID, Model: job.Model, Class: job.Class, Tenant: job.Tenant, Endpoint: job.Endpoint,
		Status: schemas.StatusCancelled, Attempts: last.Attempt, Error: cancelled(reason),
		Metadata: job.Metadata, Created: job.Created, Finished: now, LastSeq: last.Seq + 1,
	}
	switch err := queue.PutResult(ctx, c.js, r); {
	case errors.Is(err, queue.ErrResultExists):
		return schemas.PhaseEnded, nil
	case err != nil:
		return "", fmt.Errorf("cancel job %s: %w", job.ID, err)
	}
	e := schemas.Event{
		ID: job.ID, Seq: r.LastSeq, Attempt: max(last.Attempt, 1), Kind: schemas.Cancelled, TS: now.UnixMicro(), Error: r.Error,
	}
	// The job has ended with its Result; the event only tells readers sooner, and they look for themselves.
	if err := c.nc.Publish(subject, e.Append(nil)); err != nil {
		c.cfg.Logger.Warn().Err(err).Str("job", job.ID).Msg("terminal event of a cancelled job not published")
	}
	return schemas.PhaseQueued, nil
}

func cancelled(reason string) *schemas.Error {
	if reason == "" {
		return schemas.Errorf(schemas.CodeCancelled, "cancelled while queued")
	}
	return schemas.Errorf(schemas.CodeCancelled, "cancelled while queued: %s", reason)
}

// lastRecorded returns the last event of a job, zero if there is none, and the subject of its events
// as far as it is known here: from the record, or from the job.
func (c *Client) lastRecorded(ctx context.Context, job *schemas.Job) (last schemas.Event, subject string, err error) {
	subject, _, _ = schemas.ReplySubject(job.ReplyTo, job.Tenant, job.ID) // empty, or checked when it was submitted
	stream, err := c.js.Stream(ctx, schemas.EventsStream)
	if err != nil {
		return last, "", err
	}
	msg, err := stream.GetLastMsgForSubject(ctx, schemas.EventsOfJob(job.Tenant, job.ID))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return last, subject, nil
	}
	if err != nil {
		return last, "", err
	}
	if strings.HasSuffix(msg.Subject, "."+job.ID) {
		subject = msg.Subject
	}
	return last, subject, last.Decode(msg.Data)
}
