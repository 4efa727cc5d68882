package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// QueuedJob is a message of a model's work queue, read without taking it: it may be waiting, or with a worker.
type QueuedJob struct {
	// Stored is its place in the queue, Time when it was stored there.
	Stored  uint64
	Time    time.Time
	Subject string
	Header  nats.Header
	Data    []byte
}

func queued(m *stored) *QueuedJob {
	return &QueuedJob{Stored: m.seq, Time: m.time, Subject: m.subject, Header: m.header, Data: m.data}
}

// Backlog yields the messages of a model's work queue from place from to place to, oldest first,
// without taking them. It yields at most one error, and yields it last.
func Backlog(ctx context.Context, js jetstream.JetStream, model string, from, to uint64) iter.Seq2[*QueuedJob, error] {
	return func(yield func(*QueuedJob, error) bool) {
		if err := checkTokens(map[string]string{"model": model}); err != nil {
			yield(nil, fmt.Errorf("read the queue: %w", err))
			return
		}
		for m, err := range directRange(ctx, js, schemas.JobsStream(model), schemas.JobsOfModel(model), from, to) {
			if err != nil {
				yield(nil, fmt.Errorf("read the queue of model %s: %w", model, err))
				return
			}
			if !yield(queued(m), nil) {
				return
			}
		}
	}
}

// GetJob returns the message at one place of a model's work queue without taking it, or [ErrNotFound].
func GetJob(ctx context.Context, js jetstream.JetStream, model string, place uint64) (*QueuedJob, error) {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return nil, fmt.Errorf("read the queue: %w", err)
	}
	m, err := directGet(ctx, js, schemas.JobsStream(model), getRequest{Seq: max(place, 1)})
	if err != nil {
		return nil, fmt.Errorf("read job %d of model %s: %w", place, model, err)
	}
	return queued(m), nil
}

// Span is where the messages of a work queue lie.
type Span struct {
	First, Last uint64
	Jobs        uint64
}

// Extent returns where the messages of a model's work queue lie. It is one request.
func Extent(ctx context.Context, js jetstream.JetStream, model string) (Span, error) {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return Span{}, err
	}
	return extent(ctx, js, schemas.JobsStream(model))
}

func extent(ctx context.Context, js jetstream.JetStream, stream string) (out Span, err error) {
	var info struct {
		State jetstream.StreamState `json:"state"`
	}
	if err := api(ctx, js, "STREAM.INFO."+stream, struct{}{}, &info); err != nil {
		return Span{}, fmt.Errorf("look at stream %s: %w", stream, err)
	}
	return Span{First: info.State.FirstSeq, Last: info.State.LastSeq, Jobs: info.State.Msgs}, nil
}

// JobKey names a job.
type JobKey struct{ Tenant, ID string }

// Over returns which of some jobs have a Result or a tombstone. It costs two requests for every 512 of
// them. Their names must be tokens.
func Over(ctx context.Context, js jetstream.JetStream, jobs []JobKey) (map[JobKey]bool, error) {
	over := make(map[JobKey]bool)
	for len(jobs) > 0 {
		n := min(len(jobs), batchMsgs)
		results, tombstones := make(map[string]JobKey, n), make(map[string]JobKey, n)
		names := make([][]string, 2)
		for _, k := range jobs[:n] {
			result, tombstone := schemas.ResultSubject(k.Tenant, k.ID), keySubject(schemas.CancelsBucket, schemas.CancelKey(k.Tenant, k.ID))
			results[result], tombstones[tombstone] = k, k
			names[0], names[1] = append(names[0], result), append(names[1], tombstone)
		}
		jobs = jobs[n:]
		err := directLast(ctx, js, schemas.ResultsStream, names[0], func(m *stored) { over[results[m.subject]] = true })
		if err == nil {
			err = directLast(ctx, js, bucketPrefix+schemas.CancelsBucket, names[1], func(m *stored) {
				if isValue(m.header) {
					over[tombstones[m.subject]] = true
				}
			})
		}
		if err != nil {
			return nil, fmt.Errorf("look for results and tombstones: %w", err)
		}
	}
	return over, nil
}

// Tombstones returns the jobs whose tombstones were stored at place from or later, and the place to go on from.
// From 0 it returns none, and the place after the newest.
func Tombstones(ctx context.Context, js jetstream.JetStream, from uint64) (jobs []JobKey, next uint64, err error) {
	stream := bucketPrefix + schemas.CancelsBucket
	if from == 0 {
		e, err := extent(ctx, js, stream)
		return nil, e.Last + 1, err
	}
	next = from
	for m, err := range directScan(ctx, js, stream, keySubject(schemas.CancelsBucket, ">"), from) {
		if err != nil {
			return nil, from, fmt.Errorf("list tombstones: %w", err)
		}
		next = m.seq + 1
		tenant, id, ok := strings.Cut(strings.TrimPrefix(m.subject, keySubject(schemas.CancelsBucket, "")), ".")
		if ok && isValue(m.header) {
			jobs = append(jobs, JobKey{tenant, id})
		}
	}
	return jobs, next, nil
}

// Lease returns how long a job of a model stays with a worker that does not renew it, or [ErrNotSetUp].
func Lease(ctx context.Context, js jetstream.JetStream, model string) (time.Duration, error) {
	var lease time.Duration
	err := attempts(ctx, js, func(ctx context.Context) error {
		c, err := js.Consumer(ctx, schemas.JobsStream(model), schemas.ClassConsumer(schemas.Interactive))
		if err == nil {
			lease = c.CachedInfo().Config.AckWait
		}
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("%w: %w", ErrNotSetUp, err)
	}
	if err != nil {
		return 0, fmt.Errorf("lease of model %s: %w", model, err)
	}
	return lease, nil
}
