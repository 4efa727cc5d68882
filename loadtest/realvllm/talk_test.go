//go:build vllm && linux

package realvllm_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// folds are the models whose system prompt hxp puts into the first user message by default.
var folds = []string{"mixtral", "phi3"}

// talk is a session, with what its model is to be shown.
type talk struct {
	*bed
	session string
	shown   []object
}

// memory starts a redis-server and returns its URL and what is kept there.
func (b *bed) memory(t *testing.T) (string, *conversation.Store) {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v: `make tools` installs it", err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := &program{name: "redis", dir: b.dir, owner: b.owner, args: []string{binary, "--port", address[len("127.0.0.1:"):], "--bind", "127.0.0.1", "--save", ""}}
	p.start(t)
	rdb := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true})
	b.owner.Cleanup(func() { _ = rdb.Close() })
	eventually(t, 20*time.Second, "redis-server answers", func() bool { return rdb.Ping(t.Context()).Err() == nil })
	s, err := conversation.New(rdb, conversation.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return "redis://" + address, s
}

// open makes a session with a system prompt.
func (b *bed) open(t *testing.T, s *conversation.Store, id string) *talk {
	t.Helper()
	id = b.model.name + "-" + id
	if _, err := s.Create(t.Context(), conversation.NewSession{Tenant: "verify", ID: id, Model: b.model.name, System: "Be brief."}); err != nil {
		t.Fatal(err)
	}
	return &talk{bed: b, session: id}
}

// ask submits the next turn, with its own message alone, and returns what vLLM says to all of them.
func (k *talk) ask(t *testing.T, text string, tokens int) (*job, reply) {
	t.Helper()
	if len(k.shown) == 0 && slices.Contains(folds, k.model.name) {
		k.shown = append(k.shown, message("user", "Be brief.\n\n"+text))
	} else {
		if len(k.shown) == 0 {
			k.shown = append(k.shown, message("system", "Be brief."))
		}
		k.shown = append(k.shown, message("user", text))
	}
	want := k.reference(t, chat, with(greedy(tokens), object{"messages": k.shown}))
	k.shown = append(k.shown, message("assistant", string(want.text)))
	raw, err := json.Marshal(say(text, tokens))
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.jobs.Submit(t.Context(), schemas.Job{
		Model: k.model.name, Endpoint: schemas.ChatCompletions, Body: raw, Stream: true, Session: &schemas.Session{ID: k.session},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.owner.Cleanup(s.Close)
	return &job{stream: s, choices: map[int]*reply{}}, want
}

// stored holds that the turn of a job that has ended is part of its session.
func (k *talk) stored(t *testing.T, r *schemas.Result) {
	t.Helper()
	if r.Turn == nil || r.Turn.State != schemas.TurnStored || !r.Turn.Head {
		t.Errorf("the turn of job %s is %+v, want it stored as the head", r.ID, r.Turn)
	}
}

// rendered is the prompt's mark that vLLM's own chat template makes of what is to be shown before the last reply.
func (k *talk) rendered(t *testing.T) (schemas.Prompt, string) {
	t.Helper()
	var a struct {
		Tokens []int `json:"tokens"`
	}
	k.answered(t, "/tokenize", object{"model": k.model.name, "messages": k.shown[:len(k.shown)-1]}, &a)
	h := fnv.New64a()
	for _, id := range a.Tokens {
		_ = binary.Write(h, binary.LittleEndian, uint64(id)) // a hash takes everything
	}
	return schemas.Prompt{Tokens: len(a.Tokens), Hash: fmt.Sprintf("%016x", h.Sum64())}, k.text(t, a.Tokens)
}

// talks checks conversations: each turn is a job with its own message alone.
func (b *bed) talks(t *testing.T) {
	m := b.model
	url, s := b.memory(t)
	w := b.startWorker(t, "redis.url="+url)
	check(t, "conversation_in_the_models_format", m.name, func(t *testing.T) string {
		k := b.open(t, s, "format")
		for i, text := range []string{"How are you?", "And now?", "Really?"} {
			j, want := k.ask(t, text, 40)
			k.stored(t, j.is(t, want))
			mark, template := k.rendered(t)
			if j.prompt == nil || *j.prompt != mark {
				t.Errorf("turn %d: the engine's prompt is %+v, want %+v: %q", i, j.prompt, mark, template)
			}
		}
		return fmt.Sprintf("3 turns, %d messages shown", len(k.shown)-1)
	})
	check(t, "conversation_continues_after_worker_killed", m.name, func(t *testing.T) string {
		k := b.open(t, s, "killed")
		j, want := k.ask(t, "Hello", 20)
		k.stored(t, j.is(t, want))
		j, want = k.ask(t, "A long story, please", 1200)
		j.read(t, 20)
		began := time.Now()
		w.kill(t)
		w = b.startWorker(t, "redis.url="+url)
		j.until(t, func() bool { return len(j.resumed) > 0 })
		took := time.Since(began)
		k.stored(t, j.is(t, want))
		tree, err := s.Tree(t.Context(), conversation.Ref{Tenant: "verify", ID: k.session}, false)
		if err != nil || len(tree.Turns) != 2 {
			t.Errorf("the session has %+v %v, want 2 turns", tree, err)
		}
		return j.wentOn(t, took)
	})
	check(t, "prefix_cache_by_steps_and_sliding", m.name, func(t *testing.T) string {
		var rates []string
		for _, keep := range []string{"0.75", "1"} {
			stop(t, w)
			w = b.startWorker(t, "redis.url="+url, "conversation.window.keep="+keep)
			rates = append(rates, fmt.Sprintf("%.0f%% with keep=%s", 100*b.cached(t, s, "cache-"+keep[len(keep)-1:]), keep))
		}
		return strings.Join(rates, ", ")
	})
}

// cached holds a conversation of twice the window and returns the part of the prompts' tokens that vLLM had in
// its prefix cache, once the window was full.
func (b *bed) cached(t *testing.T, s *conversation.Store, id string) float64 {
	t.Helper()
	const queries, hits, tokens = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", 40
	k := b.open(t, s, id)
	left, asked, found := 0, 0.0, 0.0
	for i := 0; left < 20; i++ {
		before, had := b.metric(t, queries), b.metric(t, hits)
		text := fmt.Sprintf("Question %d of %s: %s?", i, id, strings.Repeat("and then ", 12))
		raw, err := json.Marshal(say(text, tokens))
		if err != nil {
			t.Fatal(err)
		}
		j, err := b.jobs.Submit(t.Context(), schemas.Job{
			Model: b.model.name, Endpoint: schemas.ChatCompletions, Body: raw, Stream: true, Session: &schemas.Session{ID: k.session},
		})
		if err != nil {
			t.Fatal(err)
		}
		turn := &job{stream: j, choices: map[int]*reply{}}
		r := turn.result(t)
		j.Close()
		if r.Status != schemas.StatusCompleted || i > 200 {
			t.Fatalf("turn %d: %s %v", i, r.Status, r.Error)
		}
		if r.Usage.PromptTokens+tokens > window {
			t.Errorf("turn %d: the prompt has %d tokens, the window %d", i, r.Usage.PromptTokens, window)
		}
		if turn.leftOut {
			left++
			asked, found = asked+b.metric(t, queries)-before, found+b.metric(t, hits)-had
		}
	}
	if asked == 0 {
		t.Fatalf("vLLM has no %s", queries)
	}
	return found / asked
}
