package conversation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// BeginTurn asks for a turn to begin.
type BeginTurn struct {
	// Job is the id of the job that makes the turn.
	Job string
	// Parent is the turn to answer: "" is the head of Branch, [Root] is none.
	Parent string
	// Branch is the active one by default.
	Branch string
	// ExpectRev refuses the turn if the conversation has moved on.
	ExpectRev *int64
	// Serialize refuses the turn while another is in flight. Otherwise the two branch.
	Serialize bool
}

// Begun is a turn in flight.
type Begun struct {
	// Turn is the id that the turn will have.
	Turn string
	// Parent is the turn to answer, "" for none; give it to [Store.Append], with Branch.
	Parent, Branch string
	Rev            int64
	// Committed is set if the turn is in the session already: this is a redelivery, and
	// [Store.Turns] has the reply.
	Committed bool
	// Beside are the other turns in flight, and those that this call found to be so no longer.
	Beside []string
}

// Leaf is Parent as [PathQuery] takes it.
func (b *Begun) Leaf() string { return cmp.Or(b.Parent, Root) }

// Begin notes that a turn is in flight, until [Store.Append], [Store.Abort] or [Config.PendingTTL] ends it. A
// second Begin of the same job renews it.
func (s *Store) Begin(ctx context.Context, ref Ref, b BeginTurn) (*Begun, error) {
	if err := schemas.CheckToken(b.Job); err != nil {
		return nil, fmt.Errorf("begin: %w", invalid("job %w", err))
	}
	turn := TurnID(b.Job)
	r, err := s.run(ctx, "begin", ref, turn, b.Parent, b.Branch, revision(b.ExpectRev), flag(b.Serialize),
		millis(time.Now()), s.cfg.PendingTTL.Milliseconds(), s.cfg.MaxPending)
	if err != nil {
		return nil, err
	}
	out := &Begun{Turn: turn, Rev: r.int(), Parent: r.text(), Branch: r.text(), Committed: r.bool()}
	if beside := r.texts(); len(beside) > 0 {
		out.Beside = beside
	}
	return out, r.err
}

// PendingTTL is how long a turn counts as in flight after its last Begin.
func (s *Store) PendingTTL() time.Duration { return s.cfg.PendingTTL }

// Abort ends a turn in flight of which nothing is kept, and counts it. A turn that is not in flight is left alone.
func (s *Store) Abort(ctx context.Context, ref Ref, job string) error {
	_, err := s.run(ctx, "abort", ref, TurnID(job))
	return err
}

// NewTurn is a turn to store.
type NewTurn struct {
	// Job is the id of the job that made it. One job makes one turn, however often it is stored.
	Job string
	// Parent is the turn that it answers; "" or [Root] is none. It is not the head by default: that
	// may have moved since.
	Parent string
	// Branch is the one whose head moves on, the active one by default.
	Branch string
	// ExpectRev refuses the turn if the conversation has moved on.
	ExpectRev *int64
	// Status is [Finished] by default. Any other is kept apart from history.
	Status Status
	// Messages are the new ones and the reply, in order.
	Messages     []Message
	Model        string
	FinishReason string
	Usage        schemas.Usage
	// Latency is how long the turn took.
	Latency time.Duration
	// Truncated says that the window left something out.
	Truncated  bool
	Moderation json.RawMessage
}

// Appended is what became of a turn.
type Appended struct {
	Turn string
	// Seq is the sequence number of its first message.
	Seq int64
	// Rev and Head are the session's, after it; Head is the branch's last turn.
	Rev  int64
	Head string
	// Moved is set if this call made the turn the head.
	Moved bool
	// Duplicate is set if the turn was there already; nothing was changed.
	Duplicate bool
	// DroppedMessages and ForgottenTurns are what had to go to keep the session within its bounds.
	DroppedMessages, ForgottenTurns int
}

// Append stores a turn, atomically and once. The session must exist.
func (s *Store) Append(ctx context.Context, ref Ref, t NewTurn) (*Appended, error) {
	if t.Status == "" {
		t.Status = Finished
	}
	if t.Parent == Root {
		t.Parent = ""
	}
	body, tokens, err := s.turnBody(&t)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	turn := TurnID(t.Job)
	r, err := s.run(ctx, "append", ref, turn, t.Parent, revision(t.ExpectRev), t.Branch, t.Status.letter(),
		len(t.Messages), len(body), tokens, body, millis(time.Now()), s.cfg.MaxMessages, s.cfg.MaxBytes,
		t.Usage.PromptTokens, t.Usage.CompletionTokens, t.Latency.Milliseconds(), flag(t.Truncated))
	if err != nil {
		return nil, err
	}
	out := &Appended{Turn: turn, Duplicate: r.word == "duplicate", Seq: r.int(), Rev: r.int(), Head: r.text()}
	user, ttl := r.text(), time.Duration(r.int())*time.Millisecond
	if !out.Duplicate {
		out.Moved, out.DroppedMessages, out.ForgottenTurns = r.bool(), int(r.int()), int(r.int())
	}
	if r.err != nil {
		return nil, fmt.Errorf("append session %s: %w", ref.ID, r.err)
	}
	if !out.Duplicate {
		s.metrics.stored(&t, out)
	}
	s.relist(ctx, ref, user, millis(time.Now()), ttl)
	return out, nil
}

// turnBody checks a turn and makes what is stored of it.
func (s *Store) turnBody(t *NewTurn) (body []byte, tokens int, err error) {
	if err := schemas.CheckToken(t.Job); err != nil {
		return nil, 0, invalid("job %w", err)
	}
	if t.Status.letter() == "" {
		return nil, 0, invalid("status is %.32q; want finished, interrupted, blocked or cancelled", t.Status)
	}
	if t.Latency < 0 || t.Usage.PromptTokens < 0 || t.Usage.CompletionTokens < 0 {
		return nil, 0, invalid("latency and usage are %s, %d and %d; want 0 or more", t.Latency, t.Usage.PromptTokens, t.Usage.CompletionTokens)
	}
	if err := errors.Join(tooLarge("bytes of model", len(t.Model), MaxModel), s.checkMessages(t.Messages)); err != nil {
		return nil, 0, err
	}
	if len(t.Moderation) > 0 && !json.Valid(t.Moderation) {
		return nil, 0, invalid("moderation is no JSON")
	}
	stored := Turn{
		Messages: append([]Message(nil), t.Messages...), Model: t.Model, FinishReason: t.FinishReason,
		Usage: t.Usage, Moderation: t.Moderation, Created: time.Now(),
	}
	if body, err = encodeTurn(&stored); err != nil {
		return nil, 0, err
	}
	return body, stored.Tokens, tooLarge("bytes of the turn", len(body), s.cfg.MaxTurnBytes)
}
