package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// TestSystemPromptIsFolded puts the session's system prompt where the model's format has room for it, and stores what came.
func TestSystemPromptIsFolded(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s", System: "Be brief."}); err != nil {
		t.Fatal(err)
	}
	engine := parrot()
	cfg := c.config(workers.Sessions{})
	cfg.Capabilities.SystemRole = workers.SystemFold
	counted := make(chan string, 16)
	engine.count = func(body []byte) (int, error) { counted <- string(body); return 40, nil }
	c.run(engine, cfg)
	l := c.listen(schemas.AllEvents)
	c.turn(schemas.Session{ID: "s"}, "a")
	if events := l.end(1); !strings.Contains(events[0].Reason, "no system role") {
		t.Errorf("reason = %q", events[0].Reason)
	}
	c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(
		`{"messages":[{"role":"system","content":"Be rude."},{"role":"user","content":"b"}],"max_tokens":8}`)}))
	want := [][]string{
		{"user: Be brief.\n\na"},
		{"user: Be rude.\n\na", "assistant: reply 1", "user: b"},
	}
	for i, req := range engine.seen() {
		if diff := cmp.Diff(want[i], asked(t, req)); diff != "" {
			t.Errorf("prompt %d (-want +got):\n%s", i, diff)
		}
		if got := <-counted; got != string(req.Body) {
			t.Errorf("counted %s, and the engine got %s", got, req.Body)
		}
	}
	if diff := cmp.Diff([]string{"user: a", "assistant: reply 1", "system: Be rude.", "user: b", "assistant: reply 2"}, c.spoken("s")); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// TestEveryStrategyAnswersAHistoryTwiceTheWindow, by the simulator's own count of tokens.
func TestEveryStrategyAnswersAHistoryTwiceTheWindow(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{LogPrompts: true, MaxModelLen: 1200})
	w := c.run(engine, c.config(workers.Sessions{LastN: 3, Margin: 8, SummaryTokens: 100}))
	const turns = 12 // of some 250 tokens each
	var leaf string
	for i := range turns {
		leaf = c.turn(schemas.Session{ID: "s"}, fmt.Sprintf("turn%d %s", i, strings.Repeat("word ", 60))).Turn.ID
	}
	for _, tc := range []struct {
		strategy    schemas.WindowStrategy
		least, most int
	}{
		{schemas.WindowTokenBudget, 2, 5},
		{schemas.WindowLastN, 1, 3},
		{schemas.WindowSummarize, 2, 5},
	} {
		question := "question " + string(tc.strategy)
		r := c.turn(schemas.Session{ID: "s", Parent: leaf, Window: tc.strategy}, question)
		shown := -1
		for _, p := range sim.Prompts() {
			if strings.Contains(p, question) {
				shown = strings.Count(p, "turn")
			}
		}
		if shown < tc.least || shown > tc.most {
			t.Errorf("%s: the prompt shows %d turns, want %d to %d", tc.strategy, shown, tc.least, tc.most)
		}
		if left := r.Turn.LeftOut; left == nil || left.Strategy != tc.strategy || left.Turns+shown != turns {
			t.Errorf("%s: left out %+v of %d turns, and %d are shown", tc.strategy, left, turns, shown)
		}
		if n := r.Usage.PromptTokens; n+6+8 > 1200 || n < 200 {
			t.Errorf("%s: a prompt of %d tokens in a window of 1200", tc.strategy, n)
		}
	}
	r := c.result(c.say(schemas.Session{ID: "s", Parent: leaf, Window: schemas.WindowError}, "question"))
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeContextLengthExceeded || r.Turn.State != schemas.TurnDropped {
		t.Errorf("error: %s %v, turn %+v", r.Status, r.Error, r.Turn)
	}
	session, err := c.store.Get(t.Context(), c.ref("s"))
	if err != nil || session.Stats.Truncated < 3 || session.Stats.Aborted != 1 || session.Stats.Branches != 2 {
		t.Errorf("stats = %+v (%v)", session.Stats, err)
	}
	page := scrape(t, w)
	for _, zero := range []string{`hxp_session_truncated_total{model="phi3"} 0`, `hxp_session_history_tokens_total{model="phi3"} 0`} {
		if strings.Contains(page, zero+"\n") {
			t.Errorf("metrics with %s", zero)
		}
	}
}

// TestSummariesAreWrittenAndShared has the worker ask for a summary, write it as a job of class batch, and show it on
// every branch through its turn.
func TestSummariesAreWrittenAndShared(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, req *workers.Request, emit func(...string) bool) error {
		if req.Class == schemas.Batch {
			emit("They spoke of ", "words.")
			return nil
		}
		emit("reply ", strconv.Itoa(n))
		return nil
	})
	engine.health.MaxModelLen = 700
	engine.count = func(body []byte) (int, error) { return len(body) / 4, nil }
	w := c.run(engine, c.config(workers.Sessions{Strategy: schemas.WindowSummarize, SummaryTokens: 100}))
	var turns []*schemas.Result
	wanted := ""
	for i := 0; wanted == "" && i < 20; i++ {
		turns = append(turns, c.turn(schemas.Session{ID: "s"}, fmt.Sprintf("turn%d %s", i, strings.Repeat("word ", 60))))
		if left := turns[i].Turn.LeftOut; left != nil {
			wanted = turns[left.Turns-1].Turn.ID
			if left.Summary != "" {
				t.Errorf("turn %d is shown a summary that nobody has written: %+v", i, left)
			}
		}
	}
	if wanted == "" {
		t.Fatal("nothing was left out of 20 turns")
	}
	summaries := func() []conversation.Summary {
		path, err := c.store.Path(t.Context(), c.ref("s"), conversation.PathQuery{})
		if err != nil {
			t.Fatal(err)
		}
		return path.Summaries
	}
	waitFor(t, "the summary", func() bool { return len(summaries()) > 0 })
	if got := summaries()[0]; got.Turn != wanted || got.Text != "They spoke of words." || got.Model != model || got.Tokens == 0 {
		t.Errorf("summary = %+v, want it up to %s", got, wanted)
	}
	c.settled(0)
	job := engine.seen()[len(turns)]
	if lines := asked(t, job); len(lines) != 1 || !strings.Contains(lines[0], "user: turn0 word") || !strings.Contains(lines[0], "assistant: reply 1") || strings.Contains(lines[0], fmt.Sprintf("turn%d ", len(turns)-1)) {
		t.Errorf("the summary was asked for with %q", lines)
	}
	var body struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.Unmarshal(job.Body, &body); err != nil || body.MaxTokens != 100 {
		t.Errorf("the summary's request = %s", job.Body)
	}
	result := c.result(schemas.Job{ID: job.ID})
	if diff := cmp.Diff(&schemas.Turn{Session: "s", ID: wanted, State: schemas.TurnStored, Rev: result.Turn.Rev}, result.Turn); diff != "" || result.Turn.Rev == 0 {
		t.Errorf("the summary's turn (-want +got):\n%s", diff)
	}
	last := turns[len(turns)-1].Turn
	for _, parent := range []string{last.ID, last.Parent} {
		r := c.turn(schemas.Session{ID: "s", Parent: parent}, strings.Repeat("more ", 50))
		if left := r.Turn.LeftOut; left == nil || left.Summary != wanted {
			t.Errorf("on the branch of %s: left out %+v, want the summary up to %s", parent, left, wanted)
		}
		seen := engine.seen()
		for _, req := range seen[len(turns)+1:] {
			if lines := asked(t, req); req.Class != schemas.Batch && !strings.Contains(lines[0], "They spoke of words.") {
				t.Errorf("the prompt begins with %q, want the summary", lines[0])
			}
		}
	}
	for _, outcome := range []string{"asked", "stored"} {
		if m := scrape(t, w); strings.Contains(m, `hxp_session_summaries_total{model="phi3",outcome="`+outcome+`"} 0`) {
			t.Errorf("no summary was counted as %s", outcome)
		}
	}
	if n := session(t, c, "s").Stats.Turns; n != len(turns)+2 {
		t.Errorf("%d turns, want %d: a summary makes none", n, len(turns)+2)
	}
}

func session(t *testing.T, c *talks, id string) *conversation.Session {
	t.Helper()
	s, err := c.store.Get(t.Context(), c.ref(id))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSummaryOfALongPath comes through the summary before it, and what is too long is cut.
func TestSummaryOfALongPath(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{LogPrompts: true, MaxModelLen: 900})
	c.run(engine, c.config(workers.Sessions{SummaryTokens: 50}))
	var turns []string
	for i := range 8 {
		turns = append(turns, c.turn(schemas.Session{ID: "s"}, fmt.Sprintf("turn%d %s", i, strings.Repeat("word ", 60))).Turn.ID)
	}
	summarize := func(turn string) (*schemas.Result, string) {
		t.Helper()
		r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s", Summarize: turn}}))
		prompts := sim.Prompts()
		return r, prompts[len(prompts)-1]
	}
	first, prompt := summarize(turns[1])
	if first.Status != schemas.StatusCompleted || !strings.Contains(prompt, "turn0") || !strings.Contains(prompt, "turn1") || strings.Contains(prompt, "turn2") {
		t.Errorf("first summary: %s %v of\n%s", first.Status, first.Error, prompt)
	}
	second, prompt := summarize(turns[3])
	if !strings.Contains(prompt, first.Text) || strings.Contains(prompt, "turn1") || !strings.Contains(prompt, "turn2") || !strings.Contains(prompt, "turn3") {
		t.Errorf("second summary: %s %v of\n%s", second.Status, second.Error, prompt)
	}
	third, prompt := summarize(turns[7])
	if third.Status != schemas.StatusCompleted || !strings.Contains(prompt, "turn7") || third.Usage.PromptTokens > 850 {
		t.Errorf("third summary: %s %v, %d tokens of\n%s", third.Status, third.Error, third.Usage.PromptTokens, prompt)
	}
	long := c.turn(schemas.Session{ID: "long"}, strings.Repeat("word ", 150)+"end")
	r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "long", Summarize: long.Turn.ID}, Body: json.RawMessage(chat("-", 300))}))
	if prompts := sim.Prompts(); r.Status != schemas.StatusCompleted || !strings.Contains(prompts[len(prompts)-1], "end") {
		t.Errorf("summary of one long turn: %s %v", r.Status, r.Error)
	}
	r = c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "long", Summarize: long.Turn.ID}, Body: json.RawMessage(chat("-", 800))}))
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeContextLengthExceeded {
		t.Errorf("summary without room for a text: %s %v", r.Status, r.Error)
	}
	for name, tc := range map[string]struct{ session, turn, word string }{
		"root":       {"s", schemas.RootTurn, "want a turn"},
		"no turn":    {"s", "t-none", "no turn of the session"},
		"no session": {"none", turns[0], "not found"},
	} {
		r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: tc.session, Summarize: tc.turn}}))
		if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeInvalidRequest || !strings.Contains(r.Error.Message, tc.word) || r.Turn.State != schemas.TurnDropped {
			t.Errorf("%s: %s %v, turn %+v", name, r.Status, r.Error, r.Turn)
		}
	}
	_, err := c.store.Append(t.Context(), c.ref("s"), conversation.NewTurn{Job: "cut", Status: conversation.Interrupted, Messages: []conversation.Message{conversation.Text("user", "x")}})
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := summarize(conversation.TurnID("cut")); r.Status != schemas.StatusFailed || !strings.Contains(r.Error.Message, "did not finish") {
		t.Errorf("summary of an unfinished turn: %s %v", r.Status, r.Error)
	}
}

// TestSummaryTellsEveryKindOfMessage shows the model what was said in parts, and which tools were called.
func TestSummaryTellsEveryKindOfMessage(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n == 2 {
			return nil // it has nothing to say
		}
		emit("short")
		return nil
	})
	c.run(engine, c.config(workers.Sessions{}))
	if _, err := c.store.Create(t.Context(), conversation.NewSession{Tenant: tenant, ID: "s"}); err != nil {
		t.Fatal(err)
	}
	var messages []conversation.Message
	for _, m := range []string{
		`{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"here"}]}`,
		`{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}`,
		`{"role":"tool","tool_call_id":"1","content":"42"}`,
		`{"role":"assistant","content":""}`,
	} {
		messages = append(messages, conversation.Message{Body: json.RawMessage(m)})
	}
	at, err := c.store.Append(t.Context(), c.ref("s"), conversation.NewTurn{Job: "j", Messages: messages})
	if err != nil {
		t.Fatal(err)
	}
	r := c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s", Summarize: at.Turn}}))
	lines := asked(t, engine.seen()[0])
	if want := "user: look here\n\nassistant: [calls f with {}]\n\ntool: 42"; !strings.HasSuffix(lines[0], want) {
		t.Errorf("the prompt ends with %q, want %q", lines[0], want)
	}
	if r.Turn.State != schemas.TurnStored {
		t.Errorf("turn = %+v", r.Turn)
	}
	r = c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s", Summarize: at.Turn}}))
	if r.Turn.State != schemas.TurnDropped || !strings.Contains(r.Turn.Reason, "no summary") {
		t.Errorf("turn = %+v, want it dropped", r.Turn)
	}
}

// TestSummaryThatIsRefused costs nothing but the summary.
func TestSummaryThatIsRefused(t *testing.T) {
	t.Parallel()
	c := newTalks(t, queue.Config{MaxJobsPerTenant: 1})
	running, open := make(chan struct{}, 1), make(chan struct{})
	engine := newScript(func(_ context.Context, _ int, req *workers.Request, emit func(...string) bool) error {
		if emit("reply"); req.Class == schemas.Batch {
			running <- struct{}{}
			<-open
		}
		return nil
	})
	engine.health.MaxModelLen = 400
	cfg := c.config(workers.Sessions{Strategy: schemas.WindowSummarize, SummaryTokens: 40})
	cfg.Limits.MaxTokens = [2]int{1, 30}
	w := c.run(engine, cfg)
	c.submit(schemas.Job{Class: schemas.Batch, Body: json.RawMessage(chat("in the way", 6))})
	<-running
	for i := range 6 {
		c.result(c.submit(schemas.Job{Session: &schemas.Session{ID: "s"}, Body: json.RawMessage(chat(fmt.Sprint(i, strings.Repeat(" word", 60)), 6))}))
		c.settled(1)
	}
	if strings.Contains(scrape(t, w), `hxp_session_summaries_total{model="phi3",outcome="not_asked"} 0`) {
		t.Error("no summary was refused")
	}
	close(open)
	c.settled(0)
}
