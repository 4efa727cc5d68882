//go:build vllm && linux

package realvllm_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// supervised is the model that a vllm.Server is tried with. One is enough: none of it depends on the architecture.
const supervised = "phi3"

// supervision is a vllm.Server with a real vLLM under it.
type supervision struct {
	*vllm.Server
	stop context.CancelFunc
	done chan struct{}
	err  error // of Run; read after done
}

func supervise(t *testing.T) *supervision {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "vllm.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	plain := newEngine(t, supervised, dir)
	env := map[string]string{"HOME": dir}
	for _, pair := range plain.env {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	server, err := vllm.NewServer(vllm.Args{
		Model: filepath.Join(models, supervised), ServedName: supervised, Port: freePort(t),
		MaxModelLen: window, MaxNumSeqs: slots, MaxNumBatchedTokens: window, EnforceEager: true, Extra: map[string]any{"dtype": "float32"},
	}, vllm.ServerConfig{Command: []string{filepath.Join(venv, "bin", "vllm")}, Env: env, Dir: dir, StopTimeout: 5 * time.Second, Stderr: log}, vllm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &supervision{Server: server, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = server.Run(ctx)
	}()
	return s
}

// ready waits until the server is, after so many restarts, and returns how long that took.
func (s *supervision) ready(t *testing.T, restarts int) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, 2*patience, fmt.Sprintf("ready after %d restarts", restarts), func() bool {
		st := s.Status()
		if st.State == vllm.StateFailed {
			t.Fatalf("the server failed: %s", st.LastExit)
		}
		return st.State == vllm.StateReady && st.Restarts >= restarts
	})
	return time.Since(began)
}

// say generates, and lets something happen after so many deltas.
func (s *supervision) say(t *testing.T, deltas int, happens func()) (text string, err error) {
	t.Helper()
	body := fmt.Sprintf(`{"prompt":"Say on","max_tokens":%d,"ignore_eos":true,"temperature":0}`, window-100)
	req := &workers.Request{ID: "supervised", Attempt: 1, Endpoint: schemas.Completions, Body: []byte(body), Class: schemas.Standard}
	n := 0
	for d, e := range s.Generate(t.Context(), req) {
		if e != nil {
			return text, e
		}
		parts, bad := openai.ParseChoices(fmt.Appendf(nil, "[%s]", d.Choices), nil)
		if bad != nil {
			t.Fatal(bad)
		}
		for _, p := range parts {
			text += string(p.Text)
		}
		if n++; n == deltas {
			happens()
		}
	}
	return text, nil
}

// TestSupervisor kills a vLLM that hxp has started.
func TestSupervisor(t *testing.T) {
	s := supervise(t)
	t.Cleanup(func() {
		s.stop()
		<-s.done
	})
	check(t, "supervisor_starts_vllm", supervised, func(t *testing.T) string {
		took := s.ready(t, 0)
		if st := s.Status(); st.Version == "" || len(st.Notes) > 0 {
			t.Errorf("status = %+v, want a version and no notes", st)
		}
		return seconds(took) + " with its questions to vLLM"
	})
	if t.Failed() {
		return
	}
	want, err := s.say(t, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	kill := func(t *testing.T, pid func() int, restarts int) string {
		t.Helper()
		before := s.Status().PID
		got, err := s.say(t, 1, func() {
			if err := syscall.Kill(pid(), syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		})
		// On a busy machine the engine may be done before its first words are read.
		if err == nil && got != want || err != nil && !schemas.AsError(err).Retryable {
			t.Errorf("the generation that was under way ended with %v and %d bytes of %d, want a retryable error", err, len(got), len(want))
		}
		took := s.ready(t, restarts)
		st := s.Status()
		if st.Restarts != restarts || st.PID == before {
			t.Errorf("status = %+v, want restart %d and another process than %d", st, restarts, before)
		}
		if left := alive(before); len(left) > 0 {
			t.Errorf("of the killed vLLM live %v", left)
		}
		if got, err := s.say(t, 0, nil); err != nil || got != want {
			t.Errorf("after the restart: %v %.80q, want %.80q", err, got, want)
		}
		return fmt.Sprintf("%s; %.60s", seconds(took), strings.ReplaceAll(st.LastExit, "\n", " "))
	}
	check(t, "supervisor_restarts_vllm_killed", supervised, func(t *testing.T) string {
		return kill(t, func() int { return s.Status().PID }, 1)
	})
	check(t, "supervisor_restarts_engine_core_killed", supervised, func(t *testing.T) string {
		return kill(t, func() int { return child(s.Status().PID, "VLLM::EngineCore") }, 2)
	})
	check(t, "supervisor_stops_vllm", supervised, func(t *testing.T) string {
		group := s.Status().PID
		began := time.Now()
		got, err := s.say(t, 1, s.stop)
		if err == nil && got != want {
			t.Errorf("the generation that was under way looks complete, with %d bytes of %d", len(got), len(want))
		}
		<-s.done
		if s.err != nil {
			t.Error(s.err)
		}
		if left := alive(group); len(left) > 0 {
			t.Errorf("of the stopped vLLM live %v", left)
		}
		return seconds(time.Since(began))
	})
}
