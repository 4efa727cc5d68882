package producer

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
)

// Sentinels that callers branch on. What a job is refused for is a [*schemas.Error] with a code.
var (
	// ErrNoJetStream says that the server, or the account, has no JetStream.
	ErrNoJetStream = queue.ErrNoJetStream
	// ErrNotSetUp says that a stream that the queue needs is missing on this server.
	ErrNotSetUp = queue.ErrNotSetUp
	// ErrTimeout says that the queue did not acknowledge a job in time. See [TimeoutError].
	ErrTimeout = errors.New("the queue did not answer in time")
	// ErrClosed says that the stream, or its client, was closed before the job ended.
	ErrClosed = errors.New("closed")
	// ErrNoResult says that a job has no Result: it has not ended, its Result has expired, or it was never submitted.
	ErrNoResult = errors.New("the job has no result")
	// ErrUnknownJob says that nothing is known of a job: it is queued, or was never submitted.
	ErrUnknownJob = errors.New("neither a record nor a result of this job")
	// ErrGap says that events are missing and are not recorded. See [GapError].
	ErrGap = errors.New("events are missing")
	// ErrConflict says that a stream has shown events of an attempt that had been replaced. See [ConflictError].
	ErrConflict = errors.New("events of a replaced attempt were shown")
	// ErrRestarted is the error with which [Stream.Text] says that the text so far is void.
	ErrRestarted = errors.New("the generation began again; drop the earlier text")
	// ErrBusy says that the events of a stream are being read already.
	ErrBusy = errors.New("the events of this stream are being read already")
)

// TimeoutError is a submission that got no answer. The job may be stored or not; submitting it again
// with the same id is safe and settles it. It matches [ErrTimeout].
type TimeoutError struct {
	// Job is the id under which the job was sent.
	Job string
	// Err is what the last attempt ended with.
	Err error
}

// Error names the job and the last attempt's error.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("submit job %s: %v; it may be stored: submit it again with this id: %v", e.Job, ErrTimeout, e.Err)
}

// Unwrap returns [ErrTimeout] and the last attempt's error.
func (e *TimeoutError) Unwrap() []error { return []error{ErrTimeout, e.Err} }

// GapError is a gap that could not be filled. It matches [ErrGap].
type GapError struct {
	Job string
	// From and To are the first and the last Seq that are missing.
	From, To uint64
}

// Error names the job and the missing range.
func (e *GapError) Error() string {
	return fmt.Sprintf("job %s: %v: %d to %d were neither received nor recorded", e.Job, ErrGap, e.From, e.To)
}

// Unwrap returns [ErrGap].
func (e *GapError) Unwrap() error { return ErrGap }

// ConflictError tells which attempt replaced events that had been shown. Read the stream again from
// the start with [Client.Follow]. It matches [ErrConflict].
type ConflictError struct {
	Job string
	// Last is the Seq of the last event that was shown.
	Last uint64
	// Attempt and Seq are those of the event that contradicts it.
	Attempt int
	Seq     uint64
}

// Error names the job, the contradiction and what to do.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("job %s: %v: attempt %d has event %d where events up to %d were shown; follow the job from 0",
		e.Job, ErrConflict, e.Attempt, e.Seq, e.Last)
}

// Unwrap returns [ErrConflict].
func (e *ConflictError) Unwrap() error { return ErrConflict }

// unsetTries is how many reads in a row may find nobody who answers for a stream before it is taken
// to be missing: while its leader is elected, or a broker reads its store, that looks the same. Each
// read has tried for about half a second.
const unsetTries = 3

// passing reports whether err is the kind of error that a broker's restart, election or a lost
// connection brings, and that goes away by itself.
func passing(err error) bool {
	for _, target := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected,
		nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
