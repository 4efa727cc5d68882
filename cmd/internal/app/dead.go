package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// DeadChoice chooses dead letters. Its zero value chooses all.
type DeadChoice struct {
	queue.DeadFilter
	// Code is the reason's code.
	Code schemas.Code
	// Job is the job's id.
	Job string
	// Stored are places in the stream; none chooses all.
	Stored []uint64
}

// Narrow reports whether c chooses anything less than everything.
func (c DeadChoice) Narrow() bool {
	return c.Model != "" || c.Code != "" || c.Job != "" || len(c.Stored) > 0
}

// matches reports whether d is chosen, as far as the filter of the queue has not seen to it.
func (c DeadChoice) matches(d *queue.StoredDeadLetter) bool {
	return (c.Code == "" || d.Reason != nil && d.Reason.Code == c.Code) && (c.Job == "" || d.ID == c.Job)
}

// Dead returns the chosen dead letters, oldest first.
func (c *Connection) Dead(ctx context.Context, choice DeadChoice) ([]*queue.StoredDeadLetter, error) {
	var out []*queue.StoredDeadLetter
	if len(choice.Stored) > 0 {
		for _, seq := range choice.Stored {
			d, err := queue.GetDeadLetter(ctx, c.JS, seq)
			if err != nil {
				return nil, c.Explain(err)
			}
			if choice.matches(d) {
				out = append(out, d)
			}
		}
		return out, nil
	}
	f := choice.DeadFilter
	f.Limit = 0 // it counts what is chosen, not what is read
	for d, err := range queue.DeadLetters(ctx, c.JS, f) {
		if err != nil {
			return nil, c.Explain(err)
		}
		if choice.matches(d) {
			out = append(out, d)
		}
		if choice.Limit > 0 && len(out) == choice.Limit {
			break
		}
	}
	return out, nil
}

// replayNamespace makes the ids of replayed jobs. A random UUID, fixed for ever.
var replayNamespace = uuid.MustParse("0c3f4a52-2b0e-4f7c-9a55-6f0f2f6f8d21")

// Replayed is one dead letter that was submitted again.
type Replayed struct {
	Stored uint64 `json:"stored"`
	Job    string `json:"job"`
	// New is the id of the new job. It is derived from the letter, so that replaying a letter twice is one job.
	New string `json:"new,omitempty"`
	// Again says that the letter had been replayed before.
	Again bool `json:"again,omitempty"`
	// Error says why the letter cannot be replayed.
	Error string `json:"error,omitempty"`

	err error
}

// Replay submits the payload of each letter as a new job of the client's tenant. Letters that cannot
// be replayed say why; the error is a [PartlyError], or that of the only letter there is.
func (c *Client) Replay(ctx context.Context, letters []*queue.StoredDeadLetter) ([]Replayed, error) {
	out := make([]Replayed, 0, len(letters))
	var failed []error
	for _, d := range letters {
		r := c.replay(ctx, d)
		out = append(out, r)
		if r.err != nil {
			failed = append(failed, fmt.Errorf("dead letter %d: %w", d.Stored, r.err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return out, partly(len(out), failed)
}

func (c *Client) replay(ctx context.Context, d *queue.StoredDeadLetter) Replayed {
	r := Replayed{Stored: d.Stored, Job: d.ID}
	job, err := revive(d)
	if err == nil && job.BodyRef != nil {
		err = c.Explain(c.fetchBody(ctx, d, job))
	}
	if err == nil {
		s, submitErr := c.Submit(ctx, *job)
		if err = c.Explain(submitErr); err == nil {
			r.New, r.Again = job.ID, s.Duplicate()
			s.Close()
		}
	}
	if r.err = err; err != nil {
		r.Error = err.Error()
	}
	return r
}

// revive makes a new job of a dead letter: with an id of its own, and without the deadline and the
// reply address, which belonged to whoever waited then.
func revive(d *queue.StoredDeadLetter) (*schemas.Job, error) {
	switch {
	case d.Payload == "" && len(d.PayloadBase64) > 0:
		return nil, errors.New("its payload is not text, so it is no job")
	case d.Payload == "":
		return nil, errors.New("its payload was too large to be kept")
	}
	job := &schemas.Job{}
	if err := json.Unmarshal([]byte(d.Payload), job); err != nil {
		return nil, fmt.Errorf("its payload is no job: %w", err)
	}
	model, class, tenant, err := schemas.ParseJobSubject(d.Subject)
	if err != nil {
		return nil, err
	}
	job.Model, job.Class, job.Tenant = model, class, tenant
	job.ID = uuid.NewSHA1(replayNamespace, fmt.Appendf(nil, "%d/%s", d.Stored, d.ID)).String()
	job.ReplyTo, job.Deadline, job.Created = "", time.Time{}, time.Time{}
	return job, nil
}

// fetchBody puts the body of a dead job into its place: submitting the new job stores it anew, under
// the new id.
func (c *Client) fetchBody(ctx context.Context, d *queue.StoredDeadLetter, job *schemas.Job) error {
	if job.Tenant != c.Tenant() {
		return nil // Submit says so, and nobody reads another tenant's body for it
	}
	body, ref, err := queue.GetBody(ctx, c.JS, job.Tenant, d.ID, c.maxBody)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return errors.New("its body is no longer stored")
	case err != nil:
		return err
	case ref != *job.BodyRef:
		return errors.New("the body that is stored under its id is another job's")
	}
	job.Body, job.BodyRef = body, nil
	return nil
}

// deleteBodies removes the bodies that dead letters referred to, once nobody can replay them.
func (c *Connection) deleteBodies(ctx context.Context, letters []*queue.StoredDeadLetter) error {
	var errs []error
	for _, d := range letters {
		if d.Reason == nil || d.Reason.Code != schemas.CodeMaxAttempts {
			continue // it may have brought the id of a job that still runs
		}
		var job struct {
			BodyRef *schemas.BodyRef `json:"body_ref"`
		}
		if json.Unmarshal([]byte(d.Payload), &job) != nil || job.BodyRef == nil {
			continue
		}
		errs = append(errs, queue.DeleteBody(ctx, c.JS, d.Tenant, d.ID))
	}
	return errors.Join(errs...)
}

// PurgeDead removes the chosen dead letters, with the bodies that they refer to, and returns how many
// there were. Without a choice beyond model and tenant the letters are not looked at, and their bodies
// go when they are old enough.
func (c *Connection) PurgeDead(ctx context.Context, choice DeadChoice) (uint64, error) {
	if choice.Code == "" && choice.Job == "" && len(choice.Stored) == 0 {
		n, err := queue.PurgeDead(ctx, c.JS, choice.DeadFilter)
		return n, c.Explain(err)
	}
	letters, err := c.Dead(ctx, choice)
	if err != nil {
		return 0, err
	}
	var n uint64
	for _, d := range letters {
		if err := queue.DeleteDeadLetter(ctx, c.JS, d.Stored); err != nil {
			return n, c.Explain(err)
		}
		n++
	}
	return n, c.Explain(c.deleteBodies(ctx, letters))
}

// PartlyError says that some of several things could not be done.
type PartlyError struct {
	Done, All int
	Errs      []error
}

func (e *PartlyError) Error() string {
	return fmt.Sprintf("%d of %d done:\n%v", e.Done, e.All, errors.Join(e.Errs...))
}

// Unwrap returns what went wrong.
func (e *PartlyError) Unwrap() []error { return e.Errs }

// partly is the error of several things of which some failed: nil if none did, and simply their errors if all did.
func partly(all int, failed []error) error {
	if len(failed) == 0 || len(failed) == all {
		return errors.Join(failed...)
	}
	return &PartlyError{Done: all - len(failed), All: all, Errs: failed}
}
