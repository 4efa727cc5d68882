package producer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Stream is the events of one job: in order, without gaps, ending once. One reader at a time may
// range over [Stream.Events] or [Stream.Text]; all other methods are safe for concurrent use.
//
// A stream that is not read to its end must be closed.
type Stream struct {
	c         *Client
	job       schemas.Job
	duplicate bool
	// shared streams get their events from the client's own subscription.
	shared bool
	sub    *nats.Subscription // the stream's own subscription, if any; guarded by c.mu
	stored uint64             // the job's place in its model's queue, 0 while unknown; guarded by c.mu

	in        *inbox
	closing   sync.Once
	closed    chan struct{}
	finishing sync.Once
	finished  chan struct{} // closed when the job is known to have ended

	busy atomic.Bool // guards reader
	reader
}

func (c *Client) newStream(job schemas.Job) *Stream {
	s := &Stream{
		c: c, job: job, in: newInbox(c.cfg.Buffer, c.cfg.BufferBytes),
		closed: make(chan struct{}), finished: make(chan struct{}),
	}
	s.opened = time.Now()
	return s
}

// Job returns the job as it was submitted, with its id and defaults. Of a followed job only ID and Tenant are known.
func (s *Stream) Job() schemas.Job { return s.job }

// Duplicate reports whether the id had been submitted before: the stream is that of the first
// submission, from its start, and this one's body was not looked at.
func (s *Stream) Duplicate() bool { return s.duplicate }

// receive takes a live event that came as a message of so many bytes. It never waits.
func (s *Stream) receive(e schemas.Event, size int) {
	s.in.push(e, size)
	if e.Kind.Terminal() {
		s.finishing.Do(func() { close(s.finished) })
	}
}

// over tells the stream that its job's Result is stored.
func (s *Stream) over() {
	s.finishing.Do(func() { close(s.finished) })
	s.in.demand()
}

// Events yields the job's events in order until the terminal one, which is the last. The stream of a
// submitted job begins with an Accepted event, Seq 0. It yields at most one error, and yields it last:
// [ErrGap], [ErrConflict], [ErrUnknownJob], [ErrClosed], the context's, or that of a failed read.
// That a job failed is no error of its stream: the terminal event says so.
//
// Seq rises by one from event to event, except that a Restarted event may step back, or ahead of
// events that were lost: all text before it is void. An attempt may open, or the job end, some way ahead
// as well, where a worker that had been replaced took the places between. Ranging again goes on after the last event yielded; after the terminal event it yields
// nothing. Events must not be changed: streams of the same job share them.
func (s *Stream) Events(ctx context.Context) iter.Seq2[schemas.Event, error] {
	return func(yield func(schemas.Event, error) bool) {
		if !s.busy.CompareAndSwap(false, true) {
			yield(schemas.Event{}, fmt.Errorf("job %s: %w", s.job.ID, ErrBusy))
			return
		}
		defer s.busy.Store(false)
		for {
			e, ok, err := s.read(ctx)
			if err != nil {
				yield(schemas.Event{}, err)
				return
			}
			if !ok || !yield(e, nil) {
				return
			}
		}
	}
}

// Result waits until the job has ended and returns its Result. It needs no reader of the events and
// takes none from one. It may be called after the stream was read or closed; if the job has not ended
// by the time the stream is closed, the error is [ErrClosed].
func (s *Stream) Result(ctx context.Context) (*schemas.Result, error) {
	finished := s.finished
	delay := s.c.cfg.IdleCheck
	unset := 0
	for {
		r, err := s.c.Result(ctx, s.job.ID)
		switch {
		case err == nil:
			return r, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("result of job %s: %w", s.job.ID, context.Cause(ctx))
		case errors.Is(err, ErrNoResult):
			unset = 0
		case errors.Is(err, ErrNotSetUp) && unset < unsetTries:
			unset++
		case !passing(err):
			return nil, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
			delay = min(2*delay, s.c.cfg.IdleCheck)
		case <-finished:
			// The Result is stored before the terminal event is sent, so this is for replicas that lag.
			finished, delay = nil, 5*time.Millisecond
		case <-s.closed:
			timer.Stop()
			return nil, fmt.Errorf("result of job %s: %w", s.job.ID, ErrClosed)
		case <-ctx.Done(): // the next look says so
		}
		timer.Stop()
	}
}

// Cancel asks for the job to be stopped. See [Client.Cancel].
func (s *Stream) Cancel(ctx context.Context, reason string) (schemas.Phase, error) {
	s.c.mu.Lock()
	stored := s.stored
	s.c.mu.Unlock()
	return s.c.cancelJob(ctx, &s.job, stored, reason)
}

// Close ends the stream. The job goes on: disconnecting is not cancelling. A reader gets what has
// arrived until then, and [ErrClosed].
func (s *Stream) Close() {
	s.closing.Do(func() {
		s.c.forget(s)
		close(s.closed)
	})
}
