package workers_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

var limits = workers.Limits{
	MaxModelLen: 2048, Temperature: [2]float64{0.1, 2}, TopP: [2]float64{0.1, 1}, MaxTokens: [2]int{1, 4096},
}

func TestBadRequestsAreRefusedBeforeTheEngine(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("never")
	b.run(engine, workers.Config{Limits: limits, Slots: 8})
	const ok = `"messages":[{"role":"user","content":"hi"}]`
	for _, c := range []struct{ body, param, want string }{
		{`{` + ok + `,"max_tokens":5000}`, "max_tokens", "max_tokens is 5000; want 1 to 4096"},
		{`{` + ok + `,"max_tokens":0}`, "max_tokens", "max_tokens is 0; want 1 to 4096"},
		{`{` + ok + `,"max_tokens":"many"}`, "max_tokens", `max_tokens is "many"; want a whole number`},
		{`{` + ok + `,"max_completion_tokens":1.5}`, "max_completion_tokens", "max_completion_tokens is 1.5; want a whole number"},
		{`{` + ok + `,"temperature":0}`, "temperature", "temperature is 0; want 0.1 to 2"},
		{`{` + ok + `,"temperature":[1]}`, "temperature", "temperature is [1]; want a number"},
		{`{` + ok + `,"top_p":1.5}`, "top_p", "top_p is 1.5; want 0.1 to 1"},
		{`{` + ok + `,"temperature":3,"top_p":2}`, "temperature", "temperature is 3; want 0.1 to 2; top_p is 2; want 0.1 to 1"},
		{`{` + ok + `,"n":9}`, "n", "n is 9; want 1 to 8"},
		{`{` + ok + `,"n":-1}`, "n", "n is -1; want 1 to 8"},
		{`{` + ok + `,"stop":[1]}`, "stop", "stop is [1]; want a string or a list of strings"},
		{`{` + ok + `,"stream":"yes"}`, "stream", `stream is "yes"; want true or false`},
		{`{` + ok + `,"stream":true,"use_beam_search":true}`, "use_beam_search", "a beam search cannot be streamed"},
		{`{` + ok + `,"use_beam_search":true}`, "use_beam_search", "use_beam_search is true; want false"},
		{`{` + ok + `,"use_beam_search":1}`, "use_beam_search", "use_beam_search is 1; want true or false"},
		{`{"messages":[]}`, "messages", "messages is []; want a list of at least one message"},
		{`{"messages":"hi"}`, "messages", `messages is "hi"; want a list`},
		{`{"messages":[7]}`, "messages[0]", "messages[0] is 7; want an object"},
		{`{"messages":[{"content":"x"}]}`, "messages[0].role", "messages[0].role is missing"},
		{`{"messages":[{"role":"user","content":4}]}`, "messages[0].content", "messages[0].content is 4; want a string"},
		{`{"prompt":{}}`, "prompt", "prompt is {}; want a string"},
		{`{"prompt":[]}`, "prompt", "prompt is empty"},
		{`{"prompt":[[1],[]]}`, "prompt[1]", "prompt[1] is empty"},
		{`{"prompt":null}`, "prompt", "prompt is missing"},
		{`{"prompt":["a","b","c"],"n":3}`, "prompt", "asks for 9 sequences (3 prompts with n=3); want at most the engine's 8"},
		{`{"prompt":{"` + strings.Repeat("x", 100) + `":1}}`, "prompt", "..."},
	} {
		r := b.result(b.submit(schemas.Job{Body: json.RawMessage(c.body)}))
		if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeInvalidRequest || r.Error.Param != c.param || !strings.Contains(r.Error.Message, c.want) {
			t.Errorf("%.80s: %s %+v, want param %q and %q", c.body, r.Status, r.Error, c.param, c.want)
		}
	}
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want 0", n)
	}
	b.deadLetters(0)
}

func TestPromptMustFitTheWindow(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("fits")
	counted := 0
	engine.count = func(body []byte) (int, error) {
		counted++
		switch s := string(body); {
		case strings.Contains(s, "overlong"):
			return 2000, nil
		case strings.Contains(s, "broken"):
			return 0, schemas.Errorf(schemas.CodeInvalidRequest, "template error")
		case strings.Contains(s, "blind"):
			return 0, workers.ErrUnsupported
		}
		return 100, nil
	}
	b.run(engine, workers.Config{Limits: limits})
	long := strings.Repeat("word ", 420)
	ids := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("5,", n), ",") + "]" }
	for _, c := range []struct {
		name, body string
		code       schemas.Code
		counted    int
	}{
		{"short: not counted", `{"prompt":"hi","max_tokens":100}`, "", 0},
		{"long in bytes, short in tokens", `{"prompt":"` + long + `","max_tokens":100}`, "", 1},
		{"list of prompts", `{"prompt":["a","` + long + `"],"max_tokens":100}`, "", 1},
		{"too long", `{"prompt":"overlong ` + long + `","max_tokens":49}`, schemas.CodeContextLengthExceeded, 1},
		{"engine cannot count", `{"prompt":"blind ` + long + `"}`, "", 1},
		{"engine refuses", `{"prompt":"broken ` + long + `"}`, schemas.CodeInvalidRequest, 1},
		{"token ids that fit", `{"prompt":` + ids(2000) + `,"max_tokens":48}`, "", 0},
		{"token ids that do not", `{"prompt":` + ids(2000) + `,"max_tokens":49}`, schemas.CodeContextLengthExceeded, 0},
		{"lists of token ids", `{"prompt":[` + ids(1) + `,` + ids(2040) + `],"max_tokens":9}`, schemas.CodeContextLengthExceeded, 0},
	} {
		counted = 0
		r := b.result(b.submit(schemas.Job{Body: json.RawMessage(c.body)}))
		if r.Error == nil && c.code != "" || r.Error != nil && r.Error.Code != c.code {
			t.Errorf("%s: error = %v, want code %q", c.name, r.Error, c.code)
		}
		if c.code == schemas.CodeContextLengthExceeded && (r.Error.Param != "prompt" || !strings.Contains(r.Error.Message, "the model's window is 2048")) {
			t.Errorf("%s: %+v does not name field and bound", c.name, r.Error)
		}
		if counted != c.counted {
			t.Errorf("%s: counted %d times, want %d", c.name, counted, c.counted)
		}
	}
}

func TestChatWithoutMaxTokensIsBounded(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("x")
	engine.health.MaxModelLen = 8192
	b.run(engine, workers.Config{Limits: workers.Limits{MaxTokens: [2]int{1, 4096}}})
	const chat = `{"messages":[{"role":"user","content":"hi"}]}`
	b.result(b.submit(schemas.Job{Body: json.RawMessage(chat)}))
	var sent struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.Unmarshal(engine.seen()[0].Body, &sent); err != nil || sent.MaxTokens != 4096 {
		t.Errorf("engine got %s, want max_tokens 4096", engine.seen()[0].Body)
	}
	// A window smaller than the bound is bound enough.
	b2 := newBroker(t, queue.Config{})
	small := says("x")
	b2.run(small, workers.Config{Limits: limits})
	b2.result(b2.submit(schemas.Job{Body: json.RawMessage(chat)}))
	if got := string(small.seen()[0].Body); got != chat {
		t.Errorf("engine got %s, want %s", got, chat)
	}
}

func TestSessionsAreRefusedInWords(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(says("x"), workers.Config{})
	r := b.result(b.submit(schemas.Job{Session: &schemas.Session{ID: "s1"}}))
	if r.Error == nil || r.Error.Code != schemas.CodeInvalidRequest || r.Error.Param != "session" {
		t.Errorf("error = %v, want invalid_request for session", r.Error)
	}
}

// rawEngine streams choice objects as they are.
func rawEngine(choices ...string) *script {
	s := newScript(nil)
	s.raw = choices
	return s
}

func TestChoicesAreAssembled(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		choices    []string
		want       string
	}{
		{
			"two chat choices, interleaved", `{"messages":[{"role":"user","content":"x"}],"n":2}`,
			[]string{
				`{"index":1,"delta":{"role":"assistant","content":""}}`, `{"index":0,"delta":{"role":"assistant","content":"a"}}`,
				`{"index":1,"delta":{"content":"b"}}`, `{"index":0,"delta":{"content":"c"},"finish_reason":"stop","stop_reason":"##"}`,
				`{"index":1,"delta":{"content":"d"},"finish_reason":"length","stop_reason":null}`,
			},
			`[{"index":0,"message":{"role":"assistant","content":"ac"},"logprobs":null,"finish_reason":"stop","stop_reason":"##"},` +
				`{"index":1,"message":{"role":"assistant","content":"bd"},"logprobs":null,"finish_reason":"length"}]`,
		},
		{
			"tool calls", `{"messages":[{"role":"user","content":"x"}]}`,
			[]string{
				`{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":""}}]}}`,
				`{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}`,
				`{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}},{"index":1,"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}]},"finish_reason":"tool_calls"}`,
			},
			`[{"index":0,"message":{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},` +
				`{"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}]`,
		},
		{
			"chat logprobs and reasoning", `{"messages":[{"role":"user","content":"x"}]}`,
			[]string{
				`{"index":0,"delta":{"reasoning":"hm"},"logprobs":{"content":[{"token":"a"}]}}`,
				`{"index":0,"delta":{"content":"b"},"logprobs":{"content":[{"token":"b"}]},"finish_reason":"stop"}`,
			},
			`[{"index":0,"message":{"role":"assistant","content":"b","reasoning":"hm"},"logprobs":{"content":[{"token":"a"},{"token":"b"}]},"finish_reason":"stop"}]`,
		},
		{
			"completions of two prompts, one unfinished", `{"prompt":["x","y"]}`,
			[]string{`{"index":1,"text":"B","logprobs":{"tokens":["B"]},"finish_reason":"stop"}`, `{"index":0,"text":"A"}`},
			`[{"index":0,"text":"A","logprobs":null,"finish_reason":null},{"index":1,"text":"B","logprobs":{"tokens":["B"]},"finish_reason":"stop"}]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			b.run(rawEngine(c.choices...), workers.Config{})
			l := b.listen(schemas.AllEvents)
			r := b.result(b.submit(schemas.Job{Stream: true, Body: json.RawMessage(c.body)}))
			if diff := cmp.Diff(c.want, string(r.Choices)); diff != "" {
				t.Errorf("choices (-want +got):\n%s", diff)
			}
			// The stream has them verbatim and in order.
			var streamed []string
			for _, e := range l.end(1) {
				if e.Kind == schemas.DeltaKind {
					streamed = append(streamed, strings.TrimSuffix(strings.TrimPrefix(string(e.Choices), "["), "]"))
				}
			}
			if diff := cmp.Diff(strings.Join(c.choices, ","), strings.Join(streamed, ",")); diff != "" {
				t.Errorf("stream (-want +got):\n%s", diff)
			}
			if r.Usage == nil || r.Usage.TotalTokens != r.Usage.PromptTokens+r.Usage.CompletionTokens || r.Usage.CompletionTokens == 0 {
				t.Errorf("usage = %+v, want our own count", r.Usage)
			}
		})
	}
}

func TestBrokenLogprobsAreAnError(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(rawEngine(`{"index":0,"text":"A","logprobs":{"tokens":7},"finish_reason":"stop"}`), workers.Config{MaxAttempts: 1, MaxDeliveries: 2})
	r := b.result(b.submit(schemas.Job{Body: json.RawMessage(`{"prompt":"x"}`)}))
	if r.Status != schemas.StatusFailed {
		t.Errorf("result = %+v", r)
	}
}

func TestResultTooLargeToStoreFailsTheJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	big := strings.Repeat("x", 300<<10)
	b.run(newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit(big, big, big)
		return nil
	}), workers.Config{})
	r := b.result(b.submit(schemas.Job{}))
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodePayloadTooLarge || r.Text != "" {
		t.Errorf("result = %s %v, %d bytes of text", r.Status, r.Error, len(r.Text))
	}
	b.settled(0)
}

func TestWithoutLimitsTheEngineDecides(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := rawEngine(`{"index":0,"delta":{"content":"a","tool_calls":[{"index":0,"function":{"arguments":7}}]},"finish_reason":"stop"}`)
	engine.health.MaxModelLen = 0
	engine.prompt = []int{1, 2, 3, 4}
	b.run(engine, workers.Config{})
	r := b.result(b.submit(schemas.Job{Body: json.RawMessage(`{"messages":[{"role":"user","content":"x"}],"max_tokens":100000,"temperature":9}`)}))
	if r.Status != schemas.StatusCompleted || r.Text != "a" || r.Usage.PromptTokens != 4 || r.Usage.CompletionTokens != 1 {
		t.Errorf("result = %s %q %+v", r.Status, r.Text, r.Usage)
	}
	r = b.result(b.submit(schemas.Job{Body: json.RawMessage(`{"messages":[{"role":"user","content":"x"}],"max_tokens":-1}`)}))
	if r.Error == nil || r.Error.Message != "max_tokens is -1; want at least 0" {
		t.Errorf("error = %v", r.Error)
	}
	r = b.result(b.submit(schemas.Job{Endpoint: schemas.ChatCompletions, Body: json.RawMessage(`{}`)}))
	if r.Error == nil || r.Error.Message != "messages is missing; want a list of at least one message" {
		t.Errorf("error = %v", r.Error)
	}
}
