package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// once wants a job's turn to be in the conversation once, with the text of its one Result.
func (c *talks) once(job schemas.Job, first uint64, l *listener) (*schemas.Result, []schemas.Event) {
	c.t.Helper()
	r := c.result(job)
	events := l.end(first)
	c.settled(0)
	last := events[len(events)-1]
	if r.Status != schemas.StatusCompleted || last.Kind != schemas.Done {
		c.t.Errorf("result %s (%v), last event %s; want it done", r.Status, r.Error, last.Kind)
	}
	if r.Turn == nil || r.Turn.State != schemas.TurnStored {
		c.t.Errorf("turn = %+v, want it stored", r.Turn)
	}
	if diff := cmp.Diff(r.Turn, last.Turn); diff != "" {
		c.t.Errorf("turn of the last event (-result +event):\n%s", diff)
	}
	tree, err := c.store.Tree(c.t.Context(), c.ref(job.Session.ID), true)
	if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	for _, turn := range tree.Turns {
		if turn.ID != conversation.TurnID(job.ID) {
			continue
		}
		n++
		if lines := linesOf(c.t, turn.Messages); lines[len(lines)-1] != "assistant: "+r.Text {
			c.t.Errorf("the turn holds %q, the result %q", lines, r.Text)
		}
	}
	if n != 1 || tree.Session.Pending != nil {
		c.t.Errorf("%d turns of the job, pending %v; want one, and none in flight", n, tree.Session.Pending)
	}
	return r, events
}

// ghostly plays a worker that begins a turn, streams text, stores the turn with a reply, and is lost.
func (c *talks) ghostly(text, finish, reply string, calls string) schemas.Job {
	c.t.Helper()
	if _, err := c.store.Create(c.t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
		c.t.Fatal(err)
	}
	job := schemas.Job{Stream: true, Session: &schemas.Session{ID: "s"}}
	id := "ghost-job"
	events := []schemas.Event{{Kind: schemas.Started, Worker: "ghost", Turn: &schemas.Turn{Session: "s", ID: conversation.TurnID(id), Branch: "main"}}}
	if text != "" {
		events = append(events, schemas.Event{Kind: schemas.DeltaKind, Choices: fmt.Appendf(nil,
			`[{"index":0,"delta":{"content":%q},"logprobs":null,"finish_reason":%s,"token_ids":[7,8]}]`, text, finish)})
	}
	job.ID = id
	body := fmt.Sprintf(`{"role":"assistant","content":%q}`, reply)
	if calls != "" {
		body = fmt.Sprintf(`{"role":"assistant","content":%q,"tool_calls":%s}`, reply, calls)
	}
	_, err := c.store.Append(c.t.Context(), c.ref("s"), conversation.NewTurn{
		Job: id, Messages: []conversation.Message{conversation.Text("user", "hi"), {Body: json.RawMessage(body)}},
		Model: model, FinishReason: "stop", Usage: schemas.Usage{PromptTokens: 5, CompletionTokens: 2, TotalTokens: 7},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.ghost(job, events...)
}

// TestLostBetweenCommitAndResult gives the answer that the turn has been stored with, whatever the record holds, and
// whatever has been asked for since.
func TestLostBetweenCommitAndResult(t *testing.T) {
	t.Parallel()
	const call = `[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]`
	for name, tc := range map[string]struct {
		text, finish, reply, calls string
		cancel                     bool
		want                       string
	}{
		"all of it was sent":       {"the reply", `"stop"`, "the reply", "", false, "resumed usage done"},
		"all but its end was sent": {"the reply", `null`, "the reply", "", false, "resumed delta usage done"},
		"another text was sent":    {"the rep", `null`, "the reply", "", false, "restarted delta usage done"},
		"nothing was sent":         {"", "", "the reply", "", false, "resumed delta usage done"},
		"it calls a tool":          {"", "", "", call, false, "resumed delta usage done"},
		"it was cancelled since":   {"the reply", `"stop"`, "the reply", "", true, "resumed usage done"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
			job := c.ghostly(tc.text, tc.finish, tc.reply, tc.calls)
			if tc.cancel {
				c.tombstone(job.ID, "no more")
			}
			l := c.listen(schemas.AllEvents)
			engine := says("another reply")
			c.run(engine, c.config(workers.Sessions{}))
			first := uint64(2)
			if tc.text != "" {
				first = 3
			}
			r, events := c.once(job, first, l)
			if got := kinds(events); got != tc.want {
				t.Errorf("kinds = %q, want %q: %s", got, tc.want, reasons(events))
			}
			if r.Text != tc.reply || *r.Usage != (schemas.Usage{PromptTokens: 5, CompletionTokens: 2, TotalTokens: 7}) || !strings.Contains(string(r.Choices), `"finish_reason":"stop"`) {
				t.Errorf("result %q %s %+v", r.Text, r.Choices, r.Usage)
			}
			if tc.calls != "" && !strings.Contains(string(r.Choices), `"name":"f"`) {
				t.Errorf("choices = %s, want the call in them", r.Choices)
			}
			if n := len(engine.seen()); n != 0 {
				t.Errorf("the engine saw %d requests, want none", n)
			}
		})
	}
}

// TestStoppedBetweenCommitAndResult is the same with a worker that is stopped because it cannot store the Result. The one
// that has forgotten the record finds the turn all the same.
func TestStoppedBetweenCommitAndResult(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]bool{"with the record": false, "without the record": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{})
			engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
				c.drop(schemas.ResultsStream)
				emit("the reply")
				return nil
			})
			cfg := c.config(workers.Sessions{})
			cfg.DrainTimeout = -1
			first := c.run(engine, cfg)
			job := c.say(schemas.Session{ID: "s"}, "hi")
			waitFor(t, "the turn", func() bool {
				turns, err := c.store.Turns(t.Context(), c.ref("s"), conversation.TurnID(job.ID))
				return err == nil && len(turns) == 1
			})
			waitFor(t, "the worker to notice", func() bool { ok, _ := first.Ready(); return !ok })
			if err := first.stop(); err != nil {
				t.Fatal(err)
			}
			if forget {
				c.drop(schemas.EventsStream)
			}
			c.ensure()
			c.run(says("another reply"), c.config(workers.Sessions{}))
			r := c.result(job)
			c.settled(0)
			if r.Text != "the reply" || r.Turn.State != schemas.TurnStored || r.Turn.Rev != 1 {
				t.Errorf("result %q, turn %+v", r.Text, r.Turn)
			}
			if got := c.spoken("s"); len(got) != 2 || got[1] != "assistant: the reply" {
				t.Errorf("the conversation = %q", got)
			}
		})
	}
}

// TestTwoAttemptsOneReply hands back the attempt whose reply is not the one that was stored.
func TestTwoAttemptsOneReply(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	s := c.run(engine, c.config(workers.Sessions{}))
	l := c.listen(schemas.AllEvents)
	job := c.say(schemas.Session{ID: "s"}, "hi")
	<-running
	_, err := c.store.Append(t.Context(), c.ref("s"), conversation.NewTurn{
		Job: job.ID, Messages: []conversation.Message{conversation.Text("user", "hi"), conversation.Text("assistant", "of the other")},
	})
	if err != nil {
		t.Fatal(err)
	}
	close(open)
	r, events := c.once(job, 1, l)
	if got := kinds(events); got != "started delta interrupted restarted delta usage done" || r.Text != "of the other" {
		t.Errorf("kinds = %q, text %q", got, r.Text)
	}
	if n := len(engine.seen()); n != 1 {
		t.Errorf("the engine saw %d requests, want 1", n)
	}
	if strings.Contains(scrape(t, s), `hxp_session_jobs_total{model="phi3",outcome="dropped"} 1`) {
		t.Error("a turn was dropped")
	}
}

// TestLostBetweenResultAndAck announces the end with the turn, and settles.
func TestLostBetweenResultAndAck(t *testing.T) {
	t.Parallel()
	for name, announced := range map[string]bool{"before the terminal event": false, "after the terminal event": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
			job := c.ghostly("the reply", `"stop"`, "the reply", "")
			turn := &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), Branch: "main", State: schemas.TurnStored, Rev: 1, Head: true}
			c.putResult(job, "the reply", turn)
			l := c.listen(schemas.AllEvents)
			if announced {
				c.says(job, schemas.Event{Seq: 3, Attempt: 1, Kind: schemas.Done, Turn: turn})
			}
			engine := says("another reply")
			c.run(engine, c.config(workers.Sessions{}))
			if _, events := c.once(job, 3, l); len(events) != 1 {
				t.Errorf("kinds = %q, want the end alone", kinds(events))
			}
			if n := len(engine.seen()); n != 0 {
				t.Errorf("the engine saw %d requests", n)
			}
		})
	}
}

// putResult stores the Result of a job as a worker that is lost would have.
func (c *talks) putResult(job schemas.Job, text string, turn *schemas.Turn) {
	c.t.Helper()
	err := queue.PutResult(c.t.Context(), c.js, &schemas.Result{
		ID: job.ID, Model: model, Class: schemas.Standard, Tenant: tenant, Endpoint: schemas.ChatCompletions, Status: schemas.StatusCompleted,
		Text: text, Choices: fmt.Appendf(nil, `[{"index":0,"message":{"role":"assistant","content":%q},"logprobs":null,"finish_reason":"stop"}]`, text),
		Usage: &schemas.Usage{CompletionTokens: 2}, Attempts: 1, Finished: time.Now().UTC(), LastSeq: 3, Turn: turn,
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestRedisAwayAtLoad keeps the job until its history can be read, at no cost to it.
func TestRedisAwayAtLoad(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	cfg := c.config(workers.Sessions{})
	cfg.MaxDeliveries, cfg.MaxAttempts = 2, 1
	s := c.run(engine, cfg)
	c.turn(schemas.Session{ID: "s"}, "a")
	c.redis.Close()
	l := c.listen(schemas.AllEvents)
	job := c.say(schemas.Session{ID: "s"}, "b")
	waitFor(t, "several tries", func() bool {
		return strings.Contains(scrape(t, s), `hxp_session_waits_total{model="phi3"} 4`)
	})
	if ok, checks := s.Ready(); !ok || checks["conversations"].OK || !strings.Contains(checks["conversations"].Detail, "wait") {
		t.Errorf("ready %t, checks %+v; want the worker ready, and a word on conversations", ok, checks)
	}
	wantMetrics(t, s, `hxp_session_store_unreachable{model="phi3"} 1`)
	if r := c.result(c.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
		t.Errorf("a job without a session ended %s", r.Status)
	}
	if err := c.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	var events []schemas.Event
	for _, e := range until(l, job.ID) {
		if e.Kind == schemas.Interrupted && (!e.Handback || e.Error.Param != "session" || strings.Contains(e.Error.Message, "127.0.0.1")) {
			t.Errorf("interrupted with %+v, want a hand-back that does not say where Redis is", e.Error)
		}
		events = append(events, e)
	}
	if got := kinds(events); got != "started interrupted resumed delta usage done" {
		t.Errorf("kinds = %q", got)
	}
	if diff := cmp.Diff([]string{"user: a", "assistant: reply 1", "user: b", "assistant: reply 3"}, c.spoken("s")); diff != "" {
		t.Errorf("the conversation (-want +got):\n%s", diff)
	}
	waitFor(t, "conversations to be well", func() bool { _, checks := s.Ready(); return checks["conversations"].OK })
	if n := strings.Count(s.log.String(), "conversations cannot be reached"); n != 1 {
		t.Errorf("the log says %d times that conversations are away, want once", n)
	}
}

// until returns the events of one job.
func until(l *listener, job string) []schemas.Event {
	l.t.Helper()
	var events []schemas.Event
	for {
		e := l.next()
		if e.ID != job {
			continue
		}
		events = append(events, e)
		if e.Kind.Terminal() {
			return events
		}
	}
}

// TestRedisAwayPastTheDeadline ends the job in time.
func TestRedisAwayPastTheDeadline(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	c.run(parrot(), c.config(workers.Sessions{}))
	c.redis.Close()
	start := time.Now()
	r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s"}, Deadline: start.Add(300 * time.Millisecond)}))
	if r.Status != schemas.StatusExpired || r.Turn == nil || r.Turn.State != schemas.TurnDropped || r.Turn.Reason != "deadline_exceeded" {
		t.Errorf("result %s, turn %+v", r.Status, r.Turn)
	}
	if took := r.Finished.Sub(start); took > 4*time.Second {
		t.Errorf("it ended after %s", took)
	}
}

// TestRedisAwayAtCommit answers, gives the slot back, and stores the turn once Redis is there.
func TestRedisAwayAtCommit(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	engine.health.MaxModelLen = 1 << 20
	cfg := c.config(workers.Sessions{CommitTimeout: 100 * time.Millisecond})
	cfg.Slots = 1
	s := c.run(engine, cfg)
	l := c.listen(schemas.AllEvents)
	job := c.submitLarge(schemas.Job{Stream: true, Session: &schemas.Session{ID: "s"}}, largeBody(600<<10))
	<-running
	c.redis.Close()
	close(open)
	events := until(l, job.ID)
	last := events[len(events)-1]
	if last.Kind != schemas.Done || last.Turn == nil || last.Turn.State != schemas.TurnPending || last.Turn.Reason == "" || strings.Contains(last.Turn.Reason, "127.0.0.1") {
		t.Fatalf("%s, turn %+v, error %v; want it done and pending", last.Kind, last.Turn, last.Error)
	}
	if r := c.result(job); r.Text != "reply 1" || r.Turn.State != schemas.TurnPending {
		t.Errorf("result %q, turn %+v", r.Text, r.Turn)
	}
	wantMetrics(t, s, `hxp_session_pending{model="phi3"} 1`, `hxp_session_jobs_total{model="phi3",outcome="pending"} 1`)
	if r := c.result(c.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
		t.Errorf("a job beside it, in the one slot, ended %s", r.Status)
	}
	c.settled(1)
	if c.bodies() == 0 {
		t.Error("the body has gone, and another worker would need it")
	}
	if err := c.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	c.settled(0)
	c.emptied()
	if got := c.spoken("s"); len(got) != 2 || got[1] != "assistant: reply 1" {
		t.Errorf("the conversation has %d messages", len(got))
	}
	waitFor(t, "the metrics", func() bool {
		m := scrape(t, s)
		return strings.Contains(m, `hxp_session_pending{model="phi3"} 0`) && strings.Contains(m, `outcome="stored_late"} 1`)
	})
	if got := len(engine.seen()); got != 2 {
		t.Errorf("the engine saw %d requests, want 2", got)
	}
}

// TestPendingTurnOfAWorkerThatIsGone is stored by whoever is given the job, from the job and its Result.
func TestPendingTurnOfAWorkerThatIsGone(t *testing.T) {
	t.Parallel()
	pending := func(job schemas.Job) *schemas.Turn {
		return &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), Branch: "main", State: schemas.TurnPending, Reason: "away", LeftOut: &schemas.LeftOut{Strategy: schemas.WindowLastN, Turns: 1}}
	}
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		c := newTalks(t, queue.Config{})
		engine, running, open := gated()
		first := c.run(engine, c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond}))
		job := c.say(schemas.Session{ID: "s"}, "hi")
		<-running
		c.redis.Close()
		close(open)
		if r := c.result(job); r.Turn.State != schemas.TurnPending {
			t.Fatalf("turn = %+v", r.Turn)
		}
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		c.settled(1)
		second := c.run(says("never"), c.config(workers.Sessions{}))
		waitFor(t, "the other worker to have it", func() bool { return strings.Contains(scrape(t, second), `hxp_session_pending{model="phi3"} 1`) })
		if err := c.redis.Restart(); err != nil {
			t.Fatal(err)
		}
		c.settled(0)
		if diff := cmp.Diff([]string{"user: hi", "assistant: reply 1"}, c.spoken("s")); diff != "" {
			t.Errorf("the conversation (-want +got):\n%s", diff)
		}
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
		if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
			t.Fatal(err)
		}
		body := largeBody(600 << 10)
		job := c.submitLarge(schemas.Job{Session: &schemas.Session{ID: "s"}}, body)
		c.pullOne(schemas.Standard)
		c.putResult(job, "the reply", pending(job))
		l := c.listen(schemas.AllEvents)
		engine := says("never")
		c.run(engine, c.config(workers.Sessions{}))
		c.settled(0)
		c.emptied()
		if e := l.next(); e.Kind != schemas.Done || e.Turn == nil || e.Turn.State != schemas.TurnPending {
			t.Errorf("%s, turn %+v; want the end as the result tells it", e.Kind, e.Turn)
		}
		turns, err := c.store.Turns(t.Context(), c.ref("s"), conversation.TurnID(job.ID))
		if err != nil || len(turns[0].Messages) != 2 || turns[0].Usage.CompletionTokens != 2 || turns[0].FinishReason != "stop" {
			t.Errorf("turns = %v (%v)", len(turns), err)
		}
		if n := session(t, c, "s").Stats.Truncated; n != 1 {
			t.Errorf("%d truncated turns, want 1", n)
		}
		if len(engine.seen()) != 0 {
			t.Error("the engine was asked")
		}
	})
	for name, spoil := range map[string]func(c *talks, job schemas.Job, r *schemas.Turn){
		"session deleted": func(c *talks, _ schemas.Job, _ *schemas.Turn) {
			if err := c.store.Delete(c.t.Context(), c.ref("s")); err != nil {
				c.t.Fatal(err)
			}
		},
		"body gone": func(c *talks, job schemas.Job, _ *schemas.Turn) {
			if err := queue.DeleteBody(c.t.Context(), c.js, tenant, job.ID); err != nil {
				c.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
			if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
				t.Fatal(err)
			}
			job := c.submitLarge(schemas.Job{Session: &schemas.Session{ID: "s"}}, largeBody(600<<10))
			c.pullOne(schemas.Standard)
			turn := pending(job)
			spoil(c, job, turn)
			c.putResult(job, "the reply", turn)
			s := c.run(says("never"), c.config(workers.Sessions{}))
			c.settled(0)
			wantMetrics(t, s, `hxp_session_jobs_total{model="phi3",outcome="lost"} 1`)
			if !strings.Contains(s.log.String(), "can never be stored") {
				t.Error("the log does not tell of the loss")
			}
		})
	}
}

// TestPendingTurnWaitsForAWorkerWithConversations leaves the job to others if this worker keeps none.
func TestPendingTurnWaitsForAWorkerWithConversations(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
		t.Fatal(err)
	}
	job := c.say(schemas.Session{ID: "s"}, "hi")
	c.pullOne(schemas.Standard)
	c.putResult(job, "the reply", &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), State: schemas.TurnPending})
	without := c.run(says("never"), workers.Config{MaxRetryDelay: 20 * time.Millisecond})
	waitFor(t, "the job to be left", func() bool { return strings.Contains(scrape(t, without), `outcome="deferred"} 1`) })
	full := c.runUnready(says("never"), c.config(workers.Sessions{}))
	full.ready(t)
	c.settled(0)
	if got := c.spoken("s"); len(got) != 2 {
		t.Errorf("the conversation = %q", got)
	}
}

// TestJanitorLeavesPendingTurns keeps the message from which the turn is to be stored.
func TestJanitorLeavesPendingTurns(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{Lease: 200 * time.Millisecond})
	job := c.say(schemas.Session{ID: "s"}, "hi")
	done := c.submit(schemas.Job{})
	c.putResult(job, "the reply", &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), State: schemas.TurnPending})
	c.putResult(done, "the reply", nil)
	l := c.listen(schemas.EventsOfJob(tenant, job.ID))
	c.janitor(workers.JanitorConfig{Interval: 20 * time.Millisecond})
	if e := l.next(); e.Kind != schemas.Done || e.Turn == nil || e.Turn.State != schemas.TurnPending {
		t.Errorf("%s, turn %+v", e.Kind, e.Turn)
	}
	c.settled(1)
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
		t.Fatal(err)
	}
	c.run(says("never"), c.config(workers.Sessions{}))
	c.settled(0)
	if got := c.spoken("s"); len(got) != 2 {
		t.Errorf("the conversation = %q", got)
	}
}

// TestNoMoreTurnsWaitThanMay drops the turn of the one too many, and says so in its Result.
func TestNoMoreTurnsWaitThanMay(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	cfg := c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond})
	cfg.HealthInterval, cfg.RetryDelay = 40*time.Millisecond, 20*time.Millisecond
	_, js := c.connect()
	w, err := workers.New(js, model, engine, cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.BoundLate(1, 50*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	a := c.say(schemas.Session{ID: "s"}, "a")
	<-running
	b := c.say(schemas.Session{ID: "s"}, "b")
	<-running
	c.redis.Close()
	close(open)
	states := map[schemas.TurnState]*schemas.Result{}
	for _, job := range []schemas.Job{a, b} {
		r := c.result(job)
		states[r.Turn.State] = r
	}
	dropped, pending := states[schemas.TurnDropped], states[schemas.TurnPending]
	if dropped == nil || pending == nil || dropped.Status != schemas.StatusCompleted || !strings.Contains(dropped.Turn.Reason, "as many turns wait") {
		t.Fatalf("states = %v", states)
	}
	c.settled(1)
	// A turn is not waited for any longer than its Result is kept.
	c.drop(schemas.ResultsStream)
	c.ensure()
	c.settled(0)
}

// TestUnfinishedTurnsAreKept stores what there is of a turn that did not finish, apart from history.
func TestUnfinishedTurnsAreKept(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end      error
		cancel   bool
		deadline time.Duration
		silent   bool
		status   conversation.Status
		state    schemas.TurnState
		reason   string
		messages int
	}{
		"cancelled":              {cancel: true, status: conversation.Cancelled, state: schemas.TurnKept, reason: "cancelled", messages: 2},
		"cancelled before words": {cancel: true, silent: true, state: schemas.TurnDropped, reason: "cancelled"},
		"expired":                {deadline: 300 * time.Millisecond, status: conversation.Interrupted, state: schemas.TurnKept, reason: "deadline_exceeded", messages: 2},
		"failed":                 {end: schemas.Errorf(schemas.CodeInvalidRequest, "no"), status: conversation.Interrupted, state: schemas.TurnKept, reason: "invalid_request", messages: 2},
		"failed every attempt":   {end: schemas.Errorf(schemas.CodeEngineUnavailable, "no"), status: conversation.Interrupted, state: schemas.TurnKept, reason: "max_attempts", messages: 2},
		"failed before words":    {end: schemas.Errorf(schemas.CodeInvalidRequest, "no"), silent: true, state: schemas.TurnDropped, reason: "invalid_request"},
		"blocked":                {end: schemas.Errorf(schemas.CodeContentBlocked, "no"), status: conversation.Blocked, state: schemas.TurnKept, reason: "content_blocked", messages: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{})
			running := make(chan struct{}, 4)
			engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
				if !tc.silent {
					emit("half a rep")
				}
				running <- struct{}{}
				if tc.end != nil {
					return tc.end
				}
				<-ctx.Done()
				return ctx.Err()
			})
			cfg := c.config(workers.Sessions{})
			cfg.MaxAttempts = 1
			c.run(engine, cfg)
			job := schemas.Job{Stream: true, Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(chat("hi", 6))}
			if tc.deadline > 0 {
				job.Deadline = time.Now().Add(tc.deadline)
			}
			job = c.submit(job)
			<-running
			if tc.cancel {
				c.cancel(job)
			}
			r := c.result(job)
			if r.Status == schemas.StatusCompleted || r.Turn == nil || r.Turn.State != tc.state || r.Turn.Reason != tc.reason || r.Turn.Head {
				t.Errorf("result %s, turn %+v; want it %s for %s", r.Status, r.Turn, tc.state, tc.reason)
			}
			s := session(t, c, "s")
			if s.Head != "" || s.Rev != 0 || s.Pending != nil || s.Stats.Aborted != 1 {
				t.Errorf("session = %+v, want nothing of it in history", s)
			}
			turns, err := c.store.Turns(t.Context(), c.ref("s"), conversation.TurnID(job.ID))
			if tc.state == schemas.TurnDropped {
				if !errors.Is(err, conversation.ErrNoTurn) {
					t.Errorf("turns = %v, %v; want none", turns, err)
				}
				return
			}
			if err != nil || turns[0].Status != tc.status || len(turns[0].Messages) != tc.messages {
				t.Errorf("turns = %+v (%v), want one %s with %d messages", turns, err, tc.status, tc.messages)
			}
		})
	}
}

// TestSessionDeletedMeanwhile lets the answer through, and brings no session back.
func TestSessionDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	c.run(engine, c.config(workers.Sessions{}))
	job := c.say(schemas.Session{ID: "s"}, "a")
	<-running
	if err := c.store.Delete(t.Context(), c.ref("s")); err != nil {
		t.Fatal(err)
	}
	close(open)
	r := c.result(job)
	if r.Status != schemas.StatusCompleted || r.Text != "reply 1" || r.Turn.State != schemas.TurnDropped || !strings.Contains(r.Turn.Reason, "deleted") {
		t.Errorf("result %s %q, turn %+v", r.Status, r.Text, r.Turn)
	}
	if _, err := c.store.Get(t.Context(), c.ref("s")); !errors.Is(err, conversation.ErrDeleted) {
		t.Errorf("session: %v, want it deleted", err)
	}
}

// TestLongTurnsStayInFlight renews the claim, so that serialize holds for a turn that takes longer than claims last.
func TestLongTurnsStayInFlight(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	c.store = storeAt(t, c.redis.Addr(), conversation.Config{PendingTTL: 120 * time.Millisecond})
	engine, running, open := gated()
	c.run(engine, c.config(workers.Sessions{}))
	job := c.say(schemas.Session{ID: "s"}, "a")
	<-running
	<-time.After(300 * time.Millisecond) // longer than a claim
	r := c.result(c.say(schemas.Session{ID: "s", Serialize: true}, "b"))
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeSessionConflict {
		t.Errorf("result %s %v, want a conflict", r.Status, r.Error)
	}
	close(open)
	if r := c.result(job); r.Turn.State != schemas.TurnStored {
		t.Errorf("turn = %+v", r.Turn)
	}
}

// TestInterruptedTurnGoesOn continues a reply in the middle, with the same history, though the head has moved meanwhile.
func TestInterruptedTurnGoesOn(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{LogPrompts: true})
	c.run(engine, c.config(workers.Sessions{}))
	one := c.turn(schemas.Session{ID: "s"}, "a")
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 12}); err != nil {
		t.Fatal(err)
	}
	l := c.listen(schemas.AllEvents)
	job := c.submit(schemas.Job{Stream: true, Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(chat("b", 40))})
	l.until(schemas.Interrupted)
	if _, err := c.store.Append(t.Context(), c.ref("s"), conversation.NewTurn{
		Job: "meanwhile", Parent: one.Turn.ID, Messages: []conversation.Message{conversation.Text("user", "x"), conversation.Text("assistant", "y")},
	}); err != nil {
		t.Fatal(err)
	}
	events := until(l, job.ID)
	if got := kinds(events); got != "resumed delta usage done" {
		t.Errorf("kinds = %q: %s", got, reasons(events))
	}
	r := c.result(job)
	want := expect(t, fmt.Sprintf(`{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":%q},{"role":"user","content":"b"}],"max_tokens":40,"ignore_eos":true}`, one.Text))
	if r.Text != want || r.Turn.Parent != one.Turn.ID || r.Turn.Head {
		t.Errorf("text %q, want %q; turn %+v, want it to answer %s", r.Text, want, r.Turn, one.Turn.ID)
	}
}

// TestOutsizedReplyMakesNoTurn does not store a turn whose Result cannot be.
func TestOutsizedReplyMakesNoTurn(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit(strings.Repeat("x", 300<<10), strings.Repeat("y", 300<<10))
		return nil
	})
	c.run(engine, c.config(workers.Sessions{}))
	r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s"}}))
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodePayloadTooLarge || r.Turn.State != schemas.TurnDropped || !strings.Contains(r.Turn.Reason, "too large") {
		t.Errorf("result %s %v, turn %+v", r.Status, r.Error, r.Turn)
	}
	if s := session(t, c, "s"); s.Stats.Turns != 0 {
		t.Errorf("stats = %+v", s.Stats)
	}
}

// TestDamagedSessionFailsItsJobs counts tries of what is damaged, and does not wait for it.
func TestDamagedSessionFailsItsJobs(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := parrot()
	cfg := c.config(workers.Sessions{})
	cfg.MaxAttempts = 2
	s := c.run(engine, cfg)
	c.turn(schemas.Session{ID: "s"}, "a")
	c.redis.HSet("hxp:c:{acme:s}:meta", "seq", "x")
	r := c.result(c.say(schemas.Session{ID: "s"}, "b"))
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeMaxAttempts || !strings.Contains(r.Error.Message, "damaged") {
		t.Errorf("result %s %v", r.Status, r.Error)
	}
	if got := s.Status().State; got != schemas.WorkerReady {
		t.Errorf("the worker is %s; the engine is not to blame", got)
	}
}

// TestSummaryWaitsForRedis comes again when its summary cannot be stored.
func TestSummaryWaitsForRedis(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	c.run(engine, c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond}))
	at, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"})
	if err != nil {
		t.Fatal(at, err)
	}
	turn, err := c.store.Append(t.Context(), c.ref("s"), conversation.NewTurn{Job: "j", Messages: []conversation.Message{conversation.Text("user", "x")}})
	if err != nil {
		t.Fatal(err)
	}
	l := c.listen(schemas.AllEvents)
	job := c.submit(schemas.Job{Session: &schemas.Session{ID: "s", Summarize: turn.Turn}})
	<-running
	// Everything is refused, as by a Redis that reads its file.
	c.redis.Server().SetPreHook(func(peer *server.Peer, _ string, _ ...string) bool {
		peer.WriteError("LOADING Redis is loading the dataset in memory")
		return true
	})
	close(open)
	l.until(schemas.Interrupted)
	c.redis.Server().SetPreHook(nil)
	if events := until(l, job.ID); events[len(events)-1].Turn.State != schemas.TurnStored {
		t.Errorf("kinds = %q", kinds(events))
	}
	path, err := c.store.Path(t.Context(), c.ref("s"), conversation.PathQuery{})
	if err != nil || len(path.Summaries) != 1 || !strings.HasPrefix(path.Summaries[0].Text, "reply") {
		t.Errorf("summaries = %+v (%v)", path, err)
	}
}
