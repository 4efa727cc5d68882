package vllm_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

const longPrompt = `{"prompt":"x","max_tokens":3000,"ignore_eos":true}`

// An engine hangs while /health says 200. Requests through the Server show it.
func TestTrapHangWithHealthyHealth(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{
		plan: "ok", cfg: vllm.ServerConfig{StallTimeout: 300 * time.Millisecond}, engine: vllm.Config{CanaryTimeout: 300 * time.Millisecond},
	})
	first := b.Status().PID
	go func() {
		for range b.Generate(b.t.Context(), completion(longPrompt)) { //nolint:errcheck // it is cut off
		}
	}()
	b.post("/sim/faults", `{"kind":"hang"}`)
	if _, err := b.Engine.Health(t.Context()); err != nil {
		t.Errorf("health of the hung engine: %v; want none, or this proves nothing", err)
	}
	b.ready(1)
	if st := b.Status(); b.restarts("hung") != 1 || st.PID == first || !strings.Contains(st.LastExit, "made no token for") {
		t.Errorf("restarts because it hung: %v; status %+v", b.restarts("hung"), st)
	}
	if living(first) {
		t.Errorf("process %d lives on", first)
	}
}

// The same with requests that the Server knows nothing of: vLLM's metrics show them.
func TestTrapHangSeenInMetrics(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{
		plan: "ok", cfg: vllm.ServerConfig{StallTimeout: 300 * time.Millisecond}, engine: vllm.Config{CanaryTimeout: 300 * time.Millisecond},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	other := newEngine(t, b.url, vllm.Config{})
	go collect(ctx, other, completion(longPrompt))
	b.post("/sim/faults", `{"kind":"hang"}`)
	reason := "hung"
	if _, err := other.Load(ctx); errors.Is(err, workers.ErrUnsupported) {
		reason = "asked" // without a load to read, somebody has to
		b.Restart("a canary got no answer")
	}
	b.ready(1)
	if b.restarts(reason) != 1 {
		t.Errorf("restarts of reason %s: %v; want 1", reason, b.restarts(reason))
	}
}

// A frozen API server answers nothing at all; there is no load to read.
func TestTrapFrozenServer(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{
		plan:   "ok",
		cfg:    vllm.ServerConfig{StallTimeout: 200 * time.Millisecond, StopTimeout: 100 * time.Millisecond},
		engine: vllm.Config{CanaryTimeout: 200 * time.Millisecond, HealthTimeout: 100 * time.Millisecond},
	})
	if err := syscall.Kill(b.Status().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.ready(1)
	if b.restarts("hung") != 1 {
		t.Errorf("restarts because it hung: %v; want 1", b.restarts("hung"))
	}
}

// A long queue, or one request that gets no token, is no hang: the canary gets its token.
func TestTrapStuckRequestIsNoHang(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "ok", cfg: vllm.ServerConfig{StallTimeout: 50 * time.Millisecond}})
	b.post("/sim/faults", `{"kind":"hang","match":"stuck"}`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range b.Generate(ctx, completion(`{"prompt":"stuck","max_tokens":5}`)) { //nolint:errcheck // it is cut off
		}
	}()
	eventually(t, "two canaries", func() bool { return strings.Count(b.log.String(), "a canary decides") > 1 })
	cancel()
	<-ended
	if st := b.Status(); st.State != vllm.StateReady || st.Restarts != 0 {
		t.Errorf("status = %+v; want a ready engine that was never restarted", st)
	}
}

// vLLM exits with 0 when its engine core dies.
func TestTrapExitCodeZero(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "ok"})
	cut := make(chan error)
	go func() { cut <- collect(t.Context(), b.Engine, completion(longPrompt)).err }()
	b.post("/test/exit?code=0", "")
	if err := <-cut; err == nil {
		t.Error("a request in mid-flight has succeeded")
	}
	b.ready(1)
	if st := b.Status(); b.restarts("exited") != 1 || !strings.Contains(st.LastExit, "exited with code 0 after") {
		t.Errorf("restarts: %v; status %+v", b.restarts("exited"), st)
	}
	if h, err := b.Health(t.Context()); err != nil || h.Model != "m" {
		t.Errorf("health = %+v, %v", h, err)
	}
}

// The first process is killed; its children hold the GPU, and ignore SIGTERM.
func TestTrapOrphanedChildren(t *testing.T) {
	t.Parallel()
	for _, plan := range []string{"orphan|ok", "orphan in a session|ok"} {
		t.Run(plan, func(t *testing.T) {
			t.Parallel()
			b := launch(t, setting{plan: plan})
			rec := b.starts()[0]
			if !living(rec.Child) {
				t.Fatal("there is no child")
			}
			// What leaves the group is seen at the next look while its parent lives.
			eventually(t, "the memory of both is counted", func() bool { return b.Status().MemoryBytes > rss(t, rec.PID)+1<<20 })
			kill(t, rec.PID)
			eventually(t, "a second start", func() bool { return len(b.starts()) > 1 })
			if living(rec.Child) {
				t.Errorf("the child %d of the killed engine lives, and the next is started", rec.Child)
			}
			b.ready(1)
			if st := b.Status(); !strings.Contains(st.LastExit, "killed by signal 9") {
				t.Errorf("last exit %q", st.LastExit)
			}
		})
	}
}

// The first process is killed; the child that holds the port goes on answering.
func TestTrapOrphanHoldsThePort(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "child serves|ok"})
	rec := b.starts()[0]
	kill(t, rec.PID)
	b.ready(1)
	if len(b.starts()) != 2 || b.Status().PID != b.starts()[1].PID || living(rec.Child) {
		t.Errorf("starts %+v, status %+v; the old child lives: %t", b.starts(), b.Status(), living(rec.Child))
	}
}

// A child outlives a clean stop of its parent.
func TestTrapSIGTERMLeavesWorkersBehind(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "orphan"})
	rec := b.starts()[0]
	b.stop()
	if err := b.finish(); err != nil {
		t.Error(err)
	}
	if living(rec.PID) || living(rec.Child) {
		t.Errorf("alive after the stop: first process %t, child %t", living(rec.PID), living(rec.Child))
	}
	if st := b.Status(); st.State != vllm.StateStopped || st.PID != 0 || st.Restarts != 0 {
		t.Errorf("status = %+v", st)
	}
}

// Neither process minds SIGTERM.
func TestTrapSIGTERMIgnored(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "stubborn", cfg: vllm.ServerConfig{StopTimeout: 50 * time.Millisecond}}).run()
	eventually(t, "a start", func() bool { return len(b.starts()) == 1 })
	rec := b.starts()[0]
	b.stop()
	if err := b.finish(); err != nil || living(rec.PID) || living(rec.Child) {
		t.Errorf("Run = %v; alive after it: first process %t, child %t", err, living(rec.PID), living(rec.Child))
	}
}

// hxp itself is killed: nobody is left who could end the engine, apart from the kernel and the guard.
func TestTrapSupervisorKilled(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{}) // for its folder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+roleSupervisor, planVar+"=orphan", dirVar+"="+b.dir,
		fmt.Sprintf("TEST_VLLM_PORT=%d", freePort(t)), "GOCOVERDIR="+b.dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a start", func() bool { return len(b.starts()) == 1 })
	rec := b.starts()[0]
	eventually(t, "a guard", func() bool { return strings.Contains(cmdlines(t, cmd.Process.Pid), "hxp-engine-guard") })
	kill(t, cmd.Process.Pid)
	_ = cmd.Wait()
	eventually(t, "the engine and its child are gone", func() bool { return !living(rec.PID) && !living(rec.Child) })
}

// Warming up takes longer than it may; what has been started by then is ended.
func TestTrapStartTimeout(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "slow|ok", cfg: vllm.ServerConfig{StartTimeout: 1500 * time.Millisecond}}).run()
	eventually(t, "progress", func() bool { return strings.Contains(b.Status().Progress, "shards: 50%") })
	if words := b.unready(workers.ErrStarting); !strings.Contains(words, "for ") || !strings.Contains(words, "its log says: shards: 50%") {
		t.Errorf("health says %q", words)
	}
	b.ready(1)
	rec := b.starts()[0]
	if b.restarts("start_timeout") != 1 || living(rec.PID) || !strings.Contains(b.Status().LastExit, "not ready within 1.5s: ") {
		t.Errorf("restarts %v, status %+v, alive %t", b.restarts("start_timeout"), b.Status(), living(rec.PID))
	}
}

// vLLM refuses a flag: no restart will help.
func TestTrapUnknownFlag(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "refuse"}).run()
	err := b.finish()
	if err == nil || !strings.Contains(err.Error(), "refuses its arguments") || !strings.Contains(err.Error(), "unrecognized arguments: --enable-paged-attention") {
		t.Errorf("Run = %v", err)
	}
	if st := b.Status(); st.State != vllm.StateFailed || st.Restarts != 0 || len(b.starts()) != 1 {
		t.Errorf("status = %+v, %d starts", st, len(b.starts()))
	}
	_, err = b.Health(t.Context())
	if err == nil || errors.Is(err, workers.ErrStarting) || !strings.Contains(err.Error(), "the engine is failed") {
		t.Errorf("health = %v", err)
	}
}

// What was ready once is restarted after an exit code 2 as well.
func TestTrapExitCodeTwoLater(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "ok|refuse|ok"})
	kill(t, b.Status().PID)
	b.ready(2)
	if b.restarts("exited") != 1 || b.restarts("start_failed") != 1 {
		t.Errorf("restarts: %v exited, %v failed to start", b.restarts("exited"), b.restarts("start_failed"))
	}
}

// Somebody else listens where the engine should, and would be taken for it.
func TestTrapPortTaken(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBed(t, setting{plan: "ok", args: vllm.Args{Port: port}}).run()
	eventually(t, "two tries", func() bool { return b.Status().Restarts > 1 })
	if words := b.unready(workers.ErrStarting); !strings.Contains(words, "cannot listen on") || len(b.starts()) != 0 {
		t.Errorf("health says %q after %d starts", words, len(b.starts()))
	}
	l.Close()
	b.ready(2)
}

// An engine that dies at every start is started ever more slowly, and can be seen to.
func TestTrapCrashLoop(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{
		plan: "broken|broken|broken|ok|ok",
		cfg:  vllm.ServerConfig{MaxRestartDelay: 40 * time.Millisecond, Env: map[string]string{"HF_TOKEN": "hf_0123456789"}},
	}).run()
	eventually(t, "two crashes", func() bool { return b.Status().Streak >= 2 })
	if words := b.unready(workers.ErrStarting); !strings.Contains(words, "times in a row, at last: start_failed: exited with code 1") ||
		!strings.Contains(words, "no such model; token is [redacted]") {
		t.Errorf("health says %q", words)
	}
	b.ready(3)
	if st := b.Status(); st.Streak != 3 || b.restarts("start_failed") != 3 {
		t.Errorf("status = %+v, %v restarts", st, b.restarts("start_failed"))
	}
	if strings.Contains(b.log.String(), "hf_0123456789") {
		t.Error("a secret is in the log")
	}
	// Having been ready for long enough, it begins anew.
	eventually(t, "it has been ready for a while", func() bool { return time.Since(b.Status().Since) > 50*time.Millisecond })
	kill(t, b.Status().PID)
	b.ready(4)
	if st := b.Status(); st.Streak != 1 {
		t.Errorf("streak = %d after a long life; want 1", st.Streak)
	}
}

// The memory of all processes together is over the limit.
func TestTrapMemoryHog(t *testing.T) {
	t.Parallel()
	const limit = 384 << 20
	b := launch(t, setting{plan: "ok", cfg: vllm.ServerConfig{MemoryLimit: limit, MemoryGrace: time.Millisecond, Cgroup: t.TempDir()}})
	b.post(fmt.Sprintf("/test/hog?bytes=%d", limit), "")
	b.ready(1)
	if b.restarts("memory") != 1 || b.metric(`hxp_engine_memory_limit_exceeded_total{model="m"}`) != 1 {
		t.Errorf("restarts %v, over the limit %v", b.restarts("memory"), b.metric(`hxp_engine_memory_limit_exceeded_total{model="m"}`))
	}
	if st := b.Status(); !strings.Contains(st.LastExit, "the limit is 402653184") {
		t.Errorf("last exit %q", st.LastExit)
	}
}
