//go:build vllm && linux

package realvllm_test

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func terminate(t *testing.T, p *program) {
	t.Helper()
	if err := syscall.Kill(p.pid, syscall.SIGTERM); err != nil {
		t.Fatalf("ask %s to stop: %v", p.name, err)
	}
}

// flight is a request to vLLM that runs while something happens to that.
type flight struct {
	begun chan struct{}
	done  chan struct{}
	answer
	err error
}

// fly sends a long request straight to vLLM and returns once the reply has begun, if it streams.
func (b *bed) fly(t *testing.T, streaming bool) *flight {
	t.Helper()
	f := &flight{begun: make(chan struct{}), done: make(chan struct{})}
	body := with(prompt("on and on", 1500), object{"stream": streaming})
	ctx := t.Context()
	go func() {
		defer close(f.done)
		f.answer, f.err = post(ctx, b.engine.url+completions, body, func(n int) {
			if n == 10 {
				close(f.begun)
			}
		})
	}()
	if streaming {
		select {
		case <-f.begun:
		case <-time.After(30 * time.Second):
			t.Fatal("no frame within 30 s")
		}
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
		j.read(t, j.events+1)
		took := time.Since(began)
		j.is(t, want)
		return j.wentOn(t, took) + ", " + seconds(start) + " of it vLLM's start"
	})
	check(t, "continues_after_engine_core_killed", m.name, func(t *testing.T) string {
		body := say("Once more", 1500)
		want := b.reference(t, chat, body)
		j := b.submit(t, chat, body)
		j.read(t, 20)
		direct := b.fly(t, true)
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
	for b.running() && time.Since(began) < 60*time.Second {
		if status := answers(b.engine.url + "/health"); status != http.StatusOK && status != 0 {
			sick = status
		}
		time.Sleep(10 * time.Millisecond)
	}
	if b.running() {
		t.Fatal("vLLM runs on for 60 s without its core")
	}
	ended := time.Since(began)
	if !direct.wait(10 * time.Second) {
		t.Fatal("the stream does not end with the process")
	}
	s, err := readStream(direct.frames)
	if err != nil {
		t.Fatal(err)
	}
	said := "stream broken off"
	if len(s.errors) > 0 {
		said = "error frame"
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

// end stops the engine while it generates.
func (b *bed) end(t *testing.T) {
	m := b.model
	check(t, "vllm_stops_on_sigterm", m.name, func(t *testing.T) string {
		direct := b.fly(t, true)
		began := time.Now()
		terminate(t, &b.engine.program)
		if m.graceful {
			// With --shutdown-timeout what runs may finish.
			if !direct.wait(60 * time.Second) {
				t.Fatal("the stream has no end within 60 s")
			}
			s, err := readStream(direct.frames)
			if err != nil {
				t.Fatal(err)
			}
			if c := s.choices[0]; c == nil || c.finish != "length" || !s.done {
				t.Errorf("the stream in flight ends with %+v, done=%t, %v; want its own end", c, s.done, s.errors)
			}
		} else if direct.wait(3 * time.Second) {
			// Without it vLLM stops generating and then waits for its clients: they are told nothing.
			t.Errorf("the stream in flight ended: %d frames, %v %v; want silence until the client hangs up", len(direct.frames), direct.broken, direct.err)
		} else if !b.running() {
			t.Error("vLLM ended with a client connected")
		}
		http.DefaultClient.CloseIdleConnections()
		if !m.graceful {
			b.engine.program.kill(t)
			return "in-flight hangs until its client leaves"
		}
		eventually(t, 60*time.Second, "vLLM ends", func() bool { return !b.running() })
		return fmt.Sprintf("in-flight finishes, %s after %s", b.exit(), seconds(time.Since(began)))
	})
}
