package vllm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
)

// orStopped returns err, unless ctx has ended: then that is why the call failed.
func orStopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	if _, ok := errors.AsType[*schemas.Error](cause); !ok {
		switch {
		case errors.Is(cause, context.DeadlineExceeded):
			return fmt.Errorf("%w: %w", schemas.Errorf(schemas.CodeDeadlineExceeded, "the deadline passed while the engine worked"), cause)
		case errors.Is(cause, context.Canceled):
			return fmt.Errorf("%w: %w", schemas.Errorf(schemas.CodeCancelled, "the call to the engine was cancelled"), cause)
		}
	}
	return fmt.Errorf("the call to the engine was stopped: %w", cause)
}

// noAnswer is the error of a call that got no response at all.
func (e *Engine) noAnswer(c call, err error) *schemas.Error {
	return schemas.Errorf(schemas.CodeEngineUnavailable, "%s %s: no usable answer from the engine: %s", c.method, c.path, e.redact(err.Error()))
}

// refusal is the error of a response whose status is not 200. It reads a bounded part of the body.
func (e *Engine) refusal(c call, resp *http.Response) *schemas.Error {
	w := parseWireError(e.errorBody(resp.Body))
	status := resp.StatusCode
	if !w.explicit || status >= 500 || status < 400 {
		w.message = strings.TrimSuffix(fmt.Sprintf("%s %s: the engine answered %d %s: %s",
			c.method, c.path, status, http.StatusText(status), w.message), ": ")
	}
	if at := resp.Header.Get("Location"); at != "" && status/100 == 3 {
		w.message += fmt.Sprintf(": it has moved to %.200q; configure that", at)
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		w.message += fmt.Sprintf(" (Retry-After: %.40s)", after)
	}
	w.status = status
	return e.mapped(w)
}

// errorBody reads what there is of an error reply, up to the bound; what is longer is cut.
func (e *Engine) errorBody(r io.Reader) []byte {
	b, _ := io.ReadAll(io.LimitReader(r, int64(e.cfg.MaxErrorBytes))) // the status tells enough if the rest is lost
	return b
}

// mapped turns the engine's error into one of hxp's. The table is in the package's documentation.
func (e *Engine) mapped(w wireError) *schemas.Error {
	text := e.redact(w.message)
	w.param = e.redact(w.param)
	if w.engineDead() {
		return schemas.Errorf(schemas.CodeEngineUnavailable, "%s", text)
	}
	switch w.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine refuses the API key that hxp has for it: %s", text)
	case http.StatusNotFound:
		// The job is for this model; that the engine does not serve it is the operator's mistake, and
		// another worker's engine may.
		return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine does not serve what hxp asks it for: %s", text)
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly:
		return schemas.Errorf(schemas.CodeEngineUnavailable, "%s", text)
	case http.StatusRequestEntityTooLarge:
		return schemas.Errorf(schemas.CodePayloadTooLarge, "%s", text).WithParam(w.param)
	case http.StatusTooManyRequests:
		return schemas.Errorf(schemas.CodeRateLimited, "%s", text)
	case http.StatusNotImplemented:
		return schemas.Errorf(schemas.CodeInvalidRequest, "%s", text).WithParam(w.param)
	}
	switch {
	case w.status < 400 || w.status >= 500:
		return schemas.Errorf(schemas.CodeEngineUnavailable, "%s", text)
	case w.contextLength():
		return schemas.Errorf(schemas.CodeContextLengthExceeded, "%s", text).WithParam(w.param)
	}
	return schemas.Errorf(schemas.CodeInvalidRequest, "%s", text).WithParam(w.param)
}

// redact takes credentials out of the engine's words, bounds them and makes them one line of valid UTF-8.
func (e *Engine) redact(s string) string {
	for _, secret := range e.secrets {
		s = strings.ReplaceAll(s, secret, "[redacted]")
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// errTooLong marks a reply above its bound.
var errTooLong = errors.New("the reply is longer")

// readAll reads a reply of at most limit bytes.
func readAll(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%w than %d bytes", errTooLong, limit)
	}
	return b, err
}
