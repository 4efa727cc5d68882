package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A key-value bucket is a stream with a layout of its own (ADR-8). Making it as one lets it be
// created and compared like all others; package jetstream's KeyValue opens it as usual.
const (
	bucketPrefix     = "KV_"
	keyPrefix        = "$KV."
	bucketDuplicates = 2 * time.Minute
	// markerTTL is how long the mark of an expired key stays, so that watchers see it go.
	markerTTL = time.Second
)

func bucket(name, description string, cfg Config) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              bucketPrefix + name,
		Description:       description,
		Subjects:          []string{keyPrefix + name + ".>"},
		Retention:         jetstream.LimitsPolicy,
		Storage:           cfg.Storage,
		Replicas:          cfg.Replicas,
		Discard:           jetstream.DiscardNew,
		MaxMsgsPerSubject: 1,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
}

func keySubject(bucket, key string) string { return keyPrefix + bucket + "." + key }

// isValue tells a value from the mark of a deleted or expired key.
func isValue(h nats.Header) bool {
	return h.Get("KV-Operation") == "" && h.Get(jetstream.MarkerReasonHeader) == ""
}

// withBucket runs one operation on a bucket until it is answered.
func withBucket(ctx context.Context, js jetstream.JetStream, name string, do func(context.Context, jetstream.KeyValue) error) error {
	return attempts(ctx, js, func(ctx context.Context) error {
		kv, err := js.KeyValue(ctx, name)
		if err != nil {
			if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, nats.ErrNoResponders) {
				return fmt.Errorf("%w: bucket %s: %w", ErrNotSetUp, name, err)
			}
			return err
		}
		return do(ctx, kv)
	})
}
