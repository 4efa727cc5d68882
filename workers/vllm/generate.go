package vllm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/internal/sse"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

const (
	// drainTime and drainBytes bound the wait for the end of a reply after [DONE]. A server that
	// takes longer loses the connection; the reply is complete either way.
	drainTime  = 250 * time.Millisecond
	drainBytes = 4 << 10
)

// errBroken ends a generation whose consumer left the loop.
var errBroken = errors.New("loop left")

// Generate implements [workers.Engine]. The first call asks the engine who it is, if
// [Engine.Health] has not.
//
// It has no timeout of its own: a request may wait in the engine's queue for as long as ctx lasts,
// and vLLM sends the first byte of its answer with the first token.
//
// If ctx ends, the error wraps [context.Cause]. Its code is cancelled or deadline_exceeded where the
// cause is [context.Canceled] or [context.DeadlineExceeded]; any other cause is the caller's own and
// speaks for itself.
func (e *Engine) Generate(ctx context.Context, req *workers.Request) iter.Seq2[workers.Delta, error] {
	return func(yield func(workers.Delta, error) bool) {
		begun, again := false, false
		send := func(priority int) error {
			return e.generate(ctx, req, priority, func(d workers.Delta) bool {
				if again && !begun {
					e.noPriority.Store(true) // that was all that was wrong with it
				}
				begun = true
				return yield(d, nil)
			})
		}
		priority := e.priority(req.Class)
		err := send(priority)
		if again = priority != 0 && !begun && refusesPriority(err); again {
			err = send(0)
		}
		if err != nil && !errors.Is(err, errBroken) {
			yield(workers.Delta{}, err)
		}
	}
}

func (e *Engine) generate(ctx context.Context, req *workers.Request, priority int, yield func(workers.Delta) bool) error {
	id, err := e.identify(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", workers.ErrNotReceived, err)
	}
	if !id.vllm {
		priority = 0
	}
	p, err := prepare(req, id, priority)
	if err != nil {
		return err
	}
	reqCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := e.send(reqCtx, e.streams, p.call)
	if err != nil {
		failed := error(e.noAnswer(p.call, err))
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			failed = fmt.Errorf("%w: %w", workers.ErrNotReceived, failed)
		}
		return orStopped(ctx, failed)
	}
	// Closing a reply that has not ended closes its connection, which is how vLLM learns of an abort.
	defer discard(resp.Body)
	if err := e.checkStream(p.call, resp); err != nil {
		switch {
		case resp.StatusCode == http.StatusNotFound && e.cfg.Model == "":
			e.known.CompareAndSwap(id, nil) // the name may have changed since it was learned
		case resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests:
			// A full or closing engine refuses before it begins.
			return orStopped(ctx, fmt.Errorf("%w: %w", workers.ErrNotReceived, err))
		}
		return orStopped(ctx, err)
	}

	s := newReply(p.choices, id.vllm)
	defer s.release()
	events := sse.NewReader(resp.Body, e.maxEvent(id))
	for {
		data, err := events.Next()
		if ctx.Err() != nil || err != nil {
			return orStopped(ctx, s.cut(err))
		}
		if bytes.Equal(data, doneEvent) {
			break
		}
		d, err := s.read(e, data)
		if err != nil {
			return err
		}
		if (len(d.Choices) > 0 || len(d.PromptTokens) > 0) && !yield(d) {
			return errBroken
		}
	}
	if err := s.complete(); err != nil {
		return err
	}
	if id.tokenIDs && s.tokens > 0 && !s.ids {
		e.noTokenIDs.Store(true)
	}
	drain(resp.Body, cancel)
	if s.usage != nil && !yield(workers.Delta{Usage: s.usage}) {
		return errBroken
	}
	return nil
}

var doneEvent = []byte("[DONE]")

// checkStream returns the error that a response holds instead of a stream, or nil.
func (e *Engine) checkStream(c call, resp *http.Response) *schemas.Error {
	if resp.StatusCode != http.StatusOK {
		return e.refusal(c, resp)
	}
	kind := resp.Header.Get("Content-Type")
	if kind == "" || strings.HasPrefix(kind, "text/event-stream") {
		return nil
	}
	w := parseWireError(e.errorBody(resp.Body))
	if w.explicit {
		return e.mapped(w)
	}
	return schemas.Errorf(schemas.CodeEngineUnavailable, "%s %s: the engine answered with content type %.100q; want text/event-stream: %s",
		c.method, c.path, kind, e.redact(w.message))
}

// drain reads the end of a complete reply, so that its connection can carry the next request.
func drain(body io.Reader, cancel func()) {
	t := time.AfterFunc(drainTime, cancel)
	defer t.Stop()
	_, _ = io.CopyN(io.Discard, body, drainBytes)
}

// maxEvent is the bound on one event of a reply.
func (e *Engine) maxEvent(id *identity) int {
	if e.cfg.MaxEventBytes > 0 {
		return e.cfg.MaxEventBytes
	}
	return max(defaultMaxEvent, 16*id.MaxModelLen)
}
