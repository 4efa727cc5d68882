package vllmsim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
)

// wireRequest holds the fields of both generation endpoints that the simulator acts on. Others are
// ignored without a word, as vLLM does.
type wireRequest struct {
	Model     string          `json:"model"`
	Prompt    json.RawMessage `json:"prompt"`
	Messages  []message       `json:"messages"`
	RequestID string          `json:"request_id"`

	Stream        bool `json:"stream"`
	StreamOptions *struct {
		IncludeUsage    bool `json:"include_usage"`
		ContinuousUsage bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`
	StreamInterval *int `json:"stream_interval"`

	N                   *int            `json:"n"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	MinTokens           int             `json:"min_tokens"`
	IgnoreEOS           bool            `json:"ignore_eos"`
	Stop                json.RawMessage `json:"stop"`
	StopTokenIDs        []int           `json:"stop_token_ids"`
	IncludeStop         bool            `json:"include_stop_str_in_output"`
	SkipSpecialTokens   *bool           `json:"skip_special_tokens"`
	Seed                *int64          `json:"seed"`
	Temperature         *float64        `json:"temperature"`
	TopP                *float64        `json:"top_p"`
	Priority            int             `json:"priority"`
	BeamSearch          bool            `json:"use_beam_search"`

	Echo                 bool  `json:"echo"`
	AddSpecialTokens     *bool `json:"add_special_tokens"`
	AddGenerationPrompt  *bool `json:"add_generation_prompt"`
	ContinueFinalMessage bool  `json:"continue_final_message"`
	TruncatePromptTokens *int  `json:"truncate_prompt_tokens"`
	ReturnTokenIDs       bool  `json:"return_token_ids"`
}

// request is a checked request of either endpoint.
type request struct {
	chat      bool
	id        string // given by the client, or ""
	prompts   [][]int
	n         int
	samplings []*sampling // by prompt: the rest of the context differs

	stream          bool
	usage           bool
	continuousUsage bool
	interval        int
	echo            bool
	tokenIDs        bool
	role            string
	priority        int
}

func (r *request) choices() int { return len(r.prompts) * r.n }

func (r *request) promptTokens() int {
	n := 0
	for _, p := range r.prompts {
		n += len(p)
	}
	return n
}

// decodeBody decodes body into v, naming the field that does not fit.
func decodeBody(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	if bad, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badRequest(bad.Field, "1 validation error: %s: Input should be a valid %s, got %s", bad.Field, bad.Type, bad.Value)
	}
	if err != nil {
		return badRequest("", "1 validation error: JSON decode error: %v", err)
	}
	return nil
}

// parse reads and checks the body of a generation request. model is "" where any will do.
func (c *Config) parse(chat bool, body []byte, model string) (*request, error) {
	var w wireRequest
	if err := decodeBody(body, &w); err != nil {
		return nil, err
	}
	if model != "" {
		if err := checkModel(w.Model, model); err != nil {
			return nil, err
		}
	}
	if err := w.validate(c.Priority); err != nil {
		return nil, err
	}
	r := &request{
		chat: chat, id: w.RequestID, n: deref(w.N, 1), stream: w.Stream, priority: w.Priority,
		echo: w.Echo && !chat, tokenIDs: w.ReturnTokenIDs && !c.NoTokenIDs,
		interval: max(c.StreamInterval, deref(w.StreamInterval, 1)), role: "assistant",
	}
	if o := w.StreamOptions; o != nil {
		r.usage = o.IncludeUsage
		r.continuousUsage = o.ContinuousUsage && o.IncludeUsage
	}
	var err error
	if chat {
		r.role, r.prompts, err = w.chatPrompt()
	} else {
		r.prompts, err = parsePrompts(w.Prompt, deref(w.AddSpecialTokens, true))
	}
	if err != nil {
		return nil, err
	}
	if r.choices() > maxSequences {
		return nil, badRequest("n", "n must be at most %d over all prompts, got %d.", maxSequences, r.choices())
	}
	return r, c.fit(&w, r)
}

// fit truncates the prompts where that was asked for and gives each its share of the context.
func (c *Config) fit(w *wireRequest, r *request) error {
	stops, err := parseStop(w.Stop)
	if err != nil {
		return err
	}
	limit := cmp.Or(w.MaxCompletionTokens, w.MaxTokens)
	if !r.chat {
		limit = w.MaxTokens
	}
	for i, prompt := range r.prompts {
		if k := deref(w.TruncatePromptTokens, 0); k > 0 && len(prompt) > k {
			prompt = prompt[len(prompt)-k:]
			r.prompts[i] = prompt
		}
		p := &sampling{
			minTokens: w.MinTokens, ignoreEnd: w.IgnoreEOS, stop: stops, includeStop: w.IncludeStop,
			seed: deref(w.Seed, 0), showSpecial: !deref(w.SkipSpecialTokens, true),
		}
		if p.seed == -1 { // vLLM takes -1 for no seed
			p.seed = 0
		}
		if len(w.StopTokenIDs) > 0 {
			p.stopTokens = make(map[int]bool, len(w.StopTokenIDs))
			for _, id := range w.StopTokenIDs {
				p.stopTokens[id] = true
			}
		}
		rest := c.MaxModelLen - len(prompt)
		switch {
		case limit != nil:
			p.maxTokens = *limit
		case r.chat:
			p.maxTokens = rest
		default:
			p.maxTokens = 16
		}
		if rest < 1 || p.maxTokens > rest {
			asked := p.maxTokens
			if limit == nil && r.chat {
				asked = 0
			}
			return badRequest("input_tokens", "This model's maximum context length is %d tokens. However, you requested %d output tokens "+
				"and your prompt contains %d input tokens, for a total of %d tokens. Please reduce the length of the input prompt "+
				"or the number of requested output tokens.", c.MaxModelLen, asked, len(prompt), len(prompt)+asked)
		}
		if p.minTokens > p.maxTokens {
			return badRequest("min_tokens", "min_tokens must be less than or equal to max_tokens=%d, got %d.", p.maxTokens, p.minTokens)
		}
		r.samplings = append(r.samplings, p)
	}
	return nil
}

// validate checks what needs no tokens, with vLLM's messages.
func (w *wireRequest) validate(priority bool) error {
	n := deref(w.N, 1)
	switch {
	case w.StreamOptions != nil && !w.Stream:
		return badRequest("stream_options", "Stream options can only be defined when `stream=True`.")
	case w.BeamSearch && w.Stream:
		return badRequest("use_beam_search", "Streaming is not currently supported with beam search")
	case n < 1:
		return badRequest("n", "n must be at least 1, got %d.", n)
	case n > maxSequences:
		return badRequest("n", "n must be at most %d, got %d.", maxSequences, n)
	case w.Temperature != nil && (*w.Temperature < 0 || math.IsInf(*w.Temperature, 0)):
		return badRequest("temperature", "temperature must be non-negative, got %v.", *w.Temperature)
	case w.Temperature != nil && *w.Temperature == 0 && n > 1 && !w.BeamSearch:
		return badRequest("n", "n must be 1 when using greedy sampling, got %d.", n)
	case w.TopP != nil && (*w.TopP <= 0 || *w.TopP > 1):
		return badRequest("top_p", "top_p must be in (0, 1], got %v.", *w.TopP)
	case w.MinTokens < 0:
		return badRequest("min_tokens", "min_tokens must be greater than or equal to 0, got %d.", w.MinTokens)
	case w.MaxTokens != nil && *w.MaxTokens < 1:
		return badRequest("max_tokens", "max_tokens must be at least 1, got %d.", *w.MaxTokens)
	case w.MaxCompletionTokens != nil && *w.MaxCompletionTokens < 1:
		return badRequest("max_completion_tokens", "max_tokens must be at least 1, got %d.", *w.MaxCompletionTokens)
	case deref(w.StreamInterval, 1) < 1:
		return badRequest("stream_interval", "stream_interval must be at least 1, got %d.", *w.StreamInterval)
	case deref(w.TruncatePromptTokens, 1) < -1:
		return badRequest("truncate_prompt_tokens", "truncate_prompt_tokens must be at least -1, got %d.", *w.TruncatePromptTokens)
	case w.Priority != 0 && !priority:
		return badRequest("priority", "Got priority %d but Priority scheduling is not enabled.", w.Priority)
	case w.ContinueFinalMessage && deref(w.AddGenerationPrompt, true):
		return badRequest("continue_final_message", "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
	}
	return nil
}

// parseStop reads a stop string or a list of them.
func parseStop(raw json.RawMessage) ([]string, error) {
	const most = 1000
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var one string
	var list []string
	if json.Unmarshal(raw, &one) == nil {
		list = []string{one}
	} else if json.Unmarshal(raw, &list) != nil {
		return nil, badRequest("stop", "1 validation error: stop: Input should be a valid string or list of strings")
	}
	if slices.Contains(list, "") {
		return nil, badRequest("stop", "stop cannot contain an empty string.")
	}
	if len(list) > most {
		return nil, badRequest("stop", "stop must hold at most %d strings, got %d.", most, len(list))
	}
	return list, nil
}

// parsePrompts reads a prompt: a string, strings, token ids, or lists of token ids.
func parsePrompts(raw json.RawMessage, addSpecial bool) ([][]int, error) {
	var (
		one   string
		texts []string
		ids   []int
		lists [][]int
	)
	text := func(s string) []int {
		var dst []int
		if addSpecial {
			dst = append(dst, beginText)
		}
		return appendTokens(dst, s)
	}
	empty := badRequest("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
	if len(raw) == 0 || string(raw) == "null" || string(raw) == "[]" {
		return nil, empty
	}
	var out [][]int
	switch {
	case json.Unmarshal(raw, &one) == nil:
		out = [][]int{text(one)}
	case json.Unmarshal(raw, &texts) == nil:
		for _, s := range texts {
			out = append(out, text(s))
		}
	case json.Unmarshal(raw, &ids) == nil:
		out = [][]int{ids}
	case json.Unmarshal(raw, &lists) == nil:
		out = lists
	default:
		return nil, badRequest("prompt", "1 validation error: prompt: Input should be a string, a list of strings, a list of token ids or a list of lists of token ids")
	}
	for _, p := range out {
		if len(p) == 0 {
			return nil, badRequest("prompt", "The decoder prompt cannot be empty")
		}
		if err := checkTokens(p, "prompt"); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, empty
	}
	return out, nil
}

func checkTokens(ids []int, param string) error {
	size := vocab().size()
	for _, id := range ids {
		if id < 0 || id >= size {
			return badRequest(param, "Token id %d is out of vocabulary", id)
		}
	}
	return nil
}

func deref[T any](p *T, or T) T {
	if p == nil {
		return or
	}
	return *p
}

// wireID names the request in its answers. It needs to be unlikely to repeat, no more.
func (r *request) wireID(random func() uint64) string {
	prefix := "cmpl-"
	if r.chat {
		prefix = "chatcmpl-"
	}
	if r.id != "" {
		return prefix + r.id
	}
	return prefix + fmt.Sprintf("%016x%016x", random(), random())
}
