package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// What vllm bench serve leaves out of ShareGPT: what is too short to measure and what is too long for small windows.
// Its bounds are in tokens; here a token is taken for four bytes of text.
const (
	bytesPerToken  = 4
	minTokens      = 4
	maxPromptTok   = 1024
	maxTotalTokens = 2048
)

// ShareGPT reads conversations in ShareGPT's form: an array of {"conversations": [{"from", "value"}, ...]}. A request asks
// the first question of one, for an answer as long as the recorded one; with all it asks every question of it.
func ShareGPT(in io.Reader, seed uint64, all bool) (Dataset, error) {
	d := &recorded{name: "sharegpt"}
	limited := &io.LimitedReader{R: in, N: maxDatasetBytes}
	dec := json.NewDecoder(limited)
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, fmt.Errorf("sharegpt: it does not begin with an array: %w", cmpErr(err))
	}
	for dec.More() {
		if len(d.prompts) == maxPrompts {
			break
		}
		var c shared
		if err := dec.Decode(&c); err != nil {
			if limited.N == 0 {
				err = fmt.Errorf("it is longer than %d bytes", maxDatasetBytes)
			}
			return nil, fmt.Errorf("sharegpt: conversation %d: %w", len(d.prompts)+1, err)
		}
		if p, ok := c.prompt(all); ok {
			d.prompts = append(d.prompts, p)
		}
	}
	return d.shuffled(seed)
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("another value comes first")
	}
	return err
}

type shared struct {
	Conversations []struct {
		From  string `json:"from"`
		Value string `json:"value"`
	} `json:"conversations"`
}

// prompt takes the questions out, with the length of the first answer. ok is false for what is no question and
// answer, or out of bounds.
func (c shared) prompt(all bool) (p Prompt, ok bool) {
	for _, m := range c.Conversations {
		switch m.From {
		case "human", "user":
			if all || len(p.Turns) == 0 {
				p.Turns = append(p.Turns, m.Value)
			}
		case "system":
			p.System = m.Value
		case "gpt", "assistant", "chatgpt", "bing", "bard":
			if p.MaxTokens == 0 && len(p.Turns) == 1 {
				p.MaxTokens = len(m.Value) / bytesPerToken
			}
		}
	}
	if len(p.Turns) == 0 {
		return p, false
	}
	in := (len(p.System) + len(p.Turns[0])) / bytesPerToken
	return p, in >= minTokens && p.MaxTokens >= minTokens && in <= maxPromptTok && in+p.MaxTokens <= maxTotalTokens
}
