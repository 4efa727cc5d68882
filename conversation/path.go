package conversation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// PathQuery says which turns to read. The cost of the answer is bounded by its budget, not by the history.
type PathQuery struct {
	// Leaf is the last turn: "" is the head of Branch, [Root] is none.
	Leaf string
	// Branch is the active one by default.
	Branch string
	// MaxTokens, MaxBytes and MaxTurns bound what is read; the newest come first. MaxBytes defaults
	// to 1 MiB and MaxTurns to 1,000; MaxTokens is no bound by default.
	MaxTokens, MaxBytes, MaxTurns int
}

// Stop is why a path begins where it does.
type Stop string

// The ends of a path.
const (
	// StopRoot: the path is whole.
	StopRoot Stop = "root"
	// StopBudget: the next turn is beyond the budget.
	StopBudget Stop = "budget"
	// StopDropped: the next turn's messages were dropped to keep the session within its bounds.
	StopDropped Stop = "dropped"
	// StopForgotten: the next turn was forgotten for the same reason.
	StopForgotten Stop = "forgotten"
)

// Path is the way from a root to a turn, or the end of it, as it was at one moment.
type Path struct {
	Session *Session
	// Branch is the branch that was asked for.
	Branch string
	// Leaf is the last turn, "" if there is none.
	Leaf string
	// Depth, Messages and Tokens are of the whole path, read or not.
	Depth, Messages, Tokens int
	// Turns are oldest first and end with Leaf.
	Turns []Turn
	Stop  Stop
	// Summaries are those of turns on the path, newest first; if none is of a turn that was read, one of an older.
	Summaries []Summary
}

// summaryWalk is how far beyond the turns that were read a summary is looked for.
const summaryWalk = 256

// Path reads the turns up to a leaf.
func (s *Store) Path(ctx context.Context, ref Ref, q PathQuery) (*Path, error) {
	if q.MaxTokens < 0 || q.MaxBytes < 0 || q.MaxTurns < 0 {
		return nil, fmt.Errorf("path: %w", invalid("budget is %d tokens, %d bytes and %d turns; want 0 or more", q.MaxTokens, q.MaxBytes, q.MaxTurns))
	}
	r, err := s.run(ctx, "path", ref, q.Leaf, q.Branch, q.MaxTokens, cmp.Or(q.MaxBytes, 1<<20), cmp.Or(q.MaxTurns, 1000), summaryWalk)
	if err != nil {
		return nil, err
	}
	session, err := r.session(ref)
	if err != nil {
		return nil, err
	}
	out := &Path{Session: session, Branch: r.text(), Leaf: r.text()}
	if line := r.text(); line != "" {
		leaf, err := parsePlace(line)
		if err != nil {
			return nil, fmt.Errorf("path of session %s: %w", ref.ID, err)
		}
		out.Depth, out.Messages, out.Tokens = leaf.depth, leaf.messages, leaf.total
	}
	out.Stop, out.Turns = Stop(r.text()), r.turns()
	slices.Reverse(out.Turns)
	out.Summaries = r.summaries()
	if r.err != nil {
		return nil, fmt.Errorf("path of session %s: %w", ref.ID, r.err)
	}
	return out, nil
}

// maxTurnsRead bounds one call of Turns.
const maxTurnsRead = 256

// Turns returns turns by their ids, in the order of these.
func (s *Store) Turns(ctx context.Context, ref Ref, ids ...string) ([]Turn, error) {
	if err := tooLarge("turns to read", len(ids), maxTurnsRead); err != nil {
		return nil, err
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	r, err := s.run(ctx, "turns", ref, args...)
	if err != nil {
		return nil, err
	}
	turns := r.turns()
	return turns, r.err
}

// Summary stands for the path from the root to Turn, that turn included. All branches through the turn share it.
type Summary struct {
	Turn string `json:"turn"`
	Text string `json:"text"`
	// Tokens is its share of a prompt, estimated from its size if 0.
	Tokens int    `json:"tokens,omitempty"`
	Model  string `json:"model,omitempty"`
	// Depth is the turn's; it is not stored.
	Depth int `json:"-"`
}

// PutSummary stores a summary, in place of one of the same turn.
func (s *Store) PutSummary(ctx context.Context, ref Ref, sum Summary) error {
	if sum.Text == "" {
		return fmt.Errorf("summary: %w", invalid("text is empty"))
	}
	if sum.Tokens < 0 || sum.Tokens > maxTokens {
		return fmt.Errorf("summary: %w", invalid("tokens is %d; want 0 to %d", sum.Tokens, maxTokens))
	}
	text, err := encode(sum)
	if err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	if err := tooLarge("bytes of the summary", len(text), s.cfg.MaxSummaryBytes); err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	_, err = s.run(ctx, "summary", ref, sum.Turn, text, s.cfg.MaxSummaries)
	return err
}

// summaries reads an array of ids, depths and texts.
func (r *reply) summaries() []Summary {
	flat := r.texts()
	var out []Summary
	for i := 0; i+2 < len(flat); i += 3 {
		inner := reply{values: []any{flat[i+1]}}
		sum := Summary{Depth: int(inner.int())}
		if err := json.Unmarshal([]byte(flat[i+2]), &sum); err != nil || inner.err != nil {
			r.fail("summary of turn %.128q is no summary", flat[i])
		}
		sum.Turn = flat[i]
		out = append(out, sum)
	}
	return out
}
