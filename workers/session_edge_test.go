package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// TestReplyWithoutAChoiceMakesNoTurn has an engine that ends without a word.
func TestReplyWithoutAChoiceMakesNoTurn(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	engine.raw = []string{}
	c.run(engine, c.config(workers.Sessions{}))
	r := c.result(c.say(schemas.Session{ID: "s"}, "a"))
	if r.Status != schemas.StatusCompleted || r.Turn.State != schemas.TurnDropped || !strings.Contains(r.Turn.Reason, "no message") {
		t.Errorf("result %s, turn %+v", r.Status, r.Turn)
	}
	if s := session(t, c, "s"); s.Pending != nil || s.Stats.Aborted != 1 {
		t.Errorf("session = %+v", s)
	}
}

// TestClaimOfALostAttemptIsGivenUp by whoever ends the job.
func TestClaimOfALostAttemptIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(context.Context, int, *workers.Request, func(...string) bool) error {
		return schemas.Errorf(schemas.CodeEngineUnavailable, "no")
	})
	cfg := c.config(workers.Sessions{})
	cfg.RetryDelay = 300 * time.Millisecond
	c.run(engine, cfg)
	l := c.listen(schemas.AllEvents)
	job := c.say(schemas.Session{ID: "s"}, "a")
	l.until(schemas.Interrupted)
	if s := session(t, c, "s"); len(s.Pending) != 1 {
		t.Errorf("pending = %v while the job is retried", s.Pending)
	}
	c.tombstone(job.ID, "no more")
	r := c.result(job)
	if r.Status != schemas.StatusCancelled || r.Turn.State != schemas.TurnDropped || r.Turn.ID != conversation.TurnID(job.ID) {
		t.Errorf("result %s, turn %+v", r.Status, r.Turn)
	}
	if s := session(t, c, "s"); s.Pending != nil || s.Stats.Aborted != 1 {
		t.Errorf("session = %+v, want nothing in flight", s)
	}
}

func TestSessionThatIsNoNameIsRefused(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	c.run(parrot(), c.config(workers.Sessions{}))
	c.publish(schemas.JobSubject(model, schemas.Standard, tenant), "j", []byte(`{"id":"j","session":{"id":"a b"},"body":{"messages":[{"role":"user","content":"x"}]}}`))
	if r := c.result(schemas.Job{ID: "j"}); r.Error.Param != "session.id" || r.Turn != nil {
		t.Errorf("result %v, turn %+v", r.Error, r.Turn)
	}
	c.deadLetters(1)
}

// TestNoRoomForAnotherPendingTurn leaves the job of a worker that is gone to others.
func TestNoRoomForAnotherPendingTurn(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
		t.Fatal(err)
	}
	job := c.submit(schemas.Job{Session: &schemas.Session{ID: "s"}, Deadline: time.Now().Add(time.Hour)})
	c.pullOne(schemas.Standard)
	c.putResult(job, "the reply", &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), State: schemas.TurnPending})
	_, js := c.connect()
	w, err := workers.New(js, model, says("never"), c.config(workers.Sessions{}))
	if err != nil {
		t.Fatal(err)
	}
	w.BoundLate(0, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	full := &started{Worker: w}
	waitFor(t, "the job to be left", func() bool { return strings.Contains(scrape(t, full), `outcome="deferred"} 1`) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.run(says("never"), c.config(workers.Sessions{}))
	c.settled(0)
}

// TestNeitherTurnNorResultCanBeStored loses nothing: another worker goes on with the reply.
func TestNeitherTurnNorResultCanBeStored(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		c.drop(schemas.ResultsStream)
		c.redis.Close()
		emit("of the first")
		return nil
	})
	cfg := c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond})
	cfg.DrainTimeout = -1
	first := c.run(engine, cfg)
	job := c.say(schemas.Session{ID: "s"}, "a")
	waitFor(t, "the worker to notice", func() bool { ok, _ := first.Ready(); return !ok })
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if m := scrape(t, first); !strings.Contains(m, `hxp_session_pending{model="phi3"} 0`) {
		t.Error("a turn still waits in a worker that has stopped")
	}
	c.ensure()
	if err := c.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	c.run(says("of the second"), c.config(workers.Sessions{}))
	r := c.result(job)
	c.settled(0)
	if got := c.spoken("s"); r.Turn.State != schemas.TurnStored || len(got) != 2 || got[1] != "assistant: "+r.Text {
		t.Errorf("result %q, turn %+v, the conversation %q", r.Text, r.Turn, got)
	}
}

// TestPendingTurnIsDeliveredAgain to the worker that has it.
func TestPendingTurnIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	s := c.run(engine, c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond}))
	job := c.say(schemas.Session{ID: "s"}, "a")
	<-running
	c.redis.Close()
	close(open)
	c.result(job)
	waitFor(t, "the turn to wait", func() bool { return strings.Contains(scrape(t, s), `hxp_session_pending{model="phi3"} 1`) })
	c.nakOutstanding()
	waitFor(t, "the first run to give way", func() bool { return strings.Contains(scrape(t, s), `outcome="abandoned"} 1`) })
	if err := c.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	c.settled(0)
	if got := c.spoken("s"); len(got) != 2 {
		t.Errorf("the conversation = %q", got)
	}
}

// TestStoredTurnWhoseMessagesAreGone is generated again, and stays the turn that it is.
func TestStoredTurnWhoseMessagesAreGone(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	c.store = storeAt(t, c.redis.Addr(), conversation.Config{MaxMessages: 4})
	engine := parrot()
	c.run(engine, c.config(workers.Sessions{}))
	one := c.turn(schemas.Session{ID: "s"}, "a")
	for _, text := range []string{"b", "c"} {
		c.turn(schemas.Session{ID: "s"}, text)
	}
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
	if r := c.result(job); r.Text != "reply 4" || r.Turn.State != schemas.TurnStored || session(t, c, "s").Stats.Turns != 3 {
		t.Errorf("result %q, turn %+v", r.Text, r.Turn)
	}
	// Nothing is kept of it that could be summarized.
	r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s", Summarize: one.Turn.ID}}))
	if r.Error == nil || !strings.Contains(r.Error.Message, "nothing is kept") {
		t.Errorf("summary: %s %v", r.Status, r.Error)
	}
}

// TestModelThatTakesNoSystemMessages refuses the system prompt of a session too, before and after it has been counted.
func TestModelThatTakesNoSystemMessages(t *testing.T) {
	t.Parallel()
	for name, count := range map[string]func([]byte) (int, error){"counted": func([]byte) (int, error) { return 10, nil }, "not counted": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{})
			if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s", System: "Be brief."}); err != nil {
				t.Fatal(err)
			}
			engine := parrot()
			engine.count = count
			cfg := c.config(workers.Sessions{})
			cfg.Capabilities.SystemRole = workers.SystemRefuse
			c.run(engine, cfg)
			r := c.result(c.say(schemas.Session{ID: "s"}, "a"))
			if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeInvalidRequest || !strings.Contains(r.Error.Message, "takes no system messages") {
				t.Errorf("result %s %v", r.Status, r.Error)
			}
		})
	}
}

// TestSummariesThatFail leaves no summary behind.
func TestSummariesThatFail(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		switch n {
		case 1:
			emit(strings.Repeat("x", 20<<10)) // more than a summary may have
		case 2:
			emit("half")
			return schemas.Errorf(schemas.CodeInvalidRequest, "no")
		}
		return nil
	})
	counts := 0
	engine.count = func([]byte) (int, error) {
		if counts++; counts > 2 {
			return 0, schemas.Errorf(schemas.CodeInvalidRequest, "cannot count")
		}
		return 10, nil
	}
	cfg := c.config(workers.Sessions{})
	cfg.Limits.MaxTokens = [2]int{1, 100}
	c.run(engine, cfg)
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
		t.Fatal(err)
	}
	at, err := c.store.Append(t.Context(), c.ref("s"), conversation.NewTurn{Job: "j", Messages: []conversation.Message{conversation.Text("user", "x")}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		status schemas.Status
		reason string
	}{
		{schemas.StatusCompleted, "bytes of the summary"}, {schemas.StatusFailed, "invalid_request"}, {schemas.StatusFailed, "invalid_request"},
	} {
		job := schemas.Job{ID: fmt.Sprintf("sum-%d", i), Session: &schemas.Session{ID: "s", Summarize: at.Turn}, Body: json.RawMessage(`{"messages":[{"role":"user","content":"-"}]}`)}
		r := c.result(c.submit(job))
		if r.Status != want.status || r.Turn == nil || r.Turn.State != schemas.TurnDropped || !strings.Contains(r.Turn.Reason, want.reason) {
			t.Errorf("%s: %s %v, turn %+v; want it dropped for %s", job.ID, r.Status, r.Error, r.Turn, want.reason)
		}
	}
	var body struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.Unmarshal(engine.seen()[0].Body, &body); err != nil || body.MaxTokens != 100 {
		t.Errorf("max_tokens = %d (%v), want what the bounds allow", body.MaxTokens, err)
	}
	path, err := c.store.Path(t.Context(), c.ref("s"), conversation.PathQuery{})
	if err != nil || len(path.Summaries) != 0 || path.Session.Stats.Turns != 1 {
		t.Errorf("path = %+v (%v)", path, err)
	}
}
