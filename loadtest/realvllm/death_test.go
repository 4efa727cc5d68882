//go:build vllm && linux

package realvllm_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

func terminate(t *testing.T, p *program) {
	t.Helper()
	if err := syscall.Kill(p.pid, syscall.SIGTERM); err != nil {
		t.Fatalf("ask %s to stop: %v", p.name, err)
	}
}

// flight is a request to vLLM that runs while something happens to that.
type flight struct {
	begun  chan struct{}
	done   chan struct{}
	hangUp context.CancelFunc
	answer
	err error
}

// fly sends a long request straight to vLLM and returns once the reply has begun.
func (b *bed) fly(t *testing.T) *flight {
	t.Helper()
	f := &flight{begun: make(chan struct{}), done: make(chan struct{})}
	body := with(prompt("on and on", 1500), object{"stream": true})
	ctx, stop := context.WithCancel(t.Context())
	f.hangUp = stop
	t.Cleanup(func() { stop(); <-f.done })
	go func() {
		defer close(f.done)
		f.answer, f.err = post(ctx, b.engine.url+completions, body, func(n int) {
			if n == 10 {
				close(f.begun)
			}
		})
	}()
	select {
	case <-f.begun:
	case <-time.After(30 * time.Second):
		t.Fatal("no ten frames within 30 s")
	}
	return f
}

// wait waits for the flight's end and reports whether there was one in so long.
func (f *flight) wait(within time.Duration) bool {
	select {
	case <-f.done:
		return true
	case <-time.After(within):
		return false
	}
}

// ended waits for the end of the flight and reads what came.
func (f *flight) ended(t *testing.T) *streamed {
	t.Helper()
	if !f.wait(60 * time.Second) {
		t.Fatal("the stream has no end within 60 s")
	}
	s, err := readStream(f.frames)
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

// deaths checks what the death of the engine does to replies. The engine is down afterwards.
func (b *bed) deaths(t *testing.T) {
	m := b.model
	check(t, "continues_after_vllm_killed", m.name, func(t *testing.T) string {
		body := say("Something that takes a while", 1500)
		want := b.reference(t, chat, body)
		j := b.submit(t, chat, body)
		j.read(t, 20)
		began := time.Now()
		b.engine.program.kill(t)
		start := b.engine.run(t)
		j.until(t, func() bool { return len(j.resumed) > 0 })
		took := time.Since(began)
		j.is(t, want)
		return j.wentOn(t, took) + ", " + seconds(start) + " of it vLLM's start"
	})
	check(t, "continues_after_engine_core_killed", m.name, func(t *testing.T) string {
		body := say("Once more", 1500)
		want := b.reference(t, chat, body)
		j := b.submit(t, chat, body)
		j.read(t, 20)
		direct := b.fly(t)
		began := time.Now()
		b.killCore(t)
		said := b.afterCoreDeath(t, direct, began)
		b.engine.run(t)
		j.is(t, want)
		j.wentOn(t, 0)
		return said
	})
}

// afterCoreDeath watches an engine whose core was killed: what its streams say, what /health says, and how it ends.
func (b *bed) afterCoreDeath(t *testing.T, direct *flight, began time.Time) string {
	t.Helper()
	sick := 0
	eventually(t, 60*time.Second, "vLLM ends without its core", func() bool {
		if status := answers(b.engine.url + "/health"); status != http.StatusOK && status != 0 {
			sick = status
		}
		return !b.running()
	})
	ended := time.Since(began)
	s := direct.ended(t)
	said := "stream ends with " + s.how()
	if len(s.errors) > 0 {
		if !strings.Contains(s.errors[0], "EngineCore encountered an issue") || !s.done {
			t.Errorf("the stream says %v, done=%t", s.errors, s.done)
		}
	}
	if c := s.choices[0]; c != nil && c.finish != "" {
		t.Errorf("the stream has a finish reason, %s", c.finish)
	}
	b.engine.program.kill(t) // the worker process outlives its parents for a moment
	health := ""
	if sick != 0 {
		health = fmt.Sprintf(", /health %d", sick)
	}
	return fmt.Sprintf("%s%s, %s after %s", said, health, b.exit(), seconds(ended))
}

// end stops the engine while it generates. Nothing is started again: what is left of the job waits for an engine.
func (b *bed) end(t *testing.T) {
	m := b.model
	check(t, "vllm_stops_on_sigterm", m.name, func(t *testing.T) string {
		body := say("Until the very end", 1500)
		want := b.reference(t, chat, body)
		j := b.submit(t, chat, body)
		j.read(t, 5)
		direct := b.fly(t)
		began := time.Now()
		terminate(t, &b.engine.program)
		if m.graceful {
			// With --shutdown-timeout what runs may finish.
			j.is(t, want)
			if s := direct.ended(t); s.choices[0] == nil || s.choices[0].finish != "length" || !s.done {
				t.Errorf("the stream in flight ends with %+v, done=%t, %v; want its own end", s.choices[0], s.done, s.errors)
			}
			eventually(t, 60*time.Second, "vLLM ends", func() bool { return !b.running() })
			return fmt.Sprintf("in-flight finishes, %s after %s", b.exit(), seconds(time.Since(began)))
		}
		// Without it vLLM stops generating. It may say so, or keep its clients waiting until they hang up.
		said := "in-flight hangs until its client hangs up"
		if direct.wait(3 * time.Second) {
			s := direct.ended(t)
			said = fmt.Sprintf("in-flight ends with %s", s.how())
			if c := s.choices[0]; c != nil && c.finish != "" && c.finish != "abort" {
				t.Errorf("the stream in flight ends with %+v, which looks like its own end", c)
			}
		}
		direct.hangUp()
		// hxp takes none of that for the end of the reply.
		j.until(t, func() bool { return j.last.Kind == schemas.Interrupted })
		if j.last.Kind != schemas.Interrupted {
			t.Errorf("the job ended with %s %v", j.last.Kind, j.last.Error)
		}
		eventually(t, 30*time.Second, "vLLM ends once nobody waits for it", func() bool { return !b.running() })
		return fmt.Sprintf("%s, %s after %s", said, b.exit(), seconds(time.Since(began)))
	})
}

// how says how the first choice of a stream ended.
func (s *streamed) how() string {
	switch c := s.choices[0]; {
	case len(s.errors) > 0:
		return "an error frame"
	case c != nil && c.finish != "":
		return "finish_reason " + c.finish
	case s.done:
		return "[DONE] alone"
	}
	return "a broken connection"
}
