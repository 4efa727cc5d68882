package app_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// chat begins a chat.
func (s *stage) chat(o app.ChatOptions) *app.Chat {
	s.t.Helper()
	o.Model = "hermes"
	s.client = dial(s.t, s.cfg)
	c := app.NewChat(s.client, s.cfg, o)
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// say sends a message, which must complete, and returns its turn.
func say(t *testing.T, c *app.Chat, text string) *schemas.Turn {
	t.Helper()
	r, err := c.Say(t.Context(), text, app.TurnWatcher{})
	if err != nil || r.Turn == nil {
		t.Fatalf("say %q: %+v, %v", text, r, err)
	}
	return r.Turn
}

// story is a path as questions and answers.
func story(t *testing.T, c *app.Chat) string {
	t.Helper()
	path, err := c.Path(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, turn := range path.Turns {
		for _, m := range turn.Messages {
			_, rest, _ := strings.Cut(string(m.Body), `"content":"`)
			out = append(out, strings.TrimSuffix(rest, `"}`))
		}
	}
	return strings.Join(out, " ")
}

func TestChat(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.chat(app.ChatOptions{User: "ada", System: "Be brief.", MaxTokens: 7})
	if path, err := c.Open(t.Context(), app.TurnWatcher{}); path != nil || err != nil {
		t.Errorf("open of nothing = %v, %v", path, err)
	}
	var w seen
	s.next(func(a *act) {
		if got, want := string(a.job.Body), `{"messages":[{"role":"user","content":"one <&>"}],"max_tokens":7,"user":"ada"}`; got != want && !strings.Contains(got, `\u003c`) {
			t.Errorf("body = %s, want %s", got, want)
		}
		if a.job.Class != schemas.Interactive || !a.job.Stream {
			t.Errorf("job = %+v, want it interactive and streamed", a.job)
		}
		reply("eins")(a)
	})
	r, err := c.Say(t.Context(), "one <&>", w.watcher())
	if err != nil || r.Text != "eins" || w.text.String() != "eins" || len(w.lines) > 0 || !r.Turn.Head {
		t.Errorf("say = %+v, %v, watched %q and %q", r, err, w.text.String(), w.lines)
	}
	session, err := c.Stats(t.Context())
	if err != nil || session.Title != "one <&>" || session.User != "ada" || session.System != "Be brief." || session.Model != "hermes" {
		t.Fatalf("session = %+v, %v", session, err)
	}

	s.next(reply("zwei"), reply("due"), reply("tre"))
	say(t, c, "two")
	if r, err := c.Regenerate(t.Context(), app.TurnWatcher{}); err != nil || !r.Turn.Head {
		t.Errorf("regenerate = %+v, %v", r, err)
	}
	if got := story(t, c); got != "one <&> eins two due" {
		t.Errorf("after regenerate: %q", got)
	}
	if r, err := c.Edit(t.Context(), "three", app.TurnWatcher{}); err != nil || !r.Turn.Head {
		t.Errorf("edit = %+v, %v", r, err)
	}
	if got := story(t, c); got != "one <&> eins three tre" {
		t.Errorf("after edit: %q", got)
	}
	tree, err := c.Tree(t.Context())
	if err != nil || len(tree.Turns) != 4 || tree.Session.Heads["main"] != tree.Turns[3].ID {
		t.Errorf("tree = %+v, %v", tree, err)
	}

	if path, made, err := c.UseBranch(t.Context(), "other"); err != nil || !made || c.Branch() != "other" || path.Branch != "other" {
		t.Errorf("branch = %+v, %v, %v", path, made, err)
	}
	s.next(reply("vier"))
	if turn := say(t, c, "four"); turn.Branch != "other" || !turn.Head {
		t.Errorf("turn = %+v, want the last of other", turn)
	}
	if _, made, err := c.UseBranch(t.Context(), "main"); err != nil || made {
		t.Errorf("branch main: made %v, %v", made, err)
	}
	if got := story(t, c); got != "one <&> eins three tre" {
		t.Errorf("on main: %q", got)
	}
	all, err := c.Branches(t.Context())
	if err != nil || len(all) != 2 || !all[0].Active || all[0].Text != "three" || all[1].Text != "four" {
		t.Errorf("branches = %+v, %v", all, err)
	}

	if err := c.SetSystem(t.Context(), "Be long."); err != nil {
		t.Error(err)
	}
	if err := c.Rename(t.Context(), "Numbers"); err != nil {
		t.Error(err)
	}
	if got, err := c.System(t.Context()); got != "Be long." || err != nil {
		t.Errorf("system = %q, %v", got, err)
	}
	whole, _, err := c.Save(t.Context(), app.FormJSON)
	if err != nil {
		t.Fatal(err)
	}
	share, _, err := c.Save(t.Context(), app.FormShareGPT)
	if err != nil || !strings.Contains(string(share), "tre") || strings.Contains(string(share), "vier") {
		t.Errorf("path = %s, %v", share, err)
	}
	first := c.Session()
	if path, err := c.Load(t.Context(), strings.NewReader(string(whole))); err != nil || c.Session() == first || path.Depth != 2 {
		t.Errorf("load = %+v, %v", path, err)
	}
	if _, err := c.Load(t.Context(), strings.NewReader("{}")); err == nil {
		t.Error("anything can be loaded")
	}

	// A loaded or resumed session can be regenerated as well.
	s.next(reply("quattro"))
	if r, err := c.Regenerate(t.Context(), app.TurnWatcher{}); err != nil || !r.Turn.Head {
		t.Errorf("regenerate = %+v, %v", r, err)
	}
	if got := story(t, c); got != "one <&> eins three quattro" {
		t.Errorf("after a load: %q", got)
	}
	c.New()
	if c.Session() != "" || c.Branch() != "" {
		t.Errorf("a new chat is at %q, %q", c.Session(), c.Branch())
	}
	threads, err := c.List(t.Context(), "numbers", 10)
	if err != nil || len(threads) != 2 {
		t.Fatalf("sessions = %+v, %v", threads, err)
	}
	if _, err := c.Switch(t.Context(), "2"); err != nil || c.Session() != threads[1].ID {
		t.Errorf("switch to 2: at %q, %v; want %q", c.Session(), err, threads[1].ID)
	}
	if _, err := c.Switch(t.Context(), "3"); !errors.Is(err, conversation.ErrNotFound) || c.Session() != threads[1].ID {
		t.Errorf("switch to 3: %v, at %q", err, c.Session())
	}
}

// TestChatAnswersWhatItsUserHasSeen, whoever else adds to the session.
func TestChatAnswersWhatItsUserHasSeen(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	ada := s.chat(app.ChatOptions{Session: "shared"})
	s.next(reply("eins"), reply("zwei"), reply("drei"), reply("vier"))
	var w seen
	if path, err := ada.Open(t.Context(), w.watcher()); path != nil || err != nil || !w.said("shared is not there yet") {
		t.Errorf("open = %v, %v, watched %q", path, err, w.lines)
	}
	say(t, ada, "one")
	eve := s.chat(app.ChatOptions{Session: "shared", System: "Be brief."})
	path, err := eve.Open(t.Context(), app.TurnWatcher{})
	if err != nil || path.Depth != 1 {
		t.Fatalf("open = %+v, %v", path, err)
	}
	say(t, eve, "two")
	if turn := say(t, ada, "three"); turn.Head {
		t.Errorf("turn = %+v, want it beside the branch", turn)
	}
	if got := story(t, ada); got != "one eins three drei" {
		t.Errorf("ada sees %q", got)
	}
	if turn := say(t, eve, "four"); !turn.Head {
		t.Errorf("turn = %+v, want it on the branch", turn)
	}
	if got := story(t, eve); got != "one eins two zwei four vier" {
		t.Errorf("eve sees %q", got)
	}
	if got, err := ada.System(t.Context()); got != "Be brief." || err != nil {
		t.Errorf("system = %q, %v", got, err)
	}
	before, err := eve.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := s.chat(app.ChatOptions{Session: "shared", System: "Be brief."})
	if path, err := again.Open(t.Context(), app.TurnWatcher{}); err != nil || path.Session.Rev != before.Rev {
		t.Errorf("open = %+v, %v; want revision %d", path, err, before.Rev)
	}
}

// TestChatTurnsThatAreNotStored are not answered; their message can be sent again, with the same parent.
func TestChatTurnsThatAreNotStored(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.chat(app.ChatOptions{})
	if _, err := c.Regenerate(t.Context(), app.TurnWatcher{}); err == nil {
		t.Error("nothing is regenerated")
	}
	if _, err := c.Edit(t.Context(), "x", app.TurnWatcher{}); err == nil {
		t.Error("nothing is edited")
	}
	parent := func(want string, then func(*act)) func(*act) {
		return func(a *act) {
			if got := a.job.Session.Parent; got != want {
				t.Errorf("%q: parent = %q, want %q", a.question(), got, want)
			}
			then(a)
		}
	}
	s.next(
		parent("", ends(schemas.TurnDropped, schemas.StatusCompleted, nil)),
		parent("root", ends(schemas.TurnKept, schemas.StatusFailed, schemas.Errorf(schemas.CodeInternal, "broken"))),
		parent("root", reply("eins")),
	)
	say(t, c, "one")
	if r, err := c.Regenerate(t.Context(), app.TurnWatcher{}); err != nil || r.Status != schemas.StatusFailed {
		t.Errorf("regenerate = %+v, %v", r, err)
	}
	r, err := c.Edit(t.Context(), "uno", app.TurnWatcher{})
	if err != nil || !r.Turn.Head || story(t, c) != "uno eins" {
		t.Errorf("edit = %+v, %v", r, err)
	}
	// What waits to be stored is answered.
	first := r.Turn.ID
	var pending string
	s.next(
		func(a *act) { ends(schemas.TurnPending, schemas.StatusCompleted, nil)(a) },
		parent(first, func(a *act) { ends(schemas.TurnPending, schemas.StatusCompleted, nil)(a) }),
	)
	say(t, c, "two")
	var w seen
	if r, err = c.Regenerate(t.Context(), w.watcher()); err != nil || !w.said("until this one is stored") {
		t.Errorf("regenerate = %+v, %v, watched %q", r, err, w.lines)
	}
	pending = r.Turn.ID
	s.next(parent(pending, func(a *act) {
		a.turn.State = schemas.TurnDropped
		a.end(schemas.StatusFailed, schemas.Errorf(schemas.CodeInvalidRequest, "no such turn"))
	}))
	if r, err := c.Say(t.Context(), "three", app.TurnWatcher{}); err != nil || r.Status != schemas.StatusFailed {
		t.Errorf("say = %+v, %v", r, err)
	}
	// A branch that cannot be moved is no reason to lose a reply.
	s.next(func(a *act) {
		a.turn = schemas.Turn{Session: a.job.Session.ID, ID: "t-gone", Branch: "main", State: schemas.TurnStored}
		a.delta("x")
		a.end(schemas.StatusCompleted, nil)
	})
	if r, err := c.Regenerate(t.Context(), w.watcher()); err != nil || r.Turn.Head || !w.said("main still ends with the earlier one", "no such turn") {
		t.Errorf("regenerate = %+v, %v, watched %q", r, err, w.lines)
	}
}

// TestChatWithoutRedis goes on turn by turn, since the worker keeps the session, and says so once.
func TestChatWithoutRedis(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	away := quick(t, "nats.url="+s.cfg.NATS.URL, "redis.url=redis://127.0.0.1:1")
	s.cfg = away
	c := s.chat(app.ChatOptions{Session: "elsewhere"})
	var w seen
	if path, err := c.Open(t.Context(), w.watcher()); path != nil || err != nil {
		t.Errorf("open = %v, %v", path, err)
	}
	made := func(id string) func(*act) {
		return func(a *act) {
			if a.job.Session.Parent != id {
				t.Errorf("parent = %q, want %q", a.job.Session.Parent, id)
			}
			a.turn = schemas.Turn{Session: a.job.Session.ID, ID: "t-" + a.question(), Branch: "main", State: schemas.TurnStored, Head: a.question() != "again"}
			a.delta("x")
			a.end(schemas.StatusCompleted, nil)
		}
	}
	s.next(made(""), made("t-one"), made("root"))
	for _, text := range []string{"one", "two"} {
		if _, err := c.Say(t.Context(), text, w.watcher()); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Edit(t.Context(), "again", w.watcher()); err != nil {
		t.Error(err)
	}
	if len(w.lines) != 2 || !w.said("cannot connect to Redis", "turns go on") || !w.said("main still ends with the earlier one") {
		t.Errorf("watched %q", w.lines)
	}
	for name, f := range map[string]func() error{
		"open": func() error {
			_, err := s.chat(app.ChatOptions{Session: "x", System: "y"}).Open(t.Context(), app.TurnWatcher{})
			return err
		},
		"say with a system prompt": func() error {
			_, err := s.chat(app.ChatOptions{System: "y"}).Say(t.Context(), "x", app.TurnWatcher{})
			return err
		},
		"list":     func() error { _, err := c.List(t.Context(), "", 1); return err },
		"system":   func() error { _, err := c.System(t.Context()); return err },
		"set":      func() error { return c.SetSystem(t.Context(), "x") },
		"rename":   func() error { return c.Rename(t.Context(), "x") },
		"branches": func() error { _, err := c.Branches(t.Context()); return err },
		"branch":   func() error { _, _, err := c.UseBranch(t.Context(), "x"); return err },
		"path":     func() error { _, err := c.Path(t.Context(), 0); return err },
		"tree":     func() error { _, err := c.Tree(t.Context()); return err },
		"stats":    func() error { _, err := c.Stats(t.Context()); return err },
		"save":     func() error { _, _, err := c.Save(t.Context(), app.FormJSON); return err },
		"load":     func() error { _, err := c.Load(t.Context(), strings.NewReader("{}")); return err },
	} {
		wantError(t, f(), app.ErrCannotConnect, "redis.url")
		_ = name
	}
	fresh := s.chat(app.ChatOptions{System: "y"})
	if got, err := fresh.System(t.Context()); got != "y" || err != nil {
		t.Errorf("system = %q, %v", got, err)
	}
	if _, err := fresh.Stats(t.Context()); err == nil || !strings.Contains(err.Error(), "no session yet") {
		t.Errorf("error = %v, want that there is none", err)
	}
}

// TestChatOfASessionThatIsGone says so.
func TestChatOfASessionThatIsGone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.chat(app.ChatOptions{Session: "gone"})
	s.next(reply("eins"))
	say(t, c, "one")
	if err := s.store.Delete(t.Context(), conversation.Ref{Tenant: "default", ID: "gone"}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() error{
		func() error { _, err := c.System(t.Context()); return err },
		func() error { return c.SetSystem(t.Context(), "x") },
		func() error { _, _, err := c.UseBranch(t.Context(), "x"); return err },
		func() error {
			_, err := s.chat(app.ChatOptions{Session: "gone"}).Open(t.Context(), app.TurnWatcher{})
			return err
		},
		func() error {
			_, err := s.chat(app.ChatOptions{Session: "gone"}).Say(t.Context(), "x", app.TurnWatcher{})
			return err
		},
	} {
		wantError(t, f(), conversation.ErrDeleted)
	}
	// What was asked in several messages, or in none of text, is not asked again.
	for i, messages := range [][]conversation.Message{
		{conversation.Text("user", "a"), conversation.Text("user", "b"), conversation.Text("assistant", "c")},
		{{Body: []byte(`{"role":"user","content":[{"type":"image_url"}]}`)}},
	} {
		id := fmt.Sprint("odd", i)
		ref := conversation.Ref{Tenant: "default", ID: id}
		if _, err := s.store.Create(t.Context(), conversation.NewSession{Tenant: "default", ID: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.store.Append(t.Context(), ref, conversation.NewTurn{Job: "j", Messages: messages}); err != nil {
			t.Fatal(err)
		}
		odd := s.chat(app.ChatOptions{Session: id})
		if path, err := odd.Open(t.Context(), app.TurnWatcher{}); err != nil || path.Depth != 1 {
			t.Errorf("open = %+v, %v", path, err)
		}
		if _, err := odd.Regenerate(t.Context(), app.TurnWatcher{}); err == nil {
			t.Errorf("%s is regenerated", id)
		}
	}
	// A session that was made meanwhile is as good.
	other := s.chat(app.ChatOptions{Session: "other"})
	if _, err := s.store.Create(t.Context(), conversation.NewSession{Tenant: "default", ID: "other"}); err != nil {
		t.Fatal(err)
	}
	s.next(reply("eins"))
	say(t, other, "one")
	if _, _, err := other.UseBranch(t.Context(), "a b"); !errors.Is(err, conversation.ErrInvalid) {
		t.Errorf("error = %v, want %v", err, conversation.ErrInvalid)
	}
}
