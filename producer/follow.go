package producer

import (
	"context"
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Follow attaches to the stream of a job of the client's tenant: from any process, while the job is
// queued, running, or has ended. The stream goes on after the event with Seq after; 0 is the start.
// A reader that has seen the terminal event gets nothing more.
//
// It is the same record for all: events and their Seq do not depend on who reads. When the record has
// expired but the Result is there, the stream is one terminal event, whose Reason says so.
//
// A queued job has left no record, as has one that was never submitted. The stream waits for it until
// the reader's context ends, or ends with [ErrUnknownJob] after [Config.UnknownAfter].
func (c *Client) Follow(ctx context.Context, jobID string, after uint64) (*Stream, error) {
	if err := schemas.CheckToken(jobID); err != nil {
		return nil, fmt.Errorf("follow: job id %w", err)
	}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("follow job %s: %w", jobID, err)
	}
	s := c.newStream(schemas.Job{ID: jobID, Tenant: c.cfg.Tenant})
	s.follows, s.after, s.last = true, after, after
	if err := c.open(s, true); err != nil {
		return nil, fmt.Errorf("follow job %s: %w", jobID, err)
	}
	s.in.demand()
	return s, nil
}

// Status is what is stored of a job at one moment.
type Status struct {
	// Result is how the job ended; nil if it has not.
	Result *schemas.Result
	// Last is the newest recorded event; nil if the job has not started, or its record has expired.
	Last *schemas.Event
	// Cancel is the request to stop the job, if there is one.
	Cancel *schemas.Cancel
}

// Status looks at what is stored of a job. [ErrUnknownJob] if that is nothing: the job is queued, or
// was never submitted.
func (c *Client) Status(ctx context.Context, jobID string) (*Status, error) {
	if err := schemas.CheckToken(jobID); err != nil {
		return nil, fmt.Errorf("status: job id %w", err)
	}
	var st Status
	var errs [3]error
	// The Result last: what it says of the end is never contradicted by what was read before it.
	st.Cancel, errs[0] = queue.GetTombstone(ctx, c.js, c.cfg.Tenant, jobID)
	st.Last, errs[1] = queue.LastEvent(ctx, c.js, c.cfg.Tenant, jobID)
	st.Result, errs[2] = queue.GetResult(ctx, c.js, c.cfg.Tenant, jobID)
	missing := 0
	for _, err := range errs {
		switch {
		case errors.Is(err, queue.ErrNotFound):
			missing++
		case err != nil:
			return nil, fmt.Errorf("status of job %s: %w", jobID, err)
		}
	}
	if missing == len(errs) {
		return nil, fmt.Errorf("job %s: %w", jobID, ErrUnknownJob)
	}
	return &st, nil
}
