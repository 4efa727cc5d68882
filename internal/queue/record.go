package queue

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// MaxRecordBytes is how much of a job's record is read into memory, headers not counted.
const MaxRecordBytes = 64 << 20

// eventOverhead is what an event costs in memory beyond its JSON, counted so that very many tiny
// events are bounded too.
const eventOverhead = 256

// ReadRecord returns the recorded events of a job with Seq above after, in the order they were
// published (all attempts, stale ones too). It reads up to what is stored when it gets there; no
// events is not an error. It reads the stream directly, so it leaves no consumer behind.
//
// With [ErrBadRecord] the events that could be read are returned. With [ErrRecordTooLarge] none are.
func ReadRecord(ctx context.Context, js jetstream.JetStream, tenant, job string, after uint64) ([]schemas.Event, error) {
	if err := checkJob(tenant, job); err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	var events []schemas.Event
	var size, bad int
	var firstBad error
	for m, err := range directScan(ctx, js, schemas.EventsStream, schemas.EventsOfJob(tenant, job), 0) {
		if err != nil {
			return nil, fmt.Errorf("read record of job %s: %w", job, err)
		}
		if size += len(m.data) + eventOverhead; size > MaxRecordBytes {
			return nil, fmt.Errorf("read record of job %s: %w: more than %s", job, ErrRecordTooLarge, bytesText(MaxRecordBytes))
		}
		e, err := decodeEvent(m, job)
		if err != nil {
			if bad++; firstBad == nil {
				firstBad = err
			}
			continue
		}
		if e.Seq > after {
			events = append(events, *e)
		}
	}
	if bad > 0 {
		return events, fmt.Errorf("read record of job %s: %w: %d of them; the first: %w", job, ErrBadRecord, bad, firstBad)
	}
	return events, nil
}

// LastEvent returns the newest recorded event of a job, or [ErrNotFound]. Newest is the last that
// was published, which a stale attempt may have done.
func LastEvent(ctx context.Context, js jetstream.JetStream, tenant, job string) (*schemas.Event, error) {
	if err := checkJob(tenant, job); err != nil {
		return nil, fmt.Errorf("last event: %w", err)
	}
	m, err := directGet(ctx, js, schemas.EventsStream, getRequest{LastFor: schemas.EventsOfJob(tenant, job)})
	if err != nil {
		return nil, fmt.Errorf("last event of job %s: %w", job, err)
	}
	e, err := decodeEvent(m, job)
	if err != nil {
		return nil, fmt.Errorf("last event of job %s: %w: %w", job, ErrBadRecord, err)
	}
	return e, nil
}

func decodeEvent(m *stored, job string) (*schemas.Event, error) {
	var e schemas.Event
	if err := e.Decode(m.data); err != nil {
		return nil, fmt.Errorf("message %d on %s: %w", m.seq, m.subject, err)
	}
	if e.ID != job {
		return nil, fmt.Errorf("message %d on %s is an event of job %q", m.seq, m.subject, e.ID)
	}
	return &e, nil
}
