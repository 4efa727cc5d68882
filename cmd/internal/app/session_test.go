package app_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
)

// library opens the conversations of a Redis of the test's own.
func library(t *testing.T) (*app.Sessions, *embedded.Redis) {
	t.Helper()
	srv, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: t.TempDir(), InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	s, err := app.OpenSessions(t.Context(), quick(t, "redis.url=redis://"+srv.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, srv
}

// tell stores a session whose turns are of jobs named one, two and so on, each with the parent that is given.
func tell(t *testing.T, s *app.Sessions, id string, parents ...string) {
	t.Helper()
	if _, err := s.Store.Create(t.Context(), conversation.NewSession{Tenant: s.Tenant, ID: id, Title: "Numbers", System: "Count."}); err != nil {
		t.Fatal(err)
	}
	for i, parent := range parents {
		job := fmt.Sprint(i + 1)
		if _, err := s.Store.Append(t.Context(), s.Ref(id), conversation.NewTurn{Job: job, Parent: parent, Messages: []conversation.Message{
			conversation.Text("user", "question "+job), conversation.Text("assistant", "answer "+job),
		}}); err != nil {
			t.Fatal(err)
		}
	}
}

func plain(text string) string { return text }

func TestSessionsTreeAndPath(t *testing.T) {
	t.Parallel()
	s, _ := library(t)
	tell(t, s, "x", "", "t-1", "t-1", "t-3")
	tree, err := s.Tree(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"x · Numbers · revision 4",
		"● t-1",
		"│ user: question 1",
		"│ assistant: answer 1",
		"├─● t-2  [<*main>]",
		"│   user: question 2",
		"│   assistant: answer 2",
		"└─● t-3",
		"  │ user: question 3",
		"  │ assistant: answer 3",
		"  ● t-4",
		"    user: question 4",
		"    assistant: answer 4",
		"",
	}, "\n")
	if diff := cmp.Diff(want, tree.Draw(80, func(s string) string { return "<" + s + ">" })); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	path, err := s.Path(t.Context(), "x", "", "t-4", 2)
	if err != nil {
		t.Fatal(err)
	}
	want = "x · Numbers · revision 4 · branch main · 3 turns\n\nsystem\nCount.\n\n(1 older turns are not here: not asked for)\n\n" +
		"user  t-3\nquestion 3\n\nassistant\nanswer 3\n\nuser  t-4\nquestion 4\n\nassistant\nanswer 4\n"
	if diff := cmp.Diff(want, path.Text(plain)); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	tell(t, s, "empty")
	if tree, err := s.Tree(t.Context(), "empty"); err != nil || tree.Draw(80, plain) != "empty · Numbers · revision 0\nno turns\n" {
		t.Errorf("empty tree = %+v, %v", tree, err)
	}
}

// TestSessionsThatLostTheirBeginning say so where it was.
func TestSessionsThatLostTheirBeginning(t *testing.T) {
	t.Parallel()
	s, _ := library(t)
	doc := `{"type":"hxp.v1.session","branch":"main","heads":{"main":"t-c"},"turns":[
		{"id":"t-a","status":"finished","dropped":2,"dropped_tokens":9},
		{"id":"t-b","parent":"t-a","status":"finished","messages":[{"role":"user","content":"b"}]},
		{"id":"t-c","parent":"t-b","status":"finished","messages":[{"role":"user","content":"c\u0007"}]}]}`
	made, err := s.Import(t.Context(), strings.NewReader(doc), conversation.NewSession{ID: "short"})
	if err != nil || len(made) != 1 {
		t.Fatalf("import = %+v, %v", made, err)
	}
	path, err := s.Path(t.Context(), "short", "", "", 0)
	if err != nil || len(path.Turns) != 2 || !strings.Contains(path.Text(plain), "(1 older turns are not here: dropped to keep the session within its bounds)") {
		t.Errorf("path = %+v, %v", path, err)
	}
	tree, err := s.Tree(t.Context(), "short")
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.Draw(0, plain); !strings.Contains(got, "● t-a\n│ (messages dropped") || !strings.Contains(got, "user: c\ufffd\n") {
		t.Errorf("tree = %s", got)
	}
	tree.Turns = tree.Turns[1:] // the parent is forgotten
	if got := tree.Draw(80, plain); !strings.Contains(got, "\n● t-b\n") {
		t.Errorf("tree = %s", got)
	}
}

func TestSessionsOfManyTurns(t *testing.T) {
	t.Parallel()
	s, _ := library(t)
	parents := make([]string, 300)
	for i := 1; i < len(parents); i++ {
		parents[i] = fmt.Sprintf("t-%d", i)
	}
	tell(t, s, "long", parents...)
	for last, want := range map[int]int{0: 300, 1: 1, 200: 200, 1000: 300} {
		path, err := s.Path(t.Context(), "long", "", "", last)
		if err != nil || len(path.Turns) != want || path.Depth != 300 || (path.Missing == "") != (want == 300) {
			t.Errorf("last %d: %+v, %v; want %d turns", last, path, err, want)
			continue
		}
		for i := 1; i < want; i++ {
			if path.Turns[i].Parent != path.Turns[i-1].ID {
				t.Errorf("last %d: turn %d follows %s, want %s", last, i, path.Turns[i].Parent, path.Turns[i-1].ID)
			}
		}
	}
}

func TestSessionsChange(t *testing.T) {
	t.Parallel()
	s, _ := library(t)
	tell(t, s, "x", "", "t-1", "t-1")
	if got, err := s.Rename(t.Context(), "x", "Digits"); err != nil || got.Title != "Digits" {
		t.Errorf("rename = %+v, %v", got, err)
	}
	if got, err := s.Fork(t.Context(), "x", "t-3", ""); err != nil || got.Head != "t-3" || got.Title != "Digits" {
		t.Errorf("fork = %+v, %v", got, err)
	}
	for _, b := range []app.BranchChange{{Name: "a"}, {Name: "b", Turn: "t-3", Activate: true}, {Name: "c"}, {Name: "a", Remove: true}} {
		if err := s.Branch(t.Context(), "x", b); err != nil {
			t.Errorf("%+v: %v", b, err)
		}
	}
	want := []app.Branch{
		{Name: "b", Turn: "t-3", Active: true, Text: "question 3"}, {Name: "c", Turn: "t-3", Text: "question 3"}, {Name: "main", Turn: "t-2", Text: "question 2"},
	}
	got, err := s.Branches(t.Context(), "x")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("branches: %v (-want +got):\n%s", err, diff)
	}
	threads, err := s.List(t.Context(), "", "digits", 0)
	if err != nil || len(threads) != 2 {
		t.Errorf("list = %+v, %v", threads, err)
	}
	if threads, err = s.List(t.Context(), "", "", 1); err != nil || len(threads) != 1 {
		t.Errorf("list = %+v, %v", threads, err)
	}
	_, err = s.List(t.Context(), "", "", -1)
	wantError(t, err, app.ErrUsage, "-1")
	removed, err := s.Remove(t.Context(), []string{"x", "y"})
	if _, ok := errors.AsType[*app.PartlyError](err); !ok || len(removed) != 2 || removed[0].Error != "" || removed[1].Error == "" {
		t.Errorf("remove = %+v, %v", removed, err)
	}
	wantError(t, s.Branch(t.Context(), "x", app.BranchChange{Name: "d"}), conversation.ErrDeleted)
	tell(t, s, "empty")
	wantError(t, s.Branch(t.Context(), "empty", app.BranchChange{Name: "d"}), nil, "no turn")
	if got, err := s.Branches(t.Context(), "empty"); err != nil || len(got) != 0 {
		t.Errorf("branches of nothing = %+v, %v", got, err)
	}
}

func TestSessionsFiles(t *testing.T) {
	t.Parallel()
	s, _ := library(t)
	tell(t, s, "x", "", "t-1", "t-1")
	data, _, err := s.Export(t.Context(), "x", app.FormJSON, "")
	if err != nil || !strings.HasSuffix(string(data), "}\n") {
		t.Fatalf("export = %s, %v", data, err)
	}
	share, _, err := s.Export(t.Context(), "x", app.FormShareGPT, "t-3")
	if err != nil || strings.Count(string(share), `"from"`) != 5 {
		t.Errorf("export = %s, %v", share, err)
	}
	_, _, err = s.Export(t.Context(), "x", "xml", "")
	wantError(t, err, app.ErrUsage, "xml")
	_, _, err = s.Export(t.Context(), "x", app.FormJSON, "t-1")
	wantError(t, err, app.ErrUsage, "sharegpt")
	made, err := s.Import(t.Context(), strings.NewReader(string(data)+"["+string(share)+",{},3]"), conversation.NewSession{User: "ada"})
	if partly, ok := errors.AsType[*app.PartlyError](err); !ok || partly.Done != 2 || len(made) != 2 || made[0].User != "ada" || made[1].Messages != 4 {
		t.Errorf("import = %+v, %v", made, err)
	}
	for in, want := range map[string]string{
		"": "empty", " ": "empty", "x": "invalid", "[1": "unexpected EOF", "[" + strings.Repeat("1,", 1000) + "1]": "more than 1000",
	} {
		_, err := s.Import(t.Context(), strings.NewReader(in), conversation.NewSession{})
		wantError(t, err, nil, want)
	}
	_, err = s.Import(t.Context(), blanks{}, conversation.NewSession{})
	wantError(t, err, nil, "longer than")
}

// TestSessionsOfOddMessages are shown as far as they are text.
func TestSessionsOfOddMessages(t *testing.T) {
	t.Parallel()
	s, srv := library(t)
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	store, err := conversation.New(rdb, conversation.Config{MaxTurnBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, s, "odd")
	long := strings.Repeat("x", 3<<20)
	for i, body := range []string{
		`{"role":"user","content":"` + long + `"}`,
		`{"role":"user","content":[{"type":"text","text":"What is this?"},{"type":"image_url","image_url":{"url":"x"}}]}`,
		`{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"look","arguments":"{}"}}]}`,
		`{"role":"tool","content":5}`,
		`{"role":"user","content":"x","tool_calls":1}`,
	} {
		turn := conversation.NewTurn{Job: fmt.Sprint(i + 1), Messages: []conversation.Message{{Body: []byte(body)}}}
		if i > 0 {
			turn.Parent = fmt.Sprintf("t-%d", i)
		}
		if _, err := store.Append(t.Context(), s.Ref("odd"), turn); err != nil {
			t.Fatal(err)
		}
	}
	path, err := s.Path(t.Context(), "odd", "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	want := "odd · Numbers · revision 5 · branch main · 5 turns\n\nsystem\nCount.\n\n(1 older turns are not here: a turn is larger than 2MiB)\n\n" +
		"user  t-2\nWhat is this?\n[image_url]\n\nassistant  t-3\ncalls look({})\n\ntool  t-4\n5\n\nuser  t-5\n" + `{"role":"user","content":"x","tool_calls":1}` + "\n"
	if diff := cmp.Diff(want, path.Text(plain)); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	if tree, err := s.Tree(t.Context(), "odd"); err != nil || !strings.Contains(tree.Draw(30, plain), "│ user: xxxxxxxxxxxxxxxxxxxxx…\n") {
		t.Errorf("tree: %v", err)
	}
}

// blanks never end.
type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestSessionsFaults say what would help.
func TestSessionsFaults(t *testing.T) {
	t.Parallel()
	s, srv := library(t)
	tell(t, s, "x", "", "t-1")
	if _, err := s.Store.Append(t.Context(), s.Ref("x"), conversation.NewTurn{Job: "3", Parent: "t-1", Status: conversation.Cancelled, Messages: []conversation.Message{conversation.Text("user", "?")}}); err != nil {
		t.Fatal(err)
	}
	every := map[string]func(id, turn string) error{
		"path":   func(id, turn string) error { _, err := s.Path(t.Context(), id, "", turn, 0); return err },
		"fork":   func(id, turn string) error { _, err := s.Fork(t.Context(), id, turn, ""); return err },
		"branch": func(id, turn string) error { return s.Branch(t.Context(), id, app.BranchChange{Name: "b", Turn: turn}) },
		"share": func(id, turn string) error {
			_, _, err := s.Export(t.Context(), id, app.FormShareGPT, turn)
			return err
		},
	}
	whole := map[string]func(id string) error{
		"get":      func(id string) error { _, err := s.Get(t.Context(), id); return err },
		"tree":     func(id string) error { _, err := s.Tree(t.Context(), id); return err },
		"branches": func(id string) error { _, err := s.Branches(t.Context(), id); return err },
		"rename":   func(id string) error { _, err := s.Rename(t.Context(), id, "x"); return err },
		"export":   func(id string) error { _, _, err := s.Export(t.Context(), id, app.FormJSON, ""); return err },
		"remove":   func(id string) error { _, err := s.Remove(t.Context(), []string{id}); return err },
		"unbranch": func(id string) error {
			return s.Branch(t.Context(), id, app.BranchChange{Name: "b", Remove: true})
		},
	}
	for name, f := range every {
		whole[name] = func(id string) error { return f(id, "") }
		wantError(t, f("x", "t-none"), conversation.ErrNoTurn, "hxp session tree x")
	}
	for _, f := range whole {
		wantError(t, f("nobody"), conversation.ErrNotFound, "hxp session ls")
	}
	for _, name := range []string{"fork", "branch"} {
		wantError(t, every[name]("x", "t-3"), conversation.ErrUnfinished, "nothing can follow it")
	}
	_, err := s.Path(t.Context(), "x", "none", "", 0)
	wantError(t, err, conversation.ErrNoBranch, "hxp session tree x")
	_, err = s.Path(t.Context(), "x", "", "", -1)
	wantError(t, err, app.ErrUsage, "--last is -1")
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range whole {
		wantError(t, f("x"), app.ErrCannotConnect)
	}
	_, err = s.List(t.Context(), "", "", 0)
	wantError(t, err, app.ErrCannotConnect)
	_, err = s.Import(t.Context(), io.MultiReader(strings.NewReader(`{"conversations":[]}`)), conversation.NewSession{})
	wantError(t, err, app.ErrCannotConnect)
}
