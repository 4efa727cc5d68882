package openai_test

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// The slow parser that the fast one is measured against: encoding/json into maps, which compares
// names exactly and lets the last of several count.

type object = map[string]json.RawMessage

func refChunk(data []byte) (openai.Chunk, error) {
	var top object
	if err := unmarshal(data, &top); err != nil {
		return openai.Chunk{}, err
	}
	if top == nil {
		return openai.Chunk{}, errors.New("not an object")
	}
	var c openai.Chunk
	var raws []json.RawMessage
	if err := unmarshal(top["choices"], &raws); err != nil {
		return c, err
	}
	var prompt json.RawMessage
	for _, raw := range raws {
		part, ids, err := refChoice(raw)
		if err != nil {
			return c, err
		}
		c.Parts = append(c.Parts, part)
		if prompt == nil {
			prompt = ids
		}
	}
	if top := nonNull(top["prompt_token_ids"]); top != nil {
		prompt = top
	}
	var err error
	if c.PromptTokenIDs, err = ints(prompt); err != nil {
		return c, err
	}
	c.Error = nonNull(top["error"])
	if c.Error == nil && string(top["object"]) == `"error"` {
		c.Error = data
	}
	if raw := nonNull(top["usage"]); raw != nil {
		var fields object
		if err := unmarshal(raw, &fields); err != nil {
			return c, err
		}
		c.Usage = &schemas.Usage{}
		err := errors.Join(
			unmarshal(fields["prompt_tokens"], &c.Usage.PromptTokens),
			unmarshal(fields["completion_tokens"], &c.Usage.CompletionTokens),
			unmarshal(fields["total_tokens"], &c.Usage.TotalTokens),
		)
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func refChoice(raw json.RawMessage) (ch openai.Choice, prompt json.RawMessage, err error) {
	var o, delta object
	if err := unmarshal(raw, &o); err != nil {
		return ch, nil, err
	}
	if o == nil {
		return ch, nil, errors.New("null choice")
	}
	if err := unmarshal(o["delta"], &delta); err != nil {
		return ch, nil, err
	}
	var text, content, reasoning, reasoningContent, refusal, role, finish *string
	var tools []json.RawMessage
	err = errors.Join(
		unmarshal(o["index"], &ch.Index),
		unmarshal(o["text"], &text),
		unmarshal(delta["content"], &content),
		unmarshal(delta["reasoning"], &reasoning),
		unmarshal(delta["reasoning_content"], &reasoningContent),
		unmarshal(delta["refusal"], &refusal),
		unmarshal(delta["role"], &role),
		unmarshal(delta["tool_calls"], &tools),
		unmarshal(o["finish_reason"], &finish),
	)
	if err != nil {
		return ch, nil, err
	}
	ch.Text = either(content, text)
	ch.Reasoning = either(reasoning, reasoningContent)
	ch.Refusal = either(refusal, nil)
	ch.Role = string(either(role, nil))
	ch.FinishReason = string(either(finish, nil))
	if len(tools) > 0 {
		ch.ToolCalls = delta["tool_calls"]
	}
	ch.Logprobs = nonNull(o["logprobs"])
	ch.StopReason = nonNull(o["stop_reason"])
	ch.TokenIDs, err = ints(o["token_ids"])
	return ch, nonNull(o["prompt_token_ids"]), err
}

func unmarshal(raw []byte, into any) error {
	if raw == nil {
		return nil
	}
	return json.Unmarshal(raw, into)
}

// ints refuses null elements, which encoding/json reads as 0.
func ints(raw json.RawMessage) ([]int, error) {
	var pointers []*int
	if err := unmarshal(raw, &pointers); err != nil {
		return nil, err
	}
	var out []int
	for _, p := range pointers {
		if p == nil {
			return nil, errors.New("null among integers")
		}
		out = append(out, *p)
	}
	return out, nil
}

func either(a, b *string) []byte {
	if a == nil {
		a = b
	}
	if a == nil {
		return nil
	}
	return []byte(*a)
}

func nonNull(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// duplicates reports whether any object in data has two members of one name.
func duplicates(data []byte) bool {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	found := false
	var value func()
	value = func() {
		token, err := d.Token()
		if err != nil {
			return
		}
		switch token {
		case json.Delim('{'):
			seen := map[string]bool{}
			for d.More() {
				name, err := d.Token()
				if err != nil {
					return
				}
				key, _ := name.(string)
				found = found || seen[key]
				seen[key] = true
				value()
			}
			_, _ = d.Token()
		case json.Delim('['):
			for d.More() {
				value()
			}
			_, _ = d.Token()
		}
	}
	value()
	return found
}
