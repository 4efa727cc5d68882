package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asProcess makes the test's own binary behave as hxp.
const asProcess = "HXP_TEST_AS_PROCESS"

// process starts hxp as a process of its own, so that it can be sent signals.
func process(t *testing.T, args ...string) (cmd *exec.Cmd, stderr *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self, args...)
	cmd.Env = []string{asProcess + "=1", "PATH=" + os.Getenv("PATH")}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(pipe)
}

// until reads lines up to one that matches, and returns what the pattern's group has found in any line.
func until(t *testing.T, r *bufio.Reader, end string, pattern *regexp.Regexp) (found string) {
	t.Helper()
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		all.WriteString(line)
		if m := pattern.FindStringSubmatch(line); m != nil && found == "" {
			found = m[1]
		}
		if strings.Contains(line, end) {
			return found
		}
		if err != nil {
			t.Fatalf("%v before %q:\n%s", err, end, all.String())
		}
	}
}

func code(t *testing.T, err error) int {
	t.Helper()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if err != nil && !ok {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

var natsURL = regexp.MustCompile(`queue +(nats://\S+)`)

// TestE2ESignals sends the process what a terminal and an init system send.
func TestE2ESignals(t *testing.T) {
	t.Parallel()
	t.Run("the first one drains", func(t *testing.T) {
		t.Parallel()
		up, stderr := process(t, "up", "--random-ports", "--data", t.TempDir(), "--models", "phi3", "--sim-itl", "5ms")
		url := until(t, stderr, "ready in", natsURL)
		id := strings.TrimSpace(command(t.Context(), "", "submit", "phi3", "Hello", "--max-tokens", "40", "--server", url).must(t, exitOK).out)
		events := make(chan said, 1)
		go func() { events <- command(t.Context(), "", "watch", id, "-o", "ndjson", "--server", url) }()
		for command(t.Context(), "", "get", id, "--server", url).code != exitOK {
			if t.Context().Err() != nil {
				t.Fatal("the job does not start")
			}
		}
		if err := up.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if s := <-events; !strings.Contains(s.out, `"kind":"done"`) {
			t.Errorf("the job was not finished: %s %s", s.out, s.stderr)
		}
		until(t, stderr, "stopping: jobs in flight have 30s", natsURL)
		rest := make(chan struct{})
		go func() { defer close(rest); _, _ = stderr.WriteTo(&safe{}) }()
		<-rest
		if got := code(t, up.Wait()); got != exitOK {
			t.Errorf("exit code %d, want 0", got)
		}
	})
	t.Run("the second one ends at once", func(t *testing.T) {
		t.Parallel()
		up, stderr := process(t, "up", "--random-ports", "--redis-in-memory", "--data", t.TempDir(), "--models", "phi3", "--sim-itl", "100ms", "--set", "worker.drain_timeout=1h")
		url := until(t, stderr, "ready in", natsURL)
		id := strings.TrimSpace(command(t.Context(), "", "submit", "phi3", "Hello", "--server", url).must(t, exitOK).out)
		for command(t.Context(), "", "get", id, "--server", url).code != exitOK {
			if t.Context().Err() != nil {
				t.Fatal("the job does not start")
			}
		}
		if err := up.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		until(t, stderr, "stopping: jobs in flight have 1h", natsURL)
		began := time.Now()
		if err := up.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_, _ = stderr.WriteTo(&safe{})
		if got := code(t, up.Wait()); got != exitInterrupted {
			t.Errorf("exit code %d, want %d", got, exitInterrupted)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	t.Run("no arguments", func(t *testing.T) {
		t.Parallel()
		cmd, stderr := process(t)
		_, _ = stderr.WriteTo(&safe{})
		if got := code(t, cmd.Wait()); got != exitOK {
			t.Errorf("exit code %d, want 0", got)
		}
	})
}

// TestNotAllowed exits with 4 when the server forbids something, at once and with its subject.
func TestNotAllowed(t *testing.T) {
	t.Parallel()
	url := guarded(t)
	environ := func(user string) []string {
		return []string{"NATS_URL=" + url, "NATS_USER=" + user, "NATS_PASSWORD=pw"}
	}
	for _, tc := range []struct {
		user string
		args []string
		want string
	}{
		{"nobody", []string{"queue", "ls"}, "check nats.creds"},
		{"little", []string{"run", "phi3", "Hello"}, "hxp.v1.events.default."},
		{"little", []string{"get", "x"}, "$JS.API.DIRECT.GET"},
		{"little", []string{"workers", "ls"}, "$JS.API"},
	} {
		t.Run(fmt.Sprint(tc.user, tc.args), func(t *testing.T) {
			t.Parallel()
			var out, stderr safe
			if got := run(t.Context(), tc.args, strings.NewReader(""), &out, &stderr, environ(tc.user)); got != exitDenied {
				t.Errorf("exit code %d, want %d", got, exitDenied)
			}
			if !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("stderr = %q, want %q in it", stderr.String(), tc.want)
			}
		})
	}
}
