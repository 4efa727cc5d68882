package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// ErrUnknownBatch says that there is no such batch, or none any more.
var ErrUnknownBatch = errors.New("no such batch")

// changes is how often a change of a batch is tried that others change too.
const changes = 10

// change changes a batch by compare-and-set: change is called with its newest state until nobody else was
// faster. Its error ends it, and nothing is stored.
func change(ctx context.Context, js jetstream.JetStream, tenant, id string, f func(*schemas.BatchState) error) (*queue.StoredBatch, error) {
	for try := 1; ; try++ {
		b, err := get(ctx, js, tenant, id)
		if err != nil {
			return nil, err
		}
		if err := f(&b.BatchState); err != nil {
			return nil, err
		}
		b.Revision, err = queue.PutBatch(ctx, js, &b.BatchState, b.Revision)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, queue.ErrBatchChanged) || try == changes {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Duration(try) * 10 * time.Millisecond): // a replica may be a moment behind
		}
	}
}

func get(ctx context.Context, js jetstream.JetStream, tenant, id string) (*queue.StoredBatch, error) {
	b, err := queue.GetBatch(ctx, js, tenant, id)
	if errors.Is(err, queue.ErrNotFound) {
		return nil, fmt.Errorf("batch %s of tenant %s: %w", id, tenant, ErrUnknownBatch)
	}
	return b, err
}

// ledger is what the stored records of a batch say.
type ledger struct {
	done              bitmap
	completed, failed int64
	prompt, generated int64
	last              uint64 // the place of the last part
}

// readLedger reads the records of a batch. Failures of earlier rounds do not count.
func readLedger(ctx context.Context, js jetstream.JetStream, b *schemas.BatchState) (*ledger, error) {
	l := &ledger{}
	mine := tag(b.ID)
	for part, err := range queue.BatchParts(ctx, js, b.Tenant, b.ID, 0) {
		if err != nil {
			return nil, err
		}
		l.last = part.Stored
		l.prompt += part.PromptTokens
		l.generated += part.CompletionTokens
		for line := range bytes.Lines(part.Data) {
			m, ok := parseRecord(line)
			if !ok || m.tag != mine {
				return nil, fmt.Errorf("batch %s: message %d holds %.60q; want its records", b.ID, part.Stored, line)
			}
			switch {
			case m.failed && m.round < b.Round:
			case !l.done.add(m.line):
			case m.failed:
				l.failed++
			default:
				l.completed++
			}
		}
	}
	return l, nil
}
