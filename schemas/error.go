package schemas

import (
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of thing went wrong. The set is closed; messages are for people.
type Code string

// The codes.
const (
	CodeInvalidRequest        Code = "invalid_request"
	CodeModelNotFound         Code = "model_not_found"
	CodeContextLengthExceeded Code = "context_length_exceeded"
	CodeQueueFull             Code = "queue_full"
	CodeDeadlineExceeded      Code = "deadline_exceeded"
	CodeCancelled             Code = "cancelled"
	CodeEngineUnavailable     Code = "engine_unavailable"
	CodeRateLimited           Code = "rate_limited"
	CodeContentBlocked        Code = "content_blocked"
	CodeSessionConflict       Code = "session_conflict"
	CodeMaxAttempts           Code = "max_attempts"
	CodePayloadTooLarge       Code = "payload_too_large"
	CodeInternal              Code = "internal"
)

var codes = map[Code]struct {
	status    int
	retryable bool
}{
	CodeInvalidRequest:        {http.StatusBadRequest, false},
	CodeModelNotFound:         {http.StatusNotFound, false},
	CodeContextLengthExceeded: {http.StatusBadRequest, false},
	CodeQueueFull:             {http.StatusTooManyRequests, true},
	CodeDeadlineExceeded:      {http.StatusGatewayTimeout, false},
	CodeCancelled:             {499, false},
	CodeEngineUnavailable:     {http.StatusServiceUnavailable, true},
	CodeRateLimited:           {http.StatusTooManyRequests, true},
	CodeContentBlocked:        {http.StatusForbidden, false},
	CodeSessionConflict:       {http.StatusConflict, false},
	CodeMaxAttempts:           {http.StatusBadGateway, false},
	CodePayloadTooLarge:       {http.StatusRequestEntityTooLarge, false},
	CodeInternal:              {http.StatusInternalServerError, true},
}

// Error is what went wrong, on the wire and as a Go error. Compare codes with [ErrorCode].
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// Param names the field at fault, as a path into the job or its body.
	Param string `json:"param,omitempty"`
	// Retryable says whether the same job may succeed later.
	Retryable bool `json:"retryable"`
	// HTTPStatus is the status an HTTP edge answers with.
	HTTPStatus int `json:"http_status"`
}

// Errorf makes an Error with the code's own HTTP status and retryability.
func Errorf(code Code, format string, args ...any) *Error {
	c, ok := codes[code]
	if !ok {
		c = codes[CodeInternal]
	}
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Retryable: c.retryable, HTTPStatus: c.status}
}

// WithParam returns a copy of e that names the field at fault.
func (e *Error) WithParam(param string) *Error { c := *e; c.Param = param; return &c }

// Permanent returns a copy of e that must not be retried.
func (e *Error) Permanent() *Error { c := *e; c.Retryable = false; return &c }

// Error returns the code and the message.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// AsError returns the [*Error] in err's chain, or wraps err as [CodeInternal]. nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf(CodeInternal, "%v", err)
}

// ErrorCode returns the code of the [*Error] in err's chain, or "".
func ErrorCode(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
