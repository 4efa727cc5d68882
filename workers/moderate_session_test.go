package workers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// TestHistoryIsModerated keeps what was masked masked, and what was blocked out of history.
func TestHistoryIsModerated(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n == 2 {
			emit("these are for", "bidden words")
			return nil
		}
		emit("ask jo@", "b.example now")
		return nil
	})
	cfg := c.config(workers.Sessions{})
	cfg.Capabilities.SystemRole = workers.SystemFold
	cfg.Moderator = moderated(t, moderation.Config{Rules: moderation.Rules{Phrases: []string{"forbidden words"}, Personal: []string{"email"}}}).Moderator
	c.run(engine, cfg)
	l := c.listen(schemas.AllEvents)

	one := c.turn(schemas.Session{ID: "s"}, "i am al@b.example")
	if got := l.end(1)[0].Reason; !strings.Contains(got, "masked 1 email in the request") {
		t.Errorf("reason = %q, want that the request was masked", got)
	}
	stored := func(job string) *conversation.Turn {
		t.Helper()
		turns, err := c.store.Turns(t.Context(), c.ref("s"), conversation.TurnID(job))
		if err != nil {
			t.Fatal(err)
		}
		return &turns[0]
	}
	if got, want := string(stored(one.ID).Moderation), `{"stage":"output","action":"mask","policy":"strict","categories":["email"]}`; got != want {
		t.Errorf("moderation = %s, want %s", got, want)
	}

	two := c.result(c.say(schemas.Session{ID: "s"}, "say it"))
	blockedOutput(t, two)
	if two.Turn == nil || two.Turn.State != schemas.TurnKept {
		t.Errorf("turn = %+v, want it to be kept apart", two.Turn)
	}
	kept := stored(two.ID)
	if kept.Status != conversation.Blocked || !strings.Contains(string(kept.Moderation), `"action":"block"`) {
		t.Errorf("turn = %s with %s, want it blocked", kept.Status, kept.Moderation)
	}
	for _, line := range linesOf(t, kept.Messages) {
		if strings.Contains(line, "bidden") {
			t.Errorf("the turn holds %q", line)
		}
	}
	if r := c.result(c.say(schemas.Session{ID: "s"}, "forbidden words")); r.Error == nil || r.Error.Code != schemas.CodeContentBlocked || r.Turn.State != schemas.TurnDropped {
		t.Errorf("%v with turn %+v, want the request to be blocked", r.Error, r.Turn)
	}

	c.turn(schemas.Session{ID: "s"}, "and then?")
	want := []string{"user: i am [EMAIL]", "assistant: ask [EMAIL] now", "user: and then?", "assistant: ask [EMAIL] now"}
	if diff := cmp.Diff(want, c.spoken("s")); diff != "" {
		t.Errorf("the conversation (-want +got):\n%s", diff)
	}
	requests := engine.seen()
	if diff := cmp.Diff(want[:3], asked(t, requests[len(requests)-1])); diff != "" {
		t.Errorf("the last prompt (-want +got):\n%s", diff)
	}
}

// TestTurnOfAnotherWorkerIsMasked when it is stored from the job and its Result.
func TestTurnOfAnotherWorkerIsMasked(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, open := gated()
	cfg := c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond})
	cfg.Moderator = moderated(t, masking("email")).Moderator
	first := c.run(engine, cfg)
	job := c.say(schemas.Session{ID: "s"}, "i am al@b.example")
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
	second := c.run(says("never"), cfg)
	waitFor(t, "the other worker to have it", func() bool { return strings.Contains(scrape(t, second), `hxp_session_pending{model="phi3"} 1`) })
	if err := c.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	c.settled(0)
	if diff := cmp.Diff([]string{"user: i am [EMAIL]", "assistant: reply 1"}, c.spoken("s")); diff != "" {
		t.Errorf("the conversation (-want +got):\n%s", diff)
	}
	turns, err := c.store.Turns(t.Context(), c.ref("s"), conversation.TurnID(job.ID))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(turns[0].Moderation), `{"stage":"input","action":"mask","policy":"strict","categories":["email"]}`; got != want {
		t.Errorf("moderation = %s, want %s", got, want)
	}
}

// TestStoredSystemPromptIsModerated where a job is shown it, unless the job brings one of its own.
func TestStoredSystemPromptIsModerated(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	for id, system := range map[string]string{"bad": "a forbidden phrase", "mail": "write to a@b.example", "good": "be brief"} {
		if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: id, System: system}); err != nil {
			t.Fatal(err)
		}
	}
	engine := says("ok")
	cfg := c.config(workers.Sessions{})
	cfg.Moderator = moderated(t, moderation.Config{Rules: moderation.Rules{Phrases: []string{"forbidden phrase"}, Personal: []string{"email"}}}).Moderator
	s := c.run(engine, cfg)
	if r := c.result(c.say(schemas.Session{ID: "bad"}, "hi")); r.Error == nil || r.Error.Code != schemas.CodeContentBlocked || r.Error.Param != "session" {
		t.Errorf("error = %+v, want content_blocked of session", r.Error)
	}
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine got %d requests", n)
	}
	l := c.listen(schemas.AllEvents)
	for id, want := range map[string]string{"mail": "system: write to [EMAIL]", "good": "system: be brief"} {
		c.turn(schemas.Session{ID: id}, "hi")
		requests := engine.seen()
		if got := asked(t, requests[len(requests)-1]); got[0] != want {
			t.Errorf("the engine was shown %q, want %q in front", got, want)
		}
		if got, masked := l.end(1)[0].Reason, id == "mail"; strings.Contains(got, "masked 1 email in the session's system prompt") != masked {
			t.Errorf("reason = %q of session %s", got, id)
		}
	}
	own := schemas.Job{Session: &schemas.Session{ID: "bad"}, Body: []byte(`{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"hi"}]}`)}
	if r := c.result(c.submit(own)); r.Status != schemas.StatusCompleted {
		t.Errorf("%s with %v, want the job's own system prompt to count", r.Status, r.Error)
	}
	if got := metric(t, s, `hxp_moderation_total{action="pass",model="phi3",stage="input"}`); got != "4" {
		t.Errorf("%s inputs passed, want each job's once", got)
	}
}
