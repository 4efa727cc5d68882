package workers_test

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

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
	for name, spoil := range map[string]func(c *talks, job schemas.Job) (text string){
		"session deleted": func(c *talks, _ schemas.Job) string {
			if err := c.store.Delete(c.t.Context(), c.ref("s")); err != nil {
				c.t.Fatal(err)
			}
			return "the reply"
		},
		"body gone": func(c *talks, job schemas.Job) string {
			if err := queue.DeleteBody(c.t.Context(), c.js, tenant, job.ID); err != nil {
				c.t.Fatal(err)
			}
			return "the reply"
		},
		"no reply": func(*talks, schemas.Job) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTalks(t, queue.Config{Lease: 900 * time.Millisecond})
			if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
				t.Fatal(err)
			}
			job := c.submitLarge(schemas.Job{Session: &schemas.Session{ID: "s"}}, largeBody(600<<10))
			c.pullOne(schemas.Standard)
			c.putResult(job, spoil(c, job), pending(job))
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

// TestJanitorDoesNotLetAnAnsweredJobRunAgain removes it before the Result that says so expires.
func TestJanitorDoesNotLetAnAnsweredJobRunAgain(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{Lease: 200 * time.Millisecond, ResultsMaxAge: 2 * time.Second})
	job := c.say(schemas.Session{ID: "s"}, "hi")
	c.putResult(job, "the reply", &schemas.Turn{Session: "s", ID: conversation.TurnID(job.ID), State: schemas.TurnPending})
	c.janitor(workers.JanitorConfig{Interval: 20 * time.Millisecond})
	c.settled(0)
	if _, err := queue.GetResult(t.Context(), c.js, tenant, job.ID); err != nil {
		t.Errorf("the job left the queue after its result: %v", err)
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

// TestTurnsOutliveRedis stores what was promised in a real server that was killed and started again, beside what was there.
func TestTurnsOutliveRedis(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	addr := srv.Addr()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c := &talks{broker: newBroker(t, queue.Config{}), store: storeAt(t, addr, conversation.Config{})}
	engine, running, open := gated()
	c.run(engine, c.config(workers.Sessions{CommitTimeout: 50 * time.Millisecond}))
	open <- struct{}{}
	c.turn(schemas.Session{ID: "s"}, "a")
	<-running
	job := c.say(schemas.Session{ID: "s"}, "b")
	<-running
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	close(open)
	if r := c.result(job); r.Turn.State != schemas.TurnPending {
		t.Errorf("turn = %+v", r.Turn)
	}
	waiting := c.say(schemas.Session{ID: "s"}, "c")
	again, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: dir, Port: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	c.result(waiting)
	c.settled(0)
	var texts []string
	tree, err := c.store.Tree(t.Context(), c.ref("s"), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, turn := range tree.Turns {
		texts = append(texts, linesOf(t, turn.Messages)[0])
	}
	slices.Sort(texts) // c may have been read before b was stored
	if diff := cmp.Diff([]string{"user: a", "user: b", "user: c"}, texts); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}

// TestRefusedLoginIsNoSessionsFault waits as if Redis were away: the password may be put right.
func TestRefusedLoginIsNoSessionsFault(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	s := c.run(parrot(), c.config(workers.Sessions{}))
	c.redis.Server().SetPreHook(func(peer *server.Peer, _ string, _ ...string) bool {
		peer.WriteError("NOAUTH Authentication required.")
		return true
	})
	job := c.say(schemas.Session{ID: "s"}, "a")
	waitFor(t, "a try", func() bool { return !strings.Contains(scrape(t, s), `hxp_session_waits_total{model="phi3"} 0`) })
	c.redis.Server().SetPreHook(nil)
	if r := c.result(job); r.Turn == nil || r.Turn.State != schemas.TurnStored {
		t.Errorf("result %s %v, turn %+v", r.Status, r.Error, r.Turn)
	}
}

// TestUnfinishedTurnWhileRedisIsAway ends its job without waiting for Redis for long.
func TestUnfinishedTurnWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine, running, _ := gated()
	c.run(engine, c.config(workers.Sessions{}))
	job := c.say(schemas.Session{ID: "s"}, "a")
	<-running
	c.redis.Close()
	start := time.Now()
	c.cancel(job)
	r := c.result(job)
	if r.Status != schemas.StatusCancelled || r.Turn.State != schemas.TurnDropped || r.Turn.Reason != "conversations cannot be reached" {
		t.Errorf("result %s, turn %+v", r.Status, r.Turn)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestLastChanceIsGivenBack lets another job have its last attempt while a turn waits to be stored.
func TestLastChanceIsGivenBack(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n%2 == 1 {
			return schemas.Errorf(schemas.CodeEngineUnavailable, "once")
		}
		if n == 2 {
			c.redis.Close()
		}
		emit("ok")
		return nil
	})
	cfg := c.config(workers.Sessions{CommitTimeout: 20 * time.Millisecond})
	cfg.MaxAttempts = 2
	c.run(engine, cfg)
	if r := c.result(c.say(schemas.Session{ID: "s"}, "a")); r.Attempts != 2 || r.Turn.State != schemas.TurnPending {
		t.Fatalf("result of %d attempts, turn %+v", r.Attempts, r.Turn)
	}
	if r := c.result(c.submit(schemas.Job{})); r.Attempts != 2 || r.Status != schemas.StatusCompleted {
		t.Errorf("result %s of %d attempts; want its last one to be run", r.Status, r.Attempts)
	}
	if err := c.redis.Restart(); err != nil {
		t.Fatal(err)
	}
	c.settled(0)
}

// TestSlowRedisIsNotTheEnginesFault keeps the job and the engine's good name.
func TestSlowRedisIsNotTheEnginesFault(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{Lease: 300 * time.Millisecond})
	cfg := c.config(workers.Sessions{})
	cfg.FirstTokenTimeout, cfg.TokenTimeout = 150*time.Millisecond, 150*time.Millisecond
	s := c.run(parrot(), cfg)
	c.turn(schemas.Session{ID: "s"}, "a")
	c.redis.Server().SetPreHook(func(_ *server.Peer, cmd string, _ ...string) bool {
		if strings.HasPrefix(cmd, "EVAL") {
			<-time.After(400 * time.Millisecond)
		}
		return false
	})
	if r := c.turn(schemas.Session{ID: "s"}, "b"); r.Attempts != 1 {
		t.Errorf("%d attempts, want one", r.Attempts)
	}
	if strings.Contains(s.log.String(), "no progress") {
		t.Error("the engine was blamed")
	}
}
