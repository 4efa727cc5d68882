package workers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// assumedWindow is that of a model whose engine and configuration do not tell.
const assumedWindow = 4096

// span is how many tokens a sequence may have: the model's window, or what the engine's KV cache
// holds if that is less. 0 if neither is known.
func (w *Worker) span(limits Limits) (tokens int, inPool bool) {
	tokens = limits.MaxModelLen
	if pool := w.capacity.pool(); pool > 0 && (tokens == 0 || pool < tokens) {
		return pool, true
	}
	return tokens, false
}

// windowOf is what a job's prompt may be, with room for the reply.
func (w *Worker) windowOf(r *run, b *body) (conversation.Window, error) {
	s := r.tuned.Sessions
	size, _ := w.span(r.limits())
	size = cmp.Or(size, assumedWindow)
	reply := b.maxTokens
	if reply == 0 {
		reply = min(cmp.Or(s.ReplyTokens, min(1024, size/4)), size*3/4)
	}
	if reply+s.Margin >= size {
		return conversation.Window{}, schemas.Errorf(schemas.CodeContextLengthExceeded,
			"max_tokens is %d, which with a margin of %d leaves no room for messages; the model's window is %d", reply, s.Margin, size).WithParam("max_tokens")
	}
	return conversation.Window{
		MaxModelLen: size, MaxTokens: reply, Margin: s.Margin, Strategy: cmp.Or(r.job.Session.Window, s.Strategy),
		Turns: s.LastN, Keep: s.Keep, SummaryTokens: s.SummaryTokens,
		Count: func(ctx context.Context, messages []json.RawMessage) (int, error) {
			r.touch()
			raw, _, _, err := b.with(r, messages)
			if err != nil {
				return 0, err
			}
			return w.engine.CountTokens(ctx, r.job.Endpoint, raw)
		},
	}, nil
}

// showHistory reads the conversation up to the turn that is answered and puts as much of it as fits
// in front of the job's messages.
func (w *Worker) showHistory(ctx context.Context, r *run, b *body, begun *conversation.Begun) error {
	window, err := w.windowOf(r, b)
	if err != nil {
		return err
	}
	path, err := w.cfg.Conversations.Path(ctx, r.turn.ref, window.Budget(begun.Leaf(), begun.Branch))
	if err != nil {
		return w.sessionFault(ctx, r, err)
	}
	w.sessions.reached(nil)
	r.storeAnswered()
	if err := w.moderateSystem(ctx, r, path); err != nil {
		return err
	}
	messages := make([]json.RawMessage, len(r.turn.fresh))
	for i, m := range r.turn.fresh {
		messages[i] = m.Body
	}
	prompt, err := window.Build(ctx, path, messages)
	if errors.Is(err, ErrUnsupported) {
		window.Count = nil
		prompt, err = window.Build(ctx, path, messages)
	}
	switch {
	case errors.Is(err, conversation.ErrWindow), errors.Is(err, conversation.ErrInvalid):
		return conversation.WireError(err)
	case err != nil:
		return err // the engine's
	}
	if err := b.show(r, prompt.Messages); err != nil {
		return err
	}
	if prompt.Counts > 0 {
		b.promptTokens, b.promptExact = prompt.Tokens, true
	}
	own := 0
	for i := range r.turn.fresh {
		r.turn.fresh[i].Tokens = prompt.NewTokens[i]
		own += prompt.NewTokens[i]
	}
	r.metrics.sessions.history.Add(float64(max(0, prompt.Tokens-own)))
	if prompt.LeftOut.Turns > 0 {
		left := prompt.LeftOut
		r.turn.view.LeftOut = &left
	}
	r.turn.want = prompt.Want
	return nil
}

// with is the request with other messages, in the form of the model's prompts; value is those.
func (b *body) with(r *run, messages []json.RawMessage) (raw, value []byte, folded bool, err error) {
	value = list(messages)
	if role := r.tuned.Capabilities.SystemRole; role != "" && role != SystemNative {
		f := &faults{}
		other, changed := foldSystem(value, r.job.Model, role, f)
		if err := f.err(); err != nil {
			return nil, nil, false, err
		}
		value, folded = other, changed
	}
	if raw, err = openai.Splice(b.raw, openai.Field{Name: "messages", Value: value}); err != nil {
		return nil, nil, false, schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	}
	return raw, value, folded, nil
}

// show gives the request its messages.
func (b *body) show(r *run, messages []json.RawMessage) error {
	raw, value, folded, err := b.with(r, messages)
	if err != nil {
		return err
	}
	if b.note = ""; folded {
		b.note = saidFolded
	}
	b.raw, b.fields["messages"] = raw, value
	b.promptTokens, b.promptExact = len(value), false
	return nil
}
