package loadtest

import (
	"context"
	"errors"
)

// Target is where requests go. It is safe for concurrent use.
type Target interface {
	// Name is what the summary calls it: [Queue] or [Direct].
	Name() string
	// Do sends a request and tells o what happens, until the request has ended. The error is why it did not
	// end well; see [FailureCode].
	Do(ctx context.Context, r *Request, o *Observation) error
}

// The names of targets.
const (
	Queue  = "queue"
	Direct = "direct"
)

// FailureError is why a request did not end well.
type FailureError struct {
	// Code is one of package schemas, or timeout, interrupted, connection, truncated, malformed, gap, conflict, aborted
	// or http_ with a status.
	Code string
	Err  error
}

// Error returns the code and the cause.
func (f *FailureError) Error() string { return f.Code + ": " + f.Err.Error() }

// Unwrap returns the cause.
func (f *FailureError) Unwrap() error { return f.Err }

// FailureCode is the code of the [FailureError] in err's chain, "unknown" if there is none, and "" for nil.
func FailureCode(err error) string {
	if err == nil {
		return ""
	}
	if f, ok := errors.AsType[*FailureError](err); ok {
		return f.Code
	}
	return "unknown"
}

// The codes that are no code of a job.
const (
	codeTimeout     = "timeout"
	codeInterrupted = "interrupted"
	codeConnection  = "connection"
	codeTruncated   = "truncated"
	codeMalformed   = "malformed"
	codeGap         = "gap"
	codeConflict    = "conflict"
	codeAborted     = "aborted"
)

// errTimedOut is the cause with which the time of a request ends.
var errTimedOut = errors.New("the request's time is over")

// ended tells why the context of a request ended, nil if it has not.
func ended(ctx context.Context) *FailureError {
	if ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, errTimedOut) {
		return &FailureError{codeTimeout, cause}
	}
	return &FailureError{codeInterrupted, cause}
}
