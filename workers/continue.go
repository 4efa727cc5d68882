package workers

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// continuation is what an interrupted reply goes on from.
type continuation struct {
	prompt []int // token ids
	kept   []int // produced token ids that the next request begins with
	// overlap is text that has been sent beyond that of the kept tokens. The engine held the rest of
	// its last tokens back, so they are generated again, and must begin with it.
	overlap string
	// finish is why the reply had ended already, or "": only its Result is missing.
	finish string
}

// errDiverged ends an attempt whose continuation contradicts text that has been sent.
var errDiverged = errors.New("the continuation differs from the text already sent")

// maxHeldBack bounds how many of the last tokens may be without confirmed text, apart from those that
// an engine holds back for a stop string: as many characters as the longest one has, less one.
const maxHeldBack = 64

// notContinued are request fields with which a reply cannot be taken up in the middle: a grammar or
// a tool parser would begin anew, and log probabilities belong to the request that they came with.
var notContinued = []string{
	"tools", "functions", "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
	"guided_grammar", "logprobs", "prompt_logprobs", "echo", "suffix", "prompt_embeds", "truncate_prompt_tokens",
}

// ofThePrompt are request fields that the prompt's token ids replace.
var ofThePrompt = []string{
	"messages", "documents", "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template",
	"chat_template_kwargs", "mm_processor_kwargs", "max_completion_tokens", "include_reasoning", "tool_choice", "parallel_tool_calls",
}

// resume finds out how an interrupted reply can go on after the last token that was sent. why says
// in words why it cannot, if it cannot; err is a failure to find out.
func (w *Worker) resume(ctx context.Context, r *run, b *body) (c *continuation, why string, err error) {
	h := &r.history
	switch {
	case r.job.OnInterrupt == schemas.RestartOnInterrupt:
		return nil, "on_interrupt is restart", nil
	case h.by != r.servedBy():
		return nil, fmt.Sprintf("the text so far is by %s", cmp.Or(h.by, r.model)), nil
	case h.broken != "":
		return nil, h.broken, nil
	case b.sequences != 1:
		return nil, fmt.Sprintf("the request asks for %d choices", b.sequences), nil
	}
	for _, name := range notContinued {
		if b.has(name) {
			return nil, "the request has " + name, nil
		}
	}
	if h.finish != "" {
		return &continuation{kept: h.ids, finish: h.finish}, "", nil
	}
	if h.prompt == nil {
		return nil, "the record does not identify the prompt's tokens", nil
	}
	prompt, err := w.engine.Tokenize(ctx, r.job.Endpoint, b.raw)
	switch {
	case errors.Is(err, ErrUnsupported):
		return nil, "this engine cannot tokenize", nil
	case err != nil:
		return nil, "", err
	case *promptMark(prompt) != *h.prompt:
		return nil, "this engine makes other tokens of the prompt", nil
	}
	return w.confirm(ctx, &continuation{prompt: prompt}, h, b.longestStop())
}

// confirm keeps the tokens whose text has been sent: a token may have been recorded before its text,
// while a character or a possible stop string was incomplete.
func (w *Worker) confirm(ctx context.Context, c *continuation, h *history, stop int) (*continuation, string, error) {
	// The text of the reply depends on what is before it, so it is cut out of the whole.
	before, err := w.engine.Detokenize(ctx, c.prompt)
	if errors.Is(err, ErrUnsupported) {
		return nil, "this engine cannot detokenize", nil
	}
	spells := func(n int) (text string, ok bool) {
		var whole string
		if err == nil {
			whole, err = w.engine.Detokenize(ctx, slices.Concat(c.prompt, h.ids[:n]))
		}
		return strings.CutPrefix(whole, before)
	}
	last, low := len(h.ids), max(0, len(h.ids)-maxHeldBack)
	if stop > maxHeldBack { // a token for each character at most: too many to be tried one after the other
		low = max(0, low-stop)
		last = low + sort.Search(last-low, func(n int) bool {
			text, _ := spells(low + n + 1)
			return len(text) > len(h.text)
		})
		low = max(low, last-maxHeldBack)
	}
	for n := last; err == nil && n >= low; n-- {
		text, ok := spells(n)
		if !ok || err != nil {
			continue
		}
		if overlap, ok := strings.CutPrefix(h.text, text); ok {
			c.kept, c.overlap = h.ids[:n], overlap
			return c, "", nil
		}
	}
	if err != nil {
		return nil, "", err
	}
	return nil, "the recorded tokens do not spell the text that was sent", nil
}

// longestStop is the length in bytes of the request's longest stop string.
func (b *body) longestStop() int {
	longest := 0
	for _, s := range b.stops() {
		longest = max(longest, len(s))
	}
	return longest
}

// stops are the request's stop strings; checkStop has looked at them.
func (b *body) stops() []string {
	var one string
	var many []string
	if json.Unmarshal(b.fields["stop"], &one) == nil && one != "" {
		return []string{one}
	}
	_ = json.Unmarshal(b.fields["stop"], &many)
	return many
}

// request is the generation of the rest of the reply: the prompt's and the kept tokens, and what is
// left of the budget. It is nil if nothing is left.
func (c *continuation) request(r *run, b *body, window int) (*Request, string, error) {
	left := b.maxTokens - len(c.kept)
	if b.maxTokens == 0 {
		if window == 0 {
			return nil, "the model's window is not known", nil
		}
		left = window - len(c.prompt) - len(c.kept)
	}
	if left <= 0 {
		c.finish = "length"
		return nil, "", nil
	}
	var ids []byte
	for _, id := range slices.Concat(c.prompt, c.kept) {
		ids = strconv.AppendInt(append(ids, ','), int64(id), 10)
	}
	ids[0] = '['
	fields := []openai.Field{
		{Name: "prompt", Value: append(ids, ']')},
		{Name: "max_tokens", Value: strconv.AppendInt(nil, int64(left), 10)},
	}
	if b.minTokens > 0 {
		fields = append(fields, openai.Field{Name: "min_tokens", Value: strconv.AppendInt(nil, int64(max(0, b.minTokens-len(c.kept))), 10)})
	}
	for _, name := range ofThePrompt {
		if b.has(name) {
			fields = append(fields, openai.Field{Name: name})
		}
	}
	raw, err := openai.Splice(b.raw, fields...)
	if err != nil {
		return nil, "", fmt.Errorf("continue job %s: %w", r.job.ID, err)
	}
	return &Request{ID: r.job.ID, Attempt: r.attempt, Endpoint: schemas.Completions, Body: raw, Class: r.class}, "", nil
}

// opening announces the continuation, and what of it is not as without the interruption.
func (c *continuation) opening(r *run, b *body) *schemas.Event {
	e := &schemas.Event{Kind: schemas.Resumed, Kept: len(c.kept), Reason: fmt.Sprintf("attempt %d was interrupted after %d tokens", r.history.attempt, len(r.history.ids))}
	if c.finish != "" {
		return e
	}
	if b.has("seed") {
		e.Reason += "; the random numbers of the seed begin anew"
	}
	if b.has("presence_penalty") || b.has("frequency_penalty") {
		e.Reason += "; presence and frequency penalties do not count the tokens before"
	}
	return e
}

// translate turns a delta of the rest into one of the reply as the job asked for it: without the
// text that has been sent, and in the form of the job's endpoint.
func (c *continuation) translate(endpoint schemas.Endpoint, d *Delta) error {
	d.PromptTokens = nil // they are the reply's as well
	if endpoint == schemas.Completions && c.overlap == "" {
		return nil
	}
	d.Choices = d.Choices[:0:0]
	for i := range d.Parts {
		p := &d.Parts[i]
		n := min(len(p.Text), len(c.overlap))
		if string(p.Text[:n]) != c.overlap[:n] || p.FinishReason != "" && n < len(c.overlap) {
			return errDiverged
		}
		c.overlap = c.overlap[n:]
		p.Text = p.Text[n:]
		raw, err := json.Marshal(encoded(endpoint, p))
		if err != nil {
			return fmt.Errorf("encode a choice: %w", err)
		}
		if len(d.Choices) > 0 {
			d.Choices = append(d.Choices, ',')
		}
		d.Choices = append(d.Choices, raw...)
	}
	return nil
}

type encodedChoice struct {
	Index        int              `json:"index"`
	Delta        *encodedDelta    `json:"delta,omitempty"`
	Text         *string          `json:"text,omitempty"`
	Logprobs     *json.RawMessage `json:"logprobs"`
	FinishReason *string          `json:"finish_reason"`
	StopReason   json.RawMessage  `json:"stop_reason"`
	TokenIDs     []int            `json:"token_ids,omitempty"`
}

type encodedDelta struct {
	Content string `json:"content"`
}

func encoded(endpoint schemas.Endpoint, p *openai.Choice) encodedChoice {
	text := string(p.Text)
	e := encodedChoice{Index: p.Index, StopReason: p.StopReason, TokenIDs: p.TokenIDs}
	if endpoint == schemas.ChatCompletions {
		e.Delta = &encodedDelta{Content: text}
	} else {
		e.Text = &text
	}
	if p.FinishReason != "" {
		e.FinishReason = &p.FinishReason
	}
	return e
}

// end is the last choice of a reply that was interrupted after its last token.
func (c *continuation) end(endpoint schemas.Endpoint) (*Delta, error) {
	p := openai.Choice{FinishReason: c.finish}
	raw, err := json.Marshal(encoded(endpoint, &p))
	if err != nil {
		return nil, fmt.Errorf("encode a choice: %w", err)
	}
	return &Delta{Choices: raw, Parts: []openai.Choice{p}}, nil
}

// promptMark identifies a prompt's tokens.
func promptMark(ids []int) *schemas.Prompt {
	h := fnv.New64a()
	var b [8]byte
	for _, id := range ids {
		binary.LittleEndian.PutUint64(b[:], uint64(id))
		_, _ = h.Write(b[:]) // a hash takes everything
	}
	return &schemas.Prompt{Tokens: len(ids), Hash: fmt.Sprintf("%016x", h.Sum64())}
}
