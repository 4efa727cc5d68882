package workers_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// TestSystemMessagesAreFolded looks at the bytes that the engine gets.
func TestSystemMessagesAreFolded(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ok")
	b.run(engine, workers.Config{Capabilities: workers.Capabilities{SystemRole: workers.SystemFold}})
	for _, c := range []struct{ name, body, want string }{
		{
			"unknown fields stay as they are",
			`{"vllm_xargs":{"a":1.50},"messages":[{"role":"system","content":"Be <kind>."},{"x":[1,2],"role":"user","content":"h\u00e9llo","name":"Ann"}],"seed":7}`,
			`{"vllm_xargs":{"a":1.50},"messages":[{"x":[1,2],"role":"user","content":"Be <kind>.\n\nhéllo","name":"Ann"}],"seed":7}`,
		},
		{
			"several, in two places",
			`{"messages":[{"role":"system","content":"A"},{"role":"developer","content":"B"},{"role":"user","content":"1"},{"role":"assistant","content":"2"},{"role":"system","content":"C"},{"role":"user","content":"3"}]}`,
			`{"messages":[{"role":"user","content":"A\n\nB\n\n1"},{"role":"assistant","content":"2"},{"role":"user","content":"C\n\n3"}]}`,
		},
		{
			"parts into text",
			`{"messages":[{"role":"system","content":[{"type":"text","text":"A"},{"text":"B","type":"text"}]},{"role":"user","content":"1"}]}`,
			`{"messages":[{"role":"user","content":"A\nB\n\n1"}]}`,
		},
		{
			"text into parts",
			`{"messages":[{"role":"system","content":"A"},{"role":"user","content":[{"type":"text","text":"1","z":0},{"type":"image_url","image_url":{"url":"u"}}]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"text","text":"A\n\n1","z":0},{"type":"image_url","image_url":{"url":"u"}}]}]}`,
		},
		{
			"text before an image",
			`{"messages":[{"role":"system","content":"A"},{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"image_url","image_url":{"url":"u"}}]}]}`,
		},
		{
			"no parts",
			`{"messages":[{"role":"system","content":"A"},{"role":"user","content":[]}]}`,
			`{"messages":[{"role":"user","content":[{"type":"text","text":"A"}]}]}`,
		},
		{
			"no content",
			`{"messages":[{"role":"system","content":"A"},{"role":"user"},{"role":"system","content":"B","name":null},{"role":"user","content":null}]}`,
			`{"messages":[{"role":"user","content":"A"},{"role":"user","content":"B"}]}`,
		},
		{
			"nothing to fold in",
			`{"messages":[{"role":"system","content":""},{"role":"system"},{"role":"user","content":"1"}]}`,
			`{"messages":[{"role":"user","content":"1"}]}`,
		},
	} {
		id := uuid.NewString()
		l := b.listen(schemas.EventSubject("*", "*", id)) // the end of the job before may be yet to come
		job := b.submit(schemas.Job{ID: id, Body: json.RawMessage(c.body)})
		if r := b.result(job); r.Status != schemas.StatusCompleted {
			t.Errorf("%s: %s %v", c.name, r.Status, r.Error)
			continue
		}
		seen := engine.seen()
		if diff := cmp.Diff(c.want, string(seen[len(seen)-1].Body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if e := l.until(schemas.Started)[0]; !strings.Contains(e.Reason, "no system role") {
			t.Errorf("%s: the opening event says %q, want that the system message was folded", c.name, e.Reason)
		}
	}
	id := uuid.NewString()
	l := b.listen(schemas.EventSubject("*", "*", id))
	b.submit(schemas.Job{ID: id})
	if e := l.until(schemas.Started)[0]; e.Reason != "" {
		t.Errorf("the opening event of an unchanged request says %q", e.Reason)
	}
}

func TestCapabilitiesRefuse(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ok")
	const user = `{"role":"user","content":"hi"}`
	message := func(s string) string { return `{"messages":[` + s + `]}` }
	fold := workers.Capabilities{SystemRole: workers.SystemFold}
	for _, c := range []struct {
		name, body, param, want string
		can                     workers.Capabilities
		job                     schemas.Job
	}{
		{name: "no chat", can: workers.Capabilities{NoChat: true}, body: message(user), param: "endpoint", want: "endpoint is /v1/chat/completions; model phi3 has no chat format: want /v1/completions"},
		{name: "no chat, but a completion", can: workers.Capabilities{NoChat: true}, body: `{"prompt":"hi"}`, job: schemas.Job{Endpoint: schemas.Completions}},
		{name: "no tools", can: workers.Capabilities{NoTools: true}, body: `{"messages":[` + user + `],"tools":[{}],"tool_choice":"auto"}`, param: "tools", want: `tools are given; model phi3 cannot call tools; tool_choice is "auto"; model phi3 cannot call tools: want "none"`},
		{name: "tools that are not used", can: workers.Capabilities{NoTools: true}, body: `{"messages":[` + user + `],"tools":[{}],"tool_choice":"none"}`},
		{name: "tools allowed", body: `{"messages":[` + user + `],"tools":[{}]}`},
		{name: "refuse", can: workers.Capabilities{SystemRole: workers.SystemRefuse}, body: message(`{"role":"system","content":"A"},` + user), param: "messages[0].role", want: `messages[0].role is "system"; model phi3 takes no system messages`},
		{name: "refuse, but there is none", can: workers.Capabilities{SystemRole: workers.SystemRefuse}, body: message(user)},
		{name: "nothing follows", can: fold, body: message(user + `,{"role":"system","content":"A"}`), param: "messages[1].role", want: "no user message follows"},
		{name: "an assistant follows", can: fold, body: message(`{"role":"system","content":"A"},{"role":"assistant","content":"B"},` + user), param: "messages[1].role", want: "only a user message can take it in"},
		{name: "an image", can: fold, body: message(`{"role":"system","content":[{"type":"image_url"}]},` + user), param: "messages[0].content[0]", want: "is not plain text"},
		{name: "more than text", can: fold, body: message(`{"role":"system","content":[{"type":"text","text":"A","cache_control":{}}]},` + user), param: "messages[0].content[0]", want: "is not plain text"},
		{name: "text is null", can: fold, body: message(`{"role":"system","content":[{"type":"text","text":null}]},` + user), param: "messages[0].content[0]", want: "is not plain text"},
		{name: "parts are no objects", can: fold, body: message(`{"role":"system","content":["A"]},` + user), param: "messages[0].content", want: `is ["A"]; want a string or a list of text parts`},
		{name: "a name", can: fold, body: message(`{"role":"system","content":"A","weight":1,"name":"n"},` + user), param: "messages[0].name", want: "messages[0].name cannot be kept where a system message is folded into a user message; messages[0].weight cannot"},
		{name: "conversations", can: workers.Capabilities{NoConversation: true}, job: schemas.Job{Session: &schemas.Session{ID: "s"}}, body: message(user), param: "session", want: `session "s": model phi3 keeps no conversations`},
		{name: "an earlier fault is enough", can: fold, body: `{"messages":[{"role":"system","content":7}]}`, param: "messages[0].content", want: "messages[0].content is 7; want a string"},
	} {
		w := b.run(engine, workers.Config{Capabilities: c.can})
		c.job.Body = json.RawMessage(c.body)
		r := b.result(b.submit(c.job))
		switch {
		case c.want == "" && r.Status != schemas.StatusCompleted:
			t.Errorf("%s: %v, want an answer", c.name, r.Error)
		case c.want != "" && (r.Error == nil || r.Error.Code != schemas.CodeInvalidRequest || r.Error.Param != c.param || !strings.Contains(r.Error.Message, c.want)):
			t.Errorf("%s: %+v, want param %q and %q", c.name, r.Error, c.param, c.want)
		}
		if err := w.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	}
	_, js := b.connect()
	if _, err := workers.New(js, model, engine, workers.Config{Capabilities: workers.Capabilities{SystemRole: "guess"}}); err == nil || !strings.Contains(err.Error(), `SystemRole is "guess"; want native, fold or refuse`) {
		t.Errorf("New = %v, want that the system role is refused", err)
	}
}

// TestFoldedReplyIsContinued: the rest of an interrupted reply has the prompt of its beginning.
func TestFoldedReplyIsContinued(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{})
	b.run(engine, workers.Config{Capabilities: workers.Capabilities{SystemRole: workers.SystemFold}})
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 9}); err != nil {
		t.Fatal(err)
	}
	const body = `{"messages":[{"role":"system","content":"Be terse."},{"role":"user","content":"Why?"}],"max_tokens":40,"ignore_eos":true}`
	l := b.listen(schemas.AllEvents)
	b.submit(schemas.Job{Stream: true, Body: json.RawMessage(body)})
	events := l.end(1)
	if got, want := kinds(events), "started delta interrupted resumed delta usage done"; got != want {
		t.Fatalf("kinds = %s, want %s", got, want)
	}
	want := expect(t, `{"messages":[{"role":"user","content":"Be terse.\n\nWhy?"}],"max_tokens":40,"ignore_eos":true}`)
	if got := textOf(t, events); got != want {
		t.Errorf("text = %q, want that of the folded prompt, %q", got, want)
	}
	for _, e := range events {
		if e.Kind == schemas.Resumed && (!strings.Contains(e.Reason, "was interrupted after 9 tokens; ") || !strings.Contains(e.Reason, "no system role")) {
			t.Errorf("resumed says %q, want both why and what was changed", e.Reason)
		}
	}
}
