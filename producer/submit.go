package producer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Submit stores a job in its model's queue and returns its stream. Accepted means stored: from here
// on the job is answered even if every process but the broker dies.
//
// ID, Tenant, Created, ReplyTo and the defaults are filled in. Submit sends again under the same id
// while the queue does not answer, for [Config.SubmitTimeout] or until ctx ends; after that the error
// is a [TimeoutError], and submitting the job again with the id it names is safe.
//
// A body of more than [Config.InlineBytes] is uploaded first, with a second more for each MiB; see the
// package's section on large bodies.
//
// An id that the caller gives is submitted once, however often Submit is called with it: a job that
// has a Result or a record, or whose submission the broker still remembers, does not run again, and the
// stream is that of the first submission. See [Stream.Duplicate].
//
// The error of a refused job is a [*schemas.Error] with the code invalid_request, queue_full,
// payload_too_large, model_not_found or engine_unavailable. [ErrNoJetStream] says that the server cannot
// queue at all.
func (c *Client) Submit(ctx context.Context, job schemas.Job) (*Stream, error) {
	given := job.ID != ""
	msg, err := c.prepare(&job)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SubmitTimeout+c.uploadTime(&job))
	defer cancel()
	if err := c.start(ctx); err != nil {
		return nil, c.unanswered(ctx, job.ID, err)
	}
	s := c.newStream(job)
	event, _, _ := schemas.ReplySubject(job.ReplyTo, job.Tenant, job.ID) // prepare has validated it
	s.shared = event == schemas.EventSubject(c.cfg.Tenant, c.cfg.Name, job.ID)
	// The server reads a subscription before the job that is published after it: no flush is needed.
	if err := c.open(s, !s.shared); err != nil {
		return nil, fmt.Errorf("submit job %s: %w", job.ID, err)
	}
	if err := c.enqueue(ctx, s, msg, given); err != nil {
		s.Close()
		return nil, err
	}
	s.accepted = &schemas.Event{ID: job.ID, Kind: schemas.Accepted, TS: time.Now().UnixMicro()}
	return s, nil
}

// enqueue publishes the job, or finds that it has been before, and leaves s ready to be read.
func (c *Client) enqueue(ctx context.Context, s *Stream, msg *nats.Msg, given bool) error {
	if given {
		known, err := c.ranBefore(ctx, s.job.ID)
		for unset := 0; errors.Is(err, ErrNotSetUp) && unset < unsetTries; unset++ {
			if why := c.whyNoStream(ctx, s.job.Model, err); why != nil {
				return why
			}
			known, err = c.ranBefore(ctx, s.job.ID)
		}
		if err != nil {
			return c.unanswered(ctx, s.job.ID, err)
		}
		s.duplicate = known
	}
	if !s.duplicate {
		uploaded, err := c.upload(ctx, &s.job)
		if err != nil {
			return err
		}
		ack, err := c.publish(ctx, msg, &s.job)
		if uploaded {
			c.tidy(ctx, s.job.ID, ack, err)
		}
		if err != nil {
			return err
		}
		// An id made here can only be a duplicate of an attempt that was stored but not acknowledged in time.
		s.duplicate = ack.Duplicate && given
		c.mu.Lock()
		s.stored = ack.Sequence
		c.mu.Unlock()
	}
	if !s.duplicate {
		return nil
	}
	if s.shared {
		// The first submission may have been another client's, whose subject the events go to.
		if err := c.open(s, true); err != nil {
			return fmt.Errorf("submit job %s: %w", s.job.ID, err)
		}
	}
	s.follows = true
	s.in.demand()
	return nil
}

// prepare fills in and checks a job, and encodes it.
func (c *Client) prepare(job *schemas.Job) (*nats.Msg, error) {
	if job.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("submit: make an id: %w", err)
		}
		job.ID = id.String()
	}
	if job.Tenant == "" {
		job.Tenant = c.cfg.Tenant
	}
	if job.Tenant != c.cfg.Tenant {
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "tenant %q is not this client's; want %q or none", job.Tenant, c.cfg.Tenant).WithParam("tenant")
	}
	if job.Created.IsZero() {
		job.Created = time.Now().UTC()
	}
	if job.ReplyTo == "" {
		job.ReplyTo = schemas.EventSubject(job.Tenant, c.cfg.Name, job.ID)
	}
	if err := c.checkSize(job); err != nil {
		return nil, err
	}
	job.SetDefaults()
	if err := job.Validate(); err != nil {
		return nil, err
	}
	data, err := c.referring(job).Append(nil)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "%v", err)
	}
	msg := nats.NewMsg(schemas.JobSubject(job.Model, job.Class, job.Tenant))
	msg.Data = data
	msg.Header.Set(schemas.HeaderMsgID, schemas.MsgID(job.Tenant, job.ID))
	msg.Header.Set(schemas.HeaderJobID, job.ID)
	msg.Header.Set(schemas.HeaderContentType, schemas.ContentTypeJSON)
	// The server closes the connection of a client that sends more. 0 while never connected.
	if size, limit := int64(msg.Size()-len(msg.Subject)), c.nc.MaxPayload(); limit > 0 && size > limit {
		return nil, schemas.Errorf(schemas.CodePayloadTooLarge, "the job is %d bytes; the server takes at most %d", size, limit).WithParam("body")
	}
	return msg, nil
}

// ranBefore reports whether a job has left a Result or a record. The broker forgets ids after its
// duplicate window; these do not.
func (c *Client) ranBefore(ctx context.Context, id string) (bool, error) {
	_, err := queue.GetResult(ctx, c.js, c.cfg.Tenant, id)
	if errors.Is(err, queue.ErrNotFound) {
		_, err = queue.LastEvent(ctx, c.js, c.cfg.Tenant, id)
	}
	if errors.Is(err, queue.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// publish sends the job until the queue acknowledges or refuses it. One attempt must not take all
// the time there is: an attempt in flight when a leader dies is never answered.
func (c *Client) publish(ctx context.Context, msg *nats.Msg, job *schemas.Job) (*jetstream.PubAck, error) {
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, 320*time.Millisecond) {
		attempt, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
		ack, err := c.js.PublishMsg(attempt, msg, jetstream.WithRetryAttempts(0))
		cancel()
		switch {
		case err == nil:
			return ack, nil
		case ctx.Err() != nil:
			return nil, c.unanswered(ctx, job.ID, err)
		case errors.Is(err, jetstream.ErrNoStreamResponse):
			// Nobody listens: for good, or while a leader is elected.
			if why := c.whyNoStream(ctx, job.Model, err); why != nil {
				return nil, why
			}
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrDisconnected):
		case queue.Temporary(err): // also said of a copy that meets one sent before it, so it is no refusal
		default:
			return nil, queue.PublishError(err, job.Model)
		}
		pause(ctx, delay, nil) // a ctx that has ended fails the next attempt
	}
}

// whyNoStream tells a model that is not declared, and a server without JetStream, from a stream
// that is away for a moment. nil for the latter.
func (c *Client) whyNoStream(ctx context.Context, model string, cause error) error {
	_, err := c.js.Stream(ctx, schemas.JobsStream(model))
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return queue.PublishError(cause, model)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("submit to model %s: %w", model, ErrNoJetStream)
	default:
		return nil
	}
}

// unanswered is the error of a submission that was given up while waiting.
func (c *Client) unanswered(ctx context.Context, id string, err error) error {
	switch {
	case errors.Is(err, ErrClosed):
		return fmt.Errorf("submit job %s: %w", id, err)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("submit job %s: %w", id, context.Cause(ctx))
	case ctx.Err() != nil || passing(err):
		return &TimeoutError{Job: id, Err: err}
	default:
		return fmt.Errorf("submit job %s: %w", id, err)
	}
}
