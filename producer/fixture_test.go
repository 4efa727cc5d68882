package producer_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	model  = "phi3"
	tenant = "acme"
)

// patience bounds every wait that is meant to end by an event. No test needs it, however slow the
// machine is: with the library's own 2 s to connect, tests failed where many ran at once.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a broker with one model's queue, and a worker that speaks the wire protocol as told.
type rig struct {
	t      testing.TB
	server *embedded.NATS
	nc     *nats.Conn
	js     jetstream.JetStream
}

func small() queue.Config {
	return queue.Config{
		Storage: jetstream.MemoryStorage, MaxBytes: 8 << 20, EventsMaxBytes: 128 << 20, ResultsMaxBytes: 8 << 20, MaxBodiesBytes: 40 << 20,
	}
}

func newRig(t testing.TB, cfg queue.Config) *rig {
	t.Helper()
	r := newServer(t)
	if _, err := queue.Ensure(t.Context(), r.js, []string{model}, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func newServer(t testing.TB) *rig {
	t.Helper()
	server, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	r := &rig{t: t, server: server}
	r.nc = r.connect()
	r.js, err = jetstream.New(r.nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	nc, err := r.server.Connect(nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

// client is a client on a connection of its own.
func (r *rig) client(cfg producer.Config) *producer.Client {
	r.t.Helper()
	if cfg.Tenant == "" {
		cfg.Tenant = tenant
	}
	c, err := producer.New(r.connect(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// work serves the model until the test ends.
func (r *rig) work(handle func(*task)) {
	r.t.Helper()
	consumers, err := queue.Consumers(r.t.Context(), r.js, model)
	if err != nil {
		r.t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for _, consumer := range consumers {
		cc, err := consumer.Consume(func(msg jetstream.Msg) {
			job, err := schemas.DecodeJob(msg.Subject(), msg.Data(), "none")
			if err != nil {
				r.t.Errorf("decode job: %v", err)
				return
			}
			meta, err := msg.Metadata()
			if err != nil {
				r.t.Errorf("metadata: %v", err)
				return
			}
			tk := &task{r: r, ctx: ctx, job: job, msg: msg, attempt: int(meta.NumDelivered)}
			tk.subject, _, _ = schemas.ReplySubject(job.ReplyTo, job.Tenant, job.ID)
			running.Go(func() { handle(tk) })
		}, jetstream.PullMaxMessages(64))
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { cc.Stop(); <-cc.Closed() })
	}
	r.t.Cleanup(func() { cancel(); running.Wait() })
}

// task is one job in the hands of the worker.
type task struct {
	r       *rig
	ctx     context.Context
	job     *schemas.Job
	msg     jetstream.Msg
	subject string
	seq     uint64
	attempt int
	text    string
}

func (k *task) emit(e schemas.Event) {
	k.seq++
	e.ID, e.Seq, e.Attempt, e.TS = k.job.ID, k.seq, k.attempt, time.Now().UnixMicro()
	k.r.publish(k.subject, e)
}

func (k *task) delta(text string) {
	k.text += text
	k.emit(delta(text))
}

// store writes the Result; the next event is the terminal one.
func (k *task) store(status schemas.Status, why *schemas.Error) error {
	return queue.PutResult(k.ctx, k.r.js, &schemas.Result{
		ID: k.job.ID, Model: k.job.Model, Class: k.job.Class, Tenant: k.job.Tenant, Endpoint: k.job.Endpoint,
		Status: status, Text: k.text, Attempts: k.attempt, Error: why, Metadata: k.job.Metadata,
		Created: k.job.Created, Finished: time.Now().UTC(), LastSeq: k.seq + 1,
	})
}

func (k *task) end(status schemas.Status, why *schemas.Error) {
	if err := k.store(status, why); err != nil {
		k.r.t.Errorf("store result: %v", err)
	}
	k.emit(schemas.Event{Kind: status.Kind(), Error: why})
	if err := k.msg.Ack(); err != nil {
		k.r.t.Errorf("ack: %v", err)
	}
}

// say is a worker that answers every job with the given pieces.
func say(pieces ...string) func(*task) {
	return func(k *task) {
		k.emit(schemas.Event{Kind: schemas.Started, Worker: "w1"})
		for _, p := range pieces {
			k.delta(p)
		}
		k.end(schemas.StatusCompleted, nil)
	}
}

func delta(text string) schemas.Event {
	return schemas.Event{Kind: schemas.DeltaKind, Choices: fmt.Appendf(nil, `[{"index":0,"delta":{"content":%q}}]`, text)}
}

func (r *rig) publish(subject string, e schemas.Event) {
	if err := r.nc.Publish(subject, e.Append(nil)); err != nil {
		r.t.Errorf("publish %s: %v", subject, err)
	}
}

func (r *rig) publishRaw(subject string) {
	if err := r.nc.Publish(subject, nil); err != nil {
		r.t.Errorf("publish %s: %v", subject, err)
	}
}

// flush waits until the server has everything published so far.
func (r *rig) flush() {
	r.t.Helper()
	if err := r.nc.Flush(); err != nil {
		r.t.Fatal(err)
	}
}

// recorded waits until the record of a job holds n events.
func (r *rig) recorded(job string, n int) {
	r.t.Helper()
	r.until(fmt.Sprintf("record of job %s holds %d events", job, n), func() bool {
		events, err := queue.ReadRecord(r.t.Context(), r.js, tenant, job, 0)
		return err == nil && len(events) >= n
	})
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("never happened: %s", what)
		}
	}
}

// purge removes a job's record.
func (r *rig) purge(job string) {
	r.t.Helper()
	r.flush()
	s, err := r.js.Stream(r.t.Context(), schemas.EventsStream)
	if err == nil {
		err = s.Purge(r.t.Context(), jetstream.WithPurgeSubject(schemas.EventsOfJob(tenant, job)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func chat() schemas.Job {
	return schemas.Job{Model: model, Body: []byte(`{"messages":[{"role":"user","content":"a<b & c"}],"stream":true}`)}
}

func submit(t testing.TB, c *producer.Client, job schemas.Job) *producer.Stream {
	t.Helper()
	s, err := c.Submit(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func follow(t testing.TB, c *producer.Client, id string, after uint64) *producer.Stream {
	t.Helper()
	s, err := c.Follow(t.Context(), id, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// read reads a stream to its end, within a bound that no test needs.
func read(t testing.TB, s *producer.Stream) ([]schemas.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var events []schemas.Event
	for e, err := range s.Events(ctx) {
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
	return events, nil
}

// brief is an event for people: seq/attempt kind text.
func brief(events []schemas.Event) []string {
	var out []string
	for _, e := range events {
		line := fmt.Sprintf("%d/%d %s", e.Seq, e.Attempt, e.Kind)
		if len(e.Choices) > 0 {
			line += " " + string(e.Choices)
		}
		out = append(out, line)
	}
	return out
}
