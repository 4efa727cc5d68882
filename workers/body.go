package workers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// maxN bounds n for engines with many slots; vLLM itself allows far more than anyone reads.
const maxN = 128

// body is what a worker needs to know of an OpenAI request.
type body struct {
	raw          []byte
	fields       map[string]json.RawMessage
	maxTokens    int // 0 if a chat leaves it to the window
	minTokens    int
	sequences    int // n for every prompt
	promptField  string
	promptTokens int                // an upper bound, unless exact
	promptExact  bool               // the prompt was given in tokens
	given        json.RawMessage    // the messages of a chat as they came
	stored       *conversation.Turn // the job's turn, if an earlier attempt has stored it: there is nothing to generate
	note         string             // what was changed for the model's prompt format, for the opening event
}

// has reports whether the request sets a field to something other than null, false or nothing.
func (b *body) has(name string) bool {
	switch string(b.fields[name]) {
	case "", "null", "false", "[]", `{"type":"text"}`:
		return false
	}
	return true
}

func (b *body) setMaxTokens(n int) error {
	raw, err := openai.Splice(b.raw, openai.Field{Name: "max_tokens", Value: strconv.AppendInt(nil, int64(n), 10)})
	if err != nil {
		return schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	}
	b.raw, b.maxTokens = raw, n
	return nil
}

// faults collects what is wrong with a request, to be said at once.
type faults struct {
	param string
	said  []string
}

func (f *faults) add(field, format string, args ...any) {
	if f.param == "" {
		f.param = field
	}
	f.said = append(f.said, field+" "+fmt.Sprintf(format, args...))
}

func (f *faults) err() error {
	if len(f.said) == 0 {
		return nil
	}
	return schemas.Errorf(schemas.CodeInvalidRequest, "%s", strings.Join(f.said, "; ")).WithParam(f.param)
}

// parseBody checks a request against the model's bounds and abilities before the engine sees it, and
// gives it the form of the model's prompts. Fields that are not named here are the engine's business.
func parseBody(job *schemas.Job, limits Limits, can Capabilities, slots int) (*body, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(job.Body, &fields); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	}
	b := &body{raw: job.Body, fields: fields}
	f := &faults{}
	get := func(name string) (json.RawMessage, bool) {
		v, ok := fields[name]
		if string(v) == "null" {
			return nil, false
		}
		return v, ok
	}

	prompts := 1
	if job.Endpoint == schemas.ChatCompletions {
		b.promptField = "messages"
		raw, _ := get("messages")
		b.given, b.promptTokens = raw, len(raw)
		checkMessages(raw, f)
	} else {
		b.promptField = "prompt"
		raw, _ := get("prompt")
		prompts, b.promptTokens, b.promptExact = checkPrompt(raw, f)
		b.maxTokens = 16 // OpenAI's and vLLM's default for completions
	}

	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		if raw, ok := get(name); ok {
			if n, ok := wholeNumber(raw, name, limits.MaxTokens, f); ok {
				b.maxTokens = n
			}
		}
	}
	if raw, ok := get("min_tokens"); ok {
		b.minTokens, _ = wholeNumber(raw, "min_tokens", [2]int{}, f)
	}
	if raw, ok := get("temperature"); ok {
		number(raw, "temperature", limits.Temperature, f)
	}
	if raw, ok := get("top_p"); ok {
		number(raw, "top_p", limits.TopP, f)
	}
	n := 1
	if raw, ok := get("n"); ok {
		if v, ok := wholeNumber(raw, "n", [2]int{1, min(slots, maxN)}, f); ok {
			n = v
		}
	}
	if raw, ok := get("stop"); ok {
		checkStop(raw, f)
	}
	streamed := job.Stream
	if raw, ok := get("stream"); ok && !boolean(raw) {
		f.add("stream", "is %s; want true or false", clip(raw))
	}
	if raw, ok := get("use_beam_search"); ok {
		switch {
		case !boolean(raw):
			f.add("use_beam_search", "is %s; want true or false", clip(raw))
		case string(raw) == "true" && streamed:
			f.add("use_beam_search", "is true and stream is true; a beam search cannot be streamed")
		case string(raw) == "true":
			f.add("use_beam_search", "is true; want false: a lease is kept by the engine's progress, and a beam search shows none")
		}
	}
	if b.sequences = n * prompts; b.sequences > slots {
		f.add(b.promptField, "asks for %d sequences (%d prompts with n=%d); want at most the engine's %d", b.sequences, prompts, n, slots)
	}
	b.suit(job, can, f)
	return b, f.err()
}

func checkMessages(raw json.RawMessage, f *faults) {
	var list []json.RawMessage
	if raw == nil || json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		f.add("messages", "is %s; want a list of at least one message", clip(raw))
		return
	}
	for i, m := range list {
		var view struct {
			Role    *string         `json:"role"`
			Content json.RawMessage `json:"content"`
		}
		at := fmt.Sprintf("messages[%d]", i)
		switch err := json.Unmarshal(m, &view); {
		case err != nil:
			f.add(at, "is %s; want an object with a role and content", clip(m))
		case view.Role == nil || *view.Role == "":
			f.add(at+".role", "is missing; want system, user, assistant or tool")
		case len(view.Content) > 0 && !strings.ContainsRune(`"[n`, rune(view.Content[0])):
			f.add(at+".content", "is %s; want a string or a list of parts", clip(view.Content))
		}
	}
}

// checkPrompt reads the four forms of a prompt and returns how many prompts there are and the
// length of the longest: in tokens if exact, otherwise in bytes, which is never less.
func checkPrompt(raw json.RawMessage, f *faults) (prompts, longest int, exact bool) {
	const want = "want a string, a list of strings, a list of token ids or a list of such lists"
	var text string
	var texts []string
	var ids []int
	var lists [][]int
	switch {
	case raw == nil:
		f.add("prompt", "is missing; "+want)
		return 1, 0, false
	case json.Unmarshal(raw, &text) == nil:
		return 1, len(raw), false
	case bytes.Equal(raw, []byte("[]")):
		f.add("prompt", "is empty; "+want)
		return 1, 0, false
	case json.Unmarshal(raw, &texts) == nil:
		for _, t := range texts {
			longest = max(longest, len(t)+2)
		}
		return len(texts), longest, false
	case json.Unmarshal(raw, &ids) == nil:
		return 1, len(ids), true
	case json.Unmarshal(raw, &lists) == nil:
		for i, l := range lists {
			if len(l) == 0 {
				f.add(fmt.Sprintf("prompt[%d]", i), "is empty; want at least one token id")
			}
			longest = max(longest, len(l))
		}
		return len(lists), longest, true
	}
	f.add("prompt", "is %s; "+want, clip(raw))
	return 1, 0, false
}

func checkStop(raw json.RawMessage, f *faults) {
	var one string
	var many []string
	if json.Unmarshal(raw, &one) != nil && json.Unmarshal(raw, &many) != nil {
		f.add("stop", "is %s; want a string or a list of strings", clip(raw))
	}
}

func number(raw json.RawMessage, name string, bound [2]float64, f *faults) {
	v, err := strconv.ParseFloat(string(raw), 64)
	switch {
	case err != nil:
		f.add(name, "is %s; want a number", clip(raw))
	case bound != [2]float64{} && (v < bound[0] || v > bound[1]):
		f.add(name, "is %g; want %g to %g", v, bound[0], bound[1])
	}
}

func wholeNumber(raw json.RawMessage, name string, bound [2]int, f *faults) (int, bool) {
	v, err := strconv.ParseFloat(string(raw), 64)
	switch {
	case err != nil || v != math.Trunc(v) || math.Abs(v) > math.MaxInt32:
		f.add(name, "is %s; want a whole number", clip(raw))
		return 0, false
	case bound != [2]int{} && (v < float64(bound[0]) || v > float64(bound[1])):
		f.add(name, "is %.0f; want %d to %d", v, bound[0], bound[1])
		return 0, false
	case v < 0:
		f.add(name, "is %.0f; want at least 0", v)
		return 0, false
	}
	return int(v), true
}

func boolean(raw json.RawMessage) bool { return string(raw) == "true" || string(raw) == "false" }

// clip shortens a value for an error message.
func clip(raw json.RawMessage) string {
	const most = 40
	switch {
	case raw == nil:
		return "missing"
	case len(raw) > most:
		return strings.ToValidUTF8(string(raw[:most]), "") + "..."
	}
	return string(raw)
}
