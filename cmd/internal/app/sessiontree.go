package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/hxp-enterprise/hxp/conversation"
)

// SessionTree is every turn of a session.
type SessionTree struct {
	Session   *conversation.Session  `json:"session"`
	Turns     []conversation.Turn    `json:"turns"`
	Summaries []conversation.Summary `json:"summaries,omitempty"`
}

// Tree reads a session with all its branches.
func (s *Sessions) Tree(ctx context.Context, id string) (*SessionTree, error) {
	t, err := s.Store.Tree(ctx, s.Ref(id), true)
	if err != nil {
		return nil, s.explain(id, err)
	}
	return &SessionTree{t.Session, t.Turns, t.Summaries}, nil
}

// drawing is a tree on its way to paper.
type drawing struct {
	b        strings.Builder
	children map[string][]conversation.Turn
	heads    map[string][]string
	width    int
	strong   func(string) string
}

// Draw draws the tree: a turn is a line with its id, its branches and how it ended, and under it what was said, cut to so many
// characters. Turns go down the page, and to the right only where the conversation branches. strong marks the active branch.
func (t *SessionTree) Draw(width int, strong func(string) string) string {
	d := &drawing{children: map[string][]conversation.Turn{}, heads: map[string][]string{}, width: width, strong: strong}
	known := make(map[string]bool, len(t.Turns))
	for _, turn := range t.Turns {
		known[turn.ID] = true
	}
	for _, turn := range t.Turns {
		parent := turn.Parent
		if !known[parent] {
			parent = "" // it is forgotten
		}
		d.children[parent] = append(d.children[parent], turn)
	}
	for _, b := range branches(t.Session) {
		name := b.Name
		if b.Active {
			name = strong("*" + name)
		}
		d.heads[b.Turn] = append(d.heads[b.Turn], name)
	}
	d.line("", headline(t.Session))
	if len(t.Turns) == 0 {
		d.line("", "no turns")
	}
	d.below("", d.children[""])
	for _, id := range t.Session.Pending {
		d.line("", "◌ "+id+"  in flight")
	}
	return d.b.String()
}

func (d *drawing) line(prefix, text string) {
	d.b.WriteString(strings.TrimRight(prefix+text, " ") + "\n")
}

// below draws turns that have the same parent, and all that follows each. A chain of single turns stays in its column.
func (d *drawing) below(prefix string, turns []conversation.Turn) {
	for len(turns) == 1 {
		next := d.children[turns[0].ID]
		d.turn(prefix, prefix, turns[0], len(next) > 0)
		turns = next
	}
	for i, t := range turns {
		corner, bar := "├─", "│ "
		if i == len(turns)-1 {
			corner, bar = "└─", "  "
		}
		next := d.children[t.ID]
		d.turn(prefix+corner, prefix+bar, t, len(next) > 0)
		d.below(prefix+bar, next)
	}
}

// turn draws one turn. more says that others follow below it.
func (d *drawing) turn(first, rest string, t conversation.Turn, more bool) {
	mark, status := "●", ""
	if t.Status != conversation.Finished {
		mark, status = "○", "  "+string(t.Status)
	}
	heads := ""
	if names := d.heads[t.ID]; len(names) > 0 {
		heads = "  [" + strings.Join(names, " ") + "]"
	}
	d.line(first, mark+" "+t.ID+heads+status)
	bar := "  "
	if more {
		bar = "│ "
	}
	if t.Dropped {
		d.line(rest+bar, "(messages dropped to keep the session within its bounds)")
	}
	for _, m := range t.Messages {
		text := fmt.Sprintf("%s: %s", m.Role(), messageText(m.Body))
		d.line(rest+bar, firstWords(text, max(20, d.width-len([]rune(rest))-2)))
	}
}
