package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// maxWaiting is how many pulls may wait at one consumer: more than there will be workers.
const maxWaiting = 4096

// classConsumer is the durable consumer that all workers of a model share for one class.
//
// MaxDeliver is unlimited because hand-backs count as deliveries too, and a message beyond it stays
// in the stream where nobody sees it: workers count failures themselves. BackOff is not set because
// it would take the place of the lease.
func classConsumer(model string, class schemas.Class, cfg Config) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       schemas.ClassConsumer(class),
		Description:   fmt.Sprintf("hxp: %s jobs for model %s", class, model),
		FilterSubject: schemas.JobsOfClass(model, class),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       cfg.Lease,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    maxWaiting,
	}
}

func (s *setup) consumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	object := stream + "/" + want.Durable
	var have *jetstream.ConsumerConfig
	err := attempts(ctx, s.js, func(ctx context.Context) error {
		c, err := s.js.Consumer(ctx, stream, want.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			c, err = s.js.CreateConsumer(ctx, stream, want)
			if errors.Is(err, jetstream.ErrConsumerExists) {
				c, err = s.js.Consumer(ctx, stream, want.Durable)
			}
		}
		if err != nil {
			return err
		}
		have = &c.CachedInfo().Config
		return nil
	})
	if err != nil {
		return fmt.Errorf("set up consumer %s: %w", object, err)
	}
	diffs, merged, stuck := compareConsumer(object, *have, want)
	if !s.apply || len(diffs) == 0 {
		s.diffs = append(s.diffs, diffs...)
		return nil
	}
	return s.change(stuck, diffs, object, func() error {
		_, err := s.js.UpdateConsumer(ctx, stream, merged)
		return err
	})
}

// Consumers returns the durable consumer of each class of a model. [ErrNotSetUp] if one is missing.
func Consumers(ctx context.Context, js jetstream.JetStream, model string) (map[schemas.Class]jetstream.Consumer, error) {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return nil, err
	}
	out := make(map[schemas.Class]jetstream.Consumer)
	for _, class := range schemas.Classes() {
		err := attempts(ctx, js, func(ctx context.Context) error {
			c, err := js.Consumer(ctx, schemas.JobsStream(model), schemas.ClassConsumer(class))
			out[class] = c
			return err
		})
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, nats.ErrNoResponders):
			return nil, fmt.Errorf("%w: consumer %s of model %s: %w", ErrNotSetUp, class, model, err)
		case err != nil:
			return nil, fmt.Errorf("consumer %s of model %s: %w", class, model, err)
		}
	}
	return out, nil
}
