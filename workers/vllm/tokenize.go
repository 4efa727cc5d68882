package vllm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// The fields of a request on which the length of its prompt depends.
var (
	chatFields = []string{
		"messages", "tools", "add_generation_prompt", "continue_final_message", "add_special_tokens",
		"chat_template", "chat_template_kwargs", "documents", "mm_processor_kwargs",
	}
	promptFields = []string{"prompt", "add_special_tokens"}
)

// tokenized is the engine's answer about one prompt.
type tokenized struct {
	count int
	ids   []int
}

// CountTokens implements [workers.Engine]. Prompts of token ids are counted without asking the
// engine; of a list of prompts the longest counts, as each gets its own place in the context window.
//
// It returns an error that wraps [workers.ErrUnsupported] for engines without /tokenize, and for
// prompts that are no text: embeddings.
func (e *Engine) CountTokens(ctx context.Context, endpoint schemas.Endpoint, body []byte) (int, error) {
	fields, err := parseBody(body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := e.within(ctx, e.cfg.TokenizeTimeout, "counting tokens")
	defer cancel()
	switch endpoint {
	case schemas.ChatCompletions:
		t, err := e.tokenizeChat(ctx, fields)
		return t.count, err
	case schemas.Completions:
		return e.countPrompts(ctx, fields)
	}
	return 0, badEndpoint(endpoint)
}

// Tokenize implements [workers.Engine], with the errors of [Engine.CountTokens]. A list of prompts is
// refused.
func (e *Engine) Tokenize(ctx context.Context, endpoint schemas.Endpoint, body []byte) ([]int, error) {
	fields, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := e.within(ctx, e.cfg.TokenizeTimeout, "tokenizing a prompt")
	defer cancel()
	switch endpoint {
	case schemas.ChatCompletions:
		t, err := e.tokenizeChat(ctx, fields)
		return t.ids, err
	case schemas.Completions:
		return e.tokenizePrompt(ctx, fields)
	}
	return nil, badEndpoint(endpoint)
}

func badEndpoint(endpoint schemas.Endpoint) error {
	return schemas.Errorf(schemas.CodeInvalidRequest, "endpoint is %q; want %s or %s",
		endpoint, schemas.ChatCompletions, schemas.Completions).WithParam("endpoint")
}

func (e *Engine) tokenizeChat(ctx context.Context, fields map[string]json.RawMessage) (tokenized, error) {
	if fields["messages"] == nil {
		return tokenized{}, schemas.Errorf(schemas.CodeInvalidRequest, "messages is missing").WithParam("messages")
	}
	return e.tokenize(ctx, fields, chatFields)
}

func (e *Engine) tokenizePrompt(ctx context.Context, fields map[string]json.RawMessage) ([]int, error) {
	prompts := splitPrompts(fields["prompt"])
	if len(prompts) != 1 {
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "prompt holds %d prompts; want one", len(prompts)).WithParam("prompt")
	}
	if isTokenIDs(prompts[0]) {
		var ids []int
		if err := json.Unmarshal(prompts[0], &ids); err != nil {
			return nil, schemas.Errorf(schemas.CodeInvalidRequest, "prompt: %v", err).WithParam("prompt")
		}
		return ids, nil
	}
	fields["prompt"] = prompts[0]
	t, err := e.tokenize(ctx, fields, promptFields)
	return t.ids, err
}

// Detokenize implements [workers.Engine]. It returns an error that wraps [workers.ErrUnsupported]
// for engines without /detokenize.
func (e *Engine) Detokenize(ctx context.Context, ids []int) (string, error) {
	ctx, cancel := e.within(ctx, e.cfg.TokenizeTimeout, "detokenizing")
	defer cancel()
	body := []byte(`,"tokens":[`)
	for i, id := range ids {
		if i > 0 {
			body = append(body, ',')
		}
		body = strconv.AppendInt(body, int64(id), 10)
	}
	var answer struct {
		Prompt *string `json:"prompt"`
	}
	if err := e.query(ctx, "/detokenize", append(body, "]}"...), &answer); err != nil {
		return "", err
	}
	if answer.Prompt == nil {
		return "", e.withoutTokenize()
	}
	return *answer.Prompt, nil
}

func (e *Engine) countPrompts(ctx context.Context, fields map[string]json.RawMessage) (int, error) {
	if embeds, ok := fields["prompt_embeds"]; ok && !isNull(embeds) {
		return 0, fmt.Errorf("count the tokens of prompt_embeds: %w", workers.ErrUnsupported)
	}
	prompts := splitPrompts(fields["prompt"])
	if len(prompts) == 0 {
		return 0, schemas.Errorf(schemas.CodeInvalidRequest, "prompt is missing or empty").WithParam("prompt")
	}
	longest := 0
	for _, p := range prompts {
		var n int
		if isTokenIDs(p) {
			n = bytes.Count(p, []byte(",")) + 1
		} else {
			fields["prompt"] = p
			t, err := e.tokenize(ctx, fields, promptFields)
			if err != nil {
				return 0, err
			}
			n = t.count
		}
		longest = max(longest, n)
	}
	return longest, nil
}

// tokenize asks the engine for the tokens of one prompt.
func (e *Engine) tokenize(ctx context.Context, fields map[string]json.RawMessage, names []string) (tokenized, error) {
	var answer struct {
		Count  *int  `json:"count"`
		Tokens []int `json:"tokens"`
	}
	if err := e.query(ctx, "/tokenize", pick(fields, names), &answer); err != nil {
		return tokenized{}, err
	}
	if answer.Count == nil {
		e.noTokenize.Store(true) // something of the same name that takes other parameters
		return tokenized{}, e.withoutTokenize()
	}
	return tokenized{count: *answer.Count, ids: answer.Tokens}, nil
}

// query makes a call about tokens. fields is the rest of a JSON object after its first field, model.
func (e *Engine) query(ctx context.Context, path string, fields []byte, answer any) error {
	id, err := e.identify(ctx)
	if err != nil {
		return err
	}
	if !id.vllm || e.noTokenize.Load() {
		return e.withoutTokenize()
	}
	body := append(append([]byte(`{"model":`), quote(id.Model)...), fields...)
	c := call{method: http.MethodPost, path: path, body: body}
	resp, err := e.send(ctx, e.control, c)
	if err != nil {
		return orStopped(ctx, e.noAnswer(c, err))
	}
	defer discard(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return orStopped(ctx, e.tokenizeRefusal(c, resp))
	}
	reply, err := readAll(resp.Body, e.maxEvent(id))
	if errors.Is(err, errTooLong) && path == "/tokenize" && id.MaxModelLen > 0 && e.maxEvent(id) >= 16*id.MaxModelLen {
		// A token id takes 9 bytes at most, so there are more of them than the window has room for.
		return schemas.Errorf(schemas.CodeContextLengthExceeded, "the prompt is longer than the model's window of %d tokens", id.MaxModelLen)
	}
	if err == nil {
		err = json.Unmarshal(reply, answer)
	}
	if err != nil {
		return orStopped(ctx, e.noAnswer(c, err))
	}
	return nil
}

func (e *Engine) withoutTokenize() error {
	return fmt.Errorf("engine %s has no tokenizer to ask: %w", e, workers.ErrUnsupported)
}

// tokenizeRefusal tells an engine that has no /tokenize from one that does not like the request.
func (e *Engine) tokenizeRefusal(c call, resp *http.Response) error {
	err := e.refusal(c, resp)
	switch resp.StatusCode {
	case http.StatusNotFound:
		if err.Param == "model" || strings.Contains(strings.ToLower(err.Message), "model") {
			return err
		}
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
	default:
		return err
	}
	e.noTokenize.Store(true)
	return e.withoutTokenize()
}

// pick takes raw fields of the job's request over into another one, which has begun with another field.
func pick(fields map[string]json.RawMessage, names []string) []byte {
	var b []byte
	for _, name := range names {
		if value, ok := fields[name]; ok {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = append(b, value...)
		}
	}
	return append(b, '}')
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }
