package workers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

const (
	// maxGroup bounds a group: engines bound the prompts of a request as well.
	maxGroup = 1024
	// maxGroupedBody bounds the request of a member in bytes: what a group saves is little beside a long prompt.
	maxGroupedBody = 64 << 10
	// defaultMaxTokens is OpenAI's and vLLM's for completions.
	defaultMaxTokens = 16
)

// notGrouped are request fields that mean something for the request as a whole, or that make more of a
// reply than one choice for each prompt.
var notGrouped = []string{
	"best_of", "echo", "suffix", "prompt_logprobs", "prompt_embeds", "use_beam_search", "request_id",
	"kv_transfer_params", "ec_transfer_params",
}

// ofTheTransport are request fields that the engine replaces: see [Request.Body].
var ofTheTransport = []string{"model", "stream", "stream_options", "return_token_ids"}

// shape is what a request has in common with those that it can go to the engine with.
type shape struct {
	key       string
	prompt    json.RawMessage
	maxTokens int
}

// shapeOf returns the shape of a request, or false for one that goes alone.
func shapeOf(req *Request) (s shape, ok bool) {
	if req.Endpoint != schemas.Completions || len(req.Body) > maxGroupedBody {
		return s, false
	}
	b := body{}
	if json.Unmarshal(req.Body, &b.fields) != nil || slices.ContainsFunc(notGrouped, b.has) {
		return s, false
	}
	if b.has("n") && string(b.fields["n"]) != "1" {
		return s, false
	}
	s.prompt = b.fields["prompt"]
	kind := promptKind(s.prompt)
	if kind == "" {
		return s, false
	}
	s.maxTokens = defaultMaxTokens
	if n, err := strconv.ParseFloat(string(b.fields["max_tokens"]), 64); err == nil {
		s.maxTokens = int(n) // parseBody has bounded it
	}
	key := bytes.NewBufferString(kind)
	for _, name := range slices.Sorted(maps.Keys(b.fields)) {
		if name == "prompt" || slices.Contains(ofTheTransport, name) {
			continue
		}
		key.WriteString(strconv.Quote(name))
		// Objects inside a value keep their order: in a JSON schema it is the order of what is generated.
		if json.Compact(key, b.fields[name]) != nil {
			return s, false
		}
	}
	s.key = key.String()
	return s, true
}

// promptKind tells one text from one list of token ids; "" for anything else.
func promptKind(raw json.RawMessage) string {
	switch {
	case len(raw) == 0:
		return ""
	case raw[0] == '"':
		return "text"
	case raw[0] == '[':
		if first := bytes.TrimLeft(raw[1:], " \t\r\n"); first[0] >= '0' && first[0] <= '9' {
			return "ids"
		}
	}
	return ""
}

// joined is one request for all members, in their order.
func joined(members []*member) (*Request, error) {
	first := members[0].req
	prompts := []byte{'['}
	for i, m := range members {
		if i > 0 {
			prompts = append(prompts, ',')
		}
		prompts = append(prompts, m.prompt...)
	}
	raw, err := openai.Splice(first.Body, openai.Field{Name: "prompt", Value: append(prompts, ']')})
	if err != nil {
		return nil, fmt.Errorf("join %d prompts: %w", len(members), err)
	}
	req := *first
	req.Body = raw
	return &req, nil
}
