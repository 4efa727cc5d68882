package loadtest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const model = "phi3"

// patience bounds waits that end by an event.
const patience = time.Minute

// bench is a simulated engine behind a broker and a worker, and both ways to it.
type bench struct {
	sim    *vllmsim.Sim
	url    string
	js     jetstream.JetStream
	direct *loadtest.DirectTarget
	queued *loadtest.QueueTarget
}

// simulate serves an engine over HTTP.
func simulate(t *testing.T, cfg vllmsim.Config) (*vllmsim.Sim, string) {
	t.Helper()
	cfg.Model = model
	sim, err := vllmsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sim, serve(t, sim.Handler())
}

// serve answers HTTP until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// straight is the direct target of a URL.
func straight(t *testing.T, url string) *loadtest.DirectTarget {
	t.Helper()
	d, err := loadtest.NewDirect(loadtest.DirectConfig{URLs: map[string]string{model: url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// connect returns a broker with the model's queue.
func broker(t *testing.T) (connect func() *nats.Conn, js jetstream.JetStream) {
	t.Helper()
	server, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	connect = func() *nats.Conn {
		nc, err := server.Connect(nats.Timeout(patience), nats.MaxReconnects(-1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	js, err = jetstream.New(connect(), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	cfg := queue.Config{Storage: jetstream.MemoryStorage, MaxBytes: 8 << 20, EventsMaxBytes: 64 << 20, ResultsMaxBytes: 8 << 20, MaxBodiesBytes: 40 << 20}
	if _, err := queue.Ensure(t.Context(), js, []string{model}, cfg); err != nil {
		t.Fatal(err)
	}
	return connect, js
}

// through is the queue target of a connection.
func through(t *testing.T, cfg producer.Config, conns ...*nats.Conn) *loadtest.QueueTarget {
	t.Helper()
	q, err := loadtest.NewQueue(cfg, conns...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// newBench runs a worker before a simulated engine.
func newBench(t *testing.T, cfg vllmsim.Config) *bench {
	t.Helper()
	b := &bench{}
	b.sim, b.url = simulate(t, cfg)
	connect, js := broker(t)
	b.js = js
	engine, err := vllm.New(b.url, vllm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	w, err := workers.New(js, model, engine, workers.Config{DrainTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	b.direct = straight(t, b.url)
	b.queued = through(t, producer.Config{}, connect())
	return b
}

// phi3 is a mix of one model.
func phi3() loadtest.Mix { return loadtest.Mix{Models: []loadtest.Weighted{{Name: model}}} }
