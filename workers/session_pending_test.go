package workers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// TestMessageAfterAPendingTurn waits for that turn and answers it, whether it names it or not.
func TestMessageAfterAPendingTurn(t *testing.T) {
	t.Parallel()
	for name, named := range map[string]bool{"named": true, "not named": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{})
			// Claims run out while Redis is away.
			c.store = storeAt(t, c.redis.Addr(), conversation.Config{PendingTTL: time.Second})
			engine, running, open := gated()
			s := c.run(engine, c.config(workers.Sessions{CommitTimeout: 50 * time.Millisecond}))
			one := c.say(schemas.Session{ID: "s"}, "one")
			<-running
			c.redis.Close()
			close(open)
			first := c.result(one)
			if first.Turn.State != schemas.TurnPending {
				t.Fatalf("turn = %+v, want it pending", first.Turn)
			}
			// Its worker asks more and more seldom.
			away := time.Now()
			waitFor(t, "the claim to have run out", func() bool { return time.Since(away) > 2*time.Second })
			if err := c.redis.Restart(); err != nil {
				t.Fatal(err)
			}
			l := c.listen(schemas.AllEvents)
			place := schemas.Session{ID: "s"}
			if named {
				place.Parent = first.Turn.ID
			}
			two := c.say(place, "two")
			for _, e := range until(l, two.ID) {
				if e.Kind == schemas.Interrupted && !strings.Contains(e.Error.Message, "still to be stored") {
					t.Errorf("interrupted: %v, want that it waits for the turn", e.Error)
				}
			}
			if r := c.result(two); r.Status != schemas.StatusCompleted || r.Turn.Parent != first.Turn.ID || !r.Turn.Head {
				t.Errorf("%s (%v), turn %+v; want it to answer %s", r.Status, r.Error, r.Turn, first.Turn.ID)
			}
			c.settled(0)
			if diff := cmp.Diff([]string{"user: one", "assistant: reply 1", "user: two", "assistant: reply 2"}, c.spoken("s")); diff != "" {
				t.Errorf("the conversation (-want +got):\n%s", diff)
			}
			wantMetrics(t, s, `hxp_session_store_unreachable{model="phi3"} 0`)
		})
	}
}

// TestPendingTurnThatNeverComes is not waited for any longer than a turn counts as in flight.
func TestPendingTurnThatNeverComes(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	c.store = storeAt(t, c.redis.Addr(), conversation.Config{PendingTTL: 500 * time.Millisecond})
	s := c.run(parrot(), c.config(workers.Sessions{}))
	head := c.turn(schemas.Session{ID: "s"}, "one")
	begun, err := c.store.Begin(t.Context(), c.ref("s"), conversation.BeginTurn{Job: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	c.putResult(schemas.Job{ID: "lost"}, "never stored", &schemas.Turn{Session: "s", ID: begun.Turn, Parent: begun.Parent, Branch: begun.Branch, State: schemas.TurnPending})
	named := c.say(schemas.Session{ID: "s", Parent: begun.Turn}, "two")
	unnamed := c.turn(schemas.Session{ID: "s"}, "three")
	if unnamed.Turn.Parent != head.Turn.ID {
		t.Errorf("turn = %+v, want it to answer %s", unnamed.Turn, head.Turn.ID)
	}
	if r := c.result(named); r.Status != schemas.StatusFailed || r.Error.Param != "session.parent" {
		t.Errorf("%s (%v), want that there is no such turn", r.Status, r.Error)
	}
	if strings.Contains(scrape(t, s), `hxp_session_waits_total{model="phi3"} 0`) {
		t.Error("it was not waited for at all")
	}
}

// TestTurnBesideAPendingOne does not wait for what will not be its parent.
func TestTurnBesideAPendingOne(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	s := c.run(parrot(), c.config(workers.Sessions{}))
	head := c.turn(schemas.Session{ID: "s"}, "one")
	for job, turn := range map[string]*schemas.Turn{
		"sibling": {Session: "s", Branch: "main", State: schemas.TurnPending},
		"branch":  {Session: "s", Parent: head.Turn.ID, Branch: "other", State: schemas.TurnPending},
		"ended":   {Session: "s", Parent: head.Turn.ID, Branch: "main", State: schemas.TurnDropped},
		"other":   {Session: "t", Parent: head.Turn.ID, Branch: "main", State: schemas.TurnPending},
	} {
		turn.ID = conversation.TurnID(job)
		if _, err := c.store.Begin(t.Context(), c.ref("s"), conversation.BeginTurn{Job: job}); err != nil {
			t.Fatal(err)
		}
		c.putResult(schemas.Job{ID: job}, "a reply", turn)
	}
	if r := c.turn(schemas.Session{ID: "s"}, "two"); r.Turn.Parent != head.Turn.ID || !r.Turn.Head {
		t.Errorf("turn = %+v, want it to answer %s", r.Turn, head.Turn.ID)
	}
	wantMetrics(t, s, `hxp_session_waits_total{model="phi3"} 0`)
}

// TestTurnOfAnotherWorkersResult is stored with the text of that Result, by the worker that comes second.
func TestTurnOfAnotherWorkersResult(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		away  bool
		state schemas.TurnState
		want  []string
	}{
		"Redis is away":  {true, schemas.TurnPending, []string{"user: hi", "assistant: the first worker's"}},
		"Redis is there": {false, schemas.TurnPending, []string{"user: hi", "assistant: the first worker's"}},
		"it has no turn": {false, schemas.TurnDropped, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{})
			engine, running, open := gated()
			s := c.run(engine, c.config(workers.Sessions{CommitTimeout: 50 * time.Millisecond}))
			job := c.say(schemas.Session{ID: "s"}, "hi")
			<-running
			c.putResult(job, "the first worker's", &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), Branch: "main", State: tc.state, Reason: "away"})
			if tc.away {
				c.redis.Close()
			}
			close(open)
			if tc.away {
				waitFor(t, "the turn to wait", func() bool { return strings.Contains(scrape(t, s), `hxp_session_pending{model="phi3"} 1`) })
				if err := c.redis.Restart(); err != nil {
					t.Fatal(err)
				}
			}
			c.settled(0)
			if diff := cmp.Diff(tc.want, c.spoken("s")); diff != "" {
				t.Errorf("the conversation (-want +got):\n%s", diff)
			}
			if got := c.result(job).Text; got != "the first worker's" {
				t.Errorf("result = %q, want that of the first worker", got)
			}
			waitFor(t, "nothing to be in flight", func() bool { return session(t, c, "s").Pending == nil })
			wantMetrics(t, s, `hxp_session_pending{model="phi3"} 0`, `outcome="superseded"} 1`)
		})
	}
}
