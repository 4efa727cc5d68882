package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// guarded starts a NATS server with JetStream whose user "little" may do nothing of hxp's.
func guarded(t *testing.T) string {
	t.Helper()
	deny := &server.SubjectPermission{Deny: []string{"hxp.>", "$JS.>", "$KV.>"}}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "all", Password: "pw"}, {Username: "little", Password: "pw", Permissions: &server.Permissions{Publish: deny, Subscribe: deny}}},
	})
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

// safe is a buffer that a command writes while a test reads it.
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

// cluster is an `hxp up`, in this process.
type cluster struct {
	app.Running
	stderr *safe
	// stop ends it as Ctrl-C does and returns its exit code.
	stop func() int
}

// start runs `hxp up` on free ports, with quick engines, and stops it when the test ends.
func start(t *testing.T, args ...string) *cluster {
	t.Helper()
	args = append([]string{"up", "--random-ports", "--redis-in-memory", "--data", t.TempDir(), "--sim-ttft", "1ms", "--sim-itl", "1ms"}, args...)
	return begin(t, args...)
}

// begin runs a command that goes on until it is interrupted, and waits until it has started.
func begin(t *testing.T, args ...string) *cluster {
	t.Helper()
	ctx, interrupt := context.WithCancelCause(context.Background())
	c := &cluster{stderr: &safe{}}
	started := make(chan struct{})
	ended := make(chan struct{})
	code := -1
	x := &cli{stdin: strings.NewReader(""), out: newOutput(&safe{}, c.stderr, nil)}
	x.started = func(r app.Running) { c.Running = r; close(started) }
	go func() {
		defer close(ended)
		code = x.run(ctx, args)
	}()
	c.stop = func() int {
		interrupt(app.ErrInterrupted)
		<-ended
		return code
	}
	t.Cleanup(func() { c.stop() })
	select {
	case <-started:
	case <-ended:
		t.Fatalf("hxp %s ended with %d:\n%s", strings.Join(args, " "), code, c.stderr)
	}
	return c
}

// said is what a command wrote, and how it ended.
type said struct {
	code        int
	out, stderr string
}

// hxp runs one command against the cluster.
func (c *cluster) hxp(t *testing.T, args ...string) said {
	t.Helper()
	return command(t.Context(), "", append(args, "--server", c.NATS)...)
}

// command runs one command line without an environment.
func command(ctx context.Context, stdin string, args ...string) said {
	var out, stderr safe
	code := run(ctx, args, strings.NewReader(stdin), &out, &stderr, nil)
	return said{code, out.String(), stderr.String()}
}

// golden compares text with a file under testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// must fails the test unless the command ended with the code.
func (s said) must(t *testing.T, code int) said {
	t.Helper()
	if s.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", s.code, code, s.out, s.stderr)
	}
	return s
}
