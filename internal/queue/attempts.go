package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// attemptTime bounds the first request. A request that is on its way when a leader dies is never
	// answered; asking again after a second costs far less than waiting for the whole context. Each
	// repetition waits twice as long, so that a server that is merely slow is heard in the end.
	attemptTime = time.Second
	// againWait and againTries are for answers that a leader change explains.
	againWait  = 100 * time.Millisecond
	againTries = 5
)

// againError marks an answer that may be different in a moment.
type againError struct{ error }

func (e againError) Unwrap() error { return e.error }

// attempts runs one request until it is answered: again and again after a timeout, for as long as
// ctx lives, and a few times after an answer that may be different in a moment. A ctx without a
// deadline is given the JetStream context's own time for requests.
func attempts(ctx context.Context, js jetstream.JetStream, request func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, js.Options().DefaultTimeout)
		defer cancel()
	}
	began := time.Now()
	wait := attemptTime
	for again := 0; ; {
		one, cancel := context.WithTimeout(ctx, wait)
		err := request(one)
		cancel()
		switch {
		case err == nil:
			return nil
		case isTimeout(err) && ctx.Err() != nil:
			return fmt.Errorf("no answer from the queue within %s: %w", time.Since(began).Round(time.Millisecond), err)
		case isTimeout(err):
			wait *= 2
		case Temporary(err) && again < againTries && ctx.Err() == nil:
			again++
			select {
			case <-ctx.Done():
			case <-time.After(againWait):
			}
		default:
			return err
		}
	}
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
}

// Temporary reports whether an answer may be different in a moment: a leader is being elected, the
// stream has more requests than it can take in, or the first copy of the same message is still being stored.
func Temporary(err error) bool {
	if _, ok := errors.AsType[againError](err); ok {
		return true
	}
	switch apiError(err).ErrorCode {
	case codeUnavailable, codeNotLeader, codeInProcess, codeOverrun:
		return true
	}
	return false
}

// publish stores one message, asking again until it is answered. The message must carry an id or
// an expectation that makes the second copy harmless.
func publish(ctx context.Context, js jetstream.JetStream, msg *nats.Msg, opts ...jetstream.PublishOpt) error {
	return attempts(ctx, js, func(ctx context.Context) error {
		_, err := js.PublishMsg(ctx, msg, opts...)
		if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("%w: no stream listens on %s: %w", ErrNotSetUp, msg.Subject, err)
		}
		return err
	})
}
