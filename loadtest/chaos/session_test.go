//go:build chaos && linux

package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

// store is a redis-server that can be killed. It has on disk what it has answered.
type store struct {
	program
	address string
	*conversation.Store
}

func (b *bed) store() *store {
	b.t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		b.t.Fatalf("%v: `make tools` installs it", err)
	}
	port := freePort(b.t)
	s := &store{address: fmt.Sprintf("127.0.0.1:%d", port)}
	s.program = program{t: b.t, dir: b.dir, name: "redis", args: func() []string {
		return []string{
			binary, "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", b.dir, "--save", "",
			"--appendonly", "yes", "--appendfsync", "always",
		}
	}}
	s.run()
	rdb := redis.NewClient(&redis.Options{Addr: s.address, ContextTimeoutEnabled: true, MaxRetries: -1})
	b.t.Cleanup(func() { rdb.Close() })
	if s.Store, err = conversation.New(rdb, conversation.Config{}); err != nil {
		b.t.Fatal(err)
	}
	s.ready()
	return s
}

func (s *store) ready() {
	s.t.Helper()
	eventually(s.t, 20*time.Second, "redis-server answers", func() bool {
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte("PING\r\n"))
		var answer [7]byte
		n, _ := conn.Read(answer[:])
		return string(answer[:n]) == "+PONG\r\n"
	})
}

// tree reads a session, however long Redis takes to be back.
func (s *store) tree(id string) *conversation.Tree {
	s.t.Helper()
	var tree *conversation.Tree
	eventually(s.t, 20*time.Second, "read session "+id, func() bool {
		var err error
		tree, err = s.Tree(s.t.Context(), conversation.Ref{Tenant: tenant, ID: id}, true)
		return err == nil
	})
	return tree
}

// dialogue is a session whose turns are known: each answers the one before.
type dialogue struct {
	id       string
	messages []map[string]string
	turns    []*task
}

// next makes the job of the next turn, and what an undisturbed engine answers it with.
func (d *dialogue) next(t *testing.T, tokens int) *task {
	t.Helper()
	say := map[string]string{"role": "user", "content": fmt.Sprintf("Question %d of %s?", len(d.turns), d.id)}
	body := func(messages []map[string]string) []byte {
		raw, err := json.Marshal(map[string]any{"messages": messages, "max_tokens": tokens, "min_tokens": tokens, "stream": true})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	d.messages = append(d.messages, say)
	want, err := vllmsim.Expected(model, body(d.messages), string(schemas.ChatCompletions))
	if err != nil {
		t.Fatal(err)
	}
	turn := &task{want: want[0], job: schemas.Job{
		ID: fmt.Sprintf("%s-%03d", d.id, len(d.turns)), Model: model, Class: schemas.Standard, Tenant: tenant, Stream: true,
		Endpoint: schemas.ChatCompletions, Body: body([]map[string]string{say}), Session: &schemas.Session{ID: d.id},
	}}
	d.turns = append(d.turns, turn)
	d.messages = append(d.messages, map[string]string{"role": "assistant", "content": want[0].Text})
	return turn
}

// judgeDialogue holds that the session has every turn once, in order, with the answer that was given.
func (r *report) judgeDialogue(s *store, d *dialogue) {
	tree := s.tree(d.id)
	if len(tree.Turns) != len(d.turns) {
		r.differing++
		r.fault("session %s has %d turns, want %d", d.id, len(tree.Turns), len(d.turns))
		return
	}
	parent := ""
	for i, turn := range tree.Turns {
		want := d.turns[i]
		var reply struct{ Role, Content string }
		if n := len(turn.Messages); n == 2 {
			_ = json.Unmarshal(turn.Messages[1].Body, &reply)
		}
		if turn.ID != conversation.TurnID(want.job.ID) || turn.Parent != parent || turn.Status != conversation.Finished ||
			reply.Role != "assistant" || reply.Content != want.want.Text {
			r.differing++
			r.fault("turn %d of session %s is %s after %q, %s, and says %q; want %s after %q and %q",
				i, d.id, turn.ID, turn.Parent, turn.Status, reply.Content, conversation.TurnID(want.job.ID), parent, want.want.Text)
		}
		parent = turn.ID
	}
	if head := tree.Session.Head; head != parent {
		r.differing++
		r.fault("the head of session %s is %s, want %s", d.id, head, parent)
	}
}

// TestSessionGaps kills a worker between each two of the steps that end a turn: the commit to the
// session, the Result, the terminal event and the acknowledgement. The next worker finds what is done.
func TestSessionGaps(t *testing.T) {
	const scenario = "session-gaps"
	lease := 2 * time.Second
	b := newBed(t, 1, lease)
	s := b.store()
	e := b.engine("e1", 2*time.Millisecond)
	queue := newProxy(t, strings.TrimPrefix(b.brokers[0].url(), "nats://"))
	memory := newProxy(t, s.address)
	far := b.workerVia("far", func() string { return queue.url("nats") }, e, 8, "redis.url="+memory.url("redis"))
	near := b.worker("near", e, 8, "redis.url=redis://"+s.address)
	near.kill()
	w := b.watch()
	r := &report{scenario: scenario, bound: lease + 5*time.Second}

	d := &dialogue{id: scenario}
	var list []*task
	generated := 0
	// Once without a fault, so that Redis knows the scripts and each is called by one word.
	first := d.next(t, 30)
	list, generated = append(list, first), generated+len(first.want.TokenIDs)
	if err := b.submit(t.Context(), &first.job, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	b.settled(first)
	for round := range size(2, 8) {
		for _, gap := range []struct {
			name       string
			at         *proxy
			words, end string
		}{
			{"commit and result", memory, `"role":"assistant"`, ""},
			{"result and event", queue, "PUB hxp.v1.results.", ""},
			{"event and acknowledgement", queue, `"kind":"done"`, "\r\n"},
		} {
			turn := d.next(t, 30)
			list = append(list, turn)
			generated += len(turn.want.TokenIDs)
			sprung := gap.at.set(gap.words, gap.end)
			if err := b.submit(t.Context(), &turn.job, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			select {
			case <-sprung:
			case <-time.After(30 * time.Second):
				t.Fatalf("round %d: the gap between %s was not reached\n%s", round, gap.name, far.tail(2<<10))
			}
			b.reached(gap.name, s, turn)
			at := time.Now()
			far.kill()
			w.strike(far.id(), at)
			gap.at.lift()
			near.start()
			near.ready()
			b.settled(turn)
			near.kill()
			far.start()
			far.ready()
		}
	}
	r.jobs = len(list)
	r.judgeAll(b, w, list)
	r.judgeDialogue(s, d)
	// Whoever was killed had generated everything: nobody asks the engine again.
	if got := e.stats().GenerationTokens; got > generated+len(list)+16 {
		r.fault("the engine generated %d tokens for %d turns of %d in all", got, len(list), generated)
	}
	r.note("gaps=3 kills=%d", len(list)-1)
	r.close(b)
}

// reached waits until what was said before the gap has been done.
func (b *bed) reached(gap string, s *store, turn *task) {
	b.t.Helper()
	eventually(b.t, 10*time.Second, "the step before the gap between "+gap, func() bool {
		tree, err := s.Tree(b.t.Context(), conversation.Ref{Tenant: tenant, ID: turn.job.Session.ID}, false)
		if err != nil || len(tree.Turns) == 0 || tree.Turns[len(tree.Turns)-1].ID != conversation.TurnID(turn.job.ID) {
			return false
		}
		return gap == "commit and result" || b.hasResult(turn)
	})
}

func (b *bed) hasResult(turn *task) bool {
	ctx, stop := context.WithTimeout(b.t.Context(), time.Second)
	defer stop()
	s, err := b.js.Stream(ctx, schemas.ResultsStream)
	if err != nil {
		return false
	}
	_, err = s.GetLastMsgForSubject(ctx, schemas.ResultSubject(tenant, turn.job.ID))
	return err == nil
}

// settled waits until a job is answered and its message is gone.
func (b *bed) settled(turn *task) {
	b.t.Helper()
	eventually(b.t, 30*time.Second, "job "+turn.job.ID+" is settled", func() bool {
		ctx, stop := context.WithTimeout(b.t.Context(), time.Second)
		defer stop()
		s, err := b.js.Stream(ctx, schemas.JobsStream(model))
		return err == nil && s.CachedInfo().State.Msgs == 0 && b.hasResult(turn)
	})
}

// TestRedisKilled kills redis-server again and again while sessions go on. A turn that was said to be stored is
// there; one that was said to wait comes to be; and a job whose history cannot be read waits.
func TestRedisKilled(t *testing.T) {
	const scenario = "redis-killed"
	lease := 2 * time.Second
	b := newBed(t, 1, lease)
	s := b.store()
	e := b.engine("e1", 2*time.Millisecond)
	for i := range 2 {
		b.worker(fmt.Sprintf("w%d", i+1), e, 16, "redis.url=redis://"+s.address)
	}
	w := b.watch()
	r := &report{scenario: scenario}
	var kills atomic.Int64
	enough := func() bool { return kills.Load() >= size[int64](8, 60) }

	var mu sync.Mutex
	var all []*dialogue
	var speakers, killing sync.WaitGroup
	for i := range size(12, 40) {
		speakers.Go(func() {
			for k := 0; !enough() && !t.Failed(); k++ {
				d := &dialogue{id: fmt.Sprintf("%s-%d-%d", scenario, i, k)}
				mu.Lock()
				all = append(all, d)
				mu.Unlock()
				for len(d.turns) < 20 && !enough() && !t.Failed() {
					b.say(w, s, d)
				}
			}
		})
	}
	killing.Go(func() {
		rng := random(scenario)
		for !enough() && pause(t.Context(), time.Duration(500+rng.IntN(1000))*time.Millisecond) {
			s.kill()
			kills.Add(1)
			pause(t.Context(), time.Duration(rng.IntN(500))*time.Millisecond)
			s.start()
			s.ready()
		}
	})
	speakers.Wait()
	killing.Wait()

	var list []*task
	for _, d := range all {
		list = append(list, d.turns...)
	}
	r.jobs = len(list)
	r.judgeAll(b, w, list)
	stored, pending := 0, 0
	for id, results := range b.results() {
		switch turn := results[0].Turn; {
		case turn == nil:
			r.fault("the result of job %s says nothing of its turn", id)
		case turn.State == schemas.TurnStored:
			stored++
		case turn.State == schemas.TurnPending:
			pending++
		default:
			r.differing++
			r.fault("the turn of job %s is %s: %s", id, turn.State, turn.Reason)
		}
	}
	for _, d := range all {
		r.judgeDialogue(s, d)
	}
	r.note("kills=%d sessions=%d stored=%d pending=%d", kills.Load(), len(all), stored, pending)
	r.close(b)
}

// say takes a dialogue on by a turn, and waits until that has an end and is stored.
func (b *bed) say(w *watch, s *store, d *dialogue) {
	turn := d.next(b.t, 30)
	if err := b.submit(b.t.Context(), &turn.job, 20*time.Second); err != nil {
		b.t.Error(err)
		return
	}
	// It is answered after the one before: stored, or waiting to be.
	if !soon(b.t.Context(), time.Minute, func() bool { return w.finished(turn.job.ID) }) {
		b.t.Errorf("job %s has no end after a minute", turn.job.ID)
		return
	}
	if !soon(b.t.Context(), time.Minute, func() bool { return s.has(d.id, turn.job.ID) }) {
		b.t.Errorf("the turn of job %s is not stored after a minute", turn.job.ID)
	}
}

// has reports whether a session has the turn of a job.
func (s *store) has(session, job string) bool {
	turns, err := s.Turns(s.t.Context(), conversation.Ref{Tenant: tenant, ID: session}, conversation.TurnID(job))
	return err == nil && len(turns) == 1
}
