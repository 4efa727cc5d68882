package conversation

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/schemas"
)

// What callers branch on.
var (
	// ErrNotFound: there is no such session; it never was, or its time is over.
	ErrNotFound = errors.New("session not found")
	// ErrDeleted: the session was deleted, and its id cannot be used for now.
	ErrDeleted = errors.New("session is deleted")
	// ErrExists: there is a session with this id already.
	ErrExists = errors.New("session exists already")
	// ErrNoTurn: the session has no such turn, or has forgotten it.
	ErrNoTurn = errors.New("no such turn")
	// ErrUnfinished: the turn was interrupted, blocked or cancelled, so it is not history.
	ErrUnfinished = errors.New("turn is not finished")
	// ErrNoBranch: the session has no branch of this name.
	ErrNoBranch = errors.New("no such branch")
	// ErrActiveBranch: the active branch cannot be removed.
	ErrActiveBranch = errors.New("branch is the active one")
	// ErrConflict: another turn is in flight or has come first. See [ConflictError].
	ErrConflict = errors.New("session conflict")
	// ErrTooLarge: something is beyond its bound. See [TooLargeError].
	ErrTooLarge = errors.New("too large")
	// ErrInvalid: the input is at fault, and another try will not help.
	ErrInvalid = errors.New("invalid")
	// ErrUnavailable: Redis cannot be reached or does not take the call. Wait, and try again.
	ErrUnavailable = errors.New("conversation store is unavailable")
	// ErrCorrupt: what Redis holds is not what this package has written.
	ErrCorrupt = errors.New("stored conversation is damaged")
	// ErrWindow: the messages do not fit the model's window. See [WindowError].
	ErrWindow = errors.New("messages do not fit the window")
)

// ConflictError says why a turn was refused. It matches [ErrConflict].
type ConflictError struct {
	// Have is the session's revision, Want the one that was expected, -1 if none was.
	Have, Want int64
	// Pending is a turn in flight that was in the way, if that was the reason.
	Pending string
}

// Error names the revisions or the turn.
func (e *ConflictError) Error() string {
	if e.Pending != "" {
		return fmt.Sprintf("turn %s is in flight on this session", e.Pending)
	}
	return fmt.Sprintf("session is at revision %d; want %d", e.Have, e.Want)
}

// Is reports whether target is [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// TooLargeError says what is beyond its bound. It matches [ErrTooLarge].
type TooLargeError struct {
	Field        string
	Value, Bound int64
}

// Error names field, value and bound.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s is %d; want at most %d", e.Field, e.Value, e.Bound)
}

// Is reports whether target is [ErrTooLarge].
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// tooLarge is the error of a value beyond its bound, or nil.
func tooLarge(field string, value, bound int) error {
	if value <= bound {
		return nil
	}
	return &TooLargeError{Field: field, Value: int64(value), Bound: int64(bound)}
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// WireError is err as a job's error; nil for nil. An error that is one already stays as it is.
func WireError(err error) *schemas.Error {
	if err == nil {
		return nil
	}
	wire := func(code schemas.Code, param string) *schemas.Error {
		return schemas.Errorf(code, "%v", err).WithParam(param)
	}
	switch {
	case errors.Is(err, ErrConflict):
		return wire(schemas.CodeSessionConflict, "session")
	case errors.Is(err, ErrWindow):
		return wire(schemas.CodeContextLengthExceeded, "messages")
	case errors.Is(err, ErrTooLarge):
		return wire(schemas.CodePayloadTooLarge, "session")
	case errors.Is(err, ErrNoTurn), errors.Is(err, ErrUnfinished):
		return wire(schemas.CodeInvalidRequest, "session.parent")
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrDeleted):
		return wire(schemas.CodeInvalidRequest, "session.id")
	case errors.Is(err, ErrExists), errors.Is(err, ErrInvalid), errors.Is(err, ErrNoBranch), errors.Is(err, ErrActiveBranch):
		return wire(schemas.CodeInvalidRequest, "session")
	}
	return schemas.AsError(err)
}

// unavailable are beginnings of Redis's own errors that pass: it starts, fails over, is full or busy.
func unavailable(err error) bool {
	if _, ok := errors.AsType[redis.Error](err); !ok {
		return !errors.Is(err, redis.ErrClosed) // the network, or no connection in time
	}
	for _, prefix := range []string{
		"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "NOREPLICAS", "MOVED", "ASK",
	} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return strings.Contains(err.Error(), "max number of clients")
}

// classify says of an error of the client whether the caller gave up, Redis is away, or something is wrong.
func classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case unavailable(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
