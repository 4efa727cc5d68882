package workers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
)

// A reply that is interrupted again and again is, byte for byte and token for token, the one that
// was not.
//
//nolint:tparallel // The faults are the one engine's, for the next request whichever that is.
func TestInterruptedReplyIsTheUndisturbedOne(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{})
	b.run(engine, workers.Config{MaxAttempts: 100, MaxDeliveries: 1000, RetryDelay: time.Millisecond, MaxRetryDelay: time.Millisecond})
	for _, c := range []struct{ name, body string }{
		{"chat", `{"messages":[{"role":"user","content":"chat %d"}],"max_tokens":90,"ignore_eos":true}`},
		{"chat to its own end", `{"messages":[{"role":"user","content":"until the end %d"}]}`},
		{"completion", `{"prompt":"Once upon a time %d","max_tokens":90,"ignore_eos":true}`},
		{"token ids", `{"prompt":[300,301,3%d],"max_tokens":90,"ignore_eos":true}`},
		{"stop string", `{"messages":[{"role":"user","content":"stop %d"}],"max_tokens":200,"ignore_eos":true,"stop":["ed the","ver "]}`},
		// More tokens are without text than characters have bytes.
		{"long stop string", `{"messages":[{"role":"user","content":"stop %d"}],"max_tokens":300,"ignore_eos":true,"stop":["` + strings.Repeat("never ", 200) + `"]}`},
		{"seed and min_tokens", `{"messages":[{"role":"user","content":"seed %d"}],"max_tokens":120,"seed":7,"min_tokens":60,"presence_penalty":0.5}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range 8 {
				body := fmt.Sprintf(c.body, i)
				endpoint := schemas.ChatCompletions
				if strings.HasPrefix(body, `{"prompt"`) {
					endpoint = schemas.Completions
				}
				want, err := vllmsim.Expected(model, []byte(body), string(endpoint))
				if err != nil {
					t.Fatal(err)
				}
				// After 1, 2, 3... tokens, so that attempts end in every place there is.
				faults, after := 5, 1
				if c.name == "long stop string" {
					faults, after = 2, 90
				}
				for n := range faults {
					if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: after + i + 2*n}); err != nil {
						t.Fatal(err)
					}
				}
				l := b.listen(schemas.EventsOfClient(tenant, "c"))
				job := b.submit(schemas.Job{Stream: true, Endpoint: endpoint, ReplyTo: "hxp.v1.events.acme.c", Body: json.RawMessage(body)})
				events := l.end(1)
				sim.ClearFaults()
				if strings.Contains(kinds(events), "restarted") {
					t.Errorf("kinds = %s: %s", kinds(events), reasons(events))
				}
				if got := textOf(t, events); got != want[0].Text {
					t.Errorf("%s: streamed\n%q, want\n%q", kinds(events), got, want[0].Text)
				}
				if got := tokensOf(t, events); fmt.Sprint(got) != fmt.Sprint(want[0].TokenIDs) {
					t.Errorf("tokens\n%v, want\n%v", got, want[0].TokenIDs)
				}
				r := b.result(job)
				usage := schemas.Usage{PromptTokens: len(want[0].PromptTokenIDs), CompletionTokens: len(want[0].TokenIDs)}
				usage.TotalTokens = usage.PromptTokens + usage.CompletionTokens
				if r.Text != want[0].Text || *r.Usage != usage {
					t.Errorf("result %q with %+v, want %q with %+v", r.Text, r.Usage, want[0].Text, usage)
				}
				var choices []struct {
					FinishReason string `json:"finish_reason"`
				}
				if err := json.Unmarshal(r.Choices, &choices); err != nil || len(choices) != 1 || choices[0].FinishReason != want[0].FinishReason {
					t.Errorf("choices = %s (%v), want finish_reason %s", r.Choices, err, want[0].FinishReason)
				}
			}
		})
	}
}

// tokensOf is what a reader of the events takes for the reply's tokens.
func tokensOf(t *testing.T, events []schemas.Event) []int {
	t.Helper()
	var ids []int
	for _, e := range events {
		switch e.Kind {
		case schemas.Restarted:
			ids = nil
		case schemas.Resumed:
			ids = ids[:e.Kept]
		case schemas.DeltaKind:
			parts, err := openai.ParseChoices(e.Choices, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				ids = append(ids, p.TokenIDs...)
			}
		}
	}
	return ids
}

func reasons(events []schemas.Event) string {
	var s []string
	for _, e := range events {
		if e.Reason != "" {
			s = append(s, e.Reason)
		}
	}
	return strings.Join(s, "; ")
}

func TestWhatCannotBeContinuedIsSaid(t *testing.T) {
	t.Parallel()
	const messages = `{"messages":[{"role":"user","content":"x"}],"max_tokens":40,"ignore_eos":true`
	for _, c := range []struct {
		name, body string
		interrupt  schemas.OnInterrupt
		cfg        vllmsim.Config
		reason     string
	}{
		{"two choices", messages + `,"n":2}`, "", vllmsim.Config{}, "asks for 2 choices"},
		{"tools", messages + `,"tools":[{"type":"function","function":{"name":"f"}}]}`, "", vllmsim.Config{}, "the request has tools"},
		{"grammar", messages + `,"response_format":{"type":"json_object"}}`, "", vllmsim.Config{}, "the request has response_format"},
		{"as asked", messages + `}`, schemas.RestartOnInterrupt, vllmsim.Config{}, "on_interrupt is restart"},
		{"another server", messages + `}`, "", vllmsim.Config{NoExtras: true}, "text without token ids"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			sim, engine := simulate(t, c.cfg)
			b.run(engine, workers.Config{})
			if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 12}); err != nil {
				t.Fatal(err)
			}
			l := b.listen(schemas.AllEvents)
			b.submit(schemas.Job{Stream: true, OnInterrupt: c.interrupt, Body: json.RawMessage(c.body)})
			events := l.end(1)
			if got, want := kinds(events), "started delta interrupted restarted delta usage done"; got != want {
				t.Errorf("kinds = %q, want %q", got, want)
			}
			if got := reasons(events); !strings.Contains(got, c.reason) {
				t.Errorf("reason = %q, want %q in it", got, c.reason)
			}
			if c.name != "two choices" {
				if got, want := textOf(t, events), expect(t, c.body); got != want {
					t.Errorf("text = %q, want %q", got, want)
				}
			}
		})
	}
}

func TestResumedSaysWhatIsNotExact(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{})
	b.run(engine, workers.Config{})
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 12}); err != nil {
		t.Fatal(err)
	}
	l := b.listen(schemas.AllEvents)
	b.submit(schemas.Job{Stream: true, Body: json.RawMessage(`{"prompt":"x","max_tokens":40,"ignore_eos":true,"seed":1,"frequency_penalty":1}`)})
	if got := reasons(l.end(1)); !strings.Contains(got, "seed begin anew") || !strings.Contains(got, "penalties do not count") {
		t.Errorf("reason = %q", got)
	}
}

// ghost plays a worker that recorded what a real one would have, and was lost before it stored the Result.
func (b *broker) ghost(job schemas.Job, events ...schemas.Event) schemas.Job {
	b.t.Helper()
	job = b.submit(job)
	if err := b.pullOne(job.Class).Nak(); err != nil {
		b.t.Fatal(err)
	}
	for i := range events {
		events[i].Seq, events[i].Attempt = uint64(i+1), 1
	}
	b.says(job, events...)
	waitFor(b.t, "the record", func() bool {
		e, err := queue.LastEvent(b.t.Context(), b.js, tenant, job.ID)
		return err == nil && e.Seq == uint64(len(events))
	})
	return job
}

// recorded is the reply of the simulator to a request, as events with n tokens.
func recorded(t *testing.T, body string, n int, finish string) []schemas.Event {
	t.Helper()
	want, err := vllmsim.Expected(model, []byte(body), string(schemas.Completions))
	if err != nil {
		t.Fatal(err)
	}
	events := []schemas.Event{{Kind: schemas.Started, Worker: "ghost"}}
	sent := ""
	for i, id := range want[0].TokenIDs[:n] {
		text := strings.TrimPrefix(vllmsim.Detokenize(want[0].TokenIDs[:i+1]), sent)
		if !utf8.ValidString(text) {
			text = "" // held back until the character is complete
		}
		sent += text
		end := "null"
		if i == n-1 && finish != "" {
			end = `"` + finish + `"`
		}
		e := schemas.Event{Kind: schemas.DeltaKind, Choices: fmt.Appendf(nil, `[{"index":0,"text":%q,"logprobs":null,"finish_reason":%s,"token_ids":[%d]}]`, text, end, id)}
		if i == 0 {
			e.Prompt = mark(want[0].PromptTokenIDs)
		}
		events = append(events, e)
	}
	return events
}

func TestReplyThatWasCompleteNeedsNoEngine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, finish string
		tokens       int
		want         string
	}{
		{"its end was sent", "length", 20, "resumed usage done"},
		{"its end was not sent", "", 20, "resumed delta usage done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			body := `{"prompt":"Once","max_tokens":20,"ignore_eos":true}`
			job := b.ghost(schemas.Job{Stream: true, Body: json.RawMessage(body)}, recorded(t, body, c.tokens, c.finish)...)
			sim, engine := simulate(t, vllmsim.Config{})
			l := b.listen(schemas.AllEvents)
			b.run(engine, workers.Config{})
			events := l.end(22)
			if got := kinds(events); got != c.want {
				t.Errorf("kinds = %q, want %q: %s", got, c.want, reasons(events))
			}
			want, err := vllmsim.Expected(model, []byte(body), string(schemas.Completions))
			if err != nil {
				t.Fatal(err)
			}
			r := b.result(job)
			if r.Text != want[0].Text || r.Usage.CompletionTokens != 20 || !strings.Contains(string(r.Choices), `"finish_reason":"length"`) {
				t.Errorf("result = %q %s %+v", r.Text, r.Choices, r.Usage)
			}
			if n := sim.Stats().Requests; n != 0 {
				t.Errorf("the engine saw %d requests, want 0", n)
			}
		})
	}
}

func TestRecordThatProvesNothingIsNotContinued(t *testing.T) {
	t.Parallel()
	body := `{"prompt":"Once","max_tokens":130,"ignore_eos":true}`
	for _, c := range []struct {
		name   string
		spoil  func(events []schemas.Event) []schemas.Event
		reason string
	}{
		{"no mark", func(e []schemas.Event) []schemas.Event { e[1].Prompt = nil; return e }, "does not identify the prompt"},
		{"another prompt", func(e []schemas.Event) []schemas.Event { e[1].Prompt = mark([]int{1, 2}); return e }, "other tokens of the prompt"},
		{"other text", func(e []schemas.Event) []schemas.Event {
			e[3].Choices = json.RawMessage(`[{"index":0,"text":" Zounds","token_ids":[400]}]`)
			return e
		}, "do not spell the text"},
		{"unreadable", func(e []schemas.Event) []schemas.Event { e[3].Choices = json.RawMessage(`[7]`); return e }, "event 4 cannot be read"},
		{"reasoning", func(e []schemas.Event) []schemas.Event {
			e[3].Choices = json.RawMessage(`[{"index":0,"delta":{"reasoning":"hm"},"token_ids":[400]}]`)
			return e
		}, "more than text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			job := b.ghost(schemas.Job{Stream: true, Body: json.RawMessage(body)}, c.spoil(recorded(t, body, 100, ""))...)
			_, engine := simulate(t, vllmsim.Config{})
			l := b.listen(schemas.AllEvents)
			b.run(engine, workers.Config{})
			events := l.end(102)
			if got, want := kinds(events), "restarted delta usage done"; got != want || !strings.Contains(reasons(events), c.reason) {
				t.Errorf("kinds = %q, reason %q; want %q, %q", got, reasons(events), want, c.reason)
			}
			want, err := vllmsim.Expected(model, []byte(body), string(schemas.Completions))
			if err != nil {
				t.Fatal(err)
			}
			if r := b.result(job); r.Text != want[0].Text {
				t.Errorf("result = %q, want %q", r.Text, want[0].Text)
			}
		})
	}
}

// A lost event in the middle: what follows it cannot be continued, and is not.
func TestGapInTheRecordRestarts(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	body := `{"prompt":"Once","max_tokens":30,"ignore_eos":true}`
	events := recorded(t, body, 10, "")
	job := b.ghost(schemas.Job{Stream: true, Body: json.RawMessage(body)}, events[:6]...)
	for i := range events {
		events[i].Seq, events[i].Attempt = uint64(i+1), 1
	}
	b.says(job, events[8:]...)
	_, engine := simulate(t, vllmsim.Config{})
	l := b.listen(schemas.AllEvents)
	b.run(engine, workers.Config{})
	if got := reasons(l.end(12)); !strings.Contains(got, "events 7 to 8 are not recorded") {
		t.Errorf("reason = %q", got)
	}
}

// An engine that says something else than was sent already is found out before a reader is.
func TestDivergingContinuationRestarts(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	body := `{"prompt":"Once","max_tokens":30,"ignore_eos":true}`
	events := recorded(t, body, 10, "")
	// The last text ends in the middle of what its token spells, as when a stop string is held back.
	events = append(events, schemas.Event{Kind: schemas.DeltaKind, Choices: json.RawMessage(`[{"index":0,"text":" Q","token_ids":[]}]`)})
	b.ghost(schemas.Job{Stream: true, Body: json.RawMessage(body)}, events...)
	_, engine := simulate(t, vllmsim.Config{})
	l := b.listen(schemas.AllEvents)
	b.run(engine, workers.Config{})
	got := l.end(13)
	if want := "resumed restarted delta usage done"; kinds(got) != want || !strings.Contains(reasons(got), "differs from the text already sent") {
		t.Errorf("kinds = %q (%s), want %q", kinds(got), reasons(got), want)
	}
}
