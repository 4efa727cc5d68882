package producer

import (
	"context"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Enqueue stores a job in its model's queue, as [Client.Submit] does, and opens no stream: it is for
// callers that wait for very many jobs by their Results. The events of the job go to
// hxp.v1.events.<tenant>.<client>, to which nothing is subscribed on its account.
//
// Unlike Submit it does not ask whether the job ran before, and reports only whether the broker still
// remembers its submission. A second message of a job that has its Result is dropped by whichever worker
// gets it.
func (c *Client) Enqueue(ctx context.Context, job schemas.Job) (duplicate bool, err error) {
	msg, err := c.prepare(&job)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SubmitTimeout+c.uploadTime(&job))
	defer cancel()
	uploaded, err := c.upload(ctx, &job)
	if err != nil {
		return false, err
	}
	ack, err := c.publish(ctx, msg, &job)
	if uploaded {
		c.tidy(ctx, job.ID, ack, err)
	}
	if err != nil {
		return false, err
	}
	return ack.Duplicate, nil
}
