package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// asking is a policy with an endpoint.
func asking(url string) moderation.Config {
	return moderation.Config{Endpoint: &moderation.Endpoint{URL: url, Chunk: 40, Overlap: 20, Timeout: 2 * time.Second, Retries: -1}}
}

// TestEndpointHoldsBackWhatItHasNotSeen blocks a word over the border of two pieces while the engine is silent.
func TestEndpointHoldsBackWhatItHasNotSeen(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	url, asked := service(t, "murder")
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("This is a harmless beginning of ", "a reply, ", "and mur", "der", " is what it is about, so that nothing of it may be read")
		<-ctx.Done() // an engine that has nothing more to say
		return context.Cause(ctx)
	})
	s := b.run(engine, moderated(t, asking(url)))
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	events := l.end(1)
	r := b.result(job)
	blockedOutput(t, r)
	if got := textOf(t, events); strings.Contains(got, "mur") || got != r.Text {
		t.Errorf("streamed %q and kept %q", got, r.Text)
	}
	if !strings.Contains(r.Error.Message, "violence") || asked.Load() < 2 {
		t.Errorf("error = %q after %d questions", r.Error.Message, asked.Load())
	}
	countsOnce(t, s, "output", "block")
	countsOnce(t, s, "input", "pass")
}

// TestEndpointLetsThrough everything that it has no objection to, in order, streamed or not.
func TestEndpointLetsThrough(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	url, _ := service(t, "murder")
	_, engine := simulate(t, vllmsim.Config{})
	s := b.run(engine, moderated(t, asking(url)))
	l := b.listen(schemas.EventsOfClient(tenant, "c"))
	body := chat("a long and peaceful reply", 200)
	want := expect(t, body)
	job := b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.c", Body: json.RawMessage(body)})
	if got := textOf(t, l.end(1)); got != want {
		t.Errorf("streamed %q, want %q", got, want)
	}
	if r := b.result(job); r.Text != want || r.Usage.CompletionTokens != 200 {
		t.Errorf("result = %q with %+v", r.Text, r.Usage)
	}
	if r := b.result(b.submit(schemas.Job{Body: json.RawMessage(body)})); r.Text != want {
		t.Errorf("result = %q, want %q", r.Text, want)
	}
	if got := metric(t, s, `hxp_moderation_total{action="pass",model="phi3",stage="output"}`); got != "2" {
		t.Errorf("%s replies passed, want 2", got)
	}
}

// TestDeadEndpoint fails open or closed, as the policy says, and shows it.
func TestDeadEndpoint(t *testing.T) {
	t.Parallel()
	for _, stage := range []workers.Stage{workers.StageInput, workers.StageOutput} {
		for _, open := range []bool{false, true} {
			t.Run(fmt.Sprint(stage, open), func(t *testing.T) {
				t.Parallel()
				b := newBroker(t, queue.Config{})
				cfg := asking("http://127.0.0.1:1/v1/moderations?key=hidden")
				cfg.FailOpen, cfg.Stages = open, []workers.Stage{stage}
				s := b.run(says("hello", " world"), moderated(t, cfg))
				r := b.result(b.submit(schemas.Job{Stream: true}))
				if strings.Contains(s.log.String(), "hidden") {
					t.Error("the log holds the address's key")
				}
				if open {
					if r.Status != schemas.StatusCompleted || r.Text != "hello world" {
						t.Errorf("%s %q (%v), want the reply", r.Status, r.Text, r.Error)
					}
					countsOnce(t, s, string(stage), "error_open")
					return
				}
				if e := r.Error; e == nil || e.Code != schemas.CodeContentBlocked || r.Text != "" || !strings.Contains(e.Message, "blocks what it cannot check") || strings.Contains(e.Message, "127.0.0.1") {
					t.Errorf("%q with %+v, want content_blocked", r.Text, e)
				}
				countsOnce(t, s, string(stage), "error_closed")
			})
		}
	}
}

// TestFoundIsNotUnchecked names what a policy that fails open has found by its rules.
func TestFoundIsNotUnchecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	gone := make(chan struct{}, 9)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		gone <- struct{}{}
	}))
	t.Cleanup(srv.Close)
	cfg := asking(srv.URL)
	cfg.FailOpen, cfg.Stages, cfg.Rules.Phrases = true, []workers.Stage{workers.StageOutput}, []string{"bad word"}
	l := b.listen(schemas.AllEvents)
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("This is a harmless beginning of a reply which is longer than a chunk. ")
		<-gone
		l.until(schemas.DeltaKind) // what could not be checked has gone out
		emit("more ", "bad word", " end of it all")
		return nil
	})
	s := b.run(engine, moderated(t, cfg))
	r := b.result(b.submit(schemas.Job{Stream: true}))
	blockedOutput(t, r)
	if e := r.Error; e == nil || !strings.Contains(e.Message, "policy strict: phrase") {
		t.Errorf("error = %v, want the phrase to be named", e)
	}
	countsOnce(t, s, "output", "block")
}

// TestWaitingForModerationIsNoStall keeps the lease of a job whose check takes longer than the engine may.
func TestWaitingForModerationIsNoStall(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 300 * time.Millisecond})
	release := make(chan struct{})
	m := &slowModerator{release: release, waits: make(chan struct{}, 2)}
	s := b.run(says("hello"), workers.Config{Moderator: m, FirstTokenTimeout: 50 * time.Millisecond, TokenTimeout: 50 * time.Millisecond})
	job := b.submit(schemas.Job{})
	for range 2 { // the input, and the output
		<-m.waits
		renewed := metric(t, s, `hxp_lease_renewals_total{model="phi3"}`)
		waitFor(t, "the lease to be renewed twice", func() bool { return atLeast(metric(t, s, `hxp_lease_renewals_total{model="phi3"}`), renewed, 3) })
		release <- struct{}{}
	}
	if r := b.result(job); r.Status != schemas.StatusCompleted || r.Attempts != 1 {
		t.Errorf("%s after %d attempts (%v), want completed after one", r.Status, r.Attempts, r.Error)
	}
}

func atLeast(now, before string, more float64) bool {
	var a, b float64
	_, _ = fmt.Sscan(now, &a)
	_, _ = fmt.Sscan(before, &b)
	return a >= b+more
}

// slowModerator waits for the test.
type slowModerator struct {
	release, waits chan struct{}
	changed        func()
	done           chan struct{}
}

func (m *slowModerator) Policy(string, string) workers.ModerationPolicy { return m }
func (m *slowModerator) Name() string                                   { return "slow" }
func (m *slowModerator) Audit() bool                                    { return false }
func (m *slowModerator) FailsOpen() bool                                { return false }
func (m *slowModerator) Checks(workers.Stage) bool                      { return true }
func (m *slowModerator) Input(context.Context, []string) []workers.Ruling {
	m.waits <- struct{}{}
	<-m.release
	return nil
}

func (m *slowModerator) Output(_ context.Context, _ string, changed func()) workers.ReplyCheck {
	m.changed, m.done = changed, make(chan struct{})
	return m
}
func (m *slowModerator) Text(string) workers.TextCheck { return &slowText{m: m} }
func (m *slowModerator) Stop()                         { <-m.done }

type slowText struct {
	m      *slowModerator
	length int
}

func (s *slowText) Write(p []byte) { s.length += len(p) }
func (s *slowText) Close() {
	go func() {
		s.m.waits <- struct{}{}
		<-s.m.release
		close(s.m.done)
		s.m.changed()
	}()
}

func (s *slowText) Ruling() workers.Ruling {
	select {
	case <-s.m.done:
		return workers.Ruling{Settled: s.length}
	default:
		return workers.Ruling{}
	}
}

// TestAudit changes nothing for the client.
func TestAudit(t *testing.T) {
	t.Parallel()
	url, _ := service(t, "forbidden")
	for name, cfg := range map[string]moderation.Config{"rules": blocking("forbidden words"), "endpoint": asking(url)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			cfg.Audit = true
			if name == "rules" {
				cfg.Rules.Personal = []string{"email"}
			}
			engine := says("forbidden", " wo", "rds", " for a@b.example")
			s := b.run(engine, moderated(t, cfg))
			l := b.listen(schemas.AllEvents)
			const body = `{"messages":[{"role":"user","content":"say forbidden words to a@b.example"}]}`
			job := b.submit(schemas.Job{Stream: true, Body: json.RawMessage(body)})
			events := l.end(1)
			if got, want := textOf(t, events), "forbidden words for a@b.example"; got != want || b.result(job).Text != want || events[0].Reason != "" {
				t.Errorf("streamed %q (%s), want %q", got, events[0].Reason, want)
			}
			if got := string(engine.seen()[0].Body); got != body {
				t.Errorf("the engine got %s", got)
			}
			countsOnce(t, s, "input", "audit")
			countsOnce(t, s, "output", "audit")
			if log := s.log.String(); !strings.Contains(log, `"action":"audit"`) || !strings.Contains(log, `"digests":["`) || strings.Contains(log, "forbidden") || strings.Contains(log, "b.example") {
				t.Errorf("log = %s", log)
			}
		})
	}
}

// TestMaskedOutput replaces across events; what is told of a masked delta is its text alone.
func TestMaskedOutput(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine := simulate(t, vllmsim.Config{Say: "Write to jane@mail.example or to joe@mail.example about it."})
	s := b.run(engine, moderated(t, masking("email")))
	const want = "Write to [EMAIL] or to [EMAIL] about it."
	for _, body := range []string{
		`{"messages":[{"role":"user","content":"who?"}],"max_tokens":99,"logprobs":true,"n":2}`,
		`{"prompt":"who?","max_tokens":99}`,
	} {
		endpoint := schemas.ChatCompletions
		if strings.Contains(body, "prompt") {
			endpoint = schemas.Completions
		}
		l := b.listen(schemas.EventsOfClient(tenant, "c"))
		job := b.submit(schemas.Job{Stream: true, Endpoint: endpoint, ReplyTo: "hxp.v1.events.acme.c", Body: json.RawMessage(body)})
		events := l.end(1)
		if got := textOf(t, events); got != want || b.result(job).Text != want {
			t.Errorf("streamed %q and kept %q, want %q", got, b.result(job).Text, want)
		}
		ids, masked := 0, 0
		for _, e := range events {
			parts, err := openai.ParseChoices(e.Choices, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				ids += len(p.TokenIDs)
				if strings.Contains(string(p.Text), "[EMAIL]") {
					masked++
					if p.TokenIDs != nil || p.Logprobs != nil {
						t.Errorf("a masked choice has tokens: %s", e.Choices)
					}
				}
			}
		}
		if ids == 0 || masked < 2 {
			t.Errorf("%d token ids and %d masks; want what is not masked as it came", ids, masked)
		}
		if record := b.recorded(job); strings.Contains(record, "jane") || strings.Contains(record, "@") {
			t.Errorf("the record holds what was masked: %s", record)
		}
	}
	if got := metric(t, s, `hxp_moderation_total{action="mask",model="phi3",stage="output"}`); got != "2" {
		t.Errorf("%s replies were masked, want 2", got)
	}
}

// TestAuditOfABrokenReply counts what was shown before the reply broke off.
func TestAuditOfABrokenReply(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	cfg := blocking("forbidden phrase")
	cfg.Audit = true
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("a ", "forbidden ", "phrase ", "and more")
		<-ctx.Done()
		return context.Cause(ctx)
	})
	s := b.run(engine, moderated(t, cfg))
	if r := b.result(b.submit(schemas.Job{Stream: true, Deadline: time.Now().Add(300 * time.Millisecond)})); r.Status != schemas.StatusExpired {
		t.Errorf("%s (%v), want expired", r.Status, r.Error)
	}
	countsOnce(t, s, "output", "audit")
}

// TestAuditsEndWithTheDrain and their number is bounded; what is not looked at is counted.
func TestAuditsEndWithTheDrain(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	cfg := asking(silent(t))
	cfg.Audit, cfg.FailOpen, cfg.Endpoint.Timeout = true, true, time.Minute
	wc := moderated(t, cfg)
	wc.DrainTimeout = 10 * time.Millisecond
	s := b.run(says("a reply that is ", "longer than one chunk of forty bytes so", " that there is more than one question"), wc)
	const jobs = 40 // of two audits each
	for range jobs {
		if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
			t.Fatalf("%s (%v), want completed", r.Status, r.Error)
		}
	}
	start := time.Now()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the worker took %s to stop", took)
	}
	for _, stage := range []string{"input", "output"} {
		name := fmt.Sprintf(`hxp_moderation_total{action="error_open",model="phi3",stage=%q}`, stage)
		if got, want := metric(t, s, name), fmt.Sprint(jobs); got != want {
			t.Errorf("%s of stage %s were counted as unchecked, want %s", got, stage, want)
		}
	}
	if !strings.Contains(s.log.String(), "as many audits run as may") {
		t.Error("no audit was left out")
	}
}

// TestTokensTellNothingThatIsMasked has the tokens be ahead of their text, by a stop string that they may
// begin. Some of the text behind the last mask comes with its tokens all the same.
func TestTokensTellNothingThatIsMasked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine := simulate(t, vllmsim.Config{Say: "Write to jané@mail.example or to joe@mail.example about it and then some more words follow."})
	b.run(engine, moderated(t, moderation.Config{Rules: moderation.Rules{Expressions: map[string]moderation.Expression{
		"address": {Pattern: `\w+é?@[a-z.]+`, Mask: true},
	}}}))
	for _, stop := range []string{"", "x.", "\n\nUser: something", strings.Repeat("#", 70)} {
		request := map[string]any{"messages": []map[string]string{{"role": "user", "content": "who?"}}, "max_tokens": 99, "logprobs": true}
		if stop != "" {
			request["stop"] = stop
		}
		body, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		l := b.listen(schemas.EventsOfClient(tenant, "c"))
		job := b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.c", Body: body})
		events := l.end(1)
		if got, want := textOf(t, events), "Write to [ADDRESS] or to [ADDRESS] about it and then some more words follow."; got != want {
			t.Errorf("stop %q: streamed %q, want %q", stop, got, want)
		}
		var ids []int
		told := ""
		for _, e := range events {
			parts, err := openai.ParseChoices(e.Choices, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				ids = append(ids, p.TokenIDs...)
				told += string(p.Logprobs)
			}
		}
		text, err := engine.Detokenize(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"jan", "é", "joe", "@", "mail", "example"} {
			if strings.Contains(text, part) || strings.Contains(told, part) || strings.Contains(string(b.result(job).Choices), part) {
				t.Errorf("stop %q: the tokens spell %q, with %q", stop, text, part)
			}
		}
		if len(stop) < 70 && !strings.Contains(text, "words follow.") { // else all of it is in the last event
			t.Errorf("stop %q: the tokens spell %q, want the end of the reply", stop, text)
		}
	}
}

// TestEveryChannelIsChecked: content, reasoning, a refusal, names and arguments of tool calls, and tool
// calls of a form that nobody knows, each choice by itself.
func TestEveryChannelIsChecked(t *testing.T) {
	t.Parallel()
	tool := func(name, arguments string) string {
		return fmt.Sprintf(`{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":%q,"arguments":%q}}]},"finish_reason":null}`, name, arguments)
	}
	delta := func(index int, field, text string) string {
		return fmt.Sprintf(`{"index":%d,"delta":{%q:%q},"finish_reason":null}`, index, field, text)
	}
	for name, raw := range map[string][]string{
		"content":     {delta(0, "content", "x bad"), delta(0, "content", " word.")},
		"reasoning":   {delta(0, "reasoning", "x bad"), delta(0, "reasoning", " word.")},
		"old name":    {delta(0, "reasoning_content", "x bad"), delta(0, "reasoning_content", " word.")},
		"refusal":     {delta(0, "refusal", "x bad"), delta(0, "refusal", " word.")},
		"second":      {delta(0, "content", "x"), delta(1, "content", "x bad"), delta(1, "content", " word.")},
		"interleaved": {delta(0, "content", "x bad"), delta(1, "content", "y bad"), delta(0, "content", " word."), delta(1, "content", " end")},
		"arguments":   {tool("f", `{"x bad`), tool("", ` word"`)},
		"name":        {tool("bad word", ``)},
		"odd tools":   {`{"index":0,"delta":{"tool_calls":["x bad word."]},"finish_reason":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			engine := says()
			engine.raw = append(raw, delta(0, "content", ""))
			b.run(engine, moderated(t, blocking("bad word")))
			job := b.submit(schemas.Job{Stream: true})
			blockedOutput(t, b.result(job))
			if record := b.recorded(job); strings.Contains(record, "bad") || strings.Contains(record, "word") {
				t.Errorf("the record holds it: %s", record)
			}
		})
	}
}

// TestEveryChannelIsMasked rewrites each where it stands.
func TestEveryChannelIsMasked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says()
	engine.raw = []string{
		`{"index":0,"delta":{"role":"assistant","content":"c a@b.ex","reasoning":"r a@b.ex","reasoning_content":"r a@b.ex","refusal":"f a@b.ex"},"logprobs":{"content":[]},"finish_reason":null,"token_ids":[1,2]}`,
		`{"index":0,"delta":{"content":"am!","reasoning":"am!","reasoning_content":"am!","refusal":"am!"},"finish_reason":null,"token_ids":[3]}`,
		`{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"mail","arguments":"{\"to\":\"a@b"}},{"index":1,"function":{"name":"x@y.exam"}}]},"finish_reason":null}`,
		`{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":".exam\"}"}}]},"finish_reason":"tool_calls"}`,
	}
	b.run(engine, moderated(t, masking("email")))
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	var got strings.Builder
	for _, e := range l.end(1) {
		got.Write(e.Choices)
	}
	for _, want := range []string{
		`"content":"c [EMAIL]"`, `"reasoning":"r [EMAIL]"`, `"reasoning_content":"r [EMAIL]"`, `"refusal":"f [EMAIL]"`, `"content":"!"`,
		`"arguments":"{\"to\":\"[EMAIL]"`, `"name":"[EMAIL]"`, `"arguments":"\"}"`, `"masked":true`, `"id":"t"`,
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("no %s in %s", want, got.String())
		}
	}
	if strings.Contains(got.String(), "a@b") || strings.Contains(got.String(), "token_ids") {
		t.Errorf("events hold what was masked: %s", got.String())
	}
	if r := b.result(job); !strings.Contains(string(r.Choices), `"arguments":"{\"to\":\"[EMAIL]\"}"`) || r.Text != "c [EMAIL]!" {
		t.Errorf("result = %s", r.Choices)
	}
}

// TestInterruptedReplyIsCheckedAsOne continues a reply after what was let through; a phrase that
// the interruption splits is found, and a masked reply begins again and says why.
func TestInterruptedReplyIsCheckedAsOne(t *testing.T) {
	t.Parallel()
	const said = "The river was quiet and the old bridge near Xylo Québec stood in the field with a lantern."
	for n := 1; n < 40; n += 3 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			sim, engine := simulate(t, vllmsim.Config{Say: said})
			b.run(engine, moderated(t, blocking("xylo québec")))
			if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: n}); err != nil {
				t.Fatal(err)
			}
			job := b.submit(schemas.Job{Stream: true, Body: json.RawMessage(`{"messages":[{"role":"user","content":"go"}],"max_tokens":99}`)})
			r := b.result(job)
			blockedOutput(t, r)
			record := b.recorded(job)
			if r.Text != "The river was quiet and the old bridge near " && r.Text != "The river was quiet and the old bridge near" || strings.Contains(record, "restarted") {
				t.Errorf("text = %q: %s", r.Text, record)
			}
			for _, bad := range []string{"Xy", "Qu", "é", "u00e9"} {
				if strings.Contains(record, bad) {
					t.Errorf("the record holds %q: %s", bad, record)
				}
			}
		})
	}
	t.Run("harmless", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t, queue.Config{})
		sim, engine := simulate(t, vllmsim.Config{Say: said})
		b.run(engine, moderated(t, blocking("xylo ontario", "field without")))
		if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 14}); err != nil {
			t.Fatal(err)
		}
		l := b.listen(schemas.AllEvents)
		b.submit(schemas.Job{Stream: true, Body: json.RawMessage(`{"messages":[{"role":"user","content":"go"}],"max_tokens":99}`)})
		events := l.end(1)
		if got := kinds(events); got != "started delta interrupted resumed delta usage done" || textOf(t, events) != said {
			t.Errorf("%s: %q, want the undisturbed reply", got, textOf(t, events))
		}
	})
	t.Run("masked", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t, queue.Config{})
		sim, engine := simulate(t, vllmsim.Config{Say: "Mail jane@mail.example and the old bridge near the river stood in the field with a lantern."})
		b.run(engine, moderated(t, masking("email")))
		if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 25}); err != nil {
			t.Fatal(err)
		}
		l := b.listen(schemas.AllEvents)
		b.submit(schemas.Job{Stream: true, Body: json.RawMessage(`{"messages":[{"role":"user","content":"go"}],"max_tokens":99}`)})
		events := l.end(1)
		if got := kinds(events); got != "started delta interrupted restarted delta usage done" || !strings.Contains(reasons(events), "moderation has masked some of the text") {
			t.Errorf("%s: %s", got, reasons(events))
		}
		if got, want := textOf(t, events), "Mail [EMAIL] and the old bridge near the river stood in the field with a lantern."; got != want {
			t.Errorf("text = %q, want %q", got, want)
		}
	})
}

// TestAlternativesAreNotAskedFor where a policy is enforced on replies: they are in no text that is checked.
func TestAlternativesAreNotAskedFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ endpoint, body, want string }{
		{"chat", `{"messages":[{"role":"user","content":"hi"}],"logprobs":true,"top_logprobs":5}`, `"top_logprobs":0`},
		{"completion", `{"prompt":"hi","logprobs":3}`, `"logprobs":0`},
		{"completion", `{"prompt":"hi","logprobs":0}`, ""},
	} {
		b := newBroker(t, queue.Config{})
		engine := says("ok")
		b.run(engine, moderated(t, blocking("bad")))
		l := b.listen(schemas.AllEvents)
		job := schemas.Job{Stream: true, Body: json.RawMessage(c.body)}
		if c.endpoint == "completion" {
			job.Endpoint = schemas.Completions
		}
		b.submit(job)
		events := l.end(1)
		if got := string(engine.seen()[0].Body); c.want != "" && !strings.Contains(got, c.want) || c.want == "" && got != c.body {
			t.Errorf("the engine got %s, want %s in it", got, c.want)
		}
		if got := events[0].Reason; (c.want != "") != strings.Contains(got, "leaves out alternatives") {
			t.Errorf("reason = %q", got)
		}
	}
}

// TestPolicyOfTheTenant and the model holds, and a new one from the next job on.
func TestPolicyOfTheTenant(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	m, err := moderation.New(map[string]moderation.Config{"strict": blocking("bad")}, moderation.Assignment{Tenants: map[string]string{"other": "strict"}})
	if err != nil {
		t.Fatal(err)
	}
	w := b.run(says("bad"), workers.Config{Moderator: m})
	if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
		t.Errorf("%s (%v), want another tenant's policy not to count", r.Status, r.Error)
	}
	next := workers.Config{Moderator: moderated(t, blocking("bad")).Moderator}
	if err := w.Tune(next.Tunables()); err != nil {
		t.Fatal(err)
	}
	blockedOutput(t, b.result(b.submit(schemas.Job{})))
	if err := w.Tune((workers.Config{}).Tunables()); err != nil {
		t.Fatal(err)
	}
	if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted {
		t.Errorf("%s (%v), want no policy", r.Status, r.Error)
	}
	for _, series := range []string{`hxp_moderation_seconds_count{stage="input"}`, `hxp_moderation_total{action="audit",model="phi3",stage="output"}`} {
		if metric(t, w, series) == "" {
			t.Errorf("no series %s", series)
		}
	}
}
