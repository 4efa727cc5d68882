package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Ending is how a job ends that no worker runs.
type Ending struct {
	Job *schemas.Job
	// Stored is the job's place in its model's queue, and Queued when it was stored there.
	Stored uint64
	Queued time.Time
	Status schemas.Status
	Error  *schemas.Error
}

// EndQueued ends a job in a worker's place: it stores the Result, on the condition that there is none
// yet, and publishes the terminal event after whatever the record holds of earlier attempts.
//
// [ErrResultExists] if the job has ended; nothing is published then. [ErrOtherMessage] if the record is that
// of another message with the same id. An error with a Result says that the job has ended and that the
// event was not published; [AnnounceEnd] says it again. The message stays in the queue; see [DeleteJob].
func EndQueued(ctx context.Context, js jetstream.JetStream, e Ending) (*schemas.Result, error) {
	last, err := lastAttempt(ctx, js, e)
	if err != nil {
		return nil, fmt.Errorf("end job %s: %w", e.Job.ID, err)
	}
	now := time.Now().UTC()
	r := &schemas.Result{
		ID: e.Job.ID, Model: e.Job.Model, Class: e.Job.Class, Tenant: e.Job.Tenant, Endpoint: e.Job.Endpoint,
		Status: e.Status, Attempts: last.Attempt, Error: e.Error, Metadata: e.Job.Metadata,
		Timings: schemas.Timings{Total: float64(now.Sub(e.Queued).Microseconds()) / 1e3},
		Created: e.Queued.UTC(), Finished: now, LastSeq: last.Seq + 1,
	}
	if err := PutResult(ctx, js, r); err != nil {
		return nil, err
	}
	return r, AnnounceEnd(js, e.Job, r)
}

// AnnounceEnd publishes the terminal event of a job that has its Result, to wherever the job's events go.
func AnnounceEnd(js jetstream.JetStream, job *schemas.Job, r *schemas.Result) error {
	subject, inbox, err := schemas.ReplySubject(job.ReplyTo, job.Tenant, job.ID)
	if err != nil {
		return fmt.Errorf("announce the end of job %s: %w", job.ID, err)
	}
	e := schemas.Event{
		ID: job.ID, Seq: max(r.LastSeq, 1), Attempt: max(r.Attempts, 1), Kind: r.Status.Kind(), TS: time.Now().UnixMicro(),
		Usage: r.Usage, Timings: &r.Timings, Error: r.Error, Turn: r.Turn,
	}
	data := e.Append(nil)
	err = js.Conn().Publish(subject, data)
	if err == nil && inbox != "" {
		err = js.Conn().Publish(inbox, data)
	}
	if err != nil {
		return fmt.Errorf("announce the end of job %s: %w", job.ID, err)
	}
	return nil
}

// lastAttempt returns the last event of a job's newest attempt, zero if there is none.
func lastAttempt(ctx context.Context, js jetstream.JetStream, e Ending) (last schemas.Event, err error) {
	events, err := ReadRecord(ctx, js, e.Job.Tenant, e.Job.ID, 0)
	switch {
	case errors.Is(err, ErrBadRecord): // the events around what is none count
	case errors.Is(err, ErrRecordTooLarge):
		newest, err := LastEvent(ctx, js, e.Job.Tenant, e.Job.ID)
		if err != nil {
			return last, err
		}
		return *newest, nil
	case err != nil:
		return last, err
	}
	source := fmt.Sprintf("%s/%d", schemas.JobsStream(e.Job.Model), e.Stored)
	known := false
	for _, event := range events {
		if event.Attempt < last.Attempt {
			continue // a fenced worker's last words
		}
		if event.Kind.Opens() && event.Source != "" && !known {
			if known = true; event.Source != source {
				return last, ErrOtherMessage
			}
		}
		last = event
	}
	if last.Kind.Terminal() {
		return last, fmt.Errorf("%w, which has expired: its record ends with %s", ErrResultExists, last.Kind)
	}
	return last, nil
}
