package workers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// markMasked is on the choices of an event whose text is not the engine's. Inside a JSON text its
// quotes would be escaped.
var markMasked = []byte(`"masked":true`)

// own copies what a delta points to: its memory is the engine's.
func (h *heldDelta) own() {
	h.Choices = bytes.Clone(h.Choices)
	h.PromptTokens = slices.Clone(h.PromptTokens)
	parts := make([]openai.Choice, len(h.Parts))
	for i := range h.Parts {
		index := h.Parts[i].Index
		parts[i] = ownPart(&h.Parts[i])
		parts[i].Index = index
	}
	h.Parts = parts
}

// rewrite applies the edits to the texts of a delta that goes on.
func (s *screen) rewrite(h *heldDelta) error {
	var raw []json.RawMessage
	for i := range h.Parts {
		if !s.masks(h, i) {
			continue
		}
		var err error
		if raw == nil {
			if raw, err = objects(&h.Delta); err != nil {
				return err
			}
		}
		pieces := slices.DeleteFunc(slices.Clone(h.pieces), func(p piece) bool { return p.part != i || !p.edited() })
		if raw[i], err = rewritten(raw[i], &h.Parts[i], pieces); err != nil {
			return fmt.Errorf("mask a choice: %w", err)
		}
	}
	if raw != nil {
		h.Choices = bytes.Join(chunks(raw), []byte{','})
	}
	for _, p := range h.pieces {
		t := p.text
		t.ends = slices.DeleteFunc(t.ends, func(e textEnd) bool { return e.at <= p.to })
		t.edits = slices.DeleteFunc(t.edits, func(e Edit) bool { return e.To <= p.to })
	}
	return nil
}

// masks reports whether a choice of a delta has, in its texts or spelled by its tokens, what is to be replaced.
func (s *screen) masks(h *heldDelta, part int) bool {
	tokens := h.tokens(part)
	return slices.ContainsFunc(h.pieces, func(p piece) bool { return p.part == part && (p.edited() || tokens && s.spells(p)) }) ||
		slices.ContainsFunc(h.after, func(p piece) bool { return p.part == part && s.spells(p) })
}

// spells reports whether the tokens of a piece may spell what is to be replaced: here or, where
// texts are behind their tokens, further on.
func (s *screen) spells(p piece) bool {
	if s.r.lag == 0 {
		return p.edited()
	}
	if at, ok := p.text.beyond(p.runes + s.r.lag); ok {
		p.to = at
		return p.edited()
	}
	for key, t := range s.texts {
		if key.choice == p.key.choice && len(t.edits) > 0 {
			return true
		}
	}
	return false
}

func chunks(raw []json.RawMessage) [][]byte {
	out := make([][]byte, len(raw))
	for i := range raw {
		out[i] = raw[i]
	}
	return out
}

func (p piece) edited() bool {
	return slices.ContainsFunc(p.text.edits, func(e Edit) bool { return e.To > p.from && e.From < p.to })
}

// rewritten returns a choice, as JSON and in c, with the edits of its texts, which are pieces. Its tokens and
// their probabilities would tell what was replaced, so they go.
func rewritten(raw json.RawMessage, c *openai.Choice, pieces []piece) (json.RawMessage, error) {
	var calls []map[string]json.RawMessage
	for _, p := range pieces {
		apply := func(text *[]byte) { *text = edit(make([]byte, 0, len(*text)+16), *text, p.from, p.text.edits) }
		switch p.key.kind {
		case kindContent:
			apply(&c.Text)
		case kindReasoning:
			apply(&c.Reasoning)
		case kindRefusal:
			apply(&c.Refusal)
		case kindTools:
			c.ToolCalls = []byte("[]") // nobody knows where in it the text may be changed
		default:
			if calls == nil {
				_ = json.Unmarshal(c.ToolCalls, &calls) // it was read before
			}
			if err := editCall(calls[p.entry], p); err != nil {
				return nil, err
			}
		}
	}
	if calls != nil {
		var err error
		if c.ToolCalls, err = json.Marshal(calls); err != nil {
			return nil, err
		}
	}
	c.TokenIDs, c.Logprobs = nil, nil

	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	fields := []openai.Field{{Name: "token_ids"}, {Name: "logprobs", Value: []byte("null")}, {Name: "masked", Value: []byte("true")}}
	delta, chat := members["delta"]
	var inside map[string]json.RawMessage
	if chat = chat && json.Unmarshal(delta, &inside) == nil && inside != nil; chat {
		var texts []openai.Field
		set := func(name string, value []byte) {
			if there, ok := inside[name]; ok && string(there) != "null" {
				texts = append(texts, openai.Field{Name: name, Value: value})
			}
		}
		set("content", quote(string(c.Text)))
		set("reasoning", quote(string(c.Reasoning)))
		set("reasoning_content", quote(string(c.Reasoning)))
		set("refusal", quote(string(c.Refusal)))
		if c.ToolCalls != nil {
			set("tool_calls", c.ToolCalls)
		}
		var err error
		if delta, err = openai.Splice(delta, texts...); err != nil {
			return nil, err
		}
		fields = append(fields, openai.Field{Name: "delta", Value: delta})
	}
	if _, ok := members["text"]; ok {
		fields = append(fields, openai.Field{Name: "text", Value: quote(string(c.Text))})
	}
	return openai.Splice(raw, fields...)
}

// editCall applies the edits of a piece to the name or the arguments of a tool call.
func editCall(call map[string]json.RawMessage, p piece) error {
	name := "arguments"
	if p.key.kind == kindToolName {
		name = "name"
	}
	var function map[string]json.RawMessage
	var text string
	if err := json.Unmarshal(call["function"], &function); err != nil {
		return err
	}
	if err := json.Unmarshal(function[name], &text); err != nil {
		return err
	}
	function[name] = quote(string(edit(nil, []byte(text), p.from, p.text.edits)))
	raw, err := json.Marshal(function)
	call["function"] = raw
	return err
}
