package conversation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/conversation"
)

func TestExportAndImport(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{User: "u", Title: "T", Model: "m", System: "Be <brief>.", Metadata: map[string]string{"k": "v"}})
		parent := ""
		for i := range 150 { // more than a page
			parent = e.say(ref, fmt.Sprint(i), parent).Turn
		}
		e.say(ref, "branch", "t-70")
		x := turn("cut", "t-149")
		x.Status = conversation.Interrupted
		e.add(ref, x)
		if _, err := e.SetHead(ctx, ref, conversation.Head{Branch: "alt", Turn: "t-branch"}); err != nil {
			t.Fatal(err)
		}
		if err := e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-50", Text: "half", Model: "m"}); err != nil {
			t.Fatal(err)
		}
		data, err := e.Export(ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Import(ctx, strings.NewReader(string(data)), conversation.NewSession{Tenant: "globex", Title: "Copy"})
		if err != nil {
			t.Fatal(err)
		}
		if got.User != "u" || got.Title != "Copy" || got.System != "Be <brief>." || got.Metadata["k"] != "v" || got.Head != "t-149" || got.Messages != 304 {
			t.Errorf("session = %+v", got)
		}
		tree := func(ref conversation.Ref) *conversation.Tree {
			tree, err := e.Tree(ctx, ref, true)
			if err != nil {
				t.Fatal(err)
			}
			checkTree(t, tree)
			return tree
		}
		before, after := tree(ref), tree(got.Ref)
		asText := func(tree *conversation.Tree) string {
			tree.Session = nil
			text, err := json.MarshalIndent(tree, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		if a, b := asText(before), asText(after); a != b {
			t.Error(cmp.Diff(a, b))
		}
		// It goes on where it was.
		if a := e.say(got.Ref, "next", "t-149"); !a.Moved {
			t.Errorf("Append = %+v", a)
		}

		fork, err := e.Fork(ctx, ref, "t-branch", conversation.NewSession{Title: "Fork"})
		if err != nil {
			t.Fatal(err)
		}
		want, _ := e.path(ref, conversation.PathQuery{Leaf: "t-branch"})
		have, p := e.path(fork.Ref, conversation.PathQuery{})
		if diff := cmp.Diff(want, have); diff != "" || fork.Title != "Fork" || fork.User != "u" || fork.Tenant != "acme" || p.Stop != conversation.StopRoot {
			t.Errorf("fork %+v\n%s", fork, diff)
		}
		if len(p.Summaries) != 1 || p.Summaries[0].Turn != "t-50" {
			t.Errorf("summaries = %+v", p.Summaries)
		}
		deep, err := e.Fork(ctx, ref, "", conversation.NewSession{})
		if err != nil || deep.Messages != 300 {
			t.Errorf("Fork = %+v, %v", deep, err)
		}
		empty, err := e.Fork(ctx, e.session(conversation.NewSession{System: "s"}), "", conversation.NewSession{})
		if err != nil || empty.Head != "" || empty.System != "s" {
			t.Errorf("Fork of an empty session = %+v, %v", empty, err)
		}
		_, err = e.Fork(ctx, ref, "t-nobody", conversation.NewSession{})
		is(t, "Fork", err, conversation.ErrNoTurn)
	})
}

const document = `{"type":"hxp.v1.session","branch":"main","heads":{"main":"t-a"},"turns":[
	{"id":"t-a","status":"finished","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}],"usage":{"prompt_tokens":1}},
	{"id":"t-b","parent":"t-a","status":"blocked","messages":[{"role":"user","content":"bad"}],"tokens":[3]}],
	"summaries":[{"turn":"t-a","text":"greetings"}]}`

func TestImportRefusals(t *testing.T) {
	t.Parallel()
	e := open(t, standIn, conversation.Config{MaxMessages: 4, MaxBytes: 600, MaxTurnBytes: 400, MaxBranches: 1, MaxSummaryBytes: 40, MaxImportBytes: 2000})
	in := func(text string) error {
		_, err := e.Import(t.Context(), strings.NewReader(text), conversation.NewSession{Tenant: "acme"})
		return err
	}
	if err := in(document); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 400)
	for _, tt := range []struct {
		old, text string
		want      error
		says      string
	}{
		{"{", "", conversation.ErrInvalid, "document"},
		{`hxp.v1.session`, "other", conversation.ErrInvalid, `type is "other"`},
		{`"branch":"main"`, `"branch":""`, conversation.ErrInvalid, "branch"},
		{`"heads":{`, `"heads":{"x":"t-a",`, conversation.ErrTooLarge, "branches is 2"},
		{`"main":"t-a"`, `"main":"t-b"`, conversation.ErrInvalid, "heads: main"},
		{`"main":"t-a"`, `"ma in":"t-a"`, conversation.ErrInvalid, "branch"},
		{`"id":"t-b"`, `"id":"t-a"`, conversation.ErrInvalid, "has the id of another"},
		{`"id":"t-b"`, `"id":"b"`, conversation.ErrInvalid, "begins with t-"},
		{`"id":"t-b"`, `"id":"t-a|b"`, conversation.ErrInvalid, "after t-"},
		{`"parent":"t-a"`, `"parent":"t-c"`, conversation.ErrInvalid, `parent "t-c"`},
		{`"blocked"`, `"odd"`, conversation.ErrInvalid, `status is "odd"`},
		{`"status":"blocked"`, `"status":"blocked","dropped":2`, conversation.ErrInvalid, "dropped is 2"},
		{`"status":"blocked"`, `"status":"blocked","usage":{"prompt_tokens":-1}`, conversation.ErrInvalid, "usage"},
		{`"role":"user","content":"bad"`, `"role":"me"`, conversation.ErrInvalid, `role "me"`},
		{`"bad"`, `"` + long + `"`, conversation.ErrTooLarge, "bytes of the turn"},
		{`"bad"`, `"` + long[:260] + `"`, nil, ""},
		{`"ho"`, `"` + long[:150] + `"`, nil, ""},
		{`"status":"blocked"`, `"status":"blocked","model":"` + long + `"`, conversation.ErrTooLarge, "bytes of the turn"},
		{`{"role":"user","content":"hi"},`, strings.Repeat(`{"role":"user","content":"hi"},`, 3), conversation.ErrTooLarge, "messages of the session is 5"},
		{`{"id":"t-b"`, strings.Repeat(`{},`, 3) + `{"id":"t-b"`, conversation.ErrTooLarge, "turns is 5"},
		{`"turn":"t-a"`, `"turn":"t-b"`, conversation.ErrInvalid, "summaries[0]"},
		{`"greetings"`, `"` + long[:50] + `"`, conversation.ErrTooLarge, "bytes of the summary"},
		{`"branch"`, `"title":"` + strings.Repeat("x", 257) + `","branch"`, conversation.ErrTooLarge, "bytes of title"},
		{`"branch"`, `"x":"` + strings.Repeat("x", 2000) + `","branch"`, conversation.ErrTooLarge, "bytes of the import"},
	} {
		err := in(strings.Replace(document, tt.old, tt.text, 1))
		if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%.60s for %s: %v, want %v with %q", tt.text, tt.old, err, tt.want, tt.says)
		}
	}
	both := strings.Replace(strings.Replace(document, `"bad"`, `"`+long[:260]+`"`, 1), `"ho"`, `"`+long[:230]+`"`, 1)
	if err := in(both); !errors.Is(err, conversation.ErrTooLarge) || !strings.Contains(err.Error(), "bytes of the session") {
		t.Errorf("Import = %v", err)
	}
	_, err := e.Import(t.Context(), brokenReader{}, conversation.NewSession{Tenant: "acme"})
	is(t, "Import", err, errBroken)
	_, err = e.ImportShareGPT(t.Context(), brokenReader{}, conversation.NewSession{Tenant: "acme"})
	is(t, "ImportShareGPT", err, errBroken)
}

var errBroken = errors.New("broken")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func TestShareGPT(t *testing.T) {
	t.Parallel()
	e := open(t, realRedis, conversation.Config{MaxMessages: 12})
	ctx := t.Context()
	const text = `{"conversations":[{"from":"system","value":"Be <brief>."},{"from":"human","value":"2+2?"},{"from":"gpt","value":"a"},{"from":"gpt","value":"<tool_call>b"},` +
		`{"from":"tool","value":"4"},{"from":"gpt","value":"4"},{"from":"human","value":"and?"}]}`
	in := func(text string) (*conversation.Session, error) {
		return e.ImportShareGPT(ctx, strings.NewReader(text), conversation.NewSession{Tenant: "acme"})
	}
	s, err := in(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.System != "Be <brief>." || s.Messages != 6 || s.Head != "t-import-2" {
		t.Errorf("session = %+v", s)
	}
	out, lost, err := e.ExportShareGPT(ctx, s.Ref, "")
	if want := strings.Replace(text, `,{"from":"human","value":"and?"}`, "", 1); err != nil || lost != 0 || string(out) != want {
		t.Errorf("export = %s, %d lost, %v", out, lost, err)
	}
	if out, _, err = e.ExportShareGPT(ctx, s.Ref, "t-import-3"); err != nil || string(out) != text {
		t.Errorf("export of the unanswered turn = %s, %v", out, err)
	}
	for text, says := range map[string]string{
		`[]`: "document", `{"conversations":[{"from":"cat","value":""}]}`: `conversations[0].from is "cat"`,
		`{"conversations":[{"from":"system","value":""},{"from":"cat"}]}`:                 `conversations[1].from is "cat"`,
		`{"conversations":[` + strings.Repeat(`{"from":"gpt"},`, 12) + `{"from":"gpt"}]}`: "messages of the session is 13",
	} {
		if _, err := in(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("import = %v, want %q", err, says)
		}
	}
	small := open(t, realRedis, conversation.Config{MaxTurnMessages: 1})
	for _, text := range []string{text, `{"conversations":[{"from":"human","value":""},{"from":"human","value":""}]}`} {
		_, err := small.ImportShareGPT(ctx, strings.NewReader(text), conversation.NewSession{Tenant: "acme"})
		is(t, "import", err, conversation.ErrTooLarge)
	}

	// What is no text has a form of its own, or is counted.
	ref := e.session(conversation.NewSession{})
	e.add(ref, conversation.NewTurn{Job: "a", Messages: []conversation.Message{
		{Body: []byte(`{"role":"developer","content":null}`)},
		{Body: []byte(`{"role":"user","content":[{"type":"text","text":"What"},{"type":"image_url"},{"type":"text","text":"is it?"}]}`)},
		{Body: []byte(`{"role":"user","content":5}`)},
		{Body: []byte(`{"role":"assistant","tool_calls":[{"function":{"name":"look","arguments":"{\"n\":1}"}},{"function":{"name":"see","arguments":"{"}}]}`)},
		{Body: []byte(`{"role":"assistant","content":"x","tool_calls":7}`)},
	}})
	out, lost, err = e.ExportShareGPT(ctx, ref, "")
	if err != nil || lost != 3 {
		t.Errorf("%d parts lost, %v; want 3", lost, err)
	}
	var doc struct {
		Conversations []struct{ From, Value string }
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	want := []struct{ From, Value string }{
		{"system", ""}, {"human", "What\nis it?"}, {"human", ""},
		{"gpt", "<tool_call>\n{\"name\":\"look\",\"arguments\":{\"n\":1}}\n</tool_call>\n<tool_call>\n{\"name\":\"see\",\"arguments\":\"{\"}\n</tool_call>"},
		{"gpt", "x"},
	}
	if diff := cmp.Diff(want, doc.Conversations); diff != "" {
		t.Error(diff)
	}
	// A turn of a store with larger bounds.
	wide := open(t, realRedis, conversation.Config{MaxTurnBytes: 2 << 20})
	ref = wide.session(conversation.NewSession{})
	wide.add(ref, conversation.NewTurn{Job: "a", Messages: []conversation.Message{conversation.Text("user", strings.Repeat("x", 3<<19))}})
	if out, _, err := wide.ExportShareGPT(ctx, ref, ""); err != nil || len(out) < 3<<19 {
		t.Errorf("export of %d bytes: %v", len(out), err)
	}
	narrow := open(t, realRedis, conversation.Config{Prefix: wide.prefix})
	_, _, err = narrow.ExportShareGPT(ctx, ref, "")
	is(t, "export by a store with smaller bounds", err, conversation.ErrTooLarge)
}
