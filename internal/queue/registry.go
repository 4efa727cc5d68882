package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Workers lists the live entries of the worker registry, sorted by model and id.
func Workers(ctx context.Context, js jetstream.JetStream) ([]schemas.WorkerInfo, error) {
	var out []schemas.WorkerInfo
	for m, err := range directScan(ctx, js, bucketPrefix+schemas.WorkersBucket, keySubject(schemas.WorkersBucket, ">"), 0) {
		if err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		if !isValue(m.header) {
			continue
		}
		var w schemas.WorkerInfo
		if err := json.Unmarshal(m.data, &w); err != nil {
			return nil, fmt.Errorf("list workers: entry %s: %w", m.subject, err)
		}
		// A heartbeat that arrives while the list is read shows its worker a second time.
		out = slices.DeleteFunc(out, func(have schemas.WorkerInfo) bool { return have.ID == w.ID })
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b schemas.WorkerInfo) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Announce writes a worker's registry entry, which lives for [Config.WorkerTTL]; [Withdraw] removes it.
func Announce(ctx context.Context, js jetstream.JetStream, w *schemas.WorkerInfo) error {
	if err := checkTokens(map[string]string{"worker": w.ID}); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	data, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("announce worker %s: %w", w.ID, err)
	}
	err = withBucket(ctx, js, schemas.WorkersBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		_, err := kv.Put(ctx, w.ID, data)
		return err
	})
	if err != nil {
		return fmt.Errorf("announce worker %s: %w", w.ID, err)
	}
	return nil
}

// Withdraw removes a worker's registry entry. It is not an error if there is none.
func Withdraw(ctx context.Context, js jetstream.JetStream, worker string) error {
	if err := checkTokens(map[string]string{"worker": worker}); err != nil {
		return fmt.Errorf("withdraw: %w", err)
	}
	err := withBucket(ctx, js, schemas.WorkersBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		return kv.Purge(ctx, worker)
	})
	if err != nil {
		return fmt.Errorf("withdraw worker %s: %w", worker, err)
	}
	return nil
}
