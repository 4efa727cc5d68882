package main

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// The exit codes. They are part of the interface: scripts branch on them.
const (
	exitOK          = 0
	exitFailed      = 1 // the job failed, or anything that has no code of its own
	exitUsage       = 2
	exitConnect     = 3
	exitDenied      = 4
	exitTimeout     = 5
	exitPartly      = 6
	exitInterrupted = 130
)

// quietError ends a command whose output has said everything already.
type quietError struct{ code int }

func (quietError) Error() string { return "" }

// exitCode is the one place where errors become exit codes.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if q, ok := errors.AsType[quietError](err); ok {
		return q.code
	}
	if _, ok := errors.AsType[*app.PartlyError](err); ok {
		return exitPartly
	}
	if _, ok := errors.AsType[*app.ConfigError](err); ok {
		return exitUsage
	}
	for _, m := range []struct {
		target error
		code   int
	}{
		{app.ErrUsage, exitUsage},
		{app.ErrNotAllowed, exitDenied},
		{nats.ErrAuthorization, exitDenied},
		{nats.ErrPermissionViolation, exitDenied},
		{app.ErrInterrupted, exitInterrupted},
		{app.ErrCannotConnect, exitConnect},
		{nats.ErrNoServers, exitConnect},
		{nats.ErrConnectionClosed, exitConnect},
		{producer.ErrTimeout, exitTimeout},
		{nats.ErrTimeout, exitTimeout},
		{context.DeadlineExceeded, exitTimeout},
	} {
		if errors.Is(err, m.target) {
			return m.code
		}
	}
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), app.ErrInterrupted) {
		return exitInterrupted
	}
	return exitFailed
}

// outcome is the error of a job by its Result: nil if it completed.
func outcome(r *schemas.Result) error {
	if r.Status == schemas.StatusCompleted {
		return nil
	}
	if r.Error != nil {
		return &jobError{r.ID, r.Status, r.Error}
	}
	return &jobError{r.ID, r.Status, schemas.Errorf(schemas.CodeInternal, "no reason is given")}
}

// jobError says how a job ended that did not complete.
type jobError struct {
	id     string
	status schemas.Status
	err    *schemas.Error
}

func (e *jobError) Error() string {
	return "job " + e.id + " " + string(e.status) + ": " + e.err.Error()
}

func (e *jobError) Unwrap() error { return e.err }
