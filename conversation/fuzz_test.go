package conversation_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/conversation"
)

// What is imported can be read, exported and imported again, and is the same.
func FuzzImport(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte(`{"type":"hxp.v1.session","branch":"main","turns":[{"id":"t-a","status":"finished","dropped":2,"dropped_tokens":5},{"id":"t-b","parent":"t-a","status":"cancelled","messages":[{"role":"tool"}]}]}`))
	f.Add([]byte(`{"type":"hxp.v1.session","branch":"x","turns":[],"metadata":{"a":"b"},"system":"s"}`))
	e := open(f, standIn, conversation.Config{})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := t.Context()
		s, err := e.Import(ctx, bytes.NewReader(data), conversation.NewSession{Tenant: "acme", User: uuid.NewString()})
		if err != nil {
			if !errors.Is(err, conversation.ErrInvalid) && !errors.Is(err, conversation.ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		tree, err := e.Tree(ctx, s.Ref, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range tree.Turns {
			if _, err := e.Path(ctx, s.Ref, conversation.PathQuery{Leaf: x.ID}); err != nil {
				t.Fatal(err)
			}
		}
		first, err := e.Export(ctx, s.Ref)
		if err != nil {
			t.Fatal(err)
		}
		again, err := e.Import(ctx, bytes.NewReader(first), conversation.NewSession{Tenant: "acme"})
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		second, err := e.Export(ctx, again.Ref)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Error(cmp.Diff(string(first), string(second)))
		}
		for _, ref := range []conversation.Ref{s.Ref, again.Ref} {
			if err := e.Delete(ctx, ref); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzImportShareGPT(f *testing.F) {
	f.Add([]byte(`{"conversations":[{"from":"system","value":"s"},{"from":"human","value":"a"},{"from":"gpt","value":"b"},{"from":"tool","value":"c"},{"from":"gpt","value":"<d>"},{"from":"user","value":"e"}]}`))
	f.Add([]byte(`{"conversations":null}`))
	e := open(f, standIn, conversation.Config{})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := t.Context()
		s, err := e.ImportShareGPT(ctx, bytes.NewReader(data), conversation.NewSession{Tenant: "acme"})
		if err != nil {
			if !errors.Is(err, conversation.ErrInvalid) && !errors.Is(err, conversation.ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		first, lost, err := e.ExportShareGPT(ctx, s.Ref, "")
		if err != nil || lost != 0 {
			t.Fatal(lost, err)
		}
		again, err := e.ImportShareGPT(ctx, bytes.NewReader(first), conversation.NewSession{Tenant: "acme"})
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		if second, _, err := e.ExportShareGPT(ctx, again.Ref, ""); err != nil || !bytes.Equal(first, second) {
			t.Error(err, cmp.Diff(string(first), string(second)))
		}
		for _, ref := range []conversation.Ref{s.Ref, again.Ref} {
			if err := e.Delete(ctx, ref); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Whatever lies in Redis: a turn is read or is an error, and what was read can be shown.
func FuzzStored(f *testing.F) {
	f.Add("|1|2|3|4|f|1|2|4", `{"m":[{"role":"user","content":"x"},{"role":"assistant"}],"k":[1,2],"at":5}`, `{"turn":"t-a","text":"x"}`)
	f.Add("t-b|1|1|3|4|i|1|2|4", `{"m":[null],"k":[1]}`, `{}`)
	f.Add("|", "", "")
	e := open(f, standIn, conversation.Config{})
	ref := e.session(conversation.NewSession{ID: "s"})
	e.say(ref, "a", "")
	session := e.get(ref)
	key := func(name string) string { return fmt.Sprintf("%s:c:{acme:s}:%s", e.prefix, name) }
	f.Fuzz(func(t *testing.T, entry, body, summary string) {
		ctx := t.Context()
		for name, value := range map[string]string{"idx": entry, "msgs": body, "sum": summary} {
			if err := e.rdb.HSet(ctx, key(name), "t-a", value).Err(); err != nil {
				t.Fatal(err)
			}
		}
		turns, err := e.Turns(ctx, ref, "t-a")
		if err != nil {
			return
		}
		if x := turns[0]; !x.Dropped && x.Seq < 0 || x.Tokens < 0 || x.Depth < 0 {
			t.Errorf("turn = %+v", x)
		}
		path := &conversation.Path{Session: session, Leaf: "t-a", Turns: turns, Depth: turns[0].Depth, Tokens: turns[0].PathTokens}
		if _, err := (conversation.Window{MaxModelLen: 100}).Build(ctx, path, hello); err != nil && !errors.Is(err, conversation.ErrWindow) {
			t.Error(err)
		}
	})
}
