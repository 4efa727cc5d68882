package vllm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	completionFields = []string{"add_special_tokens"}
)

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
		if fields["messages"] == nil {
			return 0, schemas.Errorf(schemas.CodeInvalidRequest, "messages is missing").WithParam("messages")
		}
		return e.tokenize(ctx, fields, chatFields)
	case schemas.Completions:
		return e.countPrompts(ctx, fields)
	}
	return 0, schemas.Errorf(schemas.CodeInvalidRequest, "endpoint is %q; want %s or %s",
		endpoint, schemas.ChatCompletions, schemas.Completions).WithParam("endpoint")
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
			var err error
			fields["prompt"] = p
			if n, err = e.tokenize(ctx, fields, append([]string{"prompt"}, completionFields...)); err != nil {
				return 0, err
			}
		}
		longest = max(longest, n)
	}
	return longest, nil
}

// tokenize asks the engine for the length of one prompt.
func (e *Engine) tokenize(ctx context.Context, fields map[string]json.RawMessage, names []string) (int, error) {
	id, err := e.identify(ctx)
	if err != nil {
		return 0, err
	}
	if !id.vllm || e.noTokenize.Load() {
		return 0, e.withoutTokenize()
	}
	c := call{method: http.MethodPost, path: "/tokenize", body: tokenizeBody(quote(id.Model), fields, names)}
	resp, err := e.send(ctx, e.control, c)
	if err != nil {
		return 0, orStopped(ctx, e.noAnswer(c, err))
	}
	defer discard(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return 0, orStopped(ctx, e.tokenizeRefusal(c, resp))
	}
	var answer struct {
		Count *int `json:"count"`
	}
	reply, err := readAll(resp.Body, e.maxEvent(id))
	if err == nil {
		err = json.Unmarshal(reply, &answer)
	}
	switch {
	case err != nil:
		return 0, orStopped(ctx, e.noAnswer(c, err))
	case answer.Count == nil:
		e.noTokenize.Store(true) // something of the same name that takes other parameters
		return 0, e.withoutTokenize()
	}
	return *answer.Count, nil
}

func (e *Engine) withoutTokenize() error {
	return fmt.Errorf("count tokens: engine %s has no /tokenize: %w", e, workers.ErrUnsupported)
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

// tokenizeBody builds the request from the raw values of the job's own.
func tokenizeBody(model []byte, fields map[string]json.RawMessage, names []string) []byte {
	b := append([]byte(`{"model":`), model...)
	for _, name := range names {
		if value, ok := fields[name]; ok {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = append(b, value...)
		}
	}
	return append(b, '}')
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }
