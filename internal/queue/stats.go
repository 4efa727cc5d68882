package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// ModelStats is the state of one model's queue. Counts are the broker's, which are a moment old.
type ModelStats struct {
	Model string `json:"model"`
	// Jobs and Bytes are what is stored: queued and running.
	Jobs  uint64 `json:"jobs"`
	Bytes uint64 `json:"bytes"`
	// The caps as they are on the server; 0 is unlimited.
	MaxJobs          int64 `json:"max_jobs"`
	MaxBytes         int64 `json:"max_bytes"`
	MaxJobsPerTenant int64 `json:"max_jobs_per_tenant"`
	MaxJobBytes      int64 `json:"max_job_bytes"`
	// Classes has one entry per class, most urgent first.
	Classes []ClassStats `json:"classes"`
}

// ClassStats is the state of one class within a model's queue.
type ClassStats struct {
	Class schemas.Class `json:"class"`
	// Pending are jobs that no worker has had yet.
	Pending uint64 `json:"pending"`
	// Running are jobs with a worker, or waiting for their delayed retry.
	Running int `json:"running"`
	// Redelivered are those of Running that were delivered more than once.
	Redelivered int `json:"redelivered"`
	// Waiting are the pulls that wait for a job: free workers.
	Waiting int `json:"waiting"`
	// Paused says that nothing is delivered, and PauseRemaining for how long still.
	Paused         bool          `json:"paused,omitempty"`
	PauseRemaining time.Duration `json:"pause_remaining,omitempty"`
	// Oldest is when the oldest pending job was stored. Zero if there is none.
	Oldest time.Time `json:"oldest,omitzero"`
}

// Stats returns the state of a model's queue, or [ErrNotSetUp].
func Stats(ctx context.Context, js jetstream.JetStream, model string) (ModelStats, error) {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return ModelStats{}, err
	}
	out := ModelStats{Model: model}
	err := attempts(ctx, js, func(ctx context.Context) error {
		stream, err := js.Stream(ctx, schemas.JobsStream(model))
		if err != nil {
			return err
		}
		info := stream.CachedInfo()
		out.Jobs, out.Bytes = info.State.Msgs, info.State.Bytes
		out.MaxJobs, out.MaxBytes = max(info.Config.MaxMsgs, 0), max(info.Config.MaxBytes, 0)
		out.MaxJobsPerTenant, out.MaxJobBytes = max(info.Config.MaxMsgsPerSubject, 0), max(int64(info.Config.MaxMsgSize), 0)
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("%w: %w", ErrNotSetUp, err)
	}
	if err != nil {
		return ModelStats{}, fmt.Errorf("stats of model %s: %w", model, err)
	}
	consumers, err := Consumers(ctx, js, model)
	if err != nil {
		return ModelStats{}, fmt.Errorf("stats of model %s: %w", model, err)
	}
	for _, class := range schemas.Classes() {
		info := consumers[class].CachedInfo()
		c := ClassStats{
			Class: class, Pending: info.NumPending, Running: info.NumAckPending, Redelivered: info.NumRedelivered,
			Waiting: info.NumWaiting, Paused: info.Paused, PauseRemaining: info.PauseRemaining,
		}
		if c.Pending > 0 {
			m, err := directGet(ctx, js, schemas.JobsStream(model), getRequest{Seq: info.Delivered.Stream + 1, NextFor: schemas.JobsOfClass(model, class)})
			switch {
			case err == nil:
				c.Oldest = m.time
			case !errors.Is(err, ErrNotFound): // not found: a worker has just taken it
				return ModelStats{}, fmt.Errorf("stats of model %s: %w", model, err)
			}
		}
		out.Classes = append(out.Classes, c)
	}
	return out, nil
}
