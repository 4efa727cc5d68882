package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

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
	choices := fmt.Appendf(nil, `[{"index":0,"message":{"role":"assistant","content":%q},"logprobs":null,"finish_reason":"stop"}]`, text)
	if text == "" {
		choices = []byte("[]")
	}
	err := queue.PutResult(c.t.Context(), c.js, &schemas.Result{
		ID: job.ID, Model: model, Class: schemas.Standard, Tenant: tenant, Endpoint: schemas.ChatCompletions, Status: schemas.StatusCompleted,
		Text: text, Choices: choices,
		Usage: &schemas.Usage{CompletionTokens: 2}, Attempts: 1, Finished: time.Now().UTC(), LastSeq: 3, Turn: turn,
	})
	if err != nil {
		c.t.Fatal(err)
	}
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
	c.settled(0) // and its last event is out
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
