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

// Forever is until when a queue is paused that is to be resumed by hand.
var Forever = time.Date(9999, time.January, 1, 0, 0, 0, 0, time.UTC)

// Pause has the broker hand out no jobs of a class of a model until a time. What is running goes on; what is
// submitted is queued. The broker holds the jobs back, so that every worker heeds it at once.
func Pause(ctx context.Context, js jetstream.JetStream, model string, class schemas.Class, until time.Time) error {
	return setPause(ctx, js, model, class, "pause", func(ctx context.Context, stream, consumer string) error {
		_, err := js.PauseConsumer(ctx, stream, consumer, until)
		return err
	})
}

// Resume ends a [Pause].
func Resume(ctx context.Context, js jetstream.JetStream, model string, class schemas.Class) error {
	return setPause(ctx, js, model, class, "resume", func(ctx context.Context, stream, consumer string) error {
		_, err := js.ResumeConsumer(ctx, stream, consumer)
		return err
	})
}

func setPause(ctx context.Context, js jetstream.JetStream, model string, class schemas.Class, verb string, request func(context.Context, string, string) error) error {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return fmt.Errorf("%s the queue: %w", verb, err)
	}
	if !class.Valid() {
		return fmt.Errorf("%s the queue: class is %.64q; want one of %v", verb, class, schemas.Classes())
	}
	err := attempts(ctx, js, func(ctx context.Context) error {
		return request(ctx, schemas.JobsStream(model), schemas.ClassConsumer(class))
	})
	if err = consumerError(err); err != nil {
		return fmt.Errorf("%s the %s queue of model %s: %w", verb, class, model, err)
	}
	return nil
}

// Paused reports whether a class of a model is paused, or [ErrNotSetUp].
func Paused(ctx context.Context, js jetstream.JetStream, model string, class schemas.Class) (bool, error) {
	if err := checkTokens(map[string]string{"model": model}); err != nil {
		return false, fmt.Errorf("look at the queue: %w", err)
	}
	var paused bool
	err := attempts(ctx, js, func(ctx context.Context) error {
		c, err := js.Consumer(ctx, schemas.JobsStream(model), schemas.ClassConsumer(class))
		if err == nil {
			paused = c.CachedInfo().Paused
		}
		return err
	})
	if err = consumerError(err); err != nil {
		return false, fmt.Errorf("look at the %s queue of model %s: %w", class, model, err)
	}
	return paused, nil
}

// consumerError says of a consumer that is not there that the queue is not set up.
func consumerError(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w: %w", ErrNotSetUp, err)
	}
	return err
}
