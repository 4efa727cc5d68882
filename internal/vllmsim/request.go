package vllmsim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
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

// echoText reports whether the text of the prompt comes before that of the reply. vLLM leaves it out where
// token ids are asked for, since the prompt's are then beside it.
func (r *request) echoText() bool { return r.echo && !r.tokenIDs }

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
		place := "body"
		if bad.Field != "" {
			place += "." + bad.Field
		}
		return invalid(place, "type_error", fmt.Sprintf("Input should be a valid %s, got %s", bad.Type, bad.Value))
	}
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		return invalid(fmt.Sprintf("body.%d", max(0, bad.Offset-1)), "json_invalid", "JSON decode error: "+bad.Error())
	}
	if err != nil {
		return invalid("body", "json_invalid", "JSON decode error: "+err.Error())
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
	if err := w.validate(c, chat); err != nil {
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
		r.role, r.prompts, err = w.chatPrompt(c.Model)
	} else {
		r.prompts, err = parsePrompts(w.Prompt, deref(w.AddSpecialTokens, true))
	}
	if err != nil {
		return nil, err
	}
	if r.choices() > maxSequences {
		return nil, tooMany(r.choices())
	}
	return r, c.fit(&w, r)
}

// fit truncates the prompts where that was asked for and gives each its share of the context.
func (c *Config) fit(w *wireRequest, r *request) error {
	stops, err := parseStop(w.Stop)
	if err != nil {
		return err
	}
	limit := w.limit(r.chat)
	for i, prompt := range r.prompts {
		if k := deref(w.TruncatePromptTokens, 0); k > 0 && len(prompt) > k {
			prompt = prompt[len(prompt)-k:]
			r.prompts[i] = prompt
		}
		p := &sampling{
			minTokens: w.MinTokens, ignoreEnd: w.IgnoreEOS, stop: stops, includeStop: w.IncludeStop,
			seed: deref(w.Seed, 0), showSpecial: !deref(w.SkipSpecialTokens, true),
		}
		if c.Say != "" {
			p.say = Tokenize(c.Say)
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
		case rest < 0:
			return badValue("input_tokens", len(prompt), "This model's maximum context length is %d tokens. However, your prompt contains %d input tokens, "+
				"which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.", c.MaxModelLen, len(prompt))
		case limit != nil:
			p.maxTokens = *limit
		case r.chat:
			p.maxTokens = rest
		default:
			p.maxTokens = 16
		}
		// What does not fit beside the prompt is cut off without a word.
		p.maxTokens = min(p.maxTokens, rest)
		if p.maxTokens < 1 {
			return badValue("max_tokens", p.maxTokens, "max_tokens must be at least 1, got %d.", p.maxTokens)
		}
		if p.minTokens > p.maxTokens {
			return badRequest("", "min_tokens must be less than or equal to max_tokens=%d, got %d.", p.maxTokens, p.minTokens)
		}
		r.samplings = append(r.samplings, p)
	}
	return nil
}

// limit is how many tokens are asked for, nil if that is left open.
func (w *wireRequest) limit(chat bool) *int {
	if chat {
		return cmp.Or(w.MaxCompletionTokens, w.MaxTokens)
	}
	return w.MaxTokens
}

// validate checks what needs no tokens, with vLLM's messages. It names the parameter where vLLM does.
func (w *wireRequest) validate(c *Config, chat bool) error {
	n, limit := deref(w.N, 1), w.limit(chat)
	switch {
	case w.StreamOptions != nil && !w.Stream:
		return badValue("stream_options", nil, "Stream options can only be defined when `stream=True`.")
	case deref(w.StreamInterval, 1) < 1:
		return invalid("body.stream_interval", "greater_than_equal", "Input should be greater than or equal to 1")
	case deref(w.TruncatePromptTokens, 1) < -1:
		return invalid("body.truncate_prompt_tokens", "greater_than_equal", "Input should be greater than or equal to -1")
	case w.BeamSearch && w.Stream:
		return badRequest("", "Streaming is not currently supported with beam search")
	case n < 1:
		return badRequest("", "n must be at least 1, got %d.", n)
	case n > maxSequences:
		return tooMany(n)
	case w.Temperature != nil && (*w.Temperature < 0 || math.IsInf(*w.Temperature, 0)):
		return badValue("temperature", float(*w.Temperature), "temperature must be non-negative, got %s.", float(*w.Temperature))
	case w.Temperature != nil && *w.Temperature == 0 && n > 1 && !w.BeamSearch:
		return badRequest("", "n must be 1 when using greedy sampling, got %d.", n)
	case w.TopP != nil && (*w.TopP <= 0 || *w.TopP > 1):
		return badValue("top_p", float(*w.TopP), "top_p must be in (0, 1], got %s.", float(*w.TopP))
	case w.MinTokens < 0:
		return badRequest("", "min_tokens must be greater than or equal to 0, got %d.", w.MinTokens)
	case limit != nil && *limit < 1:
		return badValue("max_tokens", *limit, "max_tokens must be at least 1, got %d.", *limit)
	case limit != nil && *limit > c.MaxModelLen:
		return badValue("max_tokens", *limit, "max_tokens=%d cannot be greater than max_model_len=%d. Please request fewer output tokens.", *limit, c.MaxModelLen)
	case w.Priority != 0 && c.RefusePriority:
		return badRequest("priority", "Got priority %d but Priority scheduling is not enabled.", w.Priority)
	case w.ContinueFinalMessage && deref(w.AddGenerationPrompt, true):
		return continuesAndBegins()
	}
	return nil
}

func tooMany(n int) *apiError {
	return badRequest("", "n must be at most %d, got %d. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable.", maxSequences, n)
}

// float writes f as Python does.
func float(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(s, ".eIN") {
		s += ".0"
	}
	return s
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
		return nil, invalid("body.stop", "string_type", "Input should be a valid string or list of strings")
	}
	if slices.Contains(list, "") {
		return nil, badRequest("", "stop cannot contain an empty string.")
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
	if len(raw) == 0 || string(raw) == "null" || string(raw) == `""` {
		return nil, badValue("prompt", nil, "Either prompt or prompt_embeds must be provided and non-empty.")
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
		return nil, invalid("body.prompt", "list_type", "Input should be a valid list")
	}
	for _, p := range out {
		if err := checkTokens(p); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, badRequest("", "You must pass at least one prompt")
	}
	return out, nil
}

func checkTokens(ids []int) error {
	if len(ids) == 0 {
		return badRequest("", "The decoder prompt cannot be empty")
	}
	size := vocab().size()
	for i, id := range ids {
		switch {
		case id < 0:
			return invalid(fmt.Sprintf("body.prompt.%d", i), "greater_than_equal", "Input should be greater than or equal to 0")
		case id >= size:
			return badRequest("", "Token id %d is out of vocabulary", id)
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
