package app

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hxp-enterprise/hxp/conversation"
)

// SessionPath is what was said up to a turn.
type SessionPath struct {
	Session *conversation.Session `json:"session"`
	Branch  string                `json:"branch"`
	Leaf    string                `json:"leaf"`
	// Depth is how many turns the whole path has, of which Turns are the last.
	Depth int                 `json:"depth"`
	Turns []conversation.Turn `json:"turns"`
	// Missing says why the older ones are not among Turns; "" if they all are.
	Missing string `json:"missing,omitempty"`
}

// pathBytes and pathTurns bound one read of a path.
const (
	pathBytes = 2 << 20
	pathTurns = 128
)

// Path reads what was said on a branch, or up to a turn: the newest turns, or all if last is 0.
func (s *Sessions) Path(ctx context.Context, id, branch, turn string, last int) (*SessionPath, error) {
	if last < 0 {
		return nil, fmt.Errorf("%w: --last is %d; want 1 or more, or 0 for all", ErrUsage, last)
	}
	q := conversation.PathQuery{Leaf: turn, Branch: branch, MaxBytes: pathBytes, MaxTurns: pathTurns}
	if last > 0 {
		q.MaxTurns = min(pathTurns, last)
	}
	page, err := s.Store.Path(ctx, s.Ref(id), q)
	if err != nil {
		return nil, s.explain(id, err)
	}
	out := &SessionPath{Session: page.Session, Branch: page.Branch, Leaf: page.Leaf, Depth: page.Depth, Turns: page.Turns}
	for page.Stop == conversation.StopBudget && len(page.Turns) > 0 && (last == 0 || len(out.Turns) < last) {
		q.Leaf = out.Turns[0].Parent
		if last > 0 {
			q.MaxTurns = min(pathTurns, last-len(out.Turns))
		}
		if page, err = s.Store.Path(ctx, s.Ref(id), q); err != nil {
			return nil, s.explain(id, err)
		}
		out.Turns = slices.Insert(out.Turns, 0, page.Turns...)
	}
	switch page.Stop {
	case conversation.StopBudget:
		if out.Missing = "not asked for"; last == 0 {
			out.Missing = fmt.Sprintf("a turn is larger than %s", Bytes(pathBytes))
		}
	case conversation.StopDropped, conversation.StopForgotten:
		out.Missing = "dropped to keep the session within its bounds"
	}
	return out, nil
}

// Text is the path as a person reads it. strong marks who speaks.
func (p *SessionPath) Text(strong func(string) string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("%s · branch %s · %d turns", headline(p.Session), p.Branch, p.Depth)
	if p.Session.System != "" {
		line("\n%s\n%s", strong("system"), Printable(p.Session.System))
	}
	if n := p.Depth - len(p.Turns); n > 0 {
		line("\n(%d older turns are not here: %s)", n, p.Missing)
	}
	for _, t := range p.Turns {
		for i, m := range t.Messages {
			who := strong(m.Role())
			if i == 0 {
				who += "  " + t.ID
				if t.Status != conversation.Finished {
					who += "  " + string(t.Status)
				}
			}
			line("\n%s\n%s", who, messageText(m.Body))
		}
	}
	return b.String()
}
