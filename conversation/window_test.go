package conversation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// line makes a path of turns with these tokens, half for the question and half for the answer.
func line(system string, tokens ...int) *conversation.Path {
	p := &conversation.Path{Session: &conversation.Session{System: system}, Stop: conversation.StopRoot}
	for i, n := range tokens {
		x := turn(fmt.Sprint(i), p.Leaf)
		t := conversation.Turn{
			ID: conversation.TurnID(x.Job), Parent: p.Leaf, Status: conversation.Finished, Messages: x.Messages, Tokens: n,
			Depth: i + 1, PathMessages: p.Messages + 2, PathTokens: p.Tokens + n,
		}
		t.Messages[0].Tokens, t.Messages[1].Tokens = n/2, n-n/2
		p.Turns = append(p.Turns, t)
		p.Leaf, p.Depth, p.Messages, p.Tokens = t.ID, t.Depth, t.PathMessages, t.PathTokens
	}
	return p
}

func same(n, tokens int) []int { return slices.Repeat([]int{tokens}, n) }

var hello = []json.RawMessage{[]byte(`{"role":"user","content":"hello there"}`)} // 13 tokens by estimate

// text is messages as one, to compare and to show.
func text(messages []json.RawMessage) string {
	var b strings.Builder
	for _, m := range messages {
		b.Write(m)
		b.WriteByte('\n')
	}
	return b.String()
}

func build(t *testing.T, w conversation.Window, p *conversation.Path, messages []json.RawMessage) *conversation.Prompt {
	t.Helper()
	got, err := w.Build(t.Context(), p, messages)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWindowThatFits(t *testing.T) {
	t.Parallel()
	p := line("Be brief.", 10, 10)
	for _, strategy := range []conversation.Strategy{"", conversation.LastN, conversation.Summarize, conversation.Refuse} {
		got := build(t, conversation.Window{MaxModelLen: 100, MaxTokens: 20, Margin: 5, Strategy: strategy}, p, hello)
		want := slices.Concat(raws(conversation.Text("system", "Be brief.")), raws(p.Turns[0].Messages...), raws(p.Turns[1].Messages...), hello)
		if diff := cmp.Diff(text(want), text(got.Messages)); diff != "" {
			t.Errorf("%s: %s", strategy, diff)
		}
		if got.LeftOut.Turns != 0 || got.Want != "" || got.Tokens != 4+13+20+13 || cmp.Diff([]int{13}, got.NewTokens) != "" {
			t.Errorf("%s: %+v", strategy, got)
		}
	}
	// A system message of the request takes the place of the session's.
	own := slices.Concat(raws(conversation.Text("system", "Be long."), conversation.Text("developer", "Be kind.")), hello)
	got := build(t, conversation.Window{MaxModelLen: 200}, p, own)
	if want := string(conversation.Text("system", "Be long.\n\nBe kind.").Body); string(got.Messages[0]) != want || len(got.Messages) != 6 || len(got.NewTokens) != 3 {
		t.Errorf("messages = %s", got.Messages)
	}
}

func TestWindowLeavesOutTheOldest(t *testing.T) {
	t.Parallel()
	// Room for 100 tokens with the new message, which has 13: steps of 25.
	w := conversation.Window{MaxModelLen: 104}
	for n := 1; n < 60; n++ {
		got := build(t, w, line("", same(n, 10)...), hello)
		left := 0
		if over := 10*n + 13 - 100; over > 0 {
			left = (over + 24) / 25 * 25
			left = (left + 9) / 10
		}
		want := conversation.LeftOut{Strategy: conversation.TokenBudget, Turns: left, Messages: 2 * left, Tokens: 10 * left}
		if diff := cmp.Diff(want, got.LeftOut); diff != "" || len(got.Messages) != 2*(n-left)+1 {
			t.Errorf("%d turns: %d messages\n%s", n, len(got.Messages), diff)
		}
	}
}

// The front of the prompt stays the same for several turns.
func TestWindowPrefixIsStable(t *testing.T) {
	t.Parallel()
	for _, strategy := range []conversation.Strategy{conversation.TokenBudget, conversation.LastN} {
		fronts := func(keep float64) map[string]bool {
			out := map[string]bool{}
			for n := 10; n < 90; n++ {
				w := conversation.Window{MaxModelLen: 1000, Keep: keep, Strategy: strategy, Turns: 16}
				out[string(build(t, w, line("", same(n, 20)...), hello).Messages[0])] = true
			}
			return out
		}
		steps, sliding := len(fronts(0)), len(fronts(1))
		if steps*3 > sliding {
			t.Errorf("%s: %d different fronts in steps, %d sliding", strategy, steps, sliding)
		}
	}
}

func TestWindowLastN(t *testing.T) {
	t.Parallel()
	for n := 1; n < 40; n++ {
		got := build(t, conversation.Window{MaxModelLen: 10_000, Strategy: conversation.LastN, Turns: 8}, line("", same(n, 10)...), hello)
		if kept := n - got.LeftOut.Turns; kept > 8 || kept < min(n, 7) {
			t.Errorf("%d of %d turns are kept", kept, n)
		}
	}
	got := build(t, conversation.Window{MaxModelLen: 64, Strategy: conversation.LastN, Turns: 8}, line("", same(20, 10)...), hello)
	if got.Tokens > 64 || len(got.Messages) < 3 {
		t.Errorf("prompt = %+v", got)
	}
}

func TestWindowRefuse(t *testing.T) {
	t.Parallel()
	w := conversation.Window{MaxModelLen: 60, Strategy: conversation.Refuse}
	_, err := w.Build(t.Context(), line("", same(10, 10)...), hello)
	var window *conversation.WindowError
	if !errors.As(err, &window) || window.Tokens != 117 || window.Limit != 60 || !errors.Is(err, conversation.ErrWindow) {
		t.Errorf("Build = %v", err)
	}
	if got := conversation.WireError(err); got.Code != schemas.CodeContextLengthExceeded || !strings.Contains(got.Message, "117 tokens; want at most 60") {
		t.Errorf("WireError = %v", got)
	}
	// What was counted is what counts.
	w.Count = func(context.Context, []json.RawMessage) (int, error) { return 60, nil }
	if got := build(t, w, line("", same(10, 10)...), hello); got.Tokens != 60 || len(got.Messages) != 21 {
		t.Errorf("prompt = %+v", got)
	}
	w.Count = func(context.Context, []json.RawMessage) (int, error) { return 61, nil }
	_, err = w.Build(t.Context(), line("", 1), hello)
	is(t, "Build", err, conversation.ErrWindow)
	// A path that was not read to its root does not fit either.
	p := line("", same(10, 1)...)
	p.Turns = p.Turns[5:]
	_, err = w.Build(t.Context(), p, hello)
	is(t, "Build", err, conversation.ErrWindow)
	p.Turns = nil
	_, err = w.Build(t.Context(), p, hello)
	is(t, "Build", err, conversation.ErrWindow)
}

func TestWindowSummarize(t *testing.T) {
	t.Parallel()
	w := conversation.Window{MaxModelLen: 128, Strategy: conversation.Summarize, SummaryTokens: 20}
	p := line("Be brief.", same(20, 10)...)
	got := build(t, w, p, hello)
	if got.Want == "" || got.LeftOut.Summary != "" {
		t.Fatalf("prompt = %+v", got)
	}
	// An older one stands in meanwhile, and one that is too long does not.
	long := conversation.Summary{Turn: got.Want, Depth: got.LeftOut.Turns, Text: "long", Tokens: 21}
	old := conversation.Summary{Turn: "t-2", Depth: 3, Text: "They met."}
	p.Summaries = []conversation.Summary{long, old}
	again := build(t, w, p, hello)
	if again.Want != got.Want || again.LeftOut.Summary != "t-2" || again.LeftOut.Turns != got.LeftOut.Turns {
		t.Errorf("prompt = %+v", again)
	}
	if want := string(conversation.Text("system", "Be brief.\n\nSummary of the conversation so far:\nThey met.").Body); string(again.Messages[0]) != want {
		t.Errorf("system = %s", again.Messages[0])
	}
	// The one that was wanted does not move the cut, however long it is.
	for _, tokens := range []int{1, 20} {
		p.Summaries = []conversation.Summary{{Turn: got.Want, Depth: got.LeftOut.Turns, Text: "They met and parted.", Tokens: tokens}, old}
		done := build(t, w, p, hello)
		if done.Want != "" || done.LeftOut.Summary != got.Want || done.LeftOut.Turns != got.LeftOut.Turns || done.Tokens > 128 {
			t.Errorf("prompt = %+v", done)
		}
	}
	// Other strategies show it too.
	w.Strategy = conversation.TokenBudget
	if done := build(t, w, p, hello); done.LeftOut.Summary != got.Want {
		t.Errorf("prompt = %+v", done)
	}
	// Nothing is left out, nothing is summed up.
	w.MaxModelLen = 1000
	if done := build(t, w, p, hello); done.LeftOut.Summary != "" {
		t.Errorf("prompt = %+v", done)
	}
}

// Results of tools are never shown without their calls.
func TestWindowKeepsToolsTogether(t *testing.T) {
	t.Parallel()
	path := func() *conversation.Path {
		p := line("", same(12, 10)...)
		for i := 2; i < 12; i += 3 { // a question with calls, results with calls, results with the answer
			p.Turns[i].Messages[0] = conversation.Message{Body: []byte(`{"role":"tool","content":"4"}`), Tokens: 5}
			p.Turns[i-1].Messages[0] = conversation.Message{Body: []byte(`{"role":"tool","content":"3"}`), Tokens: 5}
		}
		return p
	}
	for room := 20; room < 200; room += 7 {
		for cut := range 12 {
			p := path()
			p.Turns = p.Turns[cut:]
			got := build(t, conversation.Window{MaxModelLen: room}, p, hello)
			if strings.Contains(string(got.Messages[0]), "tool") {
				t.Fatalf("room %d, %d not read: the first message is %s", room, cut, got.Messages[0])
			}
		}
	}
	// The calls that the new messages answer stay, or it does not fit.
	results := []json.RawMessage{[]byte(`{"role":"tool","content":"5"}`)}
	got := build(t, conversation.Window{MaxModelLen: 50}, path(), results)
	if len(got.Messages) != 7 || got.LeftOut.Turns != 9 {
		t.Errorf("prompt = %+v", got)
	}
	_, err := conversation.Window{MaxModelLen: 40}.Build(t.Context(), path(), results)
	is(t, "Build", err, conversation.ErrWindow)
}

func TestWindowCounts(t *testing.T) {
	t.Parallel()
	p := line("", same(20, 10)...)
	calls := 0
	w := conversation.Window{MaxModelLen: 120, Count: func(_ context.Context, messages []json.RawMessage) (int, error) {
		calls++
		return 20 * len(messages), nil // four times the estimate
	}}
	got := build(t, w, p, hello)
	if got.Tokens > 120 || got.Counts != calls || calls > 3 || len(got.Messages) < 3 || got.NewTokens[0] <= 13 {
		t.Errorf("%d calls: %+v", calls, got)
	}
	// Hopeless estimates end with the new messages alone, after no more than four calls.
	calls = 0
	w.Count = func(_ context.Context, messages []json.RawMessage) (int, error) {
		if calls++; len(messages) > 1 {
			return 121, nil
		}
		return 100, nil
	}
	if got := build(t, w, p, hello); len(got.Messages) != 1 || calls > conversation.MaxCounts || got.LeftOut.Turns != 20 {
		t.Errorf("%d calls: %+v", calls, got)
	}
	calls = 0
	w.Count = func(context.Context, []json.RawMessage) (int, error) { calls++; return 121, nil }
	_, err := w.Build(t.Context(), p, hello)
	if is(t, "Build", err, conversation.ErrWindow); calls > conversation.MaxCounts {
		t.Errorf("%d calls", calls)
	}
	away := errors.New("away")
	w.Count = func(context.Context, []json.RawMessage) (int, error) { return 0, away }
	_, err = w.Build(t.Context(), p, hello)
	is(t, "Build", err, away)
	w.Count = nil
	w.MaxModelLen = 10
	_, err = w.Build(t.Context(), p, hello)
	is(t, "Build", err, conversation.ErrWindow)
}

func TestWindowFoldsTheSystemPrompt(t *testing.T) {
	t.Parallel()
	w := conversation.Window{MaxModelLen: 1000, FoldSystem: true}
	p := line("Be brief.")
	for in, want := range map[string]string{
		`{"role":"user","content":"<hi>","x":1}`:           `{"content":"Be brief.\n\n<hi>","role":"user","x":1}`,
		`{"role":"user","content":[{"type":"image_url"}]}`: `{"content":[{"type":"text","text":"Be brief.\n\n"},{"type":"image_url"}],"role":"user"}`,
	} {
		got := build(t, w, p, []json.RawMessage{[]byte(in)})
		if len(got.Messages) != 1 || string(got.Messages[0]) != want {
			t.Errorf("messages = %s, want %s", got.Messages, want)
		}
	}
	for _, in := range []string{`{"role":"assistant","content":"x"}`, `{"role":"user","content":5}`} {
		if got := build(t, w, p, []json.RawMessage{[]byte(in)}); len(got.Messages) != 2 {
			t.Errorf("messages = %s", got.Messages)
		}
	}
}

func TestWindowRefusals(t *testing.T) {
	t.Parallel()
	p := line("", 1)
	for name, w := range map[string]conversation.Window{
		"room": {MaxModelLen: 10, MaxTokens: 5, Margin: 5}, "MaxTokens": {MaxModelLen: 10, MaxTokens: -1},
		"Strategy": {MaxModelLen: 10, Strategy: "magic"}, "Turns": {MaxModelLen: 10, Turns: -1},
		"Keep": {MaxModelLen: 10, Keep: 2}, "SummaryTokens": {MaxModelLen: 10, SummaryTokens: -1},
	} {
		_, err := w.Build(t.Context(), p, hello)
		is(t, name, err, conversation.ErrInvalid)
	}
	_, err := conversation.Window{MaxModelLen: 10}.Build(t.Context(), p, nil)
	is(t, "no message", err, conversation.ErrInvalid)
	if q := (conversation.Window{}).Budget("t-a", "b"); q.MaxTokens != 1 || q.Leaf != "t-a" || q.Branch != "b" {
		t.Errorf("Budget = %+v", q)
	}
}

// Whatever the sizes: the prompt fits by the count, is the end of the path, and says what is left out.
func TestWindowProperties(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var tokens []int
		for range rng.IntN(40) {
			tokens = append(tokens, 2+rng.IntN(60))
		}
		p := line([]string{"", "Be brief."}[rng.IntN(2)], tokens...)
		real := map[string]int{}
		for _, x := range p.Turns {
			for _, m := range x.Messages {
				real[string(m.Body)] = max(1, int(float64(m.Tokens)*(0.5+rng.Float64()*2)))
			}
		}
		if rng.IntN(3) == 0 && len(p.Turns) > 0 {
			p.Turns = p.Turns[rng.IntN(len(p.Turns)):]
		}
		if len(p.Turns) > 0 && rng.IntN(2) == 0 {
			i := rng.IntN(len(p.Turns))
			p.Summaries = []conversation.Summary{{Turn: p.Turns[i].ID, Depth: p.Turns[i].Depth, Text: "sum", Tokens: 1 + rng.IntN(30)}}
		}
		strategies := []conversation.Strategy{conversation.TokenBudget, conversation.LastN, conversation.Summarize, conversation.Refuse}
		w := conversation.Window{
			MaxModelLen: 60 + rng.IntN(1000), Strategy: strategies[rng.IntN(4)], Turns: 1 + rng.IntN(20), Keep: 0.1 + rng.Float64()*0.9, SummaryTokens: 1 + rng.IntN(40),
		}
		calls := 0
		count := func(messages []json.RawMessage) (n int) {
			for _, m := range messages {
				if known, ok := real[string(m)]; ok {
					n += known
				} else {
					n += 10
				}
			}
			return n
		}
		w.Count = func(_ context.Context, messages []json.RawMessage) (int, error) { calls++; return count(messages), nil }
		got, err := w.Build(t.Context(), p, hello)
		if calls > conversation.MaxCounts {
			t.Errorf("seed %d: %d counts", seed, calls)
		}
		if err != nil {
			if !errors.Is(err, conversation.ErrWindow) || w.Strategy != conversation.Refuse {
				t.Errorf("seed %d: %v", seed, err)
			}
			continue
		}
		if got.Tokens > w.MaxModelLen || got.Tokens != count(got.Messages) {
			t.Errorf("seed %d: %d tokens, counted %d, of %d", seed, got.Tokens, count(got.Messages), w.MaxModelLen)
		}
		var all []json.RawMessage
		for _, x := range p.Turns {
			all = append(all, raws(x.Messages...)...)
		}
		all = append(all, hello...)
		shown := got.Messages
		if strings.Contains(string(shown[0]), `"system"`) {
			shown = shown[1:]
		}
		if len(shown) > len(all) || text(all[len(all)-len(shown):]) != text(shown) {
			t.Fatalf("seed %d: %s is not the end of the path", seed, shown)
		}
		if got.LeftOut.Messages+len(shown)-1 != p.Messages || got.LeftOut.Turns*2 != got.LeftOut.Messages {
			t.Errorf("seed %d: %d of %d messages are shown, %+v", seed, len(shown)-1, p.Messages, got.LeftOut)
		}
		if w.Strategy == conversation.LastN && p.Depth-got.LeftOut.Turns > w.Turns {
			t.Errorf("seed %d: %d turns are shown, want at most %d", seed, p.Depth-got.LeftOut.Turns, w.Turns)
		}
		if again, err := w.Build(t.Context(), p, hello); err != nil || text(got.Messages) != text(again.Messages) || got.LeftOut != again.LeftOut || got.Want != again.Want {
			t.Errorf("seed %d: it differs the second time: %v", seed, err)
		}
	}
}
