package workers_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
)

const (
	model  = "phi3"
	tenant = "acme"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The embedded server's write-behind goroutines end a moment after Shutdown has returned.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
	)
}

// broker is a nats-server of the test's own.
type broker struct {
	t    testing.TB
	opts *server.Options
	cfg  queue.Config
	srv  *server.Server
	port int
	nc   *nats.Conn
	js   jetstream.JetStream
}

// newBroker starts a broker without a port.
func newBroker(t testing.TB, cfg queue.Config) *broker {
	t.Helper()
	return startBroker(t, cfg, &server.Options{DontListen: true})
}

// newBrokerOnPort starts a broker that can be restarted.
func newBrokerOnPort(t testing.TB, cfg queue.Config) *broker {
	t.Helper()
	return startBroker(t, cfg, &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT})
}

func startBroker(t testing.TB, cfg queue.Config, opts *server.Options) *broker {
	t.Helper()
	opts.ServerName, opts.JetStream, opts.StoreDir, opts.NoSigs, opts.NoLog = "test", true, t.TempDir(), true, true
	opts.JetStreamMaxMemory, opts.JetStreamMaxStore = 64<<20, 16<<30
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatalf("nats-server: %v", err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server did not start")
	}
	cfg.MaxBytes, cfg.EventsMaxBytes, cfg.ResultsMaxBytes, cfg.MaxBodiesBytes = 64<<20, 64<<20, 64<<20, 64<<20
	b := &broker{t: t, opts: opts, cfg: cfg, srv: srv}
	if addr, ok := srv.Addr().(*net.TCPAddr); ok && !opts.DontListen {
		b.port = addr.Port
	}
	t.Cleanup(func() { b.srv.Shutdown(); b.srv.WaitForShutdown() })
	b.nc, b.js = b.connect()
	if _, err := queue.Ensure(t.Context(), b.js, []string{model}, cfg); err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	return b
}

func (b *broker) connect() (*nats.Conn, jetstream.JetStream) {
	b.t.Helper()
	opts := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond)}
	if b.port == 0 {
		opts = append(opts, nats.InProcessServer(b.srv))
	}
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", b.port), opts...)
	if err != nil {
		b.t.Fatalf("connect: %v", err)
	}
	b.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		b.t.Fatalf("jetstream: %v", err)
	}
	return nc, js
}

// started is a worker that runs until stop.
type started struct {
	*workers.Worker
	log  *lockedBuffer
	stop func() error
}

// run starts a worker on a connection of its own and waits until its engine is ready.
func (b *broker) run(engine workers.Engine, cfg workers.Config) *started {
	b.t.Helper()
	s := b.runUnready(engine, cfg)
	s.ready(b.t)
	return s
}

func (s *started) ready(t testing.TB) {
	t.Helper()
	// One whose engine is under pressure from the start is degraded, and takes jobs.
	waitFor(t, "the worker to be ready", func() bool { info := s.Info(); return info.Live() })
}

func (b *broker) runUnready(engine workers.Engine, cfg workers.Config) *started {
	b.t.Helper()
	return b.runAs(model, engine, cfg)
}

// runAs starts a worker of any model on a connection of its own.
func (b *broker) runAs(model string, engine workers.Engine, cfg workers.Config) *started {
	b.t.Helper()
	_, js := b.connect()
	return b.runAsOn(js, model, engine, cfg)
}

// runOn is runUnready on a connection of the test's.
func (b *broker) runOn(js jetstream.JetStream, engine workers.Engine, cfg workers.Config) *started {
	b.t.Helper()
	return b.runAsOn(js, model, engine, cfg)
}

func (b *broker) runAsOn(js jetstream.JetStream, model string, engine workers.Engine, cfg workers.Config) *started {
	b.t.Helper()
	cfg.HealthInterval = 40 * time.Millisecond
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = 20 * time.Millisecond
	}
	log := &lockedBuffer{}
	cfg.Logger = zerolog.New(log)
	w, err := workers.New(js, model, engine, cfg)
	if err != nil {
		b.t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	s := &started{Worker: w, log: log}
	s.stop = sync.OnceValue(func() error { cancel(); return <-done })
	b.t.Cleanup(func() {
		if err := s.stop(); err != nil {
			b.t.Errorf("Run = %v, want nil", err)
		}
		if b.t.Failed() {
			b.t.Logf("log of %s:\n%s", w.ID(), log.String())
		}
	})
	return s
}

// submit publishes a job as any NATS client can, and returns it.
func (b *broker) submit(job schemas.Job) schemas.Job {
	b.t.Helper()
	job.Model, job.Tenant = model, tenant
	if job.ID == "" {
		job.ID = uuid.Must(uuid.NewV7()).String()
	}
	if job.Body == nil {
		job.Body = json.RawMessage(`{"messages":[{"role":"user","content":"hi"}],"max_tokens":8}`)
	}
	job.SetDefaults()
	data, err := json.Marshal(job)
	if err != nil {
		b.t.Fatalf("marshal job: %v", err)
	}
	schematest.Validate(b.t, "job", data)
	b.publish(schemas.JobSubject(model, job.Class, tenant), job.ID, data)
	return job
}

func (b *broker) publish(subject, id string, data []byte) *jetstream.PubAck {
	b.t.Helper()
	msg := nats.NewMsg(subject)
	msg.Data = data
	if id != "" {
		msg.Header.Set(schemas.HeaderMsgID, id)
	}
	ack, err := b.js.PublishMsg(b.t.Context(), msg)
	if err != nil {
		b.t.Fatalf("publish to %s: %v", subject, err)
	}
	return ack
}

// listen collects the events on a subject from now on. Every event is checked against its schema.
func (b *broker) listen(subject string) *listener {
	b.t.Helper()
	l := &listener{t: b.t, ch: make(chan *nats.Msg, 4096)}
	sub, err := b.nc.ChanSubscribe(subject, l.ch)
	if err == nil {
		err = b.nc.Flush()
	}
	if err != nil {
		b.t.Fatalf("subscribe to %s: %v", subject, err)
	}
	b.t.Cleanup(func() {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			b.t.Errorf("unsubscribe: %v", err)
		}
	})
	return l
}

type listener struct {
	t  testing.TB
	ch chan *nats.Msg
}

func (l *listener) next() schemas.Event {
	l.t.Helper()
	select {
	case msg := <-l.ch:
		schematest.Validate(l.t, "event", msg.Data)
		var e schemas.Event
		if err := e.Decode(msg.Data); err != nil {
			l.t.Fatalf("event %s: %v", msg.Data, err)
		}
		return e
	case <-time.After(20 * time.Second):
		l.t.Fatal("no event in 20 s")
		return schemas.Event{}
	}
}

// until returns the events up to and including the first of a kind.
func (l *listener) until(kind schemas.Kind) []schemas.Event {
	l.t.Helper()
	var events []schemas.Event
	for {
		e := l.next()
		events = append(events, e)
		if e.Kind == kind {
			return events
		}
		if e.Kind.Terminal() {
			l.t.Fatalf("stream ended %s (%v) before %s: %v", e.Kind, e.Error, kind, kinds(events))
		}
	}
}

// end returns the events up to the terminal one and checks that they are numbered without a gap from first.
func (l *listener) end(first uint64) []schemas.Event {
	l.t.Helper()
	var events []schemas.Event
	for {
		e := l.next()
		if want := first + uint64(len(events)); e.Seq != want {
			l.t.Errorf("event %s has seq %d, want %d", e.Kind, e.Seq, want)
		}
		events = append(events, e)
		if e.Kind.Terminal() {
			return events
		}
	}
}

func kinds(events []schemas.Event) string {
	var s []string
	for _, e := range events {
		if e.Kind != schemas.DeltaKind || len(s) == 0 || s[len(s)-1] != "delta" {
			s = append(s, string(e.Kind))
		}
	}
	return strings.Join(s, " ")
}

func openaiText(e schemas.Event) (string, error) { return openai.Text(e.Choices) }

func textOf(t testing.TB, events []schemas.Event) string {
	t.Helper()
	var text strings.Builder
	for _, e := range events {
		if e.Kind == schemas.Restarted {
			text.Reset()
		}
		if e.Kind != schemas.DeltaKind {
			continue
		}
		s, err := openai.Text(e.Choices)
		if err != nil {
			t.Fatalf("choices %s: %v", e.Choices, err)
		}
		text.WriteString(s)
	}
	return text.String()
}

func (b *broker) result(job schemas.Job) *schemas.Result {
	b.t.Helper()
	var result *schemas.Result
	waitFor(b.t, "the result of "+job.ID, func() bool {
		r, err := queue.GetResult(b.t.Context(), b.js, tenant, job.ID)
		result = r
		return err == nil
	})
	data, err := json.Marshal(result)
	if err != nil {
		b.t.Fatalf("marshal result: %v", err)
	}
	schematest.Validate(b.t, "result", data)
	return result
}

// settled waits until the work queue holds n messages.
func (b *broker) settled(n uint64) {
	b.t.Helper()
	waitFor(b.t, fmt.Sprintf("the queue to hold %d messages", n), func() bool {
		s, err := b.js.Stream(b.t.Context(), schemas.JobsStream(model))
		if err != nil {
			b.t.Fatalf("stream: %v", err)
		}
		return s.CachedInfo().State.Msgs == n
	})
}

// deadLetters returns all dead letters there are.
func (b *broker) deadLetters(n int) []schemas.DeadLetter {
	b.t.Helper()
	var letters []schemas.DeadLetter
	waitFor(b.t, fmt.Sprintf("%d dead letters", n), func() bool {
		s, err := b.js.Stream(b.t.Context(), schemas.DeadStream)
		if err != nil {
			b.t.Fatalf("stream: %v", err)
		}
		letters = nil
		for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq && seq > 0; seq++ {
			msg, err := s.GetMsg(b.t.Context(), seq)
			if err != nil {
				b.t.Fatalf("dead letter %d: %v", seq, err)
			}
			schematest.Validate(b.t, "dead-letter", msg.Data)
			var d schemas.DeadLetter
			if err := json.Unmarshal(msg.Data, &d); err != nil {
				b.t.Fatalf("dead letter: %v", err)
			}
			letters = append(letters, d)
		}
		return len(letters) >= n
	})
	if len(letters) != n {
		b.t.Fatalf("%d dead letters, want %d: %+v", len(letters), n, letters)
	}
	return letters
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("waited 20 s for %s", what)
		case <-tick.C:
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ io.Writer = (*lockedBuffer)(nil)

// script is an engine that does what a test tells it to.
type script struct {
	mu       sync.Mutex
	requests []*workers.Request
	health   workers.Health
	sick     error
	prompt   []int
	raw      []string // choices to stream instead of words
	count    func(body []byte) (int, error)
	generate func(ctx context.Context, n int, req *workers.Request, emit func(words ...string) bool) error
}

func newScript(generate func(ctx context.Context, n int, req *workers.Request, emit func(words ...string) bool) error) *script {
	return &script{health: workers.Health{Model: model, MaxModelLen: 2048, Version: "1+script"}, generate: generate}
}

// says makes an engine that answers every request with the same words.
func says(words ...string) *script {
	return newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit(words...)
		return nil
	})
}

func (s *script) Generate(ctx context.Context, req *workers.Request) iter.Seq2[workers.Delta, error] {
	s.mu.Lock()
	s.requests = append(s.requests, req)
	n := len(s.requests)
	s.mu.Unlock()
	return func(yield func(workers.Delta, error) bool) {
		stopped := false
		send := func(raw string, usage *schemas.Usage, tokens int) bool {
			if stopped {
				return false
			}
			parts, err := openai.ParseChoices([]byte("["+raw+"]"), nil)
			if err != nil {
				panic(err)
			}
			stopped = !yield(workers.Delta{Choices: []byte(raw), Parts: parts, Tokens: tokens, Usage: usage, PromptTokens: s.prompt}, nil)
			return !stopped
		}
		for _, c := range s.raw {
			send(c, nil, 1)
		}
		if s.raw != nil {
			return
		}
		emitted := 0
		emit := func(words ...string) bool {
			for _, w := range words {
				emitted++
				if !send(choice(req.Endpoint, w, ""), nil, 1) {
					return false
				}
			}
			return ctx.Err() == nil
		}
		if err := s.generate(ctx, n, req, emit); err != nil {
			if !stopped {
				yield(workers.Delta{}, err)
			}
			return
		}
		send(choice(req.Endpoint, "", "stop"), &schemas.Usage{PromptTokens: 3, CompletionTokens: emitted, TotalTokens: 3 + emitted}, 0)
	}
}

func choice(endpoint schemas.Endpoint, text, finish string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	end := "null"
	if finish != "" {
		end = `"` + finish + `"`
	}
	if endpoint == schemas.Completions {
		return fmt.Sprintf(`{"index":0,"text":%s,"logprobs":null,"finish_reason":%s}`, quoted, end)
	}
	return fmt.Sprintf(`{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":%s}`, quoted, end)
}

func (s *script) CountTokens(_ context.Context, _ schemas.Endpoint, body []byte) (int, error) {
	if s.count == nil {
		return 0, workers.ErrUnsupported
	}
	return s.count(body)
}

func (s *script) Tokenize(context.Context, schemas.Endpoint, []byte) ([]int, error) {
	return nil, workers.ErrUnsupported
}

func (s *script) Load(context.Context) (workers.Load, error) {
	return workers.Load{}, workers.ErrUnsupported
}

func (s *script) Canary(context.Context) error { return nil }

func (s *script) Detokenize(context.Context, []int) (string, error) {
	return "", workers.ErrUnsupported
}

func (s *script) Health(context.Context) (workers.Health, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sick != nil {
		return workers.Health{}, s.sick
	}
	return s.health, nil
}

func (s *script) setSick(err error) {
	s.mu.Lock()
	s.sick = err
	s.mu.Unlock()
}

func (s *script) String() string { return "script" }

// seen returns the requests that reached the engine.
func (s *script) seen() []*workers.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*workers.Request(nil), s.requests...)
}

// mark identifies a prompt's tokens by the definition in package schemas.
func mark(ids []int) *schemas.Prompt {
	h := fnv.New64a()
	for _, id := range ids {
		_ = binary.Write(h, binary.LittleEndian, uint64(id))
	}
	return &schemas.Prompt{Tokens: len(ids), Hash: fmt.Sprintf("%016x", h.Sum64())}
}
