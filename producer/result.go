package producer

import (
	"context"
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Result returns the Result of a job, at once. [ErrNoResult] if there is none.
func (c *Client) Result(ctx context.Context, jobID string) (*schemas.Result, error) {
	if err := schemas.CheckToken(jobID); err != nil {
		return nil, fmt.Errorf("result: job id %w", err)
	}
	r, err := queue.GetResult(ctx, c.js, c.cfg.Tenant, jobID)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return nil, fmt.Errorf("job %s: %w", jobID, ErrNoResult)
	case err != nil:
		return nil, fmt.Errorf("result of job %s: %w", jobID, err)
	}
	return r, nil
}

// Wait returns the Result of a job once it has ended. A job that nobody submitted is waited for like
// one that is queued: bound ctx.
func (c *Client) Wait(ctx context.Context, jobID string) (*schemas.Result, error) {
	s, err := c.Follow(ctx, jobID, 0)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Result(ctx)
}

// Do submits a job and returns its Result once it has ended. How it ended, failures included, is the
// Result's Status and Error; an error means that the Result is not known. When ctx ends the job goes on.
func (c *Client) Do(ctx context.Context, job schemas.Job) (*schemas.Result, error) {
	s, err := c.Submit(ctx, job)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Result(ctx)
}
