package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/hxp-enterprise/hxp/schemas"
)

// MaxBatchPart is how many bytes of records go into one message, but for a single record that is longer.
const MaxBatchPart = 512 << 10

// BatchPart are records of a batch that were stored together: whole lines of one of its files.
type BatchPart struct {
	// Stored is its place; the next part is appended after it.
	Stored uint64
	// Failed is set on lines of the error file.
	Failed bool
	Data   []byte
	// The tokens of these lines.
	PromptTokens, CompletionTokens int64
}

func batchFile(failed bool) string {
	if failed {
		return "error"
	}
	return "output"
}

// AppendBatch stores a part after the one at place last, 0 for the first, and returns its place. [ErrBatchChanged]
// if something was stored there meanwhile: another process works on the batch. A full store is a
// [*schemas.Error] with the code queue_full.
func AppendBatch(ctx context.Context, js jetstream.JetStream, tenant, batch string, part *BatchPart, last uint64) (place uint64, err error) {
	if err := checkJob(tenant, batch); err != nil {
		return 0, fmt.Errorf("store records: %w", err)
	}
	id := nuid.Next()
	msg := &nats.Msg{Subject: schemas.BatchSubject(tenant, batch), Data: part.Data, Header: nats.Header{
		schemas.HeaderBatchFile:   {batchFile(part.Failed)},
		schemas.HeaderBatchTokens: {fmt.Sprintf("%d %d", part.PromptTokens, part.CompletionTokens)},
	}}
	err = attempts(ctx, js, func(ctx context.Context) error {
		ack, err := js.PublishMsg(ctx, msg, jetstream.WithMsgID(id), jetstream.WithExpectStream(schemas.BatchesStream), jetstream.WithExpectLastSequencePerSubject(last))
		if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("%w: no stream listens on %s: %w", ErrNotSetUp, msg.Subject, err)
		}
		if err == nil {
			place = ack.Sequence
		}
		return err
	})
	switch {
	case err == nil:
		return place, nil
	case isConflict(err):
		err = ErrBatchChanged
	default:
		err = batchStoreError(err)
	}
	return 0, fmt.Errorf("store records of batch %s: %w", batch, err)
}

// BatchParts yields the parts of a batch from place from on, in order. It yields at most one error, and yields it last.
func BatchParts(ctx context.Context, js jetstream.JetStream, tenant, batch string, from uint64) iter.Seq2[*BatchPart, error] {
	return func(yield func(*BatchPart, error) bool) {
		err := checkJob(tenant, batch)
		if err != nil {
			yield(nil, fmt.Errorf("read records: %w", err))
			return
		}
		for m, err := range directScan(ctx, js, schemas.BatchesStream, schemas.BatchSubject(tenant, batch), from) {
			if err != nil {
				yield(nil, fmt.Errorf("read records of batch %s: %w", batch, err))
				return
			}
			p := &BatchPart{Stored: m.seq, Failed: m.header.Get(schemas.HeaderBatchFile) == batchFile(true), Data: m.data}
			_, _ = fmt.Sscan(m.header.Get(schemas.HeaderBatchTokens), &p.PromptTokens, &p.CompletionTokens) // a record without stays 0
			if !yield(p, nil) {
				return
			}
		}
	}
}
