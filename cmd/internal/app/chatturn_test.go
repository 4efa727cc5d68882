package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/schemas"
)

// TestChatSaysWhatHappensToATurn while it is generated.
func TestChatSaysWhatHappensToATurn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		play  func(*act)
		text  string
		lines []string
	}{
		"goes on": {func(a *act) {
			a.emit(schemas.Event{Kind: schemas.Started, ServedBy: "mixtral"})
			a.delta("one ")
			a.emit(schemas.Event{Kind: schemas.Interrupted, Error: schemas.Errorf(schemas.CodeEngineUnavailable, "it fell")})
			a.attempt++
			a.emit(schemas.Event{Kind: schemas.Resumed})
			a.delta("two")
			a.end(schemas.StatusCompleted, nil)
		}, "one two", []string{"note: model mixtral answers", "note: interrupted: engine_unavailable: it fell; waiting for another attempt", "note: another attempt goes on where it ended"}},
		"begins again": {func(a *act) {
			a.emit(schemas.Event{Kind: schemas.Started})
			a.delta("one ")
			a.emit(schemas.Event{Kind: schemas.Interrupted, Handback: true})
			a.attempt++
			a.text = ""
			a.emit(schemas.Event{Kind: schemas.Restarted, Reason: "it had tools"})
			a.delta("two")
			a.end(schemas.StatusCompleted, nil)
		}, "two", []string{"note: interrupted: the worker stopped; waiting for another attempt", "void: it had tools"}},
		"begins again before any text": {func(a *act) {
			a.emit(schemas.Event{Kind: schemas.Started})
			a.attempt++
			a.emit(schemas.Event{Kind: schemas.Restarted, Reason: "who knows"})
			a.delta("two")
			a.end(schemas.StatusCompleted, nil)
		}, "two", nil},
		"in one piece": {func(a *act) {
			a.emit(schemas.Event{Kind: schemas.Started})
			a.text = "all"
			a.end(schemas.StatusCompleted, nil)
		}, "all", nil},
		"nothing": {func(a *act) {
			a.emit(schemas.Event{Kind: schemas.Started})
			a.end(schemas.StatusCompleted, nil)
		}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			c := s.chat(app.ChatOptions{})
			var w seen
			s.next(tc.play)
			r, err := c.Say(t.Context(), "go", w.watcher())
			if err != nil || r.Text != tc.text || w.text.String() != tc.text {
				t.Errorf("result %+v, %v, watched %q; want %q", r, err, w.text.String(), tc.text)
			}
			if diff := cmp.Diff(tc.lines, w.lines); diff != "" {
				t.Errorf("watched (-want +got):\n%s", diff)
			}
			s.next(tc.play) // nobody watches
			if _, err := c.Say(t.Context(), "go", app.TurnWatcher{}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("of a replaced worker", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		c := s.chat(app.ChatOptions{})
		shown := make(chan struct{})
		s.next(func(a *act) {
			a.emit(schemas.Event{Kind: schemas.Started})
			a.delta("wrong")
			<-shown
			a.attempt++
			a.seq, a.text = 1, ""
			a.emit(schemas.Event{Kind: schemas.Resumed})
			a.delta("right")
			a.end(schemas.StatusCompleted, nil)
		})
		w := seen{first: func() { close(shown) }}
		if r, err := c.Say(t.Context(), "go", w.watcher()); err != nil || r.Text != "right" || w.text.String() != "right" || !w.said("void", "had been replaced") {
			t.Errorf("say = %+v, %v, watched %q and %q", r, err, w.text.String(), w.lines)
		}
	})
	t.Run("not choices", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		done := make(chan struct{})
		c := s.chat(app.ChatOptions{})
		s.next(func(a *act) {
			a.emit(schemas.Event{Kind: schemas.DeltaKind, Choices: []byte(`[{"index":"x"}]`)})
			a.end(schemas.StatusCompleted, nil)
			close(done)
		})
		defer func() { <-done }()
		if _, err := c.Say(t.Context(), "go", app.TurnWatcher{}); err == nil || !strings.Contains(err.Error(), "event 1") {
			t.Errorf("error = %v, want the event in it", err)
		}
	})
	t.Run("a full disk", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		c := s.chat(app.ChatOptions{})
		done := make(chan struct{})
		s.next(func(a *act) { reply("x")(a); close(done) })
		full := errors.New("no space left")
		if _, err := c.Say(t.Context(), "go", app.TurnWatcher{Text: func(string) error { return full }}); !errors.Is(err, full) {
			t.Errorf("error = %v, want %v", err, full)
		}
		<-done
	})
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		s := newStage(t)
		if _, err := s.chat(app.ChatOptions{}).Say(t.Context(), "", app.TurnWatcher{}); !errors.Is(err, app.ErrUsage) {
			t.Errorf("error = %v, want %v", err, app.ErrUsage)
		}
	})
}

// TestChatTurnIsStopped cancels the job on the cluster, and the chat goes on.
func TestChatTurnIsStopped(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.chat(app.ChatOptions{})
	stopped := errors.New("stopped")
	ctx, stop := context.WithCancelCause(t.Context())
	w := seen{first: func() { stop(stopped) }}
	s.next(func(a *act) {
		a.begin()
		asked := make(chan struct{})
		sub, err := a.nc.Subscribe(schemas.CancelSubject(a.job.Tenant, a.job.ID), func(m *nats.Msg) {
			_ = m.Respond([]byte(`{"id":"` + a.job.ID + `","phase":"decode","worker":"w1"}`))
			close(asked)
		})
		if err == nil {
			err = a.nc.Flush()
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = sub.Unsubscribe() }()
		a.delta("half")
		<-asked
		a.turn.State = schemas.TurnKept
		a.end(schemas.StatusCancelled, schemas.Errorf(schemas.CodeCancelled, "asked for"))
	})
	r, err := c.Say(ctx, "one", w.watcher())
	abandoned, ok := errors.AsType[*app.AbandonedError](err)
	if !ok || abandoned.Phase != schemas.PhaseDecode || !errors.Is(err, stopped) || r == nil || r.Status != schemas.StatusCancelled {
		t.Fatalf("say = %+v, %v; want it cancelled in decode", r, err)
	}
	s.next(reply("eins"))
	if r, err := c.Regenerate(t.Context(), app.TurnWatcher{}); err != nil || !r.Turn.Head || story(t, c) != "one eins" {
		t.Errorf("regenerate = %+v, %v", r, err)
	}
}

// TestChatOutlivesItsConnection says that it is lost and found again, and loses nothing of the reply.
func TestChatOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.chat(app.ChatOptions{})
	lost, found := make(chan struct{}), make(chan struct{})
	var told seen
	w := told.watcher()
	note := w.Note
	w.Note = func(text string) {
		note(text)
		switch {
		case strings.Contains(text, "is lost"):
			close(lost)
		case strings.Contains(text, "connected again"):
			close(found)
		}
	}
	told.first = func() {
		if err := s.client.NC.ForceReconnect(); err != nil {
			t.Error(err)
		}
	}
	s.next(func(a *act) {
		a.begin()
		a.delta("one ")
		<-lost
		a.delta("two ")
		<-found
		a.delta("three")
		a.commit()
		a.end(schemas.StatusCompleted, nil)
	})
	r, err := c.Say(t.Context(), "go", w)
	if err != nil || r.Text != "one two three" || told.text.String() != r.Text {
		t.Errorf("say = %+v, %v, watched %q", r, err, told.text.String())
	}
}

// TestChatOfAQueueThatDoesNotAnswer tries on until it does.
func TestChatOfAQueueThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.cfg.NATS.Timeout = 100e6
	c := s.chat(app.ChatOptions{})
	s.next(reply("eins"))
	say(t, c, "one")
	s.nats.Close()
	ctx, stop := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	var told seen
	w := told.watcher()
	note := w.Note
	w.Note = func(text string) {
		if note(text); strings.Contains(text, "does not answer") {
			stop(stopped)
		}
	}
	if _, err := c.Say(ctx, "two", w); !errors.Is(err, stopped) || !strings.Contains(err.Error(), "may go on") {
		t.Errorf("say: %v, watched %q", err, told.lines)
	}
}
