package producer_test

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// footprint is what the broker and this process hold for their connections.
type footprint struct {
	Clients, Subscriptions, Goroutines int
	Consumers                          map[string]int // by stream
}

func count(t *testing.T, srv *server.Server, js jetstream.JetStream) footprint {
	t.Helper()
	f := footprint{Consumers: map[string]int{}}
	streams := js.ListStreams(t.Context())
	for info := range streams.Info() { // the buckets are streams too
		f.Consumers[info.Config.Name] = info.State.Consumers
	}
	if err := streams.Err(); err != nil {
		t.Fatal(err)
	}
	f.Clients, f.Subscriptions, f.Goroutines = srv.NumClients(), int(srv.NumSubscriptions()), runtime.NumGoroutine()
	return f
}

// A client's connection is cut ten times while it reads the streams of jobs: some that it submitted,
// one that it follows, and one that nobody reads.
//
// Not in parallel with other tests: it counts the goroutines of the process.
func TestReconnectsLeaveNothingBehind(t *testing.T) {
	const jobs, rounds = 8, 10
	srv, err := server.NewServer(&server.Options{
		ServerName: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server did not start")
	}
	connect := func() *nats.Conn {
		nc, err := nats.Connect(fmt.Sprintf("nats://%s", srv.Addr().(*net.TCPAddr)), nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	r := &rig{t: t, nc: connect()}
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), r.js, []string{model}, small()); err != nil {
		t.Fatal(err)
	}
	nc := connect()
	// A stream looks at the record at once when it has heard nothing, as it does for what the cut lost.
	c, err := producer.New(nc, producer.Config{Tenant: tenant, IdleCheck: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })

	var tasks []*task
	var streams []*producer.Stream
	for range jobs {
		s := submit(t, c, chat())
		job := s.Job()
		k := &task{r: r, ctx: t.Context(), job: &job, subject: job.ReplyTo, attempt: 1}
		k.emit(schemas.Event{Kind: schemas.Started})
		tasks, streams = append(tasks, k), append(streams, s)
	}
	streams = append(streams, follow(t, c, tasks[0].job.ID, 0))
	x := &scene{rig: r}
	first := func(s *producer.Stream, n int) {
		t.Helper()
		if events, err := x.next(t, s, n); err != nil {
			t.Fatalf("%s, %v", kinds(events), err)
		}
	}
	for i, s := range streams[1:] {
		first(s, 2-i/(jobs-1)) // what is followed is not accepted here
	}
	var before footprint
	r.until("the counts stand still", func() bool {
		last := before
		<-time.After(50 * time.Millisecond)
		before = count(t, srv, r.js)
		return cmp.Equal(last, before)
	})
	for n := range rounds {
		if err := nc.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		for _, k := range tasks {
			k.delta(fmt.Sprintf("%d ", n)) // some while the client is away
		}
		r.flush()
		for _, s := range streams[1:] {
			first(s, 1)
		}
		r.until("the connection is back", func() bool { return nc.Stats().Reconnects == uint64(n+1) })
	}
	var diff string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if diff = cmp.Diff(before, count(t, srv, r.js)); diff == "" {
			break
		}
	}
	if diff != "" {
		t.Errorf("what is held after %d reconnects (-before +after):\n%s", rounds, diff)
	}
	for _, k := range tasks {
		if err := k.store(schemas.StatusCompleted, nil); err != nil {
			t.Fatal(err)
		}
		k.emit(schemas.Event{Kind: schemas.Done})
	}
	for i, s := range streams {
		events, err := read(t, s)
		if last := events[len(events)-1]; err != nil || last.Kind != schemas.Done || last.Seq != rounds+2 {
			t.Errorf("stream %d ends with %s, %v; want event %d, done", i, brief(events), err, rounds+2)
		}
		if want := rounds + 3; i == 0 && len(events) != want {
			t.Errorf("the stream that nobody read = %s; want %d events", brief(events), want)
		}
	}
}
