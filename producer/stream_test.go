package producer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestEventsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	why := errors.New("reader left")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	n := 0
	for e, err := range x.s.Events(ctx) {
		if n++; n == 1 && e.Kind == schemas.Accepted {
			time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
			continue
		}
		if !errors.Is(err, why) {
			t.Errorf("got %v, %v; want %v", e, err, why)
		}
	}
	if n != 2 {
		t.Errorf("%d yields, want 2", n)
	}
	// During a fill as well.
	x.live(1, 2, schemas.Done, "")
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	for _, err := range x.s.Events(ctx) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want DeadlineExceeded", err)
		}
	}
	x.live(1, 1, schemas.Started, "")
	x.expect(t, x.s, "1 started, 2 done")
}

func TestOneReaderAtATime(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	for _, err := range x.s.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(t, x.s); !errors.Is(err, producer.ErrBusy) {
			t.Errorf("second reader = %v, want ErrBusy", err)
		}
		break
	}
}

func TestCloseEndsStreams(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Started, "")
	x.flush()
	if err := x.c.Close(); err != nil {
		t.Fatal(err)
	}
	events, err := read(t, x.s)
	if want := "0 accepted, 1 started"; !errors.Is(err, producer.ErrClosed) || kinds(events) != want {
		t.Errorf("%s, %v; want %s and ErrClosed", kinds(events), err, want)
	}
	if _, err := x.s.Result(t.Context()); !errors.Is(err, producer.ErrClosed) {
		t.Errorf("Result = %v, want ErrClosed", err)
	}
	if _, err := x.c.Submit(t.Context(), chat()); !errors.Is(err, producer.ErrClosed) {
		t.Errorf("Submit = %v, want ErrClosed", err)
	}
	if _, err := x.c.Follow(t.Context(), "x", 0); !errors.Is(err, producer.ErrClosed) {
		t.Errorf("Follow = %v, want ErrClosed", err)
	}
	if err := x.c.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestCloseDuringAFill(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 2, schemas.DeltaKind, "a")
	x.flush()
	for _, err := range x.s.Events(t.Context()) {
		if err == nil { // Accepted; the gap is next
			time.AfterFunc(50*time.Millisecond, x.s.Close)
			continue
		}
		if !errors.Is(err, producer.ErrClosed) {
			t.Errorf("error = %v, want ErrClosed", err)
		}
	}
}

func TestStreamOutlivesALostConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	nc := r.connect()
	c, err := producer.New(nc, producer.Config{Tenant: tenant, IdleCheck: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := submit(t, c, chat())
	job := s.Job()
	k := &task{r: r, ctx: t.Context(), job: &job, subject: job.ReplyTo, attempt: 1}
	k.emit(schemas.Event{Kind: schemas.Started})
	x := &scene{rig: r}
	if _, err := x.next(t, s, 2); err != nil {
		t.Fatal(err)
	}
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	k.delta("while away")
	if err := k.store(schemas.StatusCompleted, nil); err != nil {
		t.Fatal(err)
	}
	k.emit(schemas.Event{Kind: schemas.Done})
	events, err := read(t, s)
	if want := "2 delta, 3 done"; err != nil || kinds(events) != want {
		t.Errorf("%s, %v; want %s", kinds(events), err, want)
	}
	if nc.Stats().Reconnects == 0 && nc.Status() != nats.CONNECTED {
		t.Error("the connection was never lost")
	}
}

func TestStreamsMissing(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	if err := x.js.DeleteStream(t.Context(), schemas.ResultsStream); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, x.s); !errors.Is(err, producer.ErrNotSetUp) {
		t.Errorf("error = %v, want ErrNotSetUp", err)
	}
}

// mute is a server on which requests to JetStream are heard and never answered.
func mute(t *testing.T) *nats.Conn {
	t.Helper()
	nc := plainServer(t)
	if _, err := nc.Subscribe("$JS.API.>", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestReaderLeavesWhileNobodyAnswers(t *testing.T) {
	t.Parallel()
	nc := mute(t)
	c, err := producer.New(nc, producer.Config{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	why := errors.New("reader left")
	leave := func() context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(30*time.Millisecond, func() { cancel(why) })
		return ctx
	}
	s := follow(t, c, "j", 0)
	for _, err := range s.Events(leave()) { // during a look
		if !errors.Is(err, why) {
			t.Errorf("error = %v, want %v", err, why)
		}
	}
	e := schemas.Event{ID: "j", Seq: 2, Attempt: 1, Kind: schemas.Done}
	if err := nc.Publish(schemas.EventSubject(tenant, "a", "j"), e.Append(nil)); err != nil {
		t.Fatal(err)
	}
	for _, err := range s.Events(leave()) { // during a fill
		if !errors.Is(err, why) {
			t.Errorf("error = %v, want %v", err, why)
		}
	}
	if _, err := s.Result(leave()); !errors.Is(err, why) {
		t.Errorf("Result = %v, want %v", err, why)
	}
}

func TestStreamOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func(listen string) *embedded.NATS {
		server, err := embedded.StartNATS(embedded.Config{Dir: dir, Listen: listen})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		return server
	}
	server := start("127.0.0.1:0")
	r := &rig{t: t, server: server}
	var err error
	connect := func() *nats.Conn {
		nc, err := nats.Connect(server.URL(), nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	r.nc = connect()
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	cfg := small()
	cfg.Storage = jetstream.FileStorage
	if _, err := queue.Ensure(t.Context(), r.js, []string{model}, cfg); err != nil {
		t.Fatal(err)
	}
	nc := connect()
	c, err := producer.New(nc, producer.Config{Tenant: tenant, IdleCheck: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := submit(t, c, chat())
	job := s.Job()
	k := &task{r: r, ctx: t.Context(), job: &job, subject: job.ReplyTo, attempt: 1}
	k.emit(schemas.Event{Kind: schemas.Started})
	k.delta("before ")
	r.recorded(job.ID, 2)
	x := &scene{rig: r}
	if _, err := x.next(t, s, 3); err != nil {
		t.Fatal(err)
	}
	back := make(chan struct{}, 2)
	for _, nc := range []*nats.Conn{nc, r.nc} {
		nc.SetReconnectHandler(func(*nats.Conn) { back <- struct{}{} })
	}
	got := make(chan outcome, 1)
	go func() { // reads on, and looks, all the while
		events, err := read(t, s)
		got <- outcome{events, err}
	}()
	server.Close()
	start(strings.TrimPrefix(server.URL(), "nats://"))
	<-back
	<-back
	k.delta("after")
	if err := k.store(schemas.StatusCompleted, nil); err != nil {
		t.Fatal(err)
	}
	k.emit(schemas.Event{Kind: schemas.Done})
	if g := <-got; g.err != nil || kinds(g.events) != "3 delta, 4 done" {
		t.Errorf("%s, %v; want 3 delta, 4 done", kinds(g.events), g.err)
	}
}
