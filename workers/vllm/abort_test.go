package vllm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// endless generates until the client has gone, and then closes aborted.
func endless(t *testing.T) (url string, aborted <-chan struct{}) {
	t.Helper()
	gone := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\ndata: %s\n\n", text(0, "a", "", 1), text(0, "b", "", 2))
		flush(w)
		<-r.Context().Done()
	})
	return srv.URL, gone
}

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not happen within 10s", what)
	}
}

func TestLeavingTheLoopAborts(t *testing.T) {
	t.Parallel()
	url, aborted := endless(t)
	e := newEngine(t, url, vllm.Config{})
	for _, err := range e.Generate(t.Context(), completion(`{}`)) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	wait(t, "the abort", aborted)
}

func TestPanicInTheLoopAborts(t *testing.T) {
	t.Parallel()
	url, aborted := endless(t)
	e := newEngine(t, url, vllm.Config{})
	func() {
		defer func() {
			if r := recover(); r != "consumer" {
				t.Errorf("recovered %v", r)
			}
		}()
		for _, err := range e.Generate(t.Context(), completion(`{}`)) {
			if err != nil {
				t.Error(err)
			}
			panic("consumer")
		}
	}()
	wait(t, "the abort", aborted)
}

var errOwn = errors.New("the caller's own reason")

func TestCancellingAborts(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		cause error
		code  schemas.Code
		is    error
	}{
		"cancelled": {nil, schemas.CodeCancelled, context.Canceled},
		"deadline":  {context.DeadlineExceeded, schemas.CodeDeadlineExceeded, context.DeadlineExceeded},
		"own cause": {errOwn, "", errOwn},
		"own error": {schemas.Errorf(schemas.CodeContentBlocked, "no"), schemas.CodeContentBlocked, nil},
	}
	for name, tt := range tests {
		for _, blocked := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s blocked %t", name, blocked), func(t *testing.T) {
				t.Parallel()
				url, aborted := endless(t)
				e := newEngine(t, url, vllm.Config{})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				deltas := 0
				var last error
				for _, err := range e.Generate(ctx, completion(`{}`)) {
					if last = err; err != nil {
						break
					}
					// Cancelled after the first, the second is read already and still not yielded.
					if deltas++; deltas == 2 || !blocked {
						cancel(tt.cause)
					}
				}
				if want := map[bool]int{true: 2, false: 1}[blocked]; deltas != want {
					t.Errorf("%d deltas, want %d", deltas, want)
				}
				if got := schemas.ErrorCode(last); got != tt.code || tt.is != nil && !errors.Is(last, tt.is) {
					t.Errorf("error = %v (%s), want %s and %v in its chain", last, got, tt.code, tt.is)
				}
				wait(t, "the abort", aborted)
			})
		}
	}
}

func TestCancellingInTheEnginesQueueAborts(t *testing.T) {
	t.Parallel()
	arrived, gone := make(chan struct{}), make(chan struct{})
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
		close(gone)
	})
	e := newEngine(t, srv.URL, vllm.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-arrived; cancel(errOwn) }()
	if r := collect(ctx, e, completion(`{}`)); !errors.Is(r.err, errOwn) {
		t.Errorf("error = %v", r.err)
	}
	wait(t, "the abort", gone)
}

func TestCancelledBeforeItBegins(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serve(t, stream(done)).URL, vllm.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errOwn)
	if r := collect(ctx, e, completion(`{}`)); !errors.Is(r.err, errOwn) {
		t.Errorf("error = %v, want %v in its chain", r.err, errOwn)
	}
}

// Leaving the loop at the usage is no abort: the reply is complete.
func TestLeavingAtTheEndKeepsTheConnection(t *testing.T) {
	t.Parallel()
	conns, srv := countConns(t, stream(text(0, "a", "stop", 1), usage, done))
	e := newEngine(t, srv.URL, vllm.Config{})
	for range 3 {
		for d, err := range e.Generate(t.Context(), completion(`{}`)) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Usage != nil {
				break
			}
		}
	}
	if n := conns.Load(); n > 2 { // one for control, one for generations
		t.Errorf("%d connections, want 2", n)
	}
}
