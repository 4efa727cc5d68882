package embedded_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/embedded"
)

const anyPort = "127.0.0.1:0"

func connect(t *testing.T, n *embedded.NATS) jetstream.JetStream {
	t.Helper()
	nc, err := n.Connect(nats.Name("test"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// seed leaves a directory in which two streams hold three messages each; a third was in memory.
func seed(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	n, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: anyPort})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	js := connect(t, n)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "M", Subjects: []string{"M"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"A", "B"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if _, err := js.Publish(t.Context(), name, []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestNATSKeepsWhatIsStored(t *testing.T) {
	t.Parallel()
	dir := seed(t)
	n, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: "localhost:-1", SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := connect(t, n).Stream(t.Context(), "A")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != 3 {
		t.Errorf("%d messages are left, want 3", got)
	}
	if n.MaxStore() < 1 {
		t.Errorf("MaxStore = %d", n.MaxStore())
	}
	n.Close()
	n.Close()
}

func TestNATSListens(t *testing.T) {
	t.Parallel()
	n, err := embedded.StartNATS(embedded.Config{Dir: filepath.Join(t.TempDir(), "not", "there"), Listen: anyPort, MaxStore: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if n.MaxStore() != 1<<30 {
		t.Errorf("MaxStore = %d, want what was asked for", n.MaxStore())
	}
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatalf("connect to %s: %v", n.URL(), err)
	}
	defer nc.Close()
	if nc.MaxPayload() != 8<<20 {
		t.Errorf("max payload = %d, want 8 MiB", nc.MaxPayload())
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(n.URL(), "nats://"))
	if err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("it listens on %s, want the loopback interface", n.URL())
	}
	js := connect(t, n)
	info, err := js.AccountInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Store != 0 || info.Streams != 0 {
		t.Errorf("a fresh server holds %+v", info)
	}
}

//nolint:tparallel // The cases use what this function closes when it returns.
func TestNATSRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port

	inUse := t.TempDir()
	n, err := embedded.StartNATS(embedded.Config{Dir: inUse, Listen: anyPort})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()

	file := filepath.Join(t.TempDir(), "file")
	noLock, noStore := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.WriteFile(file, nil, 0o600), os.Mkdir(filepath.Join(noLock, "nats.lock"), 0o700),
		os.WriteFile(filepath.Join(noStore, "jetstream"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		cfg  embedded.Config
		want []string
	}{
		{"no directory", embedded.Config{Listen: anyPort}, []string{"dir is empty"}},
		{"every fault", embedded.Config{Listen: "nonsense", MaxMemory: -1, MaxStore: -2, MaxPayload: -3},
			[]string{"dir is empty", `listen "nonsense" is not host:port`, "max_memory is -1", "max_store is -2", "max_payload is -3"}},
		{"other machines", embedded.Config{Dir: inUse, Listen: "0.0.0.0:0"}, []string{"must be a loopback address"}},
		{"other machines by name", embedded.Config{Dir: inUse, Listen: "example.com:0"}, []string{"must be a loopback address"}},
		{"no port", embedded.Config{Dir: inUse, Listen: "127.0.0.1:x"}, []string{"port must be 1 to 65535"}},
		{"port out of range", embedded.Config{Dir: inUse, Listen: "127.0.0.1:65536"}, []string{"port must be 1 to 65535"}},
		{"port taken", embedded.Config{Dir: t.TempDir(), Listen: fmt.Sprint("127.0.0.1:", port)}, []string{fmt.Sprintf("port %d of 127.0.0.1 cannot be used", port)}},
		{"directory in use", embedded.Config{Dir: inUse, Listen: anyPort}, []string{"another process is using the data", "choose another directory"}},
		{"directory is a file", embedded.Config{Dir: file, Listen: anyPort}, []string{"make the directory"}},
		{"lock cannot be written", embedded.Config{Dir: noLock, Listen: anyPort}, []string{"cannot be written"}},
		{"store cannot be written", embedded.Config{Dir: noStore, Listen: anyPort}, []string{"Can't start JetStream"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := embedded.StartNATS(c.cfg)
			if err == nil {
				n.Close()
				t.Fatal("it was started")
			}
			for _, want := range append(c.want, "embedded NATS: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
		})
	}
}

// The server itself would go on without the stream.
func TestNATSDamagedStream(t *testing.T) {
	t.Parallel()
	dir := seed(t)
	meta := filepath.Join(dir, "jetstream", "$G", "streams", "A", "meta.inf")
	whole, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"garbage": bytes.Repeat([]byte{0xff}, 100), "half": whole[:len(whole)/2], "empty": nil} {
		if err := os.WriteFile(meta, data, 0o600); err != nil {
			t.Fatal(err)
		}
		log := &logged{}
		n, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: anyPort, Logger: zerolog.New(log)})
		if err == nil {
			n.Close()
			t.Fatalf("%s: a server was started that has lost a stream", name)
		}
		if !strings.Contains(err.Error(), "stream A is damaged and was not loaded") || strings.Contains(err.Error(), "stream B") {
			t.Errorf("%s: error = %q", name, err)
		}
		if text := log.String(); !strings.Contains(text, "meta.inf") || !strings.Contains(text, `"level":"warn"`) {
			t.Errorf("%s: log = %s, want the server's own warning", name, text)
		}
	}
	if err := os.WriteFile(meta, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: anyPort})
	if err != nil {
		t.Fatalf("after it was restored: %v", err)
	}
	n.Close()
}

// Damage within the messages costs those messages, not the server.
func TestNATSDamagedMessages(t *testing.T) {
	t.Parallel()
	dir := seed(t)
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "A", "msgs", "*"))
	if err != nil || len(blocks) == 0 {
		t.Fatal(blocks, err)
	}
	for _, path := range blocks {
		if err := os.WriteFile(path, bytes.Repeat([]byte{0xa5}, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := &logged{}
	n, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: anyPort, Logger: zerolog.New(log)})
	if err != nil {
		if !strings.Contains(err.Error(), "damaged") {
			t.Errorf("error = %q", err)
		}
		return
	}
	defer n.Close()
	js := connect(t, n)
	stream, err := js.Stream(t.Context(), "B")
	if err != nil || stream.CachedInfo().State.Msgs != 3 {
		t.Errorf("the other stream: %v", err)
	}
	if _, err := js.Publish(t.Context(), "A", nil); err != nil {
		t.Errorf("publish to the damaged stream: %v", err)
	}
	if log.String() == "" {
		t.Error("nothing was said about the damage")
	}
}

// Closing while clients are busy neither hangs nor leaves anything behind.
func TestNATSCloseUnderLoad(t *testing.T) {
	t.Parallel()
	n, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: anyPort})
	if err != nil {
		t.Fatal(err)
	}
	js := connect(t, n)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "A", Subjects: []string{"A"}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	busy := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			if err := js.Conn().Publish("A", []byte("x")); err != nil {
				return
			}
			if i == 100 {
				close(busy)
			}
		}
	})
	<-busy
	closed := make(chan struct{})
	go func() { n.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("Close hangs")
	}
	js.Conn().Close()
	wg.Wait()
}

// logged collects what is logged, from any goroutine.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
