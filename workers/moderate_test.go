package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// moderated is a worker's configuration with one policy for all jobs.
func moderated(t testing.TB, cfg moderation.Config) workers.Config {
	t.Helper()
	m, err := moderation.New(map[string]moderation.Config{"strict": cfg}, moderation.Assignment{Default: "strict"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return workers.Config{Moderator: m}
}

func blocking(phrases ...string) moderation.Config {
	return moderation.Config{Rules: moderation.Rules{Phrases: phrases, WholeWords: true}}
}

func masking(kinds ...string) moderation.Config {
	return moderation.Config{Rules: moderation.Rules{Personal: kinds}}
}

// counted1 waits until a job was counted under an action.
func countsOnce(t *testing.T, s *started, stage, action string) {
	t.Helper()
	series := fmt.Sprintf(`hxp_moderation_total{action=%q,model=%q,stage=%q}`, action, model, stage)
	waitFor(t, series+" 1", func() bool { return metric(t, s, series) == "1" })
}

// recorded are the raw events of a job as HXP_EVENTS holds them.
func (b *broker) recorded(job schemas.Job) string {
	b.t.Helper()
	s, err := b.js.Stream(b.t.Context(), schemas.EventsStream)
	if err != nil {
		b.t.Fatal(err)
	}
	var all strings.Builder
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		msg, err := s.GetMsg(b.t.Context(), seq)
		if err != nil {
			b.t.Fatal(err)
		}
		if strings.HasSuffix(msg.Subject, "."+job.ID) {
			all.Write(msg.Data)
			all.WriteByte('\n')
		}
	}
	return all.String()
}

// blockedOutput checks the end of a job whose reply was blocked.
func blockedOutput(t *testing.T, r *schemas.Result) {
	t.Helper()
	e := r.Error
	if r.Status != schemas.StatusFailed || e == nil || e.Code != schemas.CodeContentBlocked || e.Retryable || e.Param != "" {
		t.Fatalf("result is %s with %+v, want failed with %s", r.Status, e, schemas.CodeContentBlocked)
	}
	for _, want := range []string{"output", "strict"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("error %q does not name %s", e.Message, want)
		}
	}
}

// TestBlockedPhraseIsNeverShown splits a forbidden phrase at every byte, over tokens and events that
// are published one by one and together: nothing of it is in an event, in the record, in the Result or in the log.
func TestBlockedPhraseIsNeverShown(t *testing.T) {
	t.Parallel()
	const before, phrase = "All of this may be read. ", "Qüx Zorg"
	for _, coalesce := range []time.Duration{-1, 5 * time.Millisecond} {
		t.Run(coalesce.String(), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			var pieces atomic.Pointer[[]string]
			aborted := make(chan struct{}, 64)
			engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
				if emit(*pieces.Load()...) {
					<-ctx.Done()
				}
				aborted <- struct{}{}
				return context.Cause(ctx)
			})
			cfg := moderated(t, blocking("qüx zorg"))
			cfg.Coalesce = coalesce
			s := b.run(engine, cfg)
			jobs := 0
			for at := range phrase {
				for to := at + 1; to <= len(phrase); to += 3 {
					// JSON carries characters, so that the pieces end where those do.
					list := []string{"All of this ", "may be read. ", strings.ToValidUTF8(phrase[:at], ""), phrase[at:to], phrase[to:], ", it said", " on"}
					if !validPieces(list) {
						continue
					}
					pieces.Store(&list)
					l := b.listen(schemas.EventsOfClient(tenant, "c"))
					for _, streamed := range []bool{true, false} {
						job := b.submit(schemas.Job{Stream: streamed, ReplyTo: "hxp.v1.events.acme.c"})
						jobs++
						events := l.end(1)
						<-aborted
						r := b.result(job)
						blockedOutput(t, r)
						if got := textOf(t, events); streamed && got != before || r.Text != before {
							t.Fatalf("streamed %q and kept %q of %q, want %q", got, r.Text, list, before)
						}
						data, err := json.Marshal(r)
						if err != nil {
							t.Fatal(err)
						}
						for where, text := range map[string]string{"record": b.recorded(job), "result": string(data), "log": s.log.String()} {
							for _, bad := range []string{"Q", "ü", "Zo", "rg", `"choices":[{"index":0,"delta":{"content":"x`} {
								if strings.Contains(text, bad) {
									t.Fatalf("the %s holds %q: %s", where, bad, text)
								}
							}
						}
						if !strings.Contains(string(data), `"finish_reason":"content_filter"`) {
							t.Errorf("result = %s, want finish_reason content_filter", data)
						}
					}
				}
			}
			if got, want := metric(t, s, `hxp_moderation_total{action="block",model="phi3",stage="output"}`), fmt.Sprint(jobs); got != want {
				t.Errorf("%s replies were counted as blocked, want %s", got, want)
			}
		})
	}
}

func validPieces(list []string) bool {
	for _, p := range list {
		if strings.ToValidUTF8(p, "") != p {
			return false
		}
	}
	return true
}

// TestBlockedPhraseOfAnEngine has the simulated vLLM say the phrase in its own tokens, several of them in a
// chunk, with a stop string that keeps the text behind the tokens, in groups, and with log probabilities.
func TestBlockedPhraseOfAnEngine(t *testing.T) {
	t.Parallel()
	const free = "The old clock was here. "
	const said = free + "Xylo Québec told us about it and went away again."
	for _, c := range []struct {
		name, body string
		interval   int
		class      schemas.Class
		endpoint   schemas.Endpoint
	}{
		{"chat", `{"messages":[{"role":"user","content":"go"}],"max_tokens":90}`, 1, "", ""},
		{"several tokens in a chunk", `{"messages":[{"role":"user","content":"go"}],"max_tokens":90}`, 3, "", ""},
		{"stop string", `{"messages":[{"role":"user","content":"go"}],"max_tokens":90,"stop":["nobody says this"]}`, 1, "", ""},
		{"logprobs", `{"messages":[{"role":"user","content":"go"}],"max_tokens":90,"logprobs":true}`, 2, "", ""},
		{"two choices", `{"messages":[{"role":"user","content":"go"}],"max_tokens":90,"n":2}`, 2, "", ""},
		{"group", `{"prompt":"go","max_tokens":90}`, 1, schemas.Batch, schemas.Completions},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			sim, engine := simulate(t, vllmsim.Config{Say: said, StreamInterval: c.interval, ITL: time.Millisecond})
			s := b.run(engine, moderated(t, blocking("xylo québec")))
			l := b.listen(schemas.AllEvents)
			jobs := 1
			if c.class == schemas.Batch {
				jobs = 3
			}
			for range jobs {
				b.submit(schemas.Job{Stream: true, Class: c.class, Endpoint: c.endpoint, Body: json.RawMessage(c.body)})
			}
			streams := map[string][]schemas.Event{}
			for ended := 0; ended < jobs; {
				e := l.next()
				streams[e.ID] = append(streams[e.ID], e)
				if e.Kind.Terminal() {
					ended++
				}
			}
			allowed := vllmsim.Tokenize(free)
			for id, events := range streams {
				r := b.result(schemas.Job{ID: id})
				blockedOutput(t, r)
				if r.Text == "" || !strings.HasPrefix(free, r.Text) {
					t.Errorf("text = %q", r.Text)
				}
				ids := map[int][]int{}
				for _, e := range events {
					if e.Kind != schemas.DeltaKind {
						continue
					}
					parts, err := openai.ParseChoices(e.Choices, nil)
					if err != nil {
						t.Fatal(err)
					}
					for _, p := range parts {
						ids[p.Index] = append(ids[p.Index], p.TokenIDs...)
					}
					for _, bad := range []string{"Xy", "Qu", "bec", "é"} {
						if strings.Contains(string(e.Choices), bad) {
							t.Errorf("event %s holds %q", e.Choices, bad)
						}
					}
				}
				for choice, got := range ids {
					if len(got) > len(allowed) {
						t.Errorf("choice %d: the events tell %d tokens, of which %d may be read", choice, len(got), len(allowed))
					}
				}
			}
			waitFor(t, "the engine to be free", func() bool { return sim.Stats().Running == 0 })
			if strings.Contains(s.log.String(), "Xylo") {
				t.Error("the log holds the phrase")
			}
		})
	}
}

// TestBlockedInput ends a job before the engine hears of it.
func TestBlockedInput(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("hello")
	cfg := moderated(t, blocking("forbidden words"))
	cfg.LogPrompts = true
	s := b.run(engine, cfg)
	for body, param := range map[string]string{
		`{"messages":[{"role":"user","content":"say forbidden   words"}]}`:                                                                    "messages",
		`{"messages":[{"role":"system","content":"x"},{"role":"user","content":[{"type":"text","text":"for\u0062idden words!"}]}]}`:           "messages",
		`{"messages":[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{\"a\":\"forbidden words\"}"}}]}]}`:     "messages",
		`{"messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f","description":"forbidden words"}}]}`: "tools",
		`{"messages":[{"role":"user","content":"hi"}],"chat_template":"Forbidden words"}`:                                                     "chat_template",
	} {
		r := b.result(b.submit(schemas.Job{Stream: true, Body: json.RawMessage(body)}))
		if e := r.Error; r.Status != schemas.StatusFailed || e == nil || e.Code != schemas.CodeContentBlocked || e.Param != param || e.Retryable ||
			!strings.Contains(e.Message, "input") || !strings.Contains(e.Message, "policy strict: phrase") {
			t.Errorf("%s: %s with %+v, want content_blocked of %s", body, r.Status, e, param)
		}
	}
	r := b.result(b.submit(schemas.Job{Endpoint: schemas.Completions, Body: json.RawMessage(`{"prompt":["ok","forbidden words"]}`)}))
	if r.Error == nil || r.Error.Code != schemas.CodeContentBlocked || r.Error.Param != "prompt" {
		t.Errorf("error = %+v, want content_blocked of prompt", r.Error)
	}
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine got %d requests", n)
	}
	if strings.Contains(strings.ToLower(s.log.String()), "words") {
		t.Errorf("the log holds what was blocked: %s", s.log.String())
	}
	if got := metric(t, s, `hxp_moderation_total{action="block",model="phi3",stage="input"}`); got != "6" {
		t.Errorf("%s were counted as blocked, want 6", got)
	}
	if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted || r.Text != "hello" {
		t.Errorf("result = %s %q, want a harmless job to be answered", r.Status, r.Text)
	}
}

// TestEverythingThatAPromptShowsIsChecked, wherever in a chat it stands and however it is cut up.
func TestEverythingThatAPromptShowsIsChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ok")
	b.run(engine, moderated(t, blocking("forbidden phrase")))
	const user = `{"messages":[{"role":"user","content":"x"}]`
	for name, body := range map[string]string{
		"parts":             `{"messages":[{"role":"user","content":[{"type":"text","text":"a forbidden"},{"type":"text","text":"phrase"}]}]}`,
		"parts of a word":   `{"messages":[{"role":"user","content":[{"type":"text","text":"a forb"},{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"idden phrase"}]}]}`,
		"later parts":       `{"messages":[{"role":"user","content":[{"type":"text","text":"x"}]},{"role":"user","content":["a forbidden","phrase"]}]}`,
		"role":              `{"messages":[{"role":"forbidden phrase","content":"x"}]}`,
		"type":              `{"messages":[{"role":"user","content":[{"type":"forbidden phrase","text":"x"}]}]}`,
		"id":                `{"messages":[{"role":"tool","tool_call_id":"forbidden phrase","content":"x"}]}`,
		"data of no media":  `{"messages":[{"role":"user","content":"x","data":"a forbidden phrase"}]}`,
		"template's data":   user + `,"chat_template_kwargs":{"data":"a forbidden phrase"}}`,
		"template's url":    user + `,"chat_template_kwargs":{"content":{"image_url":{"url":"a forbidden phrase"}}}}`,
		"document's data":   user + `,"documents":[{"title":"t","data":"a forbidden phrase"}]}`,
		"document's member": user + `,"documents":[{"forbidden phrase":"t"}]}`,
		"enum":              user + `,"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{"enum":["forbidden phrase"]}}}}}]}`,
		"property":          user + `,"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"forbidden phrase":{"type":"string"}}}}}]}`,
	} {
		if r := b.result(b.submit(schemas.Job{Body: json.RawMessage(body)})); r.Error == nil || r.Error.Code != schemas.CodeContentBlocked {
			t.Errorf("%s: %s with %v, want content_blocked", name, r.Status, r.Error)
		}
	}
	for name, body := range map[string]string{
		"media":    `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"forbidden phrase"}},{"type":"input_audio","input_audio":{"data":"forbidden phrase"}}]}]}`,
		"messages": `{"messages":[{"role":"user","content":"a forbidden"},{"role":"user","content":"phrase"}]}`,
	} {
		if r := b.result(b.submit(schemas.Job{Body: json.RawMessage(body)})); r.Status != schemas.StatusCompleted {
			t.Errorf("%s: %s with %v, want completed", name, r.Status, r.Error)
		}
	}
}

// TestMaskedAcrossParts replaces what only the parts of a message together make up, and leaves references alone.
func TestMaskedAcrossParts(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ok")
	b.run(engine, moderated(t, masking("email", "us_ssn")))
	l := b.listen(schemas.EventsOfClient(tenant, "c"))
	part := func(texts ...string) string {
		var parts []string
		for _, text := range texts {
			parts = append(parts, fmt.Sprintf(`{"type":"text","text":%q}`, text))
		}
		return `{"messages":[{"role":"user","content":[` + strings.Join(parts, ",") + `]},{"role":"tool","tool_call_id":"219-09-9999","content":"x"}]}`
	}
	for given, want := range map[string]string{
		part("me@a.example, an", "na@", "b.example is she"): part("[EMAIL], [EMAIL]", "", " is she"),
		part("x ", "me@a.exam", "ple"):                      part("x ", "[EMAIL]", ""),
		part("ssn 219-09-9999", "x"):                        part("ssn [SSN]", "x"),
	} {
		b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.c", Body: json.RawMessage(given)})
		events := l.end(1)
		requests := engine.seen()
		if got := string(requests[len(requests)-1].Body); got != want {
			t.Errorf("the engine got\n%s, want\n%s", got, want)
		}
		if !strings.Contains(events[0].Reason, "in the request") {
			t.Errorf("reason = %q, want what was masked", events[0].Reason)
		}
	}
}

// TestUncheckedPromptsAreNotLogged when a job ends before its policy has looked at it.
func TestUncheckedPromptsAreNotLogged(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	cfg := moderated(t, blocking("forbidden phrase"))
	cfg.LogPrompts = true
	s := b.run(says("hello"), cfg)
	const messages = `"messages":[{"role":"user","content":"a forbidden phrase"}]}`
	for _, job := range []schemas.Job{
		{Deadline: time.Now().Add(time.Millisecond), Body: json.RawMessage(`{` + messages)},
		{Body: json.RawMessage(`{"max_tokens":-1,` + messages)},
	} {
		if r := b.result(b.submit(job)); r.Status == schemas.StatusCompleted {
			t.Errorf("%s, want a job that ends early", r.Status)
		}
	}
	b.result(b.submit(schemas.Job{Body: json.RawMessage(`{"messages":[{"role":"user","content":"harmless"}]}`)}))
	waitFor(t, "a harmless prompt in the log", func() bool { return strings.Contains(s.log.String(), "harmless") })
	if strings.Contains(s.log.String(), "forbidden") {
		t.Errorf("the log holds what nobody has checked: %s", s.log.String())
	}
}

// TestMaskedInput rewrites the texts, and nothing else, before the engine sees them.
func TestMaskedInput(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ok")
	s := b.run(engine, moderated(t, masking("email", "ipv4")))
	l := b.listen(schemas.EventsOfClient(tenant, "c"))
	const body = `{"messages":[{"role":"user","content":"I am \"a@b.example\""},{"role":"user","content":[{"type":"text","text":"and c@d.example from 10.0.0.1"},` +
		`{"type":"image_url","image_url":{"url":"http://10.0.0.2/x@y.example"}}]}],"max_tokens":8,"user":"e@f.example"}`
	b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.c", Body: json.RawMessage(body)})
	events := l.end(1)
	if want := "moderation policy strict masked 2 email, 1 ipv4 in the request"; events[0].Reason != want {
		t.Errorf("reason = %q, want %q", events[0].Reason, want)
	}
	want := strings.NewReplacer(`a@b.example`, `[EMAIL]`, `c@d.example from 10.0.0.1`, `[EMAIL] from [IPV4]`).Replace(body)
	if got := string(engine.seen()[0].Body); got != want {
		t.Errorf("the engine got\n%s, want\n%s", got, want)
	}
	countsOnce(t, s, "input", "mask")
	r := b.result(b.submit(schemas.Job{Endpoint: schemas.Completions, Body: json.RawMessage(`{"prompt":["x","is a@b.example"],"suffix":"c@d.example"}`)}))
	if got, want := string(engine.seen()[1].Body), `{"prompt":["x","is [EMAIL]"],"suffix":"[EMAIL]"}`; got != want || r.Status != schemas.StatusCompleted {
		t.Errorf("%s: the engine got %s, want %s", r.Status, got, want)
	}
}

// TestPromptOfTokens is spelled by the engine's own tokenizer.
func TestPromptOfTokens(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine := simulate(t, vllmsim.Config{})
	cfg := blocking("quiet fox")
	cfg.Rules.Personal = []string{"email"}
	b.run(engine, moderated(t, cfg))
	submit := func(texts ...string) *schemas.Result {
		lists := make([][]int, len(texts))
		for i, text := range texts {
			lists[i] = vllmsim.Tokenize(text)
		}
		prompt, err := json.Marshal(lists)
		if len(lists) == 1 {
			prompt, err = json.Marshal(lists[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.result(b.submit(schemas.Job{Endpoint: schemas.Completions, Body: fmt.Appendf(nil, `{"prompt":%s,"max_tokens":5}`, prompt)}))
	}
	if r := submit("The quiet fox"); r.Error == nil || r.Error.Code != schemas.CodeContentBlocked || r.Error.Param != "prompt" {
		t.Errorf("error = %+v, want the prompt to be blocked", r.Error)
	}
	for _, texts := range [][]string{{"The loud fox"}, {"mail a@b.example"}, {"x", "mail a@b.example"}} {
		if r := submit(texts...); r.Status != schemas.StatusCompleted {
			t.Errorf("%q: %s (%v)", texts, r.Status, r.Error)
		}
	}
}

// TestUnreadableInput fails open or closed where the engine cannot spell it.
func TestUnreadableInput(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		t.Run(fmt.Sprint(open), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			cfg := blocking("x")
			cfg.FailOpen = open
			s := b.run(says("ok"), moderated(t, cfg))
			r := b.result(b.submit(schemas.Job{Endpoint: schemas.Completions, Body: json.RawMessage(`{"prompt":[1,2,3]}`)}))
			if open {
				if r.Status != schemas.StatusCompleted {
					t.Errorf("%s (%v), want completed", r.Status, r.Error)
				}
				countsOnce(t, s, "input", "error_open")
				return
			}
			if r.Error == nil || r.Error.Code != schemas.CodeContentBlocked || r.Error.Param != "prompt" || !strings.Contains(r.Error.Message, "could not be checked") {
				t.Errorf("error = %+v, want content_blocked", r.Error)
			}
			countsOnce(t, s, "input", "error_closed")
		})
	}
}

// flaky is an engine that cannot be asked to spell a prompt at first.
type flaky struct {
	*script
	asked atomic.Int64
}

func (f *flaky) Detokenize(context.Context, []int) (string, error) {
	if f.asked.Add(1) == 1 {
		return "", schemas.Errorf(schemas.CodeEngineUnavailable, "connection refused")
	}
	return "harmless", nil
}

// TestEngineThatCannotSpellForAMomentIsAskedAgain before the job is given up.
func TestEngineThatCannotSpellForAMomentIsAskedAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := &flaky{script: says("x")}
	b.run(engine, moderated(t, blocking("forbidden")))
	r := b.result(b.submit(schemas.Job{Endpoint: schemas.Completions, Body: json.RawMessage(`{"prompt":[1,2,3]}`)}))
	if r.Status != schemas.StatusCompleted || engine.asked.Load() < 2 {
		t.Errorf("%s (%v) after %d questions, want completed", r.Status, r.Error, engine.asked.Load())
	}
}

// silent is an endpoint that answers nothing until the test ends.
func silent(t *testing.T) (url string) {
	t.Helper()
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	t.Cleanup(func() { close(stop); srv.Close() })
	return srv.URL
}

// TestDeadlineHoldsWhileInputIsChecked by an endpoint that is slow.
func TestDeadlineHoldsWhileInputIsChecked(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	cfg := asking(silent(t))
	cfg.Endpoint.Timeout = time.Minute
	b.run(says("x"), moderated(t, cfg))
	r := b.result(b.submit(schemas.Job{Deadline: time.Now().Add(300 * time.Millisecond)}))
	if r.Status != schemas.StatusExpired {
		t.Errorf("%s (%v), want expired", r.Status, r.Error)
	}
}

// service is an endpoint of OpenAI's shape that flags a text with a word in it.
func service(t *testing.T, word string) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var req struct{ Input string }
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Errorf("request: %v", err)
		}
		flagged := strings.Contains(req.Input, word)
		_, _ = fmt.Fprintf(w, `{"results":[{"flagged":%t,"categories":{"violence":%t}}]}`, flagged, flagged)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}
