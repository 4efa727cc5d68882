package workers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// storedTurn is the turn of the job if it has been stored with a reply, nil if not.
func (w *Worker) storedTurn(ctx context.Context, r *run, ref conversation.Ref) (*conversation.Turn, error) {
	turns, err := w.cfg.Conversations.Turns(ctx, ref, conversation.TurnID(r.job.ID))
	switch {
	case errors.Is(err, conversation.ErrNoTurn), errors.Is(err, conversation.ErrNotFound), errors.Is(err, conversation.ErrDeleted):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if t := &turns[0]; t.Status == conversation.Finished && len(t.Messages) > 0 {
		return t, nil
	}
	return nil, nil
}

// recall looks for the turn that an earlier attempt has stored, and got no further. Such a job is
// complete, whatever has been asked for since: the conversation goes on from its reply. A store that does not
// answer is asked again when the turn is begun.
func (w *Worker) recall(ctx context.Context, r *run) *body {
	s, began := r.job.Session, r.history.turn
	if s == nil || began == nil || began.Session != s.ID || s.Summarize != "" || w.cfg.Conversations == nil {
		return nil
	}
	ref := conversation.Ref{Tenant: r.job.Tenant, ID: s.ID}
	ask, stop := context.WithTimeout(ctx, keepTimeout)
	defer stop()
	r.storing.Store(true)
	defer r.storeAnswered()
	stored, err := w.storedTurn(ask, r, ref)
	if err != nil || stored == nil {
		return nil
	}
	view := *began
	view.Parent = stored.Parent
	r.turn = &turn{ref: ref, view: view, fresh: stored.Messages[:len(stored.Messages)-1]}
	return &body{stored: stored, sequences: 1}
}

// replay gives the reply that the job's turn has been stored with: one turn, one answer, always the same.
func (w *Worker) replay(ctx context.Context, r *run, b *body) error {
	t, h := b.stored, &r.history
	r.turn.by = t.Model
	var reply message
	if err := json.Unmarshal(t.Messages[len(t.Messages)-1].Body, &reply); err != nil {
		return fmt.Errorf("reply of turn %s: %w", t.ID, err)
	}
	opening := &schemas.Event{Kind: schemas.Started, Reason: "the turn was stored already"}
	switch {
	case h.attempt == 0:
	case !h.delivered:
		opening.Kind, opening.Reason = schemas.Resumed, fmt.Sprintf("attempt %d was interrupted after its turn had been stored", h.attempt)
	case h.broken == "" && h.text == reply.Content && len(reply.ToolCalls) == 0:
		err := w.complete(ctx, r, &continuation{kept: h.ids, finish: cmp.Or(t.FinishReason, "stop")}, b)
		r.usage = &t.Usage
		return err
	default:
		opening.Kind = schemas.Restarted
		opening.Reason = fmt.Sprintf("attempt %d was interrupted: its turn has been stored with a reply that is not the one sent", h.attempt)
	}
	if err := w.begin(r, opening, nil); err != nil {
		return err
	}
	d, err := whole(&reply, t.FinishReason)
	if err != nil {
		return fmt.Errorf("reply of turn %s: %w", t.ID, err)
	}
	r.usage = &t.Usage
	return r.deliver(d, nil)
}

// whole is a reply as one delta.
func whole(reply *message, finish string) (*Delta, error) {
	type delta struct {
		Role      string     `json:"role"`
		Content   string     `json:"content"`
		ToolCalls []toolCall `json:"tool_calls,omitempty"`
	}
	for i := range reply.ToolCalls {
		reply.ToolCalls[i].Index = &i
	}
	raw, err := json.Marshal(struct {
		Index        int              `json:"index"`
		Delta        delta            `json:"delta"`
		Logprobs     *json.RawMessage `json:"logprobs"`
		FinishReason string           `json:"finish_reason"`
	}{Delta: delta{reply.Role, reply.Content, reply.ToolCalls}, FinishReason: cmp.Or(finish, "stop")})
	if err != nil {
		return nil, err
	}
	parts, err := openai.ParseChoices(append(append([]byte{'['}, raw...), ']'), nil)
	if err != nil {
		return nil, err
	}
	return &Delta{Choices: raw, Parts: parts}, nil
}
