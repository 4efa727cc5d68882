package workers

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hxp-enterprise/hxp/schemas"
)

// answer puts the streamed choices of a job together into the choices of OpenAI's non-streaming
// response.
type answer struct {
	endpoint schemas.Endpoint
	parts    []*part // by index
	prompt   int     // prompt tokens, as far as the engine told
	tokens   int
}

type part struct {
	index     int
	role      string
	text      []byte
	reasoning []byte
	tools     []toolCall
	logprobs  []json.RawMessage
	finish    string
	stop      json.RawMessage
}

type toolCall struct {
	Index    *int   `json:"index,omitempty"`
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

func newAnswer(endpoint schemas.Endpoint) *answer { return &answer{endpoint: endpoint} }

// add takes in a delta. It keeps nothing of d.
func (a *answer) add(d *Delta) {
	a.tokens += d.Tokens
	if len(d.PromptTokens) > 0 {
		a.prompt += len(d.PromptTokens)
	}
	for i := range d.Parts {
		c := &d.Parts[i]
		p := a.part(c.Index)
		if c.Role != "" {
			p.role = c.Role
		}
		p.text = append(p.text, c.Text...)
		p.reasoning = append(p.reasoning, c.Reasoning...)
		if c.ToolCalls != nil {
			p.addTools(c.ToolCalls)
		}
		if c.Logprobs != nil {
			p.logprobs = append(p.logprobs, slices.Clone(c.Logprobs))
		}
		if c.FinishReason != "" {
			p.finish = c.FinishReason
			p.stop = slices.Clone(c.StopReason)
		}
	}
}

func (a *answer) part(index int) *part {
	if index < len(a.parts) && a.parts[index].index == index {
		return a.parts[index]
	}
	at, found := slices.BinarySearchFunc(a.parts, index, func(p *part, i int) int { return p.index - i })
	if !found {
		a.parts = slices.Insert(a.parts, at, &part{index: index})
	}
	return a.parts[at]
}

// addTools joins streamed tool calls: the first piece of a call names it, later ones extend its arguments.
func (p *part) addTools(raw []byte) {
	var calls []toolCall
	if json.Unmarshal(raw, &calls) != nil {
		return // not of OpenAI's form: readers of the stream have it verbatim
	}
	for _, c := range calls {
		at := len(p.tools)
		if c.Index != nil {
			at = slices.IndexFunc(p.tools, func(t toolCall) bool { return t.Index != nil && *t.Index == *c.Index })
			if at < 0 {
				at = len(p.tools)
			}
		}
		if at == len(p.tools) {
			p.tools = append(p.tools, c)
			continue
		}
		t := &p.tools[at]
		t.Function.Name += c.Function.Name
		t.Function.Arguments += c.Function.Arguments
	}
}

// text is the text of the first choice.
func (a *answer) text() string {
	if len(a.parts) == 0 || a.parts[0].index != 0 {
		return ""
	}
	return string(a.parts[0].text)
}

// usage is our own count, for engines that give none.
func (a *answer) usage() *schemas.Usage {
	return &schemas.Usage{PromptTokens: a.prompt, CompletionTokens: a.tokens, TotalTokens: a.prompt + a.tokens}
}

type message struct {
	Role      string     `json:"role"`
	Content   string     `json:"content"`
	Reasoning string     `json:"reasoning,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type choice struct {
	Index        int             `json:"index"`
	Message      *message        `json:"message,omitempty"`
	Text         *string         `json:"text,omitempty"`
	Logprobs     json.RawMessage `json:"logprobs"`
	FinishReason *string         `json:"finish_reason"`
	StopReason   json.RawMessage `json:"stop_reason,omitempty"`
}

// choices encodes the answer. finish_reason is null for a choice that did not end.
func (a *answer) choices() (json.RawMessage, error) {
	out := make([]choice, 0, len(a.parts))
	for _, p := range a.parts {
		c := choice{Index: p.index, StopReason: p.stop}
		if p.finish != "" {
			c.FinishReason = &p.finish
		}
		text := string(p.text)
		if a.endpoint == schemas.ChatCompletions {
			for i := range p.tools {
				p.tools[i].Index = nil
			}
			c.Message = &message{Role: p.role, Content: text, Reasoning: string(p.reasoning), ToolCalls: p.tools}
			if c.Message.Role == "" {
				c.Message.Role = "assistant"
			}
		} else {
			c.Text = &text
		}
		var err error
		if c.Logprobs, err = joinLogprobs(p.logprobs); err != nil {
			return nil, fmt.Errorf("choice %d: logprobs: %w", p.index, err)
		}
		out = append(out, c)
	}
	return json.Marshal(out)
}

// joinLogprobs concatenates the arrays of streamed logprobs objects, key by key: "content" for chat,
// "tokens", "token_logprobs" and so on for completions.
func joinLogprobs(pieces []json.RawMessage) (json.RawMessage, error) {
	if len(pieces) == 0 {
		return nil, nil
	}
	joined := make(map[string][]json.RawMessage)
	for _, raw := range pieces {
		var piece map[string][]json.RawMessage
		if err := json.Unmarshal(raw, &piece); err != nil {
			return nil, err
		}
		for k, v := range piece {
			joined[k] = append(joined[k], v...)
		}
	}
	return json.Marshal(joined)
}
