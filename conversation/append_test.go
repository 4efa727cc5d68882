package conversation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Fifty writers at once on one session, each turn delivered three times: nothing is lost and nothing doubled.
func TestWritersAtOnce(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		writers, turns, deliveries := 50, 20, 3
		if e.inMemory {
			writers, turns = 10, 10 // its scripts are slow
		}
		ref := e.session(conversation.NewSession{User: "u"})
		var g errgroup.Group
		stored := make([]int, writers)
		for w := range writers {
			g.Go(func() error {
				for i := range turns {
					job := fmt.Sprintf("w%d-%d", w, i)
					begun, err := e.Begin(t.Context(), ref, conversation.BeginTurn{Job: job})
					if err != nil {
						return err
					}
					for range deliveries {
						a, err := e.Append(t.Context(), ref, turn(job, begun.Parent))
						if err != nil {
							return err
						}
						if !a.Duplicate {
							stored[w]++
						}
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for w, n := range stored {
			if n != turns {
				t.Errorf("writer %d stored %d turns, want %d", w, n, turns)
			}
		}
		tree, err := e.Tree(t.Context(), ref, true)
		if err != nil {
			t.Fatal(err)
		}
		s := tree.Session
		if len(tree.Turns) != writers*turns || s.Stats.Turns != writers*turns || s.Rev != int64(writers*turns) || s.Messages != 2*writers*turns || len(s.Pending) != 0 {
			t.Errorf("%d turns, %d counted, revision %d, %d messages, pending %v; want %d turns", len(tree.Turns), s.Stats.Turns, s.Rev, s.Messages, s.Pending, writers*turns)
		}
		checkTree(t, tree)
		if got, p := e.path(ref, conversation.PathQuery{}); len(got) == 0 || got[len(got)-1] != s.Head || p.Depth+s.Stats.Branches != writers*turns {
			t.Errorf("path of %d turns ends with %s; %d branches", p.Depth, p.Leaf, s.Stats.Branches)
		}
	})
}

// checkTree looks at what must hold for every tree: a parent comes before, is finished, and what is summed adds up.
func checkTree(t *testing.T, tree *conversation.Tree) {
	t.Helper()
	seen := map[string]conversation.Turn{}
	var seq int64
	for _, x := range tree.Turns {
		p, ok := seen[x.Parent]
		if x.Parent != "" && (!ok || p.Status != conversation.Finished) {
			t.Errorf("turn %s has parent %s, which is not a finished one before it", x.ID, x.Parent)
		}
		if x.Seq <= seq {
			t.Errorf("turn %s has sequence number %d after %d", x.ID, x.Seq, seq)
		}
		if seq = x.Seq + int64(len(x.Messages)) - 1; seq > tree.Session.Seq {
			t.Errorf("turn %s ends at %d, beyond the session's %d", x.ID, seq, tree.Session.Seq)
		}
		if x.Depth != p.Depth+1 || x.PathMessages != p.PathMessages+len(x.Messages) || x.PathTokens != p.PathTokens+x.Tokens {
			t.Errorf("turn %s has sums %d, %d, %d over %d, %d, %d", x.ID, x.Depth, x.PathMessages, x.PathTokens, p.Depth, p.PathMessages, p.PathTokens)
		}
		if _, twice := seen[x.ID]; twice {
			t.Errorf("turn %s is there twice", x.ID)
		}
		seen[x.ID] = x
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{})
		first := turn("a", "")
		first.Usage = schemas.Usage{PromptTokens: 10, CompletionTokens: 5}
		first.Latency, first.Truncated, first.Model, first.FinishReason = 2*time.Second, true, "phi3", "stop"
		first.Moderation = []byte(`{"flagged":false}`)
		want := &conversation.Appended{Turn: "t-a", Seq: 1, Rev: 1, Head: "t-a", Moved: true}
		if diff := cmp.Diff(want, e.add(ref, first)); diff != "" {
			t.Error(diff)
		}
		want.Moved, want.Duplicate = false, true
		if diff := cmp.Diff(want, e.add(ref, first)); diff != "" {
			t.Error(diff)
		}

		// Several new messages, results of tools among them, in one turn.
		tools := conversation.NewTurn{Job: "b", Parent: "t-a", Latency: time.Second, Messages: []conversation.Message{
			{Body: []byte(`{"role":"tool","tool_call_id":"1","content":"<4>"}`)},
			{Body: []byte(`{"role":"tool", "tool_call_id":"2","content":"5"}`), Tokens: 9},
			conversation.Text("assistant", "nine & more"),
		}}
		if got := e.add(ref, tools); got.Seq != 3 || got.Rev != 2 || !got.Moved {
			t.Errorf("Append = %+v", got)
		}
		// Again an answer to the first: a branch, and the head stays.
		if got := e.say(ref, "c", "t-a"); got.Moved || got.Head != "t-b" || got.Seq != 6 || got.Rev != 3 {
			t.Errorf("Append = %+v", got)
		}
		turns, err := e.Turns(ctx, ref, "t-b", "t-a")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(turns[0].Messages[0].Body); got != `{"role":"tool","tool_call_id":"1","content":"<4>"}` {
			t.Errorf("message = %s", got)
		}
		if turns[0].Messages[1].Tokens != 9 || turns[0].Messages[0].Tokens == 0 || turns[0].Messages[2].Role() != "assistant" {
			t.Errorf("messages = %+v", turns[0].Messages)
		}
		if x := turns[1]; x.Model != "phi3" || x.FinishReason != "stop" || x.Usage.TotalTokens != 15 || string(x.Moderation) != `{"flagged":false}` || time.Since(x.Created) > time.Hour {
			t.Errorf("turn = %+v", x)
		}
		_, err = e.Turns(ctx, ref, "t-x")
		is(t, "Turns", err, conversation.ErrNoTurn)

		_, err = e.Append(ctx, ref, turn("d", "t-nobody"))
		is(t, "parent unknown", err, conversation.ErrNoTurn)
		stale := turn("d", "t-b")
		rev := int64(1)
		stale.ExpectRev = &rev
		_, err = e.Append(ctx, ref, stale)
		var conflict *conversation.ConflictError
		if !errors.As(err, &conflict) || conflict.Have != 3 || conflict.Want != 1 || !errors.Is(err, conversation.ErrConflict) {
			t.Errorf("Append = %v", err)
		}
		if got := conversation.WireError(err); got.Code != schemas.CodeSessionConflict || !strings.Contains(got.Message, "revision 3; want 1") {
			t.Errorf("WireError = %v", got)
		}
		rev = 3
		if got := e.add(ref, stale); got.Rev != 4 {
			t.Errorf("Append = %+v", got)
		}
		if got := e.add(ref, stale); !got.Duplicate { // expects 3 still, and is not refused
			t.Errorf("Append again = %+v", got)
		}
		_, err = e.Append(ctx, conversation.Ref{Tenant: "other", ID: ref.ID}, turn("d", ""))
		is(t, "another tenant's session", err, conversation.ErrNotFound)

		stats := conversation.Stats{Turns: 4, Branches: 1, Truncated: 1, PromptTokens: 10, CompletionTokens: 5, LatencySum: 3 * time.Second, LatencyMax: 2 * time.Second}
		if diff := cmp.Diff(stats, e.get(ref).Stats); diff != "" {
			t.Error(diff)
		}
	})
}

// Only finished turns are history; one that finishes after all takes the place of what was kept.
func TestUnfinishedTurns(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{})
		e.say(ref, "a", "")
		for i, status := range []conversation.Status{conversation.Interrupted, conversation.Blocked, conversation.Cancelled} {
			x := turn(string(status), "t-a")
			x.Status = status
			got := e.add(ref, x)
			if got.Moved || got.Head != "t-a" || got.Rev != 1 {
				t.Errorf("%s: %+v", status, got)
			}
			if again := e.add(ref, x); !again.Duplicate {
				t.Errorf("%s again: %+v", status, again)
			}
			_, err := e.Append(ctx, ref, turn("next", conversation.TurnID(string(status))))
			is(t, "its child", err, conversation.ErrUnfinished)
			_, err = e.Begin(ctx, ref, conversation.BeginTurn{Job: "next", Parent: conversation.TurnID(string(status))})
			is(t, "Begin of its child", err, conversation.ErrUnfinished)
			_, err = e.SetHead(ctx, ref, conversation.Head{Branch: "main", Turn: conversation.TurnID(string(status))})
			is(t, "head", err, conversation.ErrUnfinished)
			_, err = e.Fork(ctx, ref, conversation.TurnID(string(status)), conversation.NewSession{})
			is(t, "Fork", err, conversation.ErrUnfinished)
			if s := e.get(ref); s.Stats.Aborted != i+1 || s.Stats.Turns != 1 || s.Messages != 4+2*i {
				t.Errorf("session = %+v", s)
			}
		}
		rev := int64(1) // what did not finish has not moved the conversation on
		x := turn("interrupted", "t-a")
		x.ExpectRev = &rev
		x.Messages = append(x.Messages[:1:1], conversation.Text("assistant", "to the end"))
		if got := e.add(ref, x); !got.Moved || got.Duplicate || got.Rev != 2 || got.Head != "t-interrupted" {
			t.Errorf("Append = %+v", got)
		}
		tree, err := e.Tree(ctx, ref, true)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, tree)
		if diff := cmp.Diff([]string{"t-a", "t-blocked", "t-cancelled", "t-interrupted"}, ids(tree.Turns)); diff != "" {
			t.Error(diff)
		}
		if s := tree.Session; s.Stats.Aborted != 2 || s.Stats.Turns != 2 || s.Messages != 8 {
			t.Errorf("session = %+v", s)
		}
		if got := ids(tree.Children("t-a")); len(got) != 3 {
			t.Errorf("children of a = %v", got)
		}
	})
}

func TestPendingTurns(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{MaxPending: 2}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{})
		begin := func(b conversation.BeginTurn) (*conversation.Begun, error) { return e.Begin(ctx, ref, b) }
		one := conversation.BeginTurn{Job: "a", Serialize: true}
		got, err := begin(one)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&conversation.Begun{Turn: "t-a", Branch: "main"}, got); diff != "" {
			t.Error(diff)
		}
		if _, err = begin(one); err != nil {
			t.Errorf("Begin again = %v", err)
		}
		_, err = begin(conversation.BeginTurn{Job: "b", Serialize: true})
		var conflict *conversation.ConflictError
		if !errors.As(err, &conflict) || conflict.Pending != "t-a" || !strings.Contains(err.Error(), "t-a is in flight") {
			t.Errorf("a second turn = %v", err)
		}
		if got := conversation.WireError(err).Code; got != schemas.CodeSessionConflict {
			t.Errorf("code = %s", got)
		}
		if got, err := begin(conversation.BeginTurn{Job: "b"}); err != nil || cmp.Diff([]string{"t-a"}, got.Beside) != "" { // it branches
			t.Errorf("Begin beside another = %+v, %v", got, err)
		}
		_, err = begin(conversation.BeginTurn{Job: "c"})
		is(t, "a third", err, conversation.ErrTooLarge)
		e.say(ref, "a", "")
		if got := e.say(ref, "b", ""); got.Moved {
			t.Errorf("the second = %+v", got)
		}
		if got, err := begin(conversation.BeginTurn{Job: "b", Serialize: true}); err != nil || !got.Committed || got.Parent != "" {
			t.Errorf("Begin of a committed turn = %+v, %v", got, err)
		}
		rev := int64(1)
		_, err = begin(conversation.BeginTurn{Job: "c", ExpectRev: &rev})
		is(t, "stale", err, conversation.ErrConflict)
		_, err = begin(conversation.BeginTurn{Job: "c", Branch: "nobody"})
		is(t, "branch", err, conversation.ErrNoBranch)
		if got, err := begin(conversation.BeginTurn{Job: "c", Parent: conversation.Root, Serialize: true}); err != nil || got.Parent != "" || got.Rev != 2 {
			t.Errorf("Begin at the root = %+v, %v", got, err)
		}
		if s := e.get(ref); cmp.Diff([]string{"t-c"}, s.Pending) != "" {
			t.Errorf("pending = %v", s.Pending)
		}
		for range 2 {
			if err := e.Abort(ctx, ref, "c"); err != nil {
				t.Error(err)
			}
		}
		if s := e.get(ref); s.Stats.Aborted != 1 || len(s.Pending) != 0 {
			t.Errorf("session = %+v", s)
		}
		if got, err := begin(conversation.BeginTurn{Job: "d", Serialize: true}); err != nil || got.Parent != "t-a" {
			t.Errorf("Begin = %+v, %v", got, err)
		}
	})
}

// A turn whose worker was lost does not hold up a serialized session for ever.
func TestPendingTurnsEnd(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{PendingTTL: time.Millisecond}, func(e *env) {
		t := e.T
		ref := e.session(conversation.NewSession{})
		if _, err := e.Begin(t.Context(), ref, conversation.BeginTurn{Job: "lost"}); err != nil {
			t.Fatal(err)
		}
		for {
			got, err := e.Begin(t.Context(), ref, conversation.BeginTurn{Job: "next", Serialize: true})
			if err == nil {
				if cmp.Diff([]string{"t-lost"}, got.Beside) != "" {
					t.Errorf("beside = %v, want the turn that has just ended", got.Beside)
				}
				break
			}
			is(t, "Begin", err, conversation.ErrConflict)
		}
		if s := e.get(ref); s.Stats.Aborted != 1 {
			t.Errorf("aborted = %d, want 1", s.Stats.Aborted)
		}
	})
}

// Edits and regenerations in random trees: what is on another branch is never on a path.
func TestBranchesNeverLeak(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		for seed := range uint64(4) {
			rng := rand.New(rand.NewPCG(seed, 1))
			ref := e.session(conversation.NewSession{})
			parents := map[string]string{}
			all := []string{""}
			for i := range 40 {
				parent := all[rng.IntN(len(all))]
				if rng.IntN(2) == 0 {
					parent = all[len(all)-1]
				}
				got := e.say(ref, fmt.Sprintf("j%d", i), parent)
				parents[got.Turn] = parent
				all = append(all, got.Turn)
				if rng.IntN(4) == 0 {
					if _, err := e.SetHead(t.Context(), ref, conversation.Head{Branch: "main", Turn: all[1+rng.IntN(len(all)-1)]}); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, leaf := range all[1:] {
				var want []string
				for at := leaf; at != ""; at = parents[at] {
					want = append([]string{at}, want...)
				}
				got, p := e.path(ref, conversation.PathQuery{Leaf: leaf})
				if diff := cmp.Diff(want, got); diff != "" || p.Stop != conversation.StopRoot || p.Depth != len(want) {
					t.Fatalf("path to %s stops at %s (-want +got):\n%s", leaf, p.Stop, diff)
				}
				for _, x := range p.Turns {
					if !strings.Contains(string(x.Messages[1].Body), `"answer of `+x.ID[2:]+`"`) {
						t.Fatalf("turn %s says %s", x.ID, x.Messages[1].Body)
					}
				}
				window := conversation.Window{MaxModelLen: 50 + rng.IntN(400)}
				budget, err := e.Path(t.Context(), ref, window.Budget(leaf, ""))
				if err != nil {
					t.Fatal(err)
				}
				prompt, err := window.Build(t.Context(), budget, raws(conversation.Text("user", "and?")))
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range prompt.Messages[:len(prompt.Messages)-1] {
					if !strings.Contains(string(whole(p)), string(m)) {
						t.Fatalf("the window of %s shows %s", leaf, m)
					}
				}
			}
			tree, err := e.Tree(t.Context(), ref, true)
			if err != nil {
				t.Fatal(err)
			}
			checkTree(t, tree)
		}
	})
}

func raws(messages ...conversation.Message) (out []json.RawMessage) {
	for _, m := range messages {
		out = append(out, m.Body)
	}
	return out
}

// whole is every message of a path.
func whole(p *conversation.Path) (out []byte) {
	for _, x := range p.Turns {
		for _, m := range x.Messages {
			out = append(out, m.Body...)
		}
	}
	return out
}

func TestAppendRefusals(t *testing.T) {
	t.Parallel()
	e := open(t, standIn, conversation.Config{MaxTurnMessages: 3, MaxTurnBytes: 300})
	ref := e.session(conversation.NewSession{})
	for name, tt := range map[string]struct {
		change func(*conversation.NewTurn)
		want   error
		text   string
	}{
		"job":        {func(x *conversation.NewTurn) { x.Job = "a b" }, conversation.ErrInvalid, "job"},
		"status":     {func(x *conversation.NewTurn) { x.Status = "half" }, conversation.ErrInvalid, `status is "half"`},
		"latency":    {func(x *conversation.NewTurn) { x.Latency = -1 }, conversation.ErrInvalid, "latency"},
		"model":      {func(x *conversation.NewTurn) { x.Model = strings.Repeat("m", 257) }, conversation.ErrTooLarge, "bytes of model is 257; want at most 256"},
		"no message": {func(x *conversation.NewTurn) { x.Messages = nil }, conversation.ErrInvalid, "messages is empty"},
		"messages":   {func(x *conversation.NewTurn) { x.Messages = append(x.Messages, x.Messages...) }, conversation.ErrTooLarge, "messages of the turn is 4; want at most 3"},
		"bytes":      {func(x *conversation.NewTurn) { x.Messages[0] = conversation.Text("user", strings.Repeat("m", 300)) }, conversation.ErrTooLarge, "bytes of the turn"},
		"body":       {func(x *conversation.NewTurn) { x.Moderation = []byte(`"` + strings.Repeat("m", 300) + `"`) }, conversation.ErrTooLarge, "bytes of the turn"},
		"moderation": {func(x *conversation.NewTurn) { x.Moderation = []byte(`{`) }, conversation.ErrInvalid, "moderation"},
		"role":       {func(x *conversation.NewTurn) { x.Messages[0] = conversation.Text("User", "") }, conversation.ErrInvalid, `messages[0] has role "User"`},
		"no object":  {func(x *conversation.NewTurn) { x.Messages[1].Body = []byte(`[]`) }, conversation.ErrInvalid, "messages[1]"},
		"tokens":     {func(x *conversation.NewTurn) { x.Messages[1].Tokens = -1 }, conversation.ErrInvalid, "messages[1] has -1 tokens"},
	} {
		x := turn("a", "")
		tt.change(&x)
		_, err := e.Append(t.Context(), ref, x)
		is(t, name, err, tt.want)
		if err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q in it", name, err, tt.text)
		}
	}
	_, err := e.Begin(t.Context(), ref, conversation.BeginTurn{Job: ""})
	is(t, "Begin", err, conversation.ErrInvalid)
	if _, err := e.Begin(t.Context(), conversation.Ref{Tenant: "a", ID: "{}"}, conversation.BeginTurn{Job: "a"}); conversation.WireError(err).Code != schemas.CodeInvalidRequest {
		t.Errorf("Begin = %v", err)
	}
	_, err = e.Get(t.Context(), conversation.Ref{Tenant: "{", ID: "a"})
	is(t, "Get", err, conversation.ErrInvalid)
}
