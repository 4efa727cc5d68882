package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// stage is a queue, conversations, and a worker that does as the test says.
type stage struct {
	t     *testing.T
	cfg   *app.Config
	nats  *embedded.NATS
	js    jetstream.JetStream
	nc    *nats.Conn
	redis *embedded.Redis
	store *conversation.Store
	acts  chan func(*act)
	// client is that of the last chat.
	client *app.Client
}

// act is one job in the hands of the worker.
type act struct {
	*stage
	ctx     context.Context
	job     *schemas.Job
	msg     jetstream.Msg
	seq     uint64
	attempt int
	text    string
	turn    schemas.Turn
}

func newStage(t *testing.T) *stage {
	t.Helper()
	n, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	r, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: t.TempDir(), InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	rdb := redis.NewClient(&redis.Options{Addr: r.Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	s := &stage{t: t, cfg: quick(t, "nats.url="+n.URL(), "redis.url=redis://"+r.Addr()), nats: n, redis: r, acts: make(chan func(*act), 16)}
	if s.store, err = conversation.New(rdb, conversation.Config{}); err != nil {
		t.Fatal(err)
	}
	if s.nc, err = n.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.nc.Close)
	if s.js, err = jetstream.New(s.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), s.js, []string{"hermes"}, queue.Config{
		Storage: jetstream.MemoryStorage, MaxBytes: 4 << 20, EventsMaxBytes: 4 << 20, ResultsMaxBytes: 4 << 20, MaxBodiesBytes: 4 << 20,
	}); err != nil {
		t.Fatal(err)
	}
	s.work()
	return s
}

// work serves the model until the test ends: each job takes the next of acts.
func (s *stage) work() {
	consumers, err := queue.Consumers(s.t.Context(), s.js, "hermes")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	cc, err := consumers[schemas.Interactive].Consume(func(msg jetstream.Msg) {
		job, err := schemas.DecodeJob(msg.Subject(), msg.Data(), "none")
		if err != nil {
			s.t.Errorf("decode job: %v", err)
			return
		}
		a := &act{stage: s, ctx: ctx, job: job, msg: msg, attempt: 1, turn: schemas.Turn{Session: job.Session.ID}}
		running.Go(func() {
			select {
			case play := <-s.acts:
				play(a)
			case <-ctx.Done():
			}
		})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cc.Stop(); <-cc.Closed(); cancel(); running.Wait() })
}

// next says what the worker does with the next job.
func (s *stage) next(plays ...func(*act)) {
	for _, p := range plays {
		s.acts <- p
	}
}

func (a *act) emit(e schemas.Event) {
	a.seq++
	e.Seq = a.seq
	a.at(e)
}

// at publishes an event with the number that it has.
func (a *act) at(e schemas.Event) {
	e.ID, e.Attempt, e.TS = a.job.ID, a.attempt, time.Now().UnixMicro()
	subject, _, _ := schemas.ReplySubject(a.job.ReplyTo, a.job.Tenant, a.job.ID)
	if err := a.nc.Publish(subject, e.Append(nil)); err != nil {
		a.t.Errorf("publish: %v", err)
	}
}

func (a *act) delta(text string) {
	a.text += text
	a.emit(delta(text))
}

func delta(text string) schemas.Event {
	return schemas.Event{Kind: schemas.DeltaKind, Choices: fmt.Appendf(nil, `[{"index":1,"delta":{"content":"no"}},{"index":0,"delta":{"content":%q}}]`, text)}
}

// end stores the Result and says so.
func (a *act) end(status schemas.Status, why *schemas.Error) {
	turn := a.turn
	if err := queue.PutResult(a.ctx, a.js, &schemas.Result{
		ID: a.job.ID, Model: a.job.Model, Class: a.job.Class, Tenant: a.job.Tenant, Endpoint: a.job.Endpoint, Turn: &turn,
		Status: status, Text: a.text, Attempts: a.attempt, Error: why, Finished: time.Now().UTC(), LastSeq: a.seq + 1,
	}); err != nil {
		a.t.Errorf("store result: %v", err)
	}
	a.emit(schemas.Event{Kind: status.Kind(), Error: why, Turn: &turn})
	if err := a.msg.Ack(); err != nil {
		a.t.Errorf("ack: %v", err)
	}
}

// question is the message that the job asks.
func (a *act) question() string {
	var body struct {
		Messages []struct{ Role, Content string }
	}
	if err := json.Unmarshal(a.job.Body, &body); err != nil || len(body.Messages) != 1 || body.Messages[0].Role != "user" {
		a.t.Errorf("body = %s (%v), want the new message alone", a.job.Body, err)
		return ""
	}
	return body.Messages[0].Content
}

func (a *act) ref() conversation.Ref {
	return conversation.Ref{Tenant: a.job.Tenant, ID: a.job.Session.ID}
}

// begin finds the turn's place, as a worker does.
func (a *act) begin() {
	begun, err := a.store.Begin(a.ctx, a.ref(), conversation.BeginTurn{Job: a.job.ID, Parent: a.job.Session.Parent, Branch: a.job.Session.Branch})
	if err != nil {
		a.t.Errorf("begin: %v", err)
		return
	}
	a.turn.ID, a.turn.Parent, a.turn.Branch, a.turn.Rev = begun.Turn, begun.Parent, begun.Branch, begun.Rev
	a.emit(schemas.Event{Kind: schemas.Started, Worker: "w1"})
}

// commit stores the turn, as a worker does.
func (a *act) commit() {
	stored, err := a.store.Append(a.ctx, a.ref(), conversation.NewTurn{
		Job: a.job.ID, Parent: a.turn.Parent, Branch: a.turn.Branch, Messages: []conversation.Message{conversation.Text("user", a.question()), conversation.Text("assistant", a.text)},
	})
	if err != nil {
		a.t.Errorf("append: %v", err)
		return
	}
	a.turn.State, a.turn.Rev, a.turn.Head = schemas.TurnStored, stored.Rev, stored.Moved
}

// reply is a worker that answers as it should.
func reply(text string) func(*act) {
	return func(a *act) {
		a.begin()
		a.delta(text)
		a.commit()
		a.end(schemas.StatusCompleted, nil)
	}
}

// ends is a turn that has become something else than stored.
func ends(state schemas.TurnState, status schemas.Status, why *schemas.Error) func(*act) {
	return func(a *act) {
		a.begin()
		a.delta("half")
		a.turn.State, a.turn.Reason = state, "because"
		a.end(status, why)
	}
}

// seen is what a watcher was told.
type seen struct {
	mu    sync.Mutex
	lines []string
	text  strings.Builder
	first func() // called at the first text
}

func (s *seen) watcher() app.TurnWatcher {
	add := func(kind, text string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lines = append(s.lines, kind+text)
	}
	return app.TurnWatcher{
		Void: func(why string) { s.text.Reset(); add("void: ", why) },
		Note: func(text string) { add("note: ", text) },
		Text: func(text string) error {
			s.text.WriteString(text)
			if s.first != nil {
				s.first()
				s.first = nil
			}
			return nil
		},
	}
}

// said reports whether a line with these parts is among those that were told.
func (s *seen) said(parts ...string) bool {
	return slices.ContainsFunc(s.lines, func(line string) bool {
		return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) })
	})
}
