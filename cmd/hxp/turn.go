package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/schemas"
)

// sessionFlags are a prompt's place in a conversation.
type sessionFlags struct {
	session schemas.Session
	fresh   bool
}

func (s *sessionFlags) declare(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.session.ID, "session", "", "go on with a conversation, by its `id`; one that is not there is made")
	f.BoolVar(&s.fresh, "new-session", false, "begin a conversation; its id is said on stderr")
	f.StringVar(&s.session.Parent, "parent", "", "answer this `turn` of the session, or root for none (default the branch's last)")
	f.StringVar(&s.session.Branch, "branch", "", "add the turn to this `branch` (default the active one)")
	cmd.MarkFlagsMutuallyExclusive("session", "new-session")
}

// place puts a job where the flags say.
func (s *sessionFlags) place(job *schemas.Job, p app.Prompt) error {
	switch {
	case s.session.ID == "" && !s.fresh:
		if s.session.Parent != "" || s.session.Branch != "" {
			return fmt.Errorf("%w: --parent and --branch are of a conversation: they want --session", app.ErrUsage)
		}
		return nil
	case p.Raw:
		return fmt.Errorf("%w: --raw does not go with a conversation, which is of messages", app.ErrUsage)
	case s.fresh && (s.session.Parent != "" || s.session.Branch != ""):
		return fmt.Errorf("%w: --parent and --branch do not go with --new-session, which has no turns yet", app.ErrUsage)
	}
	session := s.session
	if s.fresh {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("new session: %w", err)
		}
		session.ID = id.String()
	}
	job.Session = &session
	return nil
}

// turnLine says what became of a turn.
func turnLine(t *schemas.Turn) string {
	var b strings.Builder
	reason := ""
	if t.Reason != "" {
		reason = ": " + t.Reason
	}
	switch t.State {
	case schemas.TurnStored:
		fmt.Fprintf(&b, "stored as %s", t.ID)
		if t.Branch != "" {
			fmt.Fprintf(&b, " on branch %s", t.Branch)
		}
		fmt.Fprintf(&b, ", revision %d", t.Rev)
		if !t.Head {
			b.WriteString(", beside the branch, which ends with another turn")
		}
	case schemas.TurnPending:
		fmt.Fprintf(&b, "not stored yet%s; the worker keeps turn %s until it is", reason, t.ID)
	case schemas.TurnKept:
		fmt.Fprintf(&b, "kept as %s, which did not finish and is no history%s", t.ID, reason)
	case schemas.TurnDropped:
		fmt.Fprintf(&b, "not stored%s", reason)
	default:
		b.WriteString("nothing is known of the turn")
	}
	return "session " + t.Session + " · " + b.String()
}

// leftOutLine says what of the history the model was not shown.
func leftOutLine(l *schemas.LeftOut) string {
	s := fmt.Sprintf("the window left out %s (%s, about %s)", count(l.Turns, "turn"), count(l.Messages, "message"), count(l.Tokens, "token"))
	if l.Summary != "" {
		s += "; a summary stands for what came up to " + l.Summary
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sayTurn says on stderr what became of a turn, if there was one.
func (c *cli) sayTurn(t *schemas.Turn) {
	if t == nil {
		return
	}
	if t.LeftOut != nil {
		c.out.say("hxp: %s\n", leftOutLine(t.LeftOut))
	}
	c.out.say("%s\n", turnLine(t))
}
