package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

// keep points a command at the cluster's queue and conversations.
func (c *cluster) keep(args ...string) []string {
	return append(args, "--server", c.NATS, "--set", "redis.url=redis://"+c.Redis)
}

// feed runs one command against the cluster, with input.
func (c *cluster) feed(t *testing.T, stdin string, args ...string) said {
	t.Helper()
	return command(t.Context(), stdin, c.keep(args...)...)
}

// answerTo is what the engine says to a conversation: system prompt, which may be "", then questions and answers in turn.
func answerTo(t *testing.T, model, system string, maxTokens int, messages ...string) string {
	t.Helper()
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	var list []message
	if system != "" {
		list = append(list, message{"system", system})
	}
	for i, m := range messages {
		list = append(list, message{[]string{"user", "assistant"}[i%2], m})
	}
	body, err := json.Marshal(map[string]any{"messages": list, "max_tokens": maxTokens})
	if err != nil {
		t.Fatal(err)
	}
	want, err := vllmsim.Expected(model, body, string(schemas.ChatCompletions))
	if err != nil {
		t.Fatal(err)
	}
	return want[0].Text
}

// path is what a session says.
func (c *cluster) path(t *testing.T, session string, args ...string) []string {
	t.Helper()
	args = append([]string{"session", "show", session, "-o", "json"}, args...)
	p := decode[app.SessionPath](t, c.feed(t, "", args...).must(t, exitOK).out)
	var out []string
	for _, turn := range p.Turns {
		for _, m := range turn.Messages {
			var body struct{ Content string }
			if err := json.Unmarshal(m.Body, &body); err != nil {
				t.Fatal(err)
			}
			out = append(out, body.Content)
		}
	}
	return out
}

func TestE2EChat(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "hermes", "--log-level", "error")
	chat := func(stdin string, args ...string) said {
		t.Helper()
		return c.feed(t, stdin, append([]string{"chat", "hermes", "--max-tokens", "9"}, args...)...)
	}
	t.Run("history, branches and files", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "saved")
		s := chat(strings.Join([]string{
			"My name", `is \`, "Ada.", "What is my name?", "/regenerate", "/edit Who am I?", "/branch side", "/system Be long.", "//etc", "/branch", "/branch main",
			"/tree", "/show", "/stats", "/rename Names", "/sessions", "/save " + file, "/save " + file + ".share sharegpt", "/load " + file, "/system", "/help", "", "/bye", "not read",
		}, "\n"), "--session", "ada", "--user", "ada", "--system", "Be brief.").must(t, exitOK)
		one := answerTo(t, "hermes", "Be brief.", 9, "My name")
		two := answerTo(t, "hermes", "Be brief.", 9, "My name", one, "is \nAda.")
		three := answerTo(t, "hermes", "Be brief.", 9, "My name", one, "is \nAda.", two, "What is my name?")
		four := answerTo(t, "hermes", "Be brief.", 9, "My name", one, "is \nAda.", two, "Who am I?")
		five := answerTo(t, "hermes", "Be long.", 9, "My name", one, "is \nAda.", two, "Who am I?", four, "/etc")
		if want := strings.Join([]string{one, two, three, three, four, five}, "\n") + "\n"; !strings.HasPrefix(s.out, want) {
			t.Fatalf("stdout = %q, want %q first; stderr %s", s.out, want, s.stderr)
		}
		rest := strings.Join(strings.Fields(s.out), " ")
		for _, want := range []string{"* side t-", "[*main]", "[side]", "turns generated 6", "NR SESSION", "1 * ada Names", "Be long. COMMAND", "/regenerate answer"} {
			if !strings.Contains(rest, want) {
				t.Errorf("stdout has no %q: %s", want, s.out)
			}
		}
		for _, want := range []string{"session ada is not there yet", "stored as t-", "branch side begins after t-", "saved to " + file} {
			if !strings.Contains(s.stderr, want) {
				t.Errorf("stderr has no %q: %s", want, s.stderr)
			}
		}
		if strings.Contains(s.out, ">>>") || strings.Contains(s.stderr, ">>>") {
			t.Errorf("there are prompts: %q %q", s.out, s.stderr)
		}
		if diff := cmp.Diff([]string{"My name", one, "is \nAda.", two, "Who am I?", four}, c.path(t, "ada", "--branch", "main")); diff != "" {
			t.Errorf("main (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"My name", one, "is \nAda.", two, "Who am I?", four, "/etc", five}, c.path(t, "ada", "--branch", "side")); diff != "" {
			t.Errorf("side (-want +got):\n%s", diff)
		}
		tree := decode[app.SessionTree](t, c.feed(t, "", "session", "tree", "ada", "-o", "json").must(t, exitOK).out)
		if len(tree.Turns) != 6 || tree.Session.Title != "Names" || tree.Session.User != "ada" {
			t.Errorf("tree = %d turns, %+v", len(tree.Turns), tree.Session)
		}
		saved, err := os.ReadFile(file)
		share, err2 := os.ReadFile(file + ".share")
		if err != nil || err2 != nil || !strings.Contains(string(saved), "hxp.v1.session") || !strings.Contains(string(share), "conversations") {
			t.Errorf("saved %q, %q (%v, %v)", saved, share, err, err2)
		}
		all := decode[[]conversation.Thread](t, c.feed(t, "", "session", "ls", "--user", "ada", "-o", "json").must(t, exitOK).out)
		if len(all) != 2 {
			t.Errorf("sessions = %+v, want the first and the loaded one", all)
		}
	})
	t.Run("goes on with a session", func(t *testing.T) {
		t.Parallel()
		chat("one", "--session", "later").must(t, exitOK)
		s := chat("two\n/new\nthree\n/switch later\nfour", "--session", "later", "-o", "ndjson").must(t, exitOK)
		if !strings.Contains(s.stderr, "session later · one · hermes · revision 1 · branch main · 1 turns") {
			t.Errorf("stderr = %q, want the session's last turn", s.stderr)
		}
		var sessions []string
		for line := range strings.Lines(s.out) {
			r := decode[schemas.Result](t, line)
			if r.Turn == nil || r.Turn.State != schemas.TurnStored || !r.Turn.Head {
				t.Errorf("turn = %+v, want it stored", r.Turn)
				continue
			}
			sessions = append(sessions, r.Turn.Session)
		}
		if len(sessions) != 3 || sessions[0] != "later" || sessions[1] == "later" || sessions[2] != "later" {
			t.Errorf("turns of %v, want the second of a new session", sessions)
		}
		if got := c.path(t, "later"); len(got) != 6 || got[2] != "two" || got[4] != "four" {
			t.Errorf("session = %q", got)
		}
	})
	t.Run("ends with the first fault", func(t *testing.T) {
		t.Parallel()
		for stdin, want := range map[string]struct {
			code int
			text string
		}{
			"/fly":                      {exitUsage, "/fly is no command"},
			"/edit":                     {exitUsage, "usage: /edit TEXT"},
			"/tree all":                 {exitUsage, "/tree takes nothing"},
			"/regenerate":               {exitFailed, "no message of text"},
			"/edit x":                   {exitFailed, "no message of text"},
			"/stats":                    {exitFailed, "no session yet"},
			"/tree":                     {exitFailed, "no session yet"},
			"/show":                     {exitFailed, "no session yet"},
			"/branch":                   {exitFailed, "no session yet"},
			"/branch x":                 {exitFailed, "no session yet"},
			"/rename x":                 {exitFailed, "no session yet"},
			"/save x":                   {exitFailed, "no session yet"},
			"/load not/there":           {exitFailed, "not/there"},
			"/switch nobody":            {exitFailed, "hxp session ls"},
			`"""never ends`:             {exitFailed, "the input ends within a message"},
			"one\n/save chat_test.go\n": {exitFailed, "exists"},
		} {
			s := chat(stdin+"\nnever asked").must(t, want.code)
			if !strings.Contains(s.stderr, want.text) {
				t.Errorf("%q: stderr = %q, want %q in it", stdin, s.stderr, want.text)
			}
		}
		s := c.feed(t, "one\ntwo", "chat", "hermes", "--temperature", "9").must(t, exitFailed)
		if !strings.Contains(s.stderr, "temperature is 9") || strings.Contains(s.stderr, "two") {
			t.Errorf("stderr = %q, want the bound in it", s.stderr)
		}
		s = c.feed(t, "one", "chat", "hermes", "--temperature", "9", "-o", "json").must(t, exitFailed)
		if r := decode[schemas.Result](t, s.out); r.Status != schemas.StatusFailed {
			t.Errorf("result = %+v, want it failed", r)
		}
		command(t.Context(), "", "chat", "hermes", "--server", c.NATS, "--session", "x", "--system", "y", "--set", "redis.url=redis://127.0.0.1:1").must(t, exitConnect)
		command(t.Context(), "", "chat").must(t, exitUsage)
		for _, stdin := range []string{"one", "/help", "/sessions"} {
			var stderr safe
			if got := run(t.Context(), c.keep("chat", "hermes"), strings.NewReader(stdin), full{}, &stderr, nil); got != exitFailed || !strings.Contains(stderr.String(), errFull.Error()) {
				t.Errorf("%q: exit code %d, stderr %q; want 1 and the reason", stdin, got, stderr.String())
			}
		}
	})
	t.Run("small commands", func(t *testing.T) {
		t.Parallel()
		s := chat("/system\n/system Now.\n/system\n/branch\n", "--session", "small", "--user", "small")
		if s.code != exitFailed || s.out != "" {
			// A session that is not there yet has no system prompt to change.
			t.Errorf("exit code %d, stdout %q, stderr %q", s.code, s.out, s.stderr)
		}
		s = chat("/system\n/system Now.\n/system\none\n/sessions\n/switch 1\n/quit\nx", "--user", "small").must(t, exitOK)
		if !strings.Contains(s.stderr, "there is no system prompt") || !strings.HasPrefix(s.out, "Now.\n"+answerTo(t, "hermes", "Now.", 9, "one")) || !strings.Contains(s.stderr, "1 turns") {
			t.Errorf("stdout %q, stderr %q", s.out, s.stderr)
		}
	})
}

// TestE2ERunInASession is one turn of a conversation at a time.
func TestE2ERunInASession(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "hermes", "--log-level", "error")
	run := func(args ...string) said {
		t.Helper()
		return c.feed(t, "", append([]string{"run", "hermes", "--max-tokens", "9"}, args...)...)
	}
	one := answerTo(t, "hermes", "", 9, "one")
	s := run("one", "--session", "trip").must(t, exitOK)
	first := regexp.MustCompile(`session trip · stored as (t-\S+) on branch main, revision 1\n$`).FindStringSubmatch(s.stderr)
	if s.out != one+"\n" || first == nil {
		t.Fatalf("stdout %q, stderr %q", s.out, s.stderr)
	}
	if s := run("two", "--session", "trip").must(t, exitOK); s.out != answerTo(t, "hermes", "", 9, "one", one, "two")+"\n" {
		t.Errorf("stdout = %q, want an answer that knows the first turn", s.out)
	}
	if s := run("three", "--session", "trip", "--parent", first[1]).must(t, exitOK); s.out != answerTo(t, "hermes", "", 9, "one", one, "three")+"\n" || !strings.Contains(s.stderr, "beside the branch") {
		t.Errorf("stdout %q, stderr %q; want a turn beside the branch", s.out, s.stderr)
	}
	if s := run("one", "--session", "trip", "--parent", "root", "--branch", "main").must(t, exitOK); s.out != one+"\n" {
		t.Errorf("stdout = %q, want an answer without history", s.out)
	}
	r := decode[schemas.Result](t, run("one", "--new-session", "-o", "json").must(t, exitOK).out)
	if r.Turn == nil || r.Turn.State != schemas.TurnStored || len(c.path(t, r.Turn.Session)) != 2 {
		t.Errorf("turn = %+v, want it in a session of its own", r.Turn)
	}
	if s := run("x", "--session", "trip", "--parent", "t-none").must(t, exitFailed); !strings.Contains(s.stderr, "t-none") {
		t.Errorf("stderr = %q, want the turn in it", s.stderr)
	}
	for _, args := range [][]string{
		{"x", "--parent", "t-x"}, {"x", "--branch", "b"}, {"x", "--session", "y", "--new-session"}, {"x", "--session", "y", "--raw"},
		{"x", "--new-session", "--parent", "root"}, {"x", "--new-session", "--branch", "b"},
	} {
		run(args...).must(t, exitUsage)
	}
}

// TestChatInterrupted ends without a terminal as any command does: the job is cancelled.
func TestChatInterrupted(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "hermes", "--sim-itl", "50ms", "--log-level", "error")
	for name, tc := range map[string]struct {
		args []string
		code int
	}{"by Ctrl-C": {nil, exitInterrupted}, "by --timeout": {[]string{"--timeout", "300ms"}, exitTimeout}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, interrupt := context.WithCancelCause(t.Context())
			defer interrupt(nil)
			out := notify{after: 3, f: func() {
				if tc.args == nil {
					interrupt(app.ErrInterrupted)
				}
			}}
			var stderr safe
			code := run(ctx, c.keep(append([]string{"chat", "hermes"}, tc.args...)...), strings.NewReader("Count to a thousand\nand on"), &out, &stderr, nil)
			if code != tc.code || !regexp.MustCompile(`job \S+ was cancelled \(decode\)`).MatchString(stderr.String()) {
				t.Errorf("exit code %d, want %d; stderr %q", code, tc.code, stderr.String())
			}
		})
	}
}

func TestTurnLines(t *testing.T) {
	t.Parallel()
	turn := schemas.Turn{Session: "s", ID: "t-1", Branch: "main", Rev: 3}
	for state, want := range map[schemas.TurnState]string{
		schemas.TurnStored:  "session s · stored as t-1 on branch main, revision 3, beside the branch, which ends with another turn",
		schemas.TurnPending: "session s · not stored yet: why; the worker keeps turn t-1 until it is",
		schemas.TurnKept:    "session s · kept as t-1, which did not finish and is no history: why",
		schemas.TurnDropped: "session s · not stored: why",
		"":                  "session s · nothing is known of the turn",
	} {
		x := turn
		x.State, x.Reason = state, "why"
		if got := turnLine(&x); got != want {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}
	left := &schemas.LeftOut{Turns: 1, Messages: 2, Tokens: 30}
	if got := leftOutLine(left); got != "the window left out 1 turn (2 messages, about 30 tokens)" {
		t.Errorf("left out: %q", got)
	}
	left.Summary = "t-0"
	if got := leftOutLine(left); !strings.HasSuffix(got, "; a summary stands for what came up to t-0") {
		t.Errorf("left out: %q", got)
	}
	var stderr safe
	c := &cli{out: output{progress: &stderr}}
	c.sayTurn(nil)
	turn.LeftOut, turn.State, turn.Head = left, schemas.TurnStored, true
	c.sayTurn(&turn)
	if got := stderr.String(); strings.Count(got, "\n") != 2 || !strings.HasPrefix(got, "hxp: the window left out") {
		t.Errorf("said %q", got)
	}
}

func TestHistoryFile(t *testing.T) {
	t.Parallel()
	for want, environ := range map[string][]string{
		"":                                 {"HOME=", "XDG_STATE_HOME=relative"},
		"/h/.local/state/hxp/chat_history": {"HOME=/h"},
		"/s/hxp/chat_history":              {"HOME=/h", "XDG_STATE_HOME=/s"},
	} {
		if got := (&cli{environ: environ}).historyFile(); got != want {
			t.Errorf("%v: %q, want %q", environ, got, want)
		}
	}
	if got := completeCommand("/s"); !slices.Equal(got, []string{"/system ", "/sessions ", "/switch ", "/show", "/save ", "/stats"}) {
		t.Errorf("completions of /s = %q", got)
	}
	if got := completeCommand(""); got != nil {
		t.Errorf("completions of nothing = %q", got)
	}
}

// TestE2ELongConversation says what the model was not shown.
func TestE2ELongConversation(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "hermes", "--set", "ai_model_services.hermes.max_model_len=256", "--log-level", "error")
	line := strings.Repeat("word ", 40)
	s := c.feed(t, strings.Repeat(line+"\n", 8), "chat", "hermes", "--max-tokens", "20", "--session", "long").must(t, exitOK)
	if !strings.Contains(s.stderr, "hxp: the window left out 1 turn (2 messages, about ") {
		t.Errorf("stderr = %q, want what was left out", s.stderr)
	}
	s = c.feed(t, "", "run", "hermes", "--max-tokens", "20", "--session", "long", "and now?").must(t, exitOK)
	if !regexp.MustCompile(`hxp: the window left out \d turns \(\d+ messages, about \d+ tokens\)\nsession long · stored as t-`).MatchString(s.stderr) {
		t.Errorf("stderr = %q, want what was left out", s.stderr)
	}
	if got := c.path(t, "long"); len(got) != 18 {
		t.Errorf("%d messages, want all 18", len(got))
	}
	if got := decode[conversation.Session](t, c.feed(t, "", "session", "stats", "long", "-o", "json").must(t, exitOK).out); got.Stats.Truncated == 0 {
		t.Errorf("stats = %+v, want truncated turns", got.Stats)
	}
}
