package producer

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// checkSize refuses a body that no worker would take, before anything looks into it.
func (c *Client) checkSize(job *schemas.Job) error {
	switch size := len(job.Body); {
	case job.BodyRef != nil:
		return schemas.Errorf(schemas.CodeInvalidRequest, "body_ref is given; want body, however large: it is uploaded if need be").WithParam("body_ref")
	case size > c.cfg.MaxBodyBytes:
		return schemas.Errorf(schemas.CodePayloadTooLarge, "body is %d bytes; want at most %d", size, c.cfg.MaxBodyBytes).WithParam("body")
	}
	return nil
}

// large reports whether a body is uploaded and not sent.
func (c *Client) large(job *schemas.Job) bool { return len(job.Body) > c.cfg.InlineBytes }

// uploadTime is what a Submit may take beyond [Config.SubmitTimeout].
func (c *Client) uploadTime(job *schemas.Job) time.Duration {
	if !c.large(job) {
		return 0
	}
	return time.Duration(1+len(job.Body)>>20) * time.Second
}

// referring returns the job as it is sent.
func (c *Client) referring(job *schemas.Job) *schemas.Job {
	if !c.large(job) {
		return job
	}
	wire, ref := *job, schemas.RefTo(job.Body)
	wire.Body, wire.BodyRef = nil, &ref
	return &wire
}

// upload stores the body of a job that does not carry it, and reports whether it is this call's.
//
// If there is another body under the job's id, that one stays, and the job is published all the same:
// as a rule the broker finds that it is a duplicate. If it is not, its reference does not fit, and the
// worker says so. No job is answered from a body that is not its own.
func (c *Client) upload(ctx context.Context, job *schemas.Job) (uploaded bool, err error) {
	if !c.large(job) {
		return false, nil
	}
	uploaded, err = queue.PutBody(ctx, c.js, job.Tenant, job.ID, job.Body)
	switch {
	case err == nil, errors.Is(err, queue.ErrBodyExists):
		return uploaded, nil
	case schemas.ErrorCode(err) != "":
		return false, err
	case errors.Is(err, queue.ErrNotSetUp), errors.Is(err, queue.ErrNoJetStream):
		if why := c.whyNoStream(ctx, job.Model, err); why != nil {
			return false, why
		}
	}
	return false, c.unanswered(ctx, job.ID, err)
}

// tidy removes a body that this call has uploaded if no job needs it: the job was refused, or it is a
// duplicate of one that has ended. A job that may have been stored keeps its body.
func (c *Client) tidy(ctx context.Context, id string, ack *jetstream.PubAck, err error) {
	switch {
	case err == nil && ack.Duplicate:
		// Perhaps of an attempt of this very call, whose answer was lost.
		if _, err := c.Result(ctx, id); err != nil {
			return
		}
	case err == nil, !refused(err):
		return
	}
	c.deleteBody(context.WithoutCancel(ctx), id)
}

// refused reports whether a job that was published is certainly not stored.
func refused(err error) bool {
	switch schemas.ErrorCode(err) {
	case schemas.CodeQueueFull, schemas.CodePayloadTooLarge, schemas.CodeModelNotFound:
		return true
	}
	return errors.Is(err, ErrNoJetStream)
}

// deleteBody removes a job's body, if there is one. What it cannot remove goes when it is old enough.
func (c *Client) deleteBody(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, unqueueWait)
	defer cancel()
	if err := queue.DeleteBody(ctx, c.js, c.cfg.Tenant, id); err != nil {
		c.cfg.Logger.Debug().Err(err).Str("job", id).Msg("the body of a job stays in the object store until it is old enough")
	}
}
