package workers

import (
	"context"
	"errors"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// fetchBody puts the body of a job that refers to one into its place. It lies under the job's own
// tenant and id, whatever the payload says. A body that is missing, or is not the one referred to,
// stays so: the job fails. A broker in trouble does not make it fail.
func (w *Worker) fetchBody(ctx context.Context, r *run) error {
	ref := r.job.BodyRef
	if ref == nil {
		return nil
	}
	if ref.Size > w.cfg.MaxBodyBytes {
		return schemas.Errorf(schemas.CodePayloadTooLarge, "body_ref.size is %d bytes; want at most %d", ref.Size, w.cfg.MaxBodyBytes).WithParam("body_ref")
	}
	body, stored, err := queue.GetBody(ctx, w.js, r.job.Tenant, r.job.ID, w.cfg.MaxBodyBytes)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return badRef("body_ref refers to a body that is not stored under this job's tenant and id")
	case errors.Is(err, queue.ErrBadBody):
		return badRef("body_ref: %v", err)
	case err != nil:
		return err
	case stored != *ref:
		return badRef("body_ref refers to %d bytes with digest %s; stored under this job's id are %d with %s", ref.Size, ref.Digest, stored.Size, stored.Digest)
	}
	return r.job.Resolve(body)
}

func badRef(format string, args ...any) error {
	return schemas.Errorf(schemas.CodeInvalidRequest, format, args...).WithParam("body_ref")
}

// deleteBody removes the body of a job that has its Result, unless a dead letter refers to it. What it
// cannot remove the object store forgets in time.
func (w *Worker) deleteBody(ctx context.Context, r *run) {
	if r.ref == nil || r.buried {
		return
	}
	ctx, stop := context.WithTimeout(ctx, finishTimeout)
	defer stop()
	if err := queue.DeleteBody(ctx, w.js, r.job.Tenant, r.job.ID); err != nil {
		w.log.Warn().Err(err).Str("job", r.job.ID).Str("tenant", r.job.Tenant).Msg("the body of a job that has ended is left in the object store")
	}
}
