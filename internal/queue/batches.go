package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// ErrBatchChanged says that somebody else has changed a batch meanwhile: look at it again.
var ErrBatchChanged = errors.New("the batch was changed meanwhile")

// ErrBadBatch says that what is stored as the state of a batch is none.
var ErrBadBatch = errors.New("the stored state is not that of this batch")

// StoredBatch is a batch and its place, which moves with every change.
type StoredBatch struct {
	schemas.BatchState
	Revision uint64
}

// batchStreams are what batches need. Records are kept in a stream in which each batch has one subject: the order of
// its messages is the order of its files, and a write is conditional on the one before.
func batchStreams(cfg Config) []jetstream.StreamConfig {
	states := bucket(schemas.BatchesBucket, "hxp: states of batches", cfg)
	states.MaxAge = cfg.BatchesMaxAge
	states.Storage = jetstream.FileStorage
	states.Duplicates = min(bucketDuplicates, states.MaxAge)
	files := objects(schemas.BatchFilesBucket, "hxp: inputs of batches", cfg)
	files.MaxBytes, files.MaxAge = cfg.MaxBatchesBytes, cfg.BatchesMaxAge
	return []jetstream.StreamConfig{
		states, files,
		{
			Name:        schemas.BatchesStream,
			Description: "hxp: records of the lines of batches",
			Subjects:    []string{schemas.AllBatches},
			Retention:   jetstream.LimitsPolicy,
			Storage:     jetstream.FileStorage,
			Replicas:    cfg.Replicas,
			Discard:     jetstream.DiscardNew,
			MaxBytes:    cfg.MaxBatchesBytes,
			MaxAge:      cfg.BatchesMaxAge,
			AllowDirect: true,
		},
	}
}

// PutBatch stores the state of a batch if its revision is still the one given, 0 for a new batch, and
// returns its new one. [ErrBatchChanged] if it is not.
func PutBatch(ctx context.Context, js jetstream.JetStream, b *schemas.BatchState, revision uint64) (next uint64, err error) {
	if err := checkJob(b.Tenant, b.ID); err != nil {
		return 0, fmt.Errorf("store batch: %w", err)
	}
	data, err := json.Marshal(b)
	if err != nil {
		return 0, fmt.Errorf("store batch %s: %w", b.ID, err)
	}
	err = withBucket(ctx, js, schemas.BatchesBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		next, err = kv.Update(ctx, schemas.BatchKey(b.Tenant, b.ID), data, revision)
		return err
	})
	if isConflict(err) {
		err = ErrBatchChanged
	}
	if err != nil {
		return 0, fmt.Errorf("store batch %s: %w", b.ID, err)
	}
	return next, nil
}

// GetBatch returns a batch, or [ErrNotFound].
func GetBatch(ctx context.Context, js jetstream.JetStream, tenant, id string) (*StoredBatch, error) {
	if err := checkJob(tenant, id); err != nil {
		return nil, fmt.Errorf("get batch: %w", err)
	}
	m, err := directOn(ctx, js, bucketPrefix+schemas.BatchesBucket, keySubject(schemas.BatchesBucket, schemas.BatchKey(tenant, id)))
	if err == nil && !isValue(m.header) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("get batch %s: %w", id, err)
	}
	return storedBatch(m)
}

// storedBatch reads a state. Whose it is says its key, to which a connection can be limited: a state that names another is none.
func storedBatch(m *stored) (*StoredBatch, error) {
	b, key := &StoredBatch{Revision: m.seq}, strings.TrimPrefix(m.subject, keySubject(schemas.BatchesBucket, ""))
	if err := json.Unmarshal(m.data, &b.BatchState); err != nil {
		return nil, fmt.Errorf("batch %s: %w: %w", key, ErrBadBatch, err)
	}
	if schemas.BatchKey(b.Tenant, b.ID) != key {
		return nil, fmt.Errorf("batch %s: %w: it says that it is batch %.80q of tenant %.80q", key, ErrBadBatch, b.ID, b.Tenant)
	}
	return b, nil
}

// Batches returns the batches of a tenant, or of all with "*", whose state was stored at place from or later, in
// the order of their last change, and the place to go on from. With [ErrBadBatch] the others are returned.
func Batches(ctx context.Context, js jetstream.JetStream, tenant string, from uint64) (list []*StoredBatch, next uint64, err error) {
	if tenant != "*" {
		if err := checkTokens(map[string]string{"tenant": tenant}); err != nil {
			return nil, from, fmt.Errorf("list batches: %w", err)
		}
	}
	next = max(from, 1)
	var bad []error
	for m, err := range directScan(ctx, js, bucketPrefix+schemas.BatchesBucket, keySubject(schemas.BatchesBucket, tenant+".*"), from) {
		if err != nil {
			return nil, from, fmt.Errorf("list batches: %w", err)
		}
		next = m.seq + 1
		if !isValue(m.header) {
			continue
		}
		b, err := storedBatch(m)
		if err != nil {
			if len(bad) < maxBadBatches {
				bad = append(bad, err)
			}
			continue
		}
		list = append(list, b)
	}
	if err := errors.Join(bad...); err != nil {
		return list, next, fmt.Errorf("list batches: %w", err)
	}
	return list, next, nil
}

// maxBadBatches is how many states that are none are named.
const maxBadBatches = 10
