package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// PutTombstone stores a cancel request so that every later attempt finds it, for [Config.CancelTTL].
func PutTombstone(ctx context.Context, js jetstream.JetStream, c *schemas.Cancel) error {
	if err := checkJob(c.Tenant, c.ID); err != nil {
		return fmt.Errorf("store tombstone: %w", err)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("store tombstone of job %s: %w", c.ID, err)
	}
	err = withBucket(ctx, js, schemas.CancelsBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		_, err := kv.Put(ctx, schemas.CancelKey(c.Tenant, c.ID), data)
		return err
	})
	if err != nil {
		return fmt.Errorf("store tombstone of job %s: %w", c.ID, err)
	}
	return nil
}

// GetTombstone returns the cancel request of a job, or [ErrNotFound]. It is one round trip.
func GetTombstone(ctx context.Context, js jetstream.JetStream, tenant, job string) (*schemas.Cancel, error) {
	if err := checkJob(tenant, job); err != nil {
		return nil, fmt.Errorf("get tombstone: %w", err)
	}
	m, err := directOn(ctx, js, bucketPrefix+schemas.CancelsBucket, keySubject(schemas.CancelsBucket, schemas.CancelKey(tenant, job)))
	if err == nil && !isValue(m.header) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("get tombstone of job %s: %w", job, err)
	}
	c := new(schemas.Cancel)
	if err := json.Unmarshal(m.data, c); err != nil {
		return nil, fmt.Errorf("get tombstone of job %s: %w", job, err)
	}
	return c, nil
}
