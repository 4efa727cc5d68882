//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

const (
	model  = "phi3"
	tenant = "chaos"
)

// bed is the installation that a scenario breaks: brokers, engines and workers, each a process.
type bed struct {
	t       *testing.T
	dir     string
	lease   time.Duration
	brokers []*broker
	nc      *nats.Conn
	js      jetstream.JetStream
	set     []string // settings of the workers, as path=value
	verdict []string // what was not kept; said again after the logs
}

type broker struct {
	program
	port int
}

// newBed starts so many brokers and connects to them. Settings are for the workers.
func newBed(t *testing.T, brokers int, lease time.Duration, set ...string) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir(), lease: lease}
	b.set = append([]string{
		"queue.lease=" + lease.String(), fmt.Sprintf("queue.replicas=%d", brokers),
		"queue.max_bytes=64MiB", "queue.events_max_bytes=512MiB", "queue.results_max_bytes=128MiB",
		// What is counted against a job here is the suite's doing.
		"worker.attempts=50",
	}, set...)
	t.Cleanup(func() {
		for _, v := range b.verdict {
			t.Log(v)
		}
	})
	b.startBrokers(brokers)
	b.connect()
	return b
}

func (b *bed) startBrokers(n int) {
	b.t.Helper()
	routes := make([]string, n)
	for i := range routes {
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", freePort(b.t))
	}
	for i := range n {
		s := &broker{port: freePort(b.t)}
		s.program = program{t: b.t, dir: b.dir, name: fmt.Sprintf("nats-%d", i+1)}
		args := []string{natsBinary, "-a", "127.0.0.1", "-p", fmt.Sprint(s.port), "-js", "-sd", b.dir + "/store-" + s.name, "-n", s.name}
		if n > 1 {
			args = append(args, "--cluster_name", "chaos", "--cluster", routes[i], "--routes", strings.Join(routes, ","))
		}
		s.args = func() []string { return args }
		b.brokers = append(b.brokers, s)
		s.run()
	}
}

func (s *broker) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

func (b *bed) url() string {
	var urls []string
	for _, s := range b.brokers {
		urls = append(urls, s.url())
	}
	return strings.Join(urls, ",")
}

func (b *bed) connect() {
	b.t.Helper()
	eventually(b.t, 20*time.Second, "connect to NATS", func() bool {
		nc, err := nats.Connect(b.url(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.Timeout(time.Second),
			nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
		b.nc = nc
		return err == nil
	})
	b.t.Cleanup(b.nc.Close)
	js, err := jetstream.New(b.nc)
	if err != nil {
		b.t.Fatal(err)
	}
	b.js = js
	eventually(b.t, 30*time.Second, "JetStream", func() bool {
		ctx, stop := context.WithTimeout(b.t.Context(), time.Second)
		defer stop()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
}

// engine is a simulated engine that can be killed.
type engine struct {
	program
	url string
}

func (b *bed) engine(name string, itl time.Duration, set ...string) *engine {
	b.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(b.t))
	e := &engine{url: "http://" + address}
	e.program = program{t: b.t, dir: b.dir, name: name, args: func() []string {
		args := []string{hxpBinary, "sim", model, "--listen", address, "--ttft", "20ms", "--itl", itl.String()}
		for _, s := range set {
			args = append(args, "--set", s)
		}
		return args
	}}
	e.run()
	e.ready()
	return e
}

func (e *engine) ready() {
	e.t.Helper()
	eventually(e.t, 20*time.Second, e.name+" is ready", func() bool { return answers(e.url + "/health") })
}

func answers(url string) bool {
	client := http.Client{Timeout: time.Second}
	r, err := client.Get(url)
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// stats is what the engine has done.
func (e *engine) stats() (stats vllmsim.Stats) {
	e.t.Helper()
	r, err := http.Get(e.url + "/sim/stats")
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&stats); err != nil {
		e.t.Fatal(err)
	}
	return stats
}

// inject lets a fault happen on the engine.
func (e *engine) inject(f vllmsim.Fault) {
	e.t.Helper()
	body, err := json.Marshal(f)
	if err != nil {
		e.t.Fatal(err)
	}
	r, err := http.Post(e.url+"/sim/faults", "application/json", bytes.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode >= 300 {
		e.t.Fatalf("inject %s into %s: %s", body, e.name, r.Status)
	}
}

// worker is a worker that can be killed. Each of its lives has an id of its own.
type worker struct {
	program
	lives  atomic.Int64
	health string
}

func (w *worker) id() string { return fmt.Sprintf("%s-%d", w.name, w.lives.Load()) }

// worker starts a worker on an engine. Settings are besides the bed's.
func (b *bed) worker(name string, on *engine, slots int, set ...string) *worker {
	b.t.Helper()
	return b.workerVia(name, b.url, on, slots, set...)
}

// workerVia is worker for one that reaches the broker at another address.
func (b *bed) workerVia(name string, server func() string, on *engine, slots int, set ...string) *worker {
	b.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(b.t))
	w := &worker{health: "http://" + address + "/readyz"}
	w.program = program{t: b.t, dir: b.dir, name: name, args: func() []string {
		w.lives.Add(1)
		args := []string{
			hxpBinary, "worker", "--model", model, "--engine", on.url, "--id", w.id(), "--slots", fmt.Sprint(slots),
			"--server", server(), "--listen", address,
		}
		for _, s := range slices.Concat(b.set, set) {
			args = append(args, "--set", s)
		}
		return args
	}}
	w.run()
	w.ready()
	return w
}

func (w *worker) ready() {
	w.t.Helper()
	eventually(w.t, 60*time.Second, w.name+" is ready", func() bool { return answers(w.health) })
}
