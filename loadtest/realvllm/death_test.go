//go:build vllm && linux

package realvllm_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
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
	body := with(prompt("on and on", window-100), object{"stream": true})
	ctx, stop := context.WithCancel(t.Context())
	f.hangUp = stop
	t.Cleanup(func() { stop(); <-f.done })
	go func() {
		defer close(f.done)
		f.answer, f.err = post(ctx, b.engine.url+completions, body, func(n int) {
			if n == 3 {
				close(f.begun)
			}
		})
	}()
	select {
	case <-f.begun:
	case <-time.After(30 * time.Second):
		t.Fatal("no three frames within 30 s")
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

// end stops the engine while it generates. It returns a job that waits for another one, if there is one.
func (b *bed) end(t *testing.T) (left *job, want reply) {
	m := b.model
	check(t, "vllm_stops_on_sigterm", m.name, func(t *testing.T) string {
		body := say("Until the very end", 1500)
		want = b.reference(t, chat, body)
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
			said = "in-flight ends with " + s.how()
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
		left = j
		eventually(t, 30*time.Second, "vLLM ends once nobody waits for it", func() bool { return !b.running() })
		return fmt.Sprintf("%s, %s after %s", said, b.exit(), seconds(time.Since(began)))
	})
	return left, want
}

// deaths checks what becomes of replies when the engine dies that a worker has started.
func (b *bed) deaths(t *testing.T, left *job, want reply) {
	m := b.model
	b.worker.kill(t)
	check(t, "hxp_starts_vllm", m.name, func(t *testing.T) string {
		began := time.Now()
		b.startWorkerOn(t, "vllm", b.settings(m.flags)...)
		return seconds(time.Since(began)) + " with its questions to vLLM"
	})
	if b.first() == 0 {
		t.Fatal("no vLLM runs")
	}
	if left != nil {
		check(t, "continues_after_vllm_stopped", m.name, func(t *testing.T) string {
			left.is(t, want)
			return fmt.Sprintf("kept %d tokens", left.kept(t))
		})
	}
	check(t, "continues_after_vllm_killed", m.name, func(t *testing.T) string {
		took, j := b.strike(t, "Something that takes a while", func() {}, b.first)
		return fmt.Sprintf("%s, kept %d tokens", seconds(took), j.kept(t))
	})
	check(t, "continues_after_engine_core_killed", m.name, func(t *testing.T) string {
		var direct *flight
		took, j := b.strike(t, "Once more", func() { direct = b.fly(t) }, func() int { return child(b.first(), "VLLM::EngineCore") })
		s := direct.ended(t)
		if len(s.errors) > 0 && !strings.Contains(s.errors[0], "EngineCore encountered an issue") {
			t.Errorf("the stream in flight says %v", s.errors)
		}
		ends := regexp.MustCompile(`exited with code \d+`).FindAllString(b.worker.tail(1<<20), -1)
		if len(ends) == 0 {
			t.Error("the worker's log does not say how vLLM ended")
		}
		return fmt.Sprintf("%s, kept %d tokens; a stream of vLLM's ends with %s, vLLM %s", seconds(took), j.kept(t), s.how(), strings.Join(ends[max(0, len(ends)-1):], ""))
	})
	check(t, "hxp_stops_vllm", m.name, func(t *testing.T) string {
		began := time.Now()
		stop(t, b.worker)
		if pid := b.first(); pid != 0 || b.worker.err != nil {
			t.Errorf("the worker ended with %s, and vLLM's process is %d; want a clean end, and none", b.worker.exit(), pid)
		}
		return seconds(time.Since(began))
	})
}

// strike kills the process that pid names while a job runs, and returns how long it took until the job went on.
// before is called just before the job begins.
func (b *bed) strike(t *testing.T, text string, before func(), pid func() int) (time.Duration, *job) {
	t.Helper()
	for try := range 4 {
		eventually(t, patience, "vLLM is well", func() bool { return answers(b.engine.url+"/health") == http.StatusOK })
		body := say(fmt.Sprint(text, try), 1500)
		want := b.reference(t, chat, body)
		group, victim := b.first(), pid()
		if group == 0 || victim == 0 {
			t.Fatal("there is no process to kill")
		}
		before()
		j := b.submit(t, chat, body)
		j.read(t, 5)
		began := time.Now()
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		j.until(t, func() bool { return len(j.resumed)+len(j.again) > 0 })
		took := time.Since(began)
		if j.last.Kind == schemas.Done {
			eventually(t, patience, "the next vLLM comes", func() bool { return b.first() != group })
			continue // on a busy machine all was said before the client had read a word
		}
		if left := alive(group); len(left) > 0 {
			t.Errorf("of the engine that was killed live %v", left)
		}
		j.is(t, want)
		return took, j
	}
	t.Fatal("four jobs were done before their engine was killed")
	return 0, nil
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
