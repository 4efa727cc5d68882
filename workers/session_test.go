package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// talks is a broker with a stand-in for Redis.
type talks struct {
	*broker
	redis *miniredis.Miniredis
	store *conversation.Store
}

func newTalks(t testing.TB, cfg queue.Config) *talks {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return &talks{newBroker(t, cfg), m, storeAt(t, m.Addr(), conversation.Config{})}
}

// storeAt is a store on a Redis, as a worker's process has one.
func storeAt(t testing.TB, addr string, cfg conversation.Config) *conversation.Store {
	t.Helper()
	logging.Disable()
	rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 1, DisableIdentity: true})
	t.Cleanup(func() { _ = rdb.Close() })
	store, err := conversation.New(rdb, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func (c *talks) config(s workers.Sessions) workers.Config {
	return workers.Config{Conversations: c.store, Sessions: s}
}

// say submits a user's message on a session.
func (c *talks) say(session schemas.Session, text string) schemas.Job {
	c.t.Helper()
	return c.submit(schemas.Job{Stream: true, Session: &session, Body: json.RawMessage(chat(text, 6))})
}

// turn is say, and the Result.
func (c *talks) turn(session schemas.Session, text string) *schemas.Result {
	c.t.Helper()
	r := c.result(c.say(session, text))
	if r.Status != schemas.StatusCompleted || r.Turn == nil || r.Turn.State != schemas.TurnStored {
		c.t.Fatalf("%s ended %s (%v) with turn %+v, want it completed and stored", text, r.Status, r.Error, r.Turn)
	}
	return r
}

func (c *talks) ref(id string) conversation.Ref { return conversation.Ref{Tenant: tenant, ID: id} }

// spoken is the path to the active head, a line for each message.
func (c *talks) spoken(id string) []string {
	c.t.Helper()
	path, err := c.store.Path(c.t.Context(), c.ref(id), conversation.PathQuery{})
	if err != nil {
		c.t.Fatal(err)
	}
	var lines []string
	for _, turn := range path.Turns {
		lines = append(lines, linesOf(c.t, turn.Messages)...)
	}
	return lines
}

func linesOf(t testing.TB, messages []conversation.Message) []string {
	t.Helper()
	var lines []string
	for _, m := range messages {
		var text struct{ Role, Content string }
		if err := json.Unmarshal(m.Body, &text); err != nil {
			t.Fatalf("message %s: %v", m.Body, err)
		}
		lines = append(lines, text.Role+": "+text.Content)
	}
	return lines
}

// asked is what the script's n-th request shows of messages, a line for each.
func asked(t testing.TB, req *workers.Request) []string {
	t.Helper()
	var body struct {
		Messages []json.RawMessage `json:"messages"`
	}
	if err := json.Unmarshal(req.Body, &body); err != nil {
		t.Fatal(err)
	}
	messages := make([]conversation.Message, len(body.Messages))
	for i, m := range body.Messages {
		messages[i].Body = m
	}
	return linesOf(t, messages)
}

// parrot answers every request with its number.
func parrot() *script {
	return newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit("reply ", strconv.Itoa(n))
		return nil
	})
}

// gated is a parrot that tells when it has a request, and answers once open is closed.
func gated() (engine *script, running, open chan struct{}) {
	running, open = make(chan struct{}, 16), make(chan struct{}, 1)
	engine = newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit("reply ")
		running <- struct{}{}
		select {
		case <-open:
			emit(strconv.Itoa(n))
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return engine, running, open
}

// TestTurnsFollowOneAnother has the second prompt hold the first turn, at the engine.
func TestTurnsFollowOneAnother(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{LogPrompts: true})
	c.run(engine, c.config(workers.Sessions{}))
	l := c.listen(schemas.AllEvents)

	one := c.turn(schemas.Session{ID: "s"}, "first")
	events := l.end(1)
	want := &schemas.Turn{Session: "s", ID: conversation.TurnID(one.ID), Branch: "main"}
	if diff := cmp.Diff(want, events[0].Turn); diff != "" {
		t.Errorf("the opening event's turn (-want +got):\n%s", diff)
	}
	want.State, want.Rev, want.Head = schemas.TurnStored, 1, true
	if diff := cmp.Diff(want, events[len(events)-1].Turn); diff != "" {
		t.Errorf("the last event's turn (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, one.Turn); diff != "" {
		t.Errorf("the result's turn (-want +got):\n%s", diff)
	}

	two := c.turn(schemas.Session{ID: "s"}, "second")
	if two.Turn.Parent != one.Turn.ID || two.Turn.Rev != 2 {
		t.Errorf("second turn = %+v, want it to answer %s", two.Turn, one.Turn.ID)
	}
	if diff := cmp.Diff([]string{"user: first", "assistant: " + one.Text, "user: second", "assistant: " + two.Text}, c.spoken("s")); diff != "" {
		t.Errorf("the conversation (-want +got):\n%s", diff)
	}
	prompts := sim.Prompts()
	last := prompts[len(prompts)-1]
	at := 0
	for _, part := range []string{"first", one.Text, "second"} {
		i := strings.Index(last[at:], part)
		if i < 0 {
			t.Fatalf("prompt\n%q\nhas not %q after byte %d", last, part, at)
		}
		at += i + len(part)
	}
	session, err := c.store.Get(t.Context(), c.ref("s"))
	if err != nil {
		t.Fatal(err)
	}
	if session.Model != model || session.Stats.Turns != 2 || session.Stats.CompletionTokens != 12 || session.Stats.LatencySum <= 0 || session.Pending != nil {
		t.Errorf("session = %+v", session)
	}
}

// TestOnlyTheMessagesAreReplaced leaves every other byte of the request as it came.
func TestOnlyTheMessagesAreReplaced(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	c.run(engine, c.config(workers.Sessions{}))
	for i := range 2 {
		job := schemas.Job{ID: fmt.Sprintf("j%d", i), Session: &schemas.Session{ID: "s"}, Body: fmt.Appendf(nil,
			`{"user":"kim","odd": [1,  2],"messages":[{"role":"user","content":"<%d>","name":"x"}],"max_tokens":8}`, i)}
		data, err := job.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.publish(schemas.JobSubject(model, schemas.Standard, tenant), job.ID, data)
		c.result(job)
	}
	if got, want := string(engine.seen()[1].Body), `{"user":"kim","odd": [1,  2],"messages":[{"role":"user","content":"<0>","name":"x"},{"role":"assistant","content":"reply 1"},{"role":"user","content":"<1>","name":"x"}],"max_tokens":8}`; got != want {
		t.Errorf("the engine got\n%s, want\n%s", got, want)
	}
	session, err := c.store.Get(t.Context(), c.ref("s"))
	if err != nil || session.User != "kim" {
		t.Errorf("session = %+v (%v), want kim's", session, err)
	}
}

func TestBranches(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	c.run(engine, c.config(workers.Sessions{}))
	one := c.turn(schemas.Session{ID: "s"}, "a")
	two := c.turn(schemas.Session{ID: "s"}, "b")
	// The second is edited: a sibling that nothing points to.
	edit := c.turn(schemas.Session{ID: "s", Parent: one.Turn.ID}, "b'")
	if edit.Turn.Head || edit.Turn.Parent != one.Turn.ID {
		t.Errorf("edit = %+v, want a sibling", edit.Turn)
	}
	if _, err := c.store.SetHead(t.Context(), c.ref("s"), conversation.Head{Branch: "other", Turn: edit.Turn.ID}); err != nil {
		t.Fatal(err)
	}
	if r := c.turn(schemas.Session{ID: "s", Branch: "other"}, "c"); r.Turn.Parent != edit.Turn.ID || !r.Turn.Head || r.Turn.Branch != "other" {
		t.Errorf("turn on the branch = %+v", r.Turn)
	}
	if r := c.turn(schemas.Session{ID: "s", Parent: schemas.RootTurn}, "d"); r.Turn.Parent != "" {
		t.Errorf("turn from the root = %+v", r.Turn)
	}
	var got []string
	for _, req := range engine.seen() {
		got = append(got, strings.Join(asked(t, req), "|"))
	}
	want := []string{
		"user: a", "user: a|assistant: reply 1|user: b", "user: a|assistant: reply 1|user: b'",
		"user: a|assistant: reply 1|user: b'|assistant: reply 3|user: c", "user: d",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("prompts (-want +got):\n%s", diff)
	}
	if got := c.spoken("s"); len(got) != 4 || got[2] != "user: b" {
		t.Errorf("the active branch = %q, want it to end with %s", got, two.Turn.ID)
	}
}

func TestConflictsFailAtOnce(t *testing.T) {
	t.Parallel()
	for name, serialize := range map[string]bool{"of the job": false, "of the worker": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{})
			engine, running, open := gated()
			c.run(engine, c.config(workers.Sessions{Serialize: serialize}))
			first := c.say(schemas.Session{ID: "s"}, "a")
			<-running
			r := c.result(c.say(schemas.Session{ID: "s", Serialize: !serialize}, "b"))
			if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeSessionConflict || !strings.Contains(r.Error.Message, conversation.TurnID(first.ID)) {
				t.Errorf("beside another turn: %s %v", r.Status, r.Error)
			}
			if r.Turn == nil || r.Turn.State != schemas.TurnDropped || r.Turn.Reason != "session_conflict" {
				t.Errorf("turn = %+v", r.Turn)
			}
			close(open)
			c.result(first)
			rev := int64(0)
			r = c.result(c.say(schemas.Session{ID: "s", ExpectRev: &rev}, "c"))
			if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeSessionConflict || !strings.Contains(r.Error.Message, "at revision 1; want 0") {
				t.Errorf("with another revision: %s %v", r.Status, r.Error)
			}
			rev = 1
			if r := c.turn(schemas.Session{ID: "s", ExpectRev: &rev}, "d"); r.Turn.Rev != 2 {
				t.Errorf("turn = %+v", r.Turn)
			}
		})
	}
}

// TestTurnsSideBySideBranch loses neither of two turns that answer the same one.
func TestTurnsSideBySideBranch(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	c.run(engine, c.config(workers.Sessions{}))
	a, b := c.say(schemas.Session{ID: "s"}, "a"), c.say(schemas.Session{ID: "s"}, "b")
	<-running
	<-running
	close(open)
	heads := 0
	for _, job := range []schemas.Job{a, b} {
		if r := c.result(job); r.Turn.State != schemas.TurnStored || r.Turn.Parent != "" {
			t.Errorf("turn = %+v", r.Turn)
		} else if r.Turn.Head {
			heads++
		}
	}
	session, err := c.store.Get(t.Context(), c.ref("s"))
	if err != nil {
		t.Fatal(err)
	}
	if heads != 1 || session.Stats.Turns != 2 || session.Stats.Branches != 1 {
		t.Errorf("%d heads, stats %+v; want one head and one branch", heads, session.Stats)
	}
}

// TestSessionMovedOnMeanwhile fails a turn that is only wanted on the session as it was.
func TestSessionMovedOnMeanwhile(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	c.run(engine, c.config(workers.Sessions{}))
	rev := int64(0)
	job := c.say(schemas.Session{ID: "s", ExpectRev: &rev}, "a")
	<-running
	system := "Be brief."
	if _, err := c.store.Update(t.Context(), c.ref("s"), conversation.Update{System: &system}); err != nil {
		t.Fatal(err)
	}
	close(open)
	r := c.result(job)
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeSessionConflict || r.Text == "" || r.Turn.State != schemas.TurnDropped {
		t.Errorf("result = %s %v, turn %+v", r.Status, r.Error, r.Turn)
	}
	session, err := c.store.Get(t.Context(), c.ref("s"))
	if err != nil || session.Stats.Turns != 0 || session.Stats.Aborted != 1 || session.Pending != nil {
		t.Errorf("session = %+v (%v), want no turn", session, err)
	}
}

func TestSessionsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "gone"}); err != nil {
		t.Fatal(err)
	}
	if err := c.store.Delete(t.Context(), c.ref("gone")); err != nil {
		t.Fatal(err)
	}
	engine := parrot()
	c.run(engine, c.config(workers.Sessions{}))
	ask := func(s schemas.Session, body string, endpoint schemas.Endpoint) *schemas.Result {
		t.Helper()
		if body == "" {
			body = chat("hi", 6)
		}
		return c.result(c.submit(schemas.Job{Session: &s, Body: json.RawMessage(body), Endpoint: endpoint}))
	}
	six := int64(6)
	for name, tc := range map[string]struct {
		r           *schemas.Result
		code        schemas.Code
		param, word string
	}{
		"completion":     {ask(schemas.Session{ID: "s"}, `{"prompt":"x"}`, schemas.Completions), schemas.CodeInvalidRequest, "endpoint", "/v1/chat/completions"},
		"two replies":    {ask(schemas.Session{ID: "s"}, `{"messages":[{"role":"user","content":"x"}],"n":2}`, ""), schemas.CodeInvalidRequest, "n", "one reply"},
		"deleted":        {ask(schemas.Session{ID: "gone"}, "", ""), schemas.CodeInvalidRequest, "session.id", "deleted"},
		"no such parent": {ask(schemas.Session{ID: "s", Parent: "t-x"}, "", ""), schemas.CodeInvalidRequest, "session.id", "not found"},
		"no such branch": {ask(schemas.Session{ID: "s", Branch: "b"}, "", ""), schemas.CodeInvalidRequest, "session.id", "not found"},
		"no such rev":    {ask(schemas.Session{ID: "s", ExpectRev: &six}, "", ""), schemas.CodeInvalidRequest, "session.id", "not found"},
		"odd role":       {ask(schemas.Session{ID: "s"}, `{"messages":[{"role":"function","content":"x"}]}`, ""), schemas.CodeInvalidRequest, "messages", "function"},
		"odd user":       {ask(schemas.Session{ID: "s"}, `{"messages":[{"role":"user","content":"x"}],"user":7}`, ""), schemas.CodeInvalidRequest, "user", "want a string"},
		"long user":      {ask(schemas.Session{ID: "s"}, `{"messages":[{"role":"user","content":"x"}],"user":"`+strings.Repeat("u", 300)+`"}`, ""), schemas.CodePayloadTooLarge, "session", "want at most 256"},
		"no room":        {ask(schemas.Session{ID: "s"}, chat("hi", 2048), ""), schemas.CodeContextLengthExceeded, "max_tokens", "window is 2048"},
		"error strategy": {ask(schemas.Session{ID: "t", Window: schemas.WindowError}, chat(strings.Repeat("long ", 2000), 6), ""), schemas.CodeContextLengthExceeded, "messages", "strategy error"},
	} {
		if e := tc.r.Error; e == nil || e.Code != tc.code || e.Param != tc.param || !strings.Contains(e.Message, tc.word) {
			t.Errorf("%s: %v with param %q; want %s of %s with %q", name, e, e.Param, tc.code, tc.param, tc.word)
		}
		if turn := tc.r.Turn; turn == nil || turn.State != schemas.TurnDropped || turn.Reason != string(tc.code) {
			t.Errorf("%s: turn = %+v, want it dropped", name, turn)
		}
	}
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want none", n)
	}
	if _, err := c.store.Get(t.Context(), c.ref("s")); err != nil && !errors.Is(err, conversation.ErrNotFound) {
		t.Error(err)
	}
}

func TestWorkerWithoutConversationsRefusesSessions(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(says("hi"), workers.Config{})
	r := b.result(b.submit(schemas.Job{Session: &schemas.Session{ID: "s"}}))
	if r.Status != schemas.StatusFailed || r.Error.Param != "session" || !strings.Contains(r.Error.Message, "keeps no conversations") || r.Turn != nil {
		t.Errorf("result = %s %v %+v", r.Status, r.Error, r.Turn)
	}
	if _, checks := s.Ready(); checks["conversations"] != (workers.Check{}) {
		t.Errorf("checks = %+v, want none of conversations", checks)
	}
}

// TestLargeBodyWithASession reads the body from the object store, and keeps it until the turn is stored.
func TestLargeBodyWithASession(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	engine.health.MaxModelLen = 1 << 20
	c.run(engine, c.config(workers.Sessions{}))
	body := largeBody(600 << 10)
	r := c.result(c.submitLarge(schemas.Job{Session: &schemas.Session{ID: "s"}}, body))
	if r.Turn == nil || r.Turn.State != schemas.TurnStored {
		t.Fatalf("result %s %v, turn %+v", r.Status, r.Error, r.Turn)
	}
	c.emptied()
	c.turn(schemas.Session{ID: "s"}, "next")
	if got := asked(t, engine.seen()[1]); len(got) != 3 || len(got[0]) < 500<<10 {
		t.Errorf("the second prompt has %d messages, the first of %d bytes", len(got), len(got[0]))
	}
}

// TestBatchJobsHaveSessions runs a turn of class batch.
func TestBatchJobsHaveSessions(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	c.run(engine, c.config(workers.Sessions{}))
	for i := range 2 {
		c.result(c.submit(schemas.Job{Class: schemas.Batch, Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(chat(fmt.Sprint(i), 6))}))
	}
	if got := c.spoken("s"); len(got) != 4 {
		t.Errorf("the conversation = %q", got)
	}
}

// TestFallbackGoesOnWithTheConversation has another model answer a turn.
func TestFallbackGoesOnWithTheConversation(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	c.declare(other, queue.Config{})
	engine := parrot()
	cfg := c.config(workers.Sessions{})
	cfg.Covers, cfg.Heartbeat = []workers.Cover{{Model: model, After: 50 * time.Millisecond}}, 50*time.Millisecond
	c.runOther(engine, cfg)
	r := c.turn(schemas.Session{ID: "s"}, "a")
	if r.ServedBy != other {
		t.Errorf("served by %q, want %q", r.ServedBy, other)
	}
	turns, err := c.store.Turns(t.Context(), c.ref("s"), r.Turn.ID)
	if err != nil || turns[0].Model != other {
		t.Errorf("turn %+v (%v), want it by %s", turns, err, other)
	}
	// What is the session's fault is nobody else's to answer.
	if r := c.result(c.say(schemas.Session{ID: "s", Parent: "t-x"}, "b")); r.Status != schemas.StatusFailed || r.Error.Param != "session.parent" {
		t.Errorf("result = %s %v", r.Status, r.Error)
	}
}

// TestTuneTheWindow holds from the next job on.
func TestTuneTheWindow(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	cfg := c.config(workers.Sessions{})
	w := c.run(engine, cfg)
	for _, text := range []string{"a", "b", "c"} {
		c.turn(schemas.Session{ID: "s"}, text)
	}
	next := cfg.Tunables()
	next.Sessions = workers.Sessions{Strategy: schemas.WindowLastN, LastN: 1, Keep: 1, ReplyTokens: 64}
	if err := w.Tune(next); err != nil {
		t.Fatal(err)
	}
	r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(`{"messages":[{"role":"user","content":"d"}]}`)}))
	if diff := cmp.Diff([]string{"user: c", "assistant: reply 3", "user: d"}, asked(t, engine.seen()[3])); diff != "" {
		t.Errorf("prompt (-want +got):\n%s", diff)
	}
	if left := r.Turn.LeftOut; left == nil || left.Strategy != schemas.WindowLastN || left.Turns != 2 || left.Messages != 4 {
		t.Errorf("left out %+v", left)
	}
	next.Sessions = workers.Sessions{Strategy: "all", LastN: -1, Keep: 2, Margin: -1, SummaryTokens: -1, ReplyTokens: -1, CommitTimeout: -1}
	err := w.Tune(next)
	for _, want := range []string{
		`Sessions.Strategy is "all"; want token_budget, last_n, summarize or error`, "Sessions.LastN is -1; want at least 1", "Sessions.Keep is 2; want above 0 and at most 1",
		"Sessions.Margin is -1; want at least 0", "Sessions.SummaryTokens is -1; want at least 1", "Sessions.ReplyTokens is -1; want at least 0", "Sessions.CommitTimeout is -1ns; want above 0",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Tune = %v, want %q in it", err, want)
		}
	}
	next = cfg.Tunables()
	next.Capabilities.NoConversation = true
	if err := w.Tune(next); err != nil {
		t.Fatal(err)
	}
	if r := c.result(c.say(schemas.Session{ID: "s"}, "e")); r.Error == nil || !strings.Contains(r.Error.Message, "model phi3 keeps no conversations") {
		t.Errorf("error = %v", r.Error)
	}
}

// TestEnginesErrorWhileCounting is the engine's, and met again.
func TestEnginesErrorWhileCounting(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	var tries atomic.Int32
	engine.count = func([]byte) (int, error) {
		if tries.Add(1) < 3 {
			return 0, schemas.Errorf(schemas.CodeEngineUnavailable, "not now")
		}
		return 10, nil
	}
	c.run(engine, c.config(workers.Sessions{}))
	c.turn(schemas.Session{ID: "s"}, "a")
	if s, err := c.store.Get(t.Context(), c.ref("s")); err != nil || s.Stats.Turns != 1 || s.Stats.Aborted != 0 {
		t.Errorf("session = %+v (%v)", s, err)
	}
}

// TestSubmittedAgainIsTheSameTurn gives a job that is submitted again, after its Result is forgotten, the reply that was stored.
func TestSubmittedAgainIsTheSameTurn(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	c.run(engine, c.config(workers.Sessions{}))
	one := c.turn(schemas.Session{ID: "s"}, "a")
	c.settled(0)
	for _, stream := range []string{schemas.ResultsStream, schemas.EventsStream} {
		c.drop(stream)
	}
	c.ensure()
	job := schemas.Job{ID: one.ID, Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(chat("a", 6))}
	data, err := job.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.publish(schemas.JobSubject(model, schemas.Standard, tenant), "another message", data)
	two := c.result(job)
	if two.Text != one.Text || two.Turn.ID != one.Turn.ID || two.Turn.State != schemas.TurnStored || len(engine.seen()) != 1 {
		t.Errorf("result %q, turn %+v, %d requests; want what was answered before", two.Text, two.Turn, len(engine.seen()))
	}
}

// TestSessionMetricsThatClash refuses a registry on which another has taken a name.
func TestSessionMetricsThatClash(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	for _, clash := range []string{"hxp_session_jobs_total", "hxp_session_pending"} {
		reg := prometheus.NewRegistry()
		reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: clash, Help: "another"}))
		if _, err := workers.New(b.js, model, says("x"), workers.Config{Registry: reg}); err == nil || !strings.Contains(err.Error(), clash) {
			t.Errorf("New = %v, want an error about %s", err, clash)
		}
	}
}
