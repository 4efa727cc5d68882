package conversation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// exportType names the format of an export.
const exportType = "hxp.v1.session"

// document is a session with everything in it, as JSON.
type document struct {
	Type      string            `json:"type"`
	Title     string            `json:"title,omitempty"`
	User      string            `json:"user,omitempty"`
	Model     string            `json:"model,omitempty"`
	System    string            `json:"system,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Branch    string            `json:"branch"`
	Heads     map[string]string `json:"heads,omitempty"`
	Turns     []documentTurn    `json:"turns"`
	Summaries []Summary         `json:"summaries,omitempty"`
}

// documentTurn leaves out what follows from the order and the parents.
type documentTurn struct {
	ID           string            `json:"id"`
	Parent       string            `json:"parent,omitempty"`
	Status       Status            `json:"status"`
	Messages     []json.RawMessage `json:"messages,omitempty"`
	Tokens       []int             `json:"tokens,omitempty"`
	Model        string            `json:"model,omitempty"`
	FinishReason string            `json:"finish_reason,omitempty"`
	Usage        *schemas.Usage    `json:"usage,omitempty"`
	Moderation   json.RawMessage   `json:"moderation,omitempty"`
	Created      time.Time         `json:"created,omitzero"`
	// Dropped is how many messages the turn has lost, and DroppedTokens how many tokens.
	Dropped       int `json:"dropped,omitempty"`
	DroppedTokens int `json:"dropped_tokens,omitempty"`
}

// Export returns a session as JSON: the whole tree, its branches and its summaries.
func (s *Store) Export(ctx context.Context, ref Ref) ([]byte, error) {
	tree, err := s.Tree(ctx, ref, true)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	from := tree.Session
	doc := document{
		Type: exportType, Title: from.Title, User: from.User, Model: from.Model, System: from.System, Metadata: from.Metadata,
		Branch: from.Branch, Heads: make(map[string]string), Summaries: tree.Summaries,
	}
	known := make(map[string]bool, len(tree.Turns))
	for _, t := range tree.Turns {
		known[t.ID] = true
		d := documentTurn{ID: t.ID, Parent: t.Parent, Status: t.Status}
		if !known[t.Parent] {
			d.Parent = "" // forgotten
		}
		if t.Dropped {
			d.Dropped, d.DroppedTokens = t.lost, t.Tokens
		} else {
			usage := t.Usage
			d.Model, d.FinishReason, d.Usage, d.Moderation, d.Created = t.Model, t.FinishReason, &usage, t.Moderation, t.Created
			for _, m := range t.Messages {
				d.Messages, d.Tokens = append(d.Messages, m.Body), append(d.Tokens, m.Tokens)
			}
		}
		doc.Turns = append(doc.Turns, d)
	}
	// Heads and summaries are of the last page: they may be of turns that came after it was read.
	for name, turn := range from.Heads {
		if known[turn] {
			doc.Heads[name] = turn
		}
	}
	doc.Summaries = slices.DeleteFunc(doc.Summaries, func(sum Summary) bool { return !known[sum.Turn] })
	return encode(doc)
}

// Import makes a new session of what [Store.Export] returned. What into leaves empty is taken from there.
func (s *Store) Import(ctx context.Context, r io.Reader, into NewSession) (*Session, error) {
	data, err := s.readImport(r)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("import: %w", invalid("document: %w", err))
	}
	with, err := s.contents(&doc)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	for _, f := range []struct{ to, from *string }{
		{&into.User, &doc.User}, {&into.Title, &doc.Title}, {&into.Model, &doc.Model}, {&into.System, &doc.System},
	} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	if into.Metadata == nil {
		into.Metadata = doc.Metadata
	}
	return s.create(ctx, into, with)
}

func (s *Store) readImport(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(s.cfg.MaxImportBytes)+1))
	if err != nil {
		return nil, err
	}
	return data, tooLarge("bytes of the import", len(data), s.cfg.MaxImportBytes)
}

// contents checks a document: what a session is made of must be as if this package had written it.
func (s *Store) contents(doc *document) (contents, error) {
	with := contents{branch: doc.Branch, heads: doc.Heads, summaries: doc.Summaries}
	if doc.Type != exportType {
		return with, invalid("type is %.64q; want %q", doc.Type, exportType)
	}
	if err := checkBranch(with.branch); err != nil {
		return with, err
	}
	for _, n := range []struct {
		field        string
		value, bound int
	}{
		{"turns", len(doc.Turns), s.cfg.MaxMessages}, {"branches", len(doc.Heads), s.cfg.MaxBranches}, {"summaries", len(doc.Summaries), s.cfg.MaxSummaries},
	} {
		if err := tooLarge(n.field, n.value, n.bound); err != nil {
			return with, err
		}
	}
	finished := make(map[string]bool, len(doc.Turns))
	for i := range doc.Turns {
		d := &doc.Turns[i]
		turn, err := s.importTurn(d, i > 0 && doc.Turns[i-1].Dropped == 0)
		if err != nil {
			return with, fmt.Errorf("turns[%d]: %w", i, err)
		}
		if _, twice := finished[d.ID]; twice {
			return with, invalid("turns[%d] has the id of another, %.128q", i, d.ID)
		}
		if d.Parent != "" && !finished[d.Parent] {
			return with, invalid("turns[%d] has parent %.128q; want a finished turn before it", i, d.Parent)
		}
		finished[d.ID] = d.Status == Finished
		with.turns = append(with.turns, turn)
	}
	for _, name := range slices.Sorted(maps.Keys(doc.Heads)) {
		if err := checkBranch(name); err != nil {
			return with, err
		}
		if !finished[doc.Heads[name]] {
			return with, invalid("heads: %s is at %.128q; want a finished turn", name, doc.Heads[name])
		}
	}
	for i, sum := range doc.Summaries {
		if !finished[sum.Turn] || sum.Text == "" || sum.Tokens < 0 || sum.Tokens > maxTokens {
			return with, invalid("summaries[%d] is of turn %.128q; want a finished turn, a text, and 0 or more tokens", i, sum.Turn)
		}
		if err := tooLarge("bytes of the summary", len(marshal(sum)), s.cfg.MaxSummaryBytes); err != nil {
			return with, err
		}
	}
	return with, nil
}

// importTurn checks one turn. Turns without messages come before all others.
func (s *Store) importTurn(d *documentTurn, late bool) (Turn, error) {
	t := Turn{ID: d.ID, Parent: d.Parent, Status: d.Status, Model: d.Model, FinishReason: d.FinishReason, Moderation: d.Moderation, Created: d.Created}
	if err := checkTurnID(d.ID); err != nil {
		return t, err
	}
	if d.Status.letter() == "" {
		return t, invalid("status is %.32q; want finished, interrupted, blocked or cancelled", d.Status)
	}
	if d.Dropped != 0 {
		if late || len(d.Messages) > 0 || d.Dropped < 0 || d.Dropped > maxTokens || d.DroppedTokens < 0 || d.DroppedTokens > maxTokens {
			return t, invalid("dropped is %d, with %d tokens and %d messages; want it above 0, without messages, and only before the first turn that has any",
				d.Dropped, d.DroppedTokens, len(d.Messages))
		}
		t.Dropped, t.lost, t.Tokens = true, d.Dropped, d.DroppedTokens
		return t, nil
	}
	for i, body := range d.Messages {
		m := Message{Body: body}
		if len(d.Tokens) == len(d.Messages) {
			m.Tokens = d.Tokens[i]
		}
		t.Messages = append(t.Messages, m)
	}
	if err := s.checkMessages(t.Messages); err != nil {
		return t, err
	}
	if u := d.Usage; u != nil {
		if u.PromptTokens < 0 || u.CompletionTokens < 0 {
			return t, invalid("usage is %d and %d tokens; want 0 or more", u.PromptTokens, u.CompletionTokens)
		}
		t.Usage = *u
	}
	return t, nil
}

// checkTurnID says why id cannot name a turn. Ids are subject tokens of twice a job's length.
func checkTurnID(id string) error {
	tail, ok := bytes.CutPrefix([]byte(id), []byte("t-"))
	if !ok {
		return invalid("id is %.128q; want one that begins with t-", id)
	}
	if err := schemas.CheckToken(string(tail)); err != nil {
		return invalid("id after t- %w", err)
	}
	return nil
}
