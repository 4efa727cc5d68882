package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

// TestSpecificationStartsFourWorkers starts the specification's own configuration, with the ports it
// names: on a loopback address of this test's, so that nothing else is there.
func TestSpecificationStartsFourWorkers(t *testing.T) {
	t.Parallel()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 2+pid>>16&0x7f, pid>>8&0xff, 130+pid%100)
	c := begin(t, "up", "-c", "../internal/app/testdata/spec.yaml", "--set", "service_network.internal_communication.localhost="+host,
		"--nats-listen", "127.0.0.1:0", "--redis-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--redis-in-memory", "--sim-ttft", "0", "--sim-itl", "0")
	for i, model := range []string{"mixtral", "hermes", "openchat", "phi3"} {
		if want := fmt.Sprintf("http://%s:%d", host, 11400+i); c.Engines[model] != want {
			t.Errorf("%s: engine %s, want %s", model, c.Engines[model], want)
		}
		c.hxp(t, "run", model, "Hello", "--system", "Be kind.", "--max-tokens", "4").must(t, exitOK)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.HTTP+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || len(c.Workers) != 4 {
		t.Errorf("readyz: %d with workers %v, want 200 and four", resp.StatusCode, c.Workers)
	}
}

// TestE2EHangup sends a process SIGHUP: it reads its configuration again and goes on.
func TestE2EHangup(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "hxp.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("worker: {attempts: 4}\n")
	up, stderr := process(t, "up", "-c", config, "--random-ports", "--redis-in-memory", "--data", t.TempDir(), "--models", "phi3")
	url := until(t, stderr, "ready in", natsURL)
	if err := up.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, stderr, "configuration: reloaded, nothing that concerns this process has changed", natsURL)
	write("worker: {attempts: 4}\nai_model_services: {phi3: {sampling: {max_tokens_range: [1, 3]}}}\n")
	if err := up.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, stderr, "configuration: reloaded: ai_model_services.phi3.sampling.max_tokens_range", regexp.MustCompile(`(x)`))
	s := command(t.Context(), "", "run", "phi3", "Hello", "--max-tokens", "4", "--server", url).must(t, exitFailed)
	if !strings.Contains(s.stderr, "want 1 to 3") {
		t.Errorf("stderr = %q, want the new bound", s.stderr)
	}
	if err := up.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_, _ = stderr.WriteTo(&safe{})
	if got := code(t, up.Wait()); got != exitOK {
		t.Errorf("exit code %d, want 0", got)
	}
}

// TestHangupOfTheTerminal ends what runs in a terminal that has gone.
//
//nolint:paralleltest // The signal goes to the whole process.
func TestHangupOfTheTerminal(t *testing.T) {
	tty := filepath.Join(t.TempDir(), "tty")
	if err := os.WriteFile(tty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, hangups, stop := (&cli{terminal: tty}).hangups(t.Context())
	defer stop()
	hup := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	hup()
	select {
	case <-hangups:
	case <-time.After(10 * time.Second):
		t.Fatal("no hangup has come")
	}
	if err := os.Remove(tty); err != nil {
		t.Fatal(err)
	}
	hup()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the command goes on without its terminal")
	}
	if got := context.Cause(ctx); got != app.ErrInterrupted {
		t.Errorf("cause = %v, want that it was interrupted", got)
	}
}

func TestWorkerFlags(t *testing.T) {
	t.Parallel()
	s := command(t.Context(), "", "worker", "--model", "mixtral", "--engine", "vllm", "--set", "ai_model_services.mixtral.model_path=").must(t, exitUsage)
	if !strings.Contains(s.stderr, "ai_model_services.mixtral.model_path is empty") {
		t.Errorf("stderr = %q, want what an engine to start needs", s.stderr)
	}
	s = command(t.Context(), "", "worker", "--help").must(t, exitOK)
	if !strings.Contains(s.out, "hxp worker --model mixtral --engine vllm") {
		t.Errorf("help without the engine that is started:\n%s", s.out)
	}
}
