package workers

import (
	"context"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// history is what the record tells about earlier attempts of a job.
type history struct {
	lastSeq   uint64
	attempt   int               // the newest attempt in the record
	delivered bool              // text has been sent
	failed    []schemas.Attempt // attempts that count, oldest first
}

// readHistory reads the job's record before a later attempt. A first delivery has none.
func (w *Worker) readHistory(ctx context.Context, r *run) error {
	if r.meta.NumDelivered > 1 {
		events, err := queue.ReadRecord(ctx, w.js, r.job.Tenant, r.job.ID, 0)
		if err != nil {
			return err
		}
		r.history = readAttempts(events)
		r.attempt = max(r.attempt, r.history.attempt+1)
	}
	r.out.resume(r.history.lastSeq, r.attempt)
	return nil
}

// readAttempts counts the attempts in a record. One that was opened and neither ended nor handed
// back has failed: its worker said why, or was lost.
func readAttempts(events []schemas.Event) history {
	var h history
	var current *schemas.Attempt
	lost := func() {
		if current != nil {
			current.Error = schemas.Errorf(schemas.CodeInternal, "worker %s was lost in attempt %d", current.Worker, current.Attempt)
			h.failed = append(h.failed, *current)
		}
		current = nil
	}
	for _, e := range events {
		h.lastSeq = max(h.lastSeq, e.Seq)
		if e.Attempt < h.attempt {
			continue // a fenced worker's last words
		}
		h.attempt = e.Attempt
		switch {
		case e.Kind.Opens():
			lost()
			current = &schemas.Attempt{Attempt: e.Attempt, Worker: e.Worker}
		case e.Kind == schemas.DeltaKind:
			h.delivered = true
		case e.Kind == schemas.Interrupted:
			if current != nil && !e.Handback {
				current.Error = e.Error
				h.failed = append(h.failed, *current)
			}
			current = nil
		case e.Kind.Terminal():
			current = nil
		}
	}
	lost()
	return h
}

// outOfAttempts returns the error that ends a job which may not be tried again, or nil.
func (w *Worker) outOfAttempts(r *run) error {
	if n := len(r.history.failed); n >= w.cfg.MaxAttempts {
		return schemas.Errorf(schemas.CodeMaxAttempts, "%d of %d attempts failed, the last with: %s", n, w.cfg.MaxAttempts, r.history.failed[n-1].Error.Message)
	}
	if n := int(r.meta.NumDelivered); n > w.cfg.MaxDeliveries {
		return schemas.Errorf(schemas.CodeMaxAttempts, "delivered %d times without an end; the bound is %d", n, w.cfg.MaxDeliveries)
	}
	return nil
}
