package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// safe is a buffer that one goroutine writes and another reads.
type safe struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// role is a role that runs in the test's process.
type role struct {
	app.Running
	cfg    *app.Config
	stderr *safe
	ended  chan struct{}
	err    error
	cancel context.CancelFunc
}

// stop ends the role and returns its error.
func (r *role) stop() error {
	r.cancel()
	<-r.ended
	return r.err
}

// up runs Up on free ports with engines as fast as they can be.
func up(t *testing.T, cfg *app.Config, o app.UpOptions) *role {
	t.Helper()
	o.RandomPorts, o.InMemoryRedis, o.Data = true, true, t.TempDir()
	return begin(t, cfg, func(ctx context.Context, r *role, started func(app.Running)) error {
		o.Stderr, o.Started = r.stderr, started
		return app.Up(ctx, cfg, o)
	})
}

func begin(t *testing.T, cfg *app.Config, f func(ctx context.Context, r *role, started func(app.Running)) error) *role {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &role{cfg: cfg, stderr: &safe{}, ended: make(chan struct{}), cancel: cancel}
	started := make(chan struct{})
	go func() {
		defer close(r.ended)
		r.err = f(ctx, r, func(w app.Running) { r.Running = w; close(started) })
	}()
	t.Cleanup(func() { _ = r.stop() })
	select {
	case <-started:
	case <-r.ended:
		t.Fatalf("it ended before it had started: %v\n%s", r.err, r.stderr)
	}
	cfg.NATS.URL = r.NATS
	return r
}

// quick is a configuration with few models and small bounds.
func quick(t *testing.T, flags ...string) *app.Config {
	t.Helper()
	values := []app.FlagValue{{Path: "queue.max_bytes", Value: "1MiB"}, {Path: "queue.events_max_bytes", Value: "1MiB"}, {Path: "queue.results_max_bytes", Value: "1MiB"},
		{Path: "queue.max_bodies_bytes", Value: "64MiB"}}
	for _, f := range flags {
		path, value, _ := strings.Cut(f, "=")
		values = append(values, app.FlagValue{Path: path, Value: value, Flag: "--set"})
	}
	only := file(t, "ai_model_services: {mixtral: null, hermes: null, openchat: null}\n")
	return load(t, app.LoadOptions{Files: []string{only}, Flags: values})
}

// dial connects as the default tenant.
func dial(t *testing.T, cfg *app.Config) *app.Client {
	t.Helper()
	c, err := app.NewClient(t.Context(), cfg, cfg.Tenant, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// fault arms a fault in a simulated engine.
func fault(t *testing.T, engine, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, engine+"/sim/faults", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil && strings.Contains(body, "crash") {
		return // it has taken the answer along
	}
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("arm %s: status %d", body, resp.StatusCode)
	}
}

// broker starts a bare NATS server of the test's own.
func broker(t *testing.T, o server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog, o.StoreDir = "127.0.0.1", -1, true, true, t.TempDir()
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10e9) {
		t.Fatal("the server does not start")
	}
	return s.ClientURL()
}

func wantError(t *testing.T, err error, is error, parts ...string) {
	t.Helper()
	if err == nil || is != nil && !errors.Is(err, is) {
		t.Fatalf("error = %v, want %v", err, is)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error = %q, want %q in it", err, p)
		}
	}
}

// loopback is an address of this machine that other processes' tests do not use.
func loopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 2+pid>>16&0x7f, pid>>8&0xff, 1+pid&0x7f)
}
