package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/schemas"
)

// shelf is a Redis with conversations.
type shelf struct {
	*conversation.Store
	url string
}

// shelve starts a Redis of the test's own.
func shelve(t *testing.T) *shelf {
	t.Helper()
	srv, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: t.TempDir(), InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return shelfAt(t, srv.Addr())
}

func shelfAt(t *testing.T, addr string) *shelf {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	store, err := conversation.New(rdb, conversation.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{store, "redis://" + addr}
}

// hxp runs one command on the conversations.
func (s *shelf) hxp(t *testing.T, args ...string) said {
	t.Helper()
	return s.feed(t, "", args...)
}

func (s *shelf) feed(t *testing.T, stdin string, args ...string) said {
	t.Helper()
	return command(t.Context(), stdin, append(args, "--set", "redis.url="+s.url)...)
}

func (s *shelf) create(t *testing.T, spec conversation.NewSession) {
	t.Helper()
	spec.Tenant = "default"
	if _, err := s.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}

// say stores a turn whose job has the name.
func (s *shelf) say(t *testing.T, session, job, parent, question, answer string) {
	t.Helper()
	turn := conversation.NewTurn{
		Job: job, Parent: parent, Model: "phi3", Usage: schemas.Usage{PromptTokens: 10, CompletionTokens: 5}, Latency: time.Second,
		Messages: []conversation.Message{conversation.Text("user", question), conversation.Text("assistant", answer)},
	}
	if answer == "" {
		turn.Messages, turn.Status = turn.Messages[:1], conversation.Interrupted
	}
	if _, err := s.Append(t.Context(), conversation.Ref{Tenant: "default", ID: session}, turn); err != nil {
		t.Fatal(err)
	}
}

// colours stores a session with branches in several places.
func (s *shelf) colours(t *testing.T) {
	t.Helper()
	s.create(t, conversation.NewSession{ID: "demo", User: "ada", Title: "Colours", Model: "phi3", System: "Be brief."})
	s.say(t, "demo", "one", "", "Why is the sky blue?", "Air scatters blue light more than red light, and so blue light comes from everywhere above us.")
	s.say(t, "demo", "two", "t-one", "And at dusk?", "Then it is red.\nThe way is longer.")
	s.say(t, "demo", "three", "t-two", "Thanks.", "You are welcome.")
	s.say(t, "demo", "four", "t-one", "And on Mars?", "There dusk is blue.")
	s.say(t, "demo", "five", "t-four", "Why?", "")
	s.say(t, "demo", "six", "t-four", "Why is\x1b[31m that?", "Dust.")
	s.say(t, "demo", "seven", "t-one", "And at night?", "Black.")
	s.say(t, "demo", "eight", "", "Why is grass green?", "Chlorophyll.")
	if _, err := s.SetHead(t.Context(), conversation.Ref{Tenant: "default", ID: "demo"}, conversation.Head{Branch: "mars", Turn: "t-six"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Begin(t.Context(), conversation.Ref{Tenant: "default", ID: "demo"}, conversation.BeginTurn{Job: "nine"}); err != nil {
		t.Fatal(err)
	}
}

func TestSessionTree(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	s.colours(t)
	golden(t, "session_tree.golden", s.hxp(t, "session", "tree", "demo").must(t, exitOK).out)
	golden(t, "session_tree_narrow.golden", s.hxp(t, "session", "tree", "demo", "--width", "30").must(t, exitOK).out)
	tree := decode[app.SessionTree](t, s.hxp(t, "session", "tree", "demo", "-o", "json").must(t, exitOK).out)
	if len(tree.Turns) != 8 || tree.Session.ID != "demo" || tree.Session.Heads["mars"] != "t-six" {
		t.Errorf("tree = %+v", tree)
	}
	s.create(t, conversation.NewSession{ID: "empty"})
	if out := s.hxp(t, "session", "tree", "empty").must(t, exitOK).out; out != "empty · revision 0\nno turns\n" {
		t.Errorf("an empty tree is %q", out)
	}
}

func TestSessionShow(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	s.colours(t)
	golden(t, "session_show.golden", s.hxp(t, "session", "show", "demo").must(t, exitOK).out)
	golden(t, "session_show_last.golden", s.hxp(t, "session", "show", "demo", "--branch", "mars", "--last", "1").must(t, exitOK).out)
	path := decode[app.SessionPath](t, s.hxp(t, "session", "show", "demo", "--turn", "t-five", "-o", "ndjson").must(t, exitOK).out)
	if len(path.Turns) != 3 || path.Leaf != "t-five" || path.Turns[2].Status != conversation.Interrupted {
		t.Errorf("path = %+v", path)
	}
}

// TestSessionOfManyTurns is read page by page.
func TestSessionOfManyTurns(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	s.create(t, conversation.NewSession{ID: "long"})
	parent := ""
	for i := range 300 {
		job := fmt.Sprintf("job-%d", i)
		s.say(t, "long", job, parent, "again", "yes")
		parent = "t-" + job
	}
	for last, want := range map[string]int{"0": 300, "1": 1, "200": 200, "1000": 300} {
		path := decode[app.SessionPath](t, s.hxp(t, "session", "show", "long", "--last", last, "-o", "json").must(t, exitOK).out)
		if len(path.Turns) != want || path.Turns[len(path.Turns)-1].ID != "t-job-299" || path.Depth != 300 || (path.Missing == "") != (want == 300) {
			t.Errorf("--last %s: %d turns of %d up to %s (missing: %q), want %d", last, len(path.Turns), path.Depth, path.Turns[len(path.Turns)-1].ID, path.Missing, want)
		}
	}
}

func TestSessionList(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	for i := range 3 {
		s.create(t, conversation.NewSession{ID: fmt.Sprintf("s%d", i), User: "ada", Title: fmt.Sprintf("Trip %d", i), Model: "phi3"})
	}
	s.create(t, conversation.NewSession{ID: "nobodys", Title: "Nobody's\x1b[31m"})
	out := s.hxp(t, "session", "ls").must(t, exitOK).out
	if ok, _ := regexp.MatchString(`^SESSION +TITLE +MODEL +MESSAGES +CHANGED\nnobodys +Nobody's\x{FFFD}\[31m +0 +\S+\n$`, out); !ok {
		t.Errorf("session ls wrote %q", out)
	}
	for want, args := range map[int][]string{3: {}, 2: {"--limit", "2"}, 1: {"--title", "trip 1"}} {
		got := decode[[]conversation.Thread](t, s.hxp(t, append([]string{"session", "ls", "--user", "ada", "-o", "json"}, args...)...).must(t, exitOK).out)
		if len(got) != want {
			t.Errorf("%v: %d sessions, want %d", args, len(got), want)
		}
	}
	if got := s.hxp(t, "session", "ls", "--user", "ada", "--limit", "0", "-o", "ndjson").must(t, exitOK).out; strings.Count(got, "\n") != 3 {
		t.Errorf("--limit 0: %q, want all three", got)
	}
	if got := s.hxp(t, "session", "ls", "--user", "eve", "-o", "json").must(t, exitOK).out; got != "[]\n" {
		t.Errorf("nobody's list is %q", got)
	}
	s.hxp(t, "session", "ls", "--limit", "-1").must(t, exitUsage)
}

func TestSessionChanges(t *testing.T) {
	t.Parallel()
	t.Run("rename", func(t *testing.T) {
		t.Parallel()
		s := shelve(t)
		s.colours(t)
		if out := s.hxp(t, "session", "rename", "demo", "The", "sky").must(t, exitOK).out; out != "demo  The sky\n" {
			t.Errorf("rename wrote %q", out)
		}
	})
	t.Run("fork", func(t *testing.T) {
		t.Parallel()
		s := shelve(t)
		s.colours(t)
		id := strings.TrimSpace(s.hxp(t, "session", "fork", "demo", "--turn", "t-four", "--title", "Mars").must(t, exitOK).out)
		path := decode[app.SessionPath](t, s.hxp(t, "session", "show", id, "-o", "json").must(t, exitOK).out)
		if len(path.Turns) != 2 || path.Leaf != "t-four" || path.Session.Title != "Mars" || path.Session.User != "ada" {
			t.Errorf("fork = %+v", path)
		}
		whole := decode[conversation.Session](t, s.hxp(t, "session", "fork", "demo", "-o", "json").must(t, exitOK).out)
		if whole.Title != "Colours" || whole.Head != "t-three" {
			t.Errorf("fork = %+v", whole)
		}
		if e := s.hxp(t, "session", "fork", "demo", "--turn", "t-five").must(t, exitFailed).stderr; !strings.Contains(e, "nothing can follow it") {
			t.Errorf("fork of an unfinished turn: %q", e)
		}
	})
	t.Run("branch", func(t *testing.T) {
		t.Parallel()
		s := shelve(t)
		s.colours(t)
		out := s.hxp(t, "session", "branch", "demo", "night", "--turn", "t-seven").must(t, exitOK).out
		want := " BRANCH TURN TEXT * main t-three Thanks. mars t-six Why is\ufffd[31m that? night t-seven And at night? "
		if got := strings.Join(strings.Fields(" "+out), " "); got != strings.TrimSpace(want) {
			t.Errorf("branches = %q, want %q", got, want)
		}
		s.hxp(t, "session", "branch", "demo", "night", "--activate").must(t, exitOK)
		if e := s.hxp(t, "session", "branch", "demo", "night", "--remove").must(t, exitFailed).stderr; !strings.Contains(e, "active") {
			t.Errorf("the active branch is removed: %q", e)
		}
		s.hxp(t, "session", "branch", "demo", "later").must(t, exitOK)
		s.hxp(t, "session", "branch", "demo", "mars", "--remove").must(t, exitOK)
		got := decode[[]app.Branch](t, s.hxp(t, "session", "branch", "demo", "-o", "json").must(t, exitOK).out)
		expect := []app.Branch{{Name: "later", Turn: "t-seven", Text: "And at night?"}, {Name: "main", Turn: "t-three", Text: "Thanks."}, {Name: "night", Turn: "t-seven", Active: true, Text: "And at night?"}}
		if diff := cmp.Diff(expect, got); diff != "" {
			t.Errorf("branches (-want +got):\n%s", diff)
		}
		s.create(t, conversation.NewSession{ID: "blank"})
		if e := s.hxp(t, "session", "branch", "blank", "x").must(t, exitFailed).stderr; !strings.Contains(e, "no turn") {
			t.Errorf("a branch of nothing: %q", e)
		}
	})
	t.Run("stats", func(t *testing.T) {
		t.Parallel()
		s := shelve(t)
		s.colours(t)
		out := s.hxp(t, "session", "stats", "demo").must(t, exitOK).out
		for _, want := range []string{`turns generated +7\n`, `prompt tokens +80\n`, `not finished +1\n`, `mean time of a turn +1s\n`, `in flight +1\n`} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("stats = %q, want %s in it", out, want)
			}
		}
		if got := decode[conversation.Session](t, s.hxp(t, "session", "stats", "demo", "-o", "json").must(t, exitOK).out); got.Stats.Turns != 7 {
			t.Errorf("stats = %+v, want 7 turns", got.Stats)
		}
	})
	t.Run("rm", func(t *testing.T) {
		t.Parallel()
		s := shelve(t)
		s.colours(t)
		out := s.hxp(t, "session", "rm", "demo", "nobody").must(t, exitPartly)
		if got := strings.Join(strings.Fields(out.out), " "); got != "SESSION STATE demo deleted nobody not deleted" {
			t.Errorf("rm wrote %q", got)
		}
		s.hxp(t, "session", "rm", "demo").must(t, exitFailed)
	})
}

// TestSessionRemoveAsks at a terminal, and without one does not.
func TestSessionRemoveAsks(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	for typed, code := range map[string]int{"y\n": exitOK, "n\n": exitFailed, "\n": exitFailed} {
		s.create(t, conversation.NewSession{ID: fmt.Sprintf("asked-%d-%d", code, len(typed))})
		ptmx, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer ptmx.Close()
		defer tty.Close()
		if _, err := ptmx.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		var out, stderr safe
		args := []string{"session", "rm", fmt.Sprintf("asked-%d-%d", code, len(typed)), "--set", "redis.url=" + s.url}
		if got := run(t.Context(), args, tty, &out, &stderr, nil); got != code || !strings.Contains(stderr.String(), "for good? [y/N]") {
			t.Errorf("answer %q: exit code %d, want %d; stderr %q", typed, got, code, stderr.String())
		}
		if got := run(t.Context(), append(args, "--yes"), tty, &out, &stderr, nil); (got == exitOK) == (code == exitOK) {
			t.Errorf("rm --yes after the answer %q: exit code %d", typed, got)
		}
	}
}

func TestSessionExportImport(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	s.colours(t)
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	if out := s.hxp(t, "session", "export", "demo", "-o", whole).must(t, exitOK); out.out != "" {
		t.Errorf("export to a file wrote %q", out.out)
	}
	if info, err := os.Stat(whole); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("export: %v, %v; want a file that only its owner can read", info, err)
	}
	s.hxp(t, "session", "export", "demo", "-o", whole).must(t, exitFailed) // is there already
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	if out := s.hxp(t, "session", "export", "demo").must(t, exitOK).out; out != string(data) {
		t.Errorf("stdout has %d bytes, the file %d", len(out), len(data))
	}
	made := decode[[]conversation.Session](t, s.hxp(t, "session", "import", whole, "--user", "eve", "--title", "Copy", "-o", "json").must(t, exitOK).out)
	if len(made) != 1 || made[0].User != "eve" || made[0].Title != "Copy" || made[0].Messages != 15 || made[0].Heads["mars"] != "t-six" {
		t.Errorf("import = %+v", made)
	}
	again := s.hxp(t, "session", "export", made[0].ID).must(t, exitOK).out
	if strings.Replace(strings.Replace(again, `"Copy"`, `"Colours"`, 1), `"eve"`, `"ada"`, 1) != string(data) {
		t.Error("what is exported, imported and exported is not the same")
	}
	share := s.hxp(t, "session", "export", "demo", "--format", "sharegpt", "--turn", "t-four").must(t, exitOK).out
	if strings.Count(share, `"from"`) != 5 || !strings.Contains(share, "Mars") {
		t.Errorf("ShareGPT = %s", share)
	}
	out := s.feed(t, "["+share+","+share+"]\n"+share, "session", "import", "-", "-o", "json").must(t, exitOK).out
	if made := decode[[]conversation.Session](t, out); len(made) != 3 || made[2].System != "Be brief." || made[2].Messages != 4 {
		t.Errorf("import of three = %+v", made)
	}
	part := s.feed(t, share+"{}\n7", "session", "import", "-").must(t, exitPartly)
	if !strings.Contains(part.out, "SESSION") || !strings.Contains(part.stderr, "document 2: it is neither") || !strings.Contains(part.stderr, "document 3: it is no JSON object") {
		t.Errorf("import of one in three: %+v", part)
	}
	for in, want := range map[string]string{
		"": "empty", "x": "invalid", `{"type":"hxp.v9"}`: "hxp.v9", "[1": "unexpected EOF", `{"conversations":[{"from":"me"}]}`: "conversations[0].from",
		"[" + strings.Repeat("1,", 1000) + "1]": "more than 1000",
	} {
		if got := s.feed(t, in, "session", "import", "-").must(t, exitFailed).stderr; !strings.Contains(got, want) {
			t.Errorf("import of %.20q: %q, want %q in it", in, got, want)
		}
	}
	image := []byte(`{"role":"user","content":[{"type":"text","text":"What is this?"},{"type":"image_url","image_url":{"url":"x"}}]}`)
	s.create(t, conversation.NewSession{ID: "image"})
	if _, err := s.Append(t.Context(), conversation.Ref{Tenant: "default", ID: "image"}, conversation.NewTurn{Job: "i", Messages: []conversation.Message{
		{Body: image}, {Body: []byte(`{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"look","arguments":"{}"}}]}`)}, {Body: []byte(`{"role":"tool","content":5}`)},
	}}); err != nil {
		t.Fatal(err)
	}
	if got := s.hxp(t, "session", "export", "image", "--format", "sharegpt").must(t, exitOK).stderr; !strings.Contains(got, "2 parts without text") {
		t.Errorf("export of an image says %q", got)
	}
	if got := s.hxp(t, "session", "show", "image").must(t, exitOK).out; !strings.Contains(got, "What is this?\n[image_url]\n") || !strings.Contains(got, "calls look({})") || !strings.Contains(got, "tool\n5\n") {
		t.Errorf("show of an image says %q", got)
	}
	s.hxp(t, "session", "import", filepath.Join(dir, "none")).must(t, exitUsage)
}

// TestSessionFaults names what is wrong, with the exit code of its kind.
func TestSessionFaults(t *testing.T) {
	t.Parallel()
	s := shelve(t)
	s.colours(t)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"show", "nobody"}, exitFailed, "hxp session ls"},
		{[]string{"tree", "nobody"}, exitFailed, "nobody"},
		{[]string{"stats", "nobody"}, exitFailed, "nobody"},
		{[]string{"branch", "nobody"}, exitFailed, "nobody"},
		{[]string{"branch", "nobody", "x"}, exitFailed, "nobody"},
		{[]string{"fork", "nobody"}, exitFailed, "nobody"},
		{[]string{"rename", "nobody", "x"}, exitFailed, "nobody"},
		{[]string{"export", "nobody"}, exitFailed, "nobody"},
		{[]string{"export", "nobody", "--format", "sharegpt"}, exitFailed, "nobody"},
		{[]string{"rm", "nobody"}, exitFailed, "nobody"},
		{[]string{"show", "a b"}, exitFailed, "session.id"},
		{[]string{"show", "demo", "--turn", "t-none"}, exitFailed, "hxp session tree demo"},
		{[]string{"show", "demo", "--branch", "none"}, exitFailed, "hxp session tree demo"},
		{[]string{"branch", "demo", "x", "--turn", "t-none"}, exitFailed, "t-none"},
		{[]string{"show", "demo", "--last", "-1"}, exitUsage, "--last is -1"},
		{[]string{"show", "demo", "--turn", "x", "--branch", "y"}, exitUsage, "none of the others can be"},
		{[]string{"branch", "demo", "--activate"}, exitUsage, "NAME"},
		{[]string{"export", "demo", "--format", "xml"}, exitUsage, "xml"},
		{[]string{"export", "demo", "--turn", "t-one"}, exitUsage, "sharegpt"},
		{[]string{"export", "demo", "-o", "json"}, exitUsage, "--format"},
		{[]string{"rename", "demo"}, exitUsage, "usage"},
		{[]string{"ls", "-o", "xml"}, exitUsage, "xml"},
		{[]string{"ls", "--set", "redis.url=redis://127.0.0.1:1"}, exitConnect, "cannot connect to Redis at"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			t.Parallel()
			args := append([]string{"session", "--set", "redis.url=" + s.url}, tc.args...)
			if got := command(t.Context(), "", args...).must(t, tc.code).stderr; !strings.Contains(got, tc.want) {
				t.Errorf("stderr = %q, want %q in it", got, tc.want)
			}
		})
	}
	if out := s.hxp(t, "session").must(t, exitOK).out; !strings.Contains(out, "Available Commands") {
		t.Errorf("hxp session wrote %q", out)
	}
	for _, args := range [][]string{{"ls"}, {"show", "demo"}, {"tree", "demo", "-o", "json"}, {"stats", "demo"}, {"branch", "demo"}, {"export", "demo"}, {"rename", "demo", "x"}, {"fork", "demo"}} {
		var stderr safe
		args = append([]string{"session", "--set", "redis.url=" + s.url}, args...)
		if got := run(t.Context(), args, strings.NewReader(""), full{}, &stderr, nil); got != exitFailed || !strings.Contains(stderr.String(), errFull.Error()) {
			t.Errorf("hxp %s: exit code %d, stderr %q; want 1 and the reason", strings.Join(args, " "), got, stderr.String())
		}
	}
}
