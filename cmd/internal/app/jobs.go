package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// JobState is what is known of a job that has no Result yet.
type JobState struct {
	ID string `json:"id"`
	// State is "running" or "cancelling".
	State   string       `json:"state"`
	Attempt int          `json:"attempt,omitempty"`
	LastSeq uint64       `json:"last_seq,omitempty"`
	Last    schemas.Kind `json:"last,omitempty"`
}

// Look returns the Result of a job, or what is known of it so far.
func (c *Client) Look(ctx context.Context, job string) (*schemas.Result, *JobState, error) {
	st, err := c.Status(ctx, job)
	switch {
	case errors.Is(err, producer.ErrUnknownJob):
		return nil, nil, fmt.Errorf("job %s of tenant %s: nothing is stored of it: it waits in the queue, was never submitted, or has expired", job, c.Tenant())
	case err != nil:
		return nil, nil, c.Explain(err)
	case st.Result != nil:
		return st.Result, nil, nil
	}
	state := &JobState{ID: job, State: "running"}
	if st.Cancel != nil {
		state.State = "cancelling"
	}
	if st.Last != nil {
		state.Attempt, state.LastSeq, state.Last = st.Last.Attempt, st.Last.Seq, st.Last.Kind
	}
	return nil, state, nil
}

// Cancelled is one job that was asked to stop.
type Cancelled struct {
	ID string `json:"id"`
	// Phase is how far the job had come.
	Phase schemas.Phase `json:"phase,omitempty"`
	Error string        `json:"error,omitempty"`
}

// CancelAll asks for jobs to be stopped and says how far each had come.
func (c *Client) CancelAll(ctx context.Context, jobs []string, reason string) ([]Cancelled, error) {
	out := make([]Cancelled, 0, len(jobs))
	var failed []error
	for _, id := range jobs {
		phase, err := c.Cancel(ctx, id, reason)
		x := Cancelled{ID: id, Phase: phase}
		if err = c.Explain(err); err != nil {
			x.Error = err.Error()
			failed = append(failed, err)
		}
		out = append(out, x)
	}
	return out, partly(len(jobs), failed)
}

// QueueStats returns the state of every model's queue.
func (c *Connection) QueueStats(ctx context.Context) ([]queue.ModelStats, error) {
	models, err := queue.Models(ctx, c.JS)
	if err != nil {
		return nil, c.Explain(err)
	}
	out := make([]queue.ModelStats, 0, len(models))
	for _, m := range models {
		s, err := queue.Stats(ctx, c.JS, m)
		if err != nil {
			return nil, c.Explain(err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Drained is a worker's answer to being asked to drain.
type Drained struct {
	ID    string              `json:"id"`
	State schemas.WorkerState `json:"state"`
}

// Drain asks a worker to pull no more, finish what it runs, and end.
func (c *Connection) Drain(ctx context.Context, worker string) (Drained, error) {
	if err := schemas.CheckToken(worker); err != nil {
		return Drained{}, fmt.Errorf("%w: worker %w", ErrUsage, err)
	}
	msg, err := c.NC.RequestWithContext(ctx, schemas.DrainSubject(worker), nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return Drained{}, fmt.Errorf("no worker %s is running: hxp workers ls shows those that are", worker)
	}
	if err != nil {
		return Drained{}, c.Explain(fmt.Errorf("drain worker %s: %w", worker, err))
	}
	var d Drained
	if err := json.Unmarshal(msg.Data, &d); err != nil {
		return Drained{}, fmt.Errorf("drain worker %s: its answer: %w", worker, err)
	}
	return d, nil
}
