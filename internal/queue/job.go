package queue

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// PutJob queues a job under its id, by which the broker knows a second copy of it. The error is that of
// [PublishError].
func PutJob(ctx context.Context, js jetstream.JetStream, job *schemas.Job) error {
	if err := job.Validate(); err != nil {
		return fmt.Errorf("queue job: %w", err)
	}
	data, err := job.Append(nil)
	if err != nil {
		return fmt.Errorf("queue job %s: %w", job.ID, err)
	}
	msg := message(schemas.JobSubject(job.Model, job.Class, job.Tenant), data, job.ID)
	msg.Header.Set(schemas.HeaderMsgID, schemas.MsgID(job.Tenant, job.ID))
	return PublishError(publish(ctx, js, msg), job.Model)
}
