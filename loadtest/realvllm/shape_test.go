//go:build vllm && linux

package realvllm_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

// exchange is a request that vLLM and the simulator have to answer alike.
type exchange struct {
	name, method, path string
	body               any // an object, or the text of one that is not
	// words is set where the message of a refusal has to be the same to the byte. Those of pydantic, which list every
	// type that a value could have had, are not.
	words bool
}

func exchanges(model string) []exchange {
	ids := func(n int) []int { return make([]int, n) }
	user := []object{message("user", "Hi")}
	long := with(greedy(9), object{"prompt": []int{5, 6, 7}})
	talk := with(greedy(9), object{"messages": user})
	usage := object{"include_usage": true}
	continuous := object{"include_usage": true, "continuous_usage_stats": true}
	posts := func(path string, refused bool, bodies map[string]any) []exchange {
		var list []exchange
		for _, name := range slices.Sorted(maps.Keys(bodies)) {
			list = append(list, exchange{name, http.MethodPost, path, bodies[name], refused})
		}
		return list
	}
	streaming := object{"stream": true, "return_token_ids": true}
	return slices.Concat(
		posts(completions, false, map[string]any{
			"plain": long, "token ids": with(long, object{"return_token_ids": true}),
			"prompts": with(long, object{"prompt": [][]int{{5, 6}, {7}}}), "echo": with(long, object{"echo": true}),
			"echo with ids": with(long, object{"echo": true, "return_token_ids": true}), "model named": with(long, object{"model": model}),
			"stream": with(long, object{"stream": true}), "stream with ids": with(long, streaming),
			"stream with usage":            with(long, streaming, object{"stream_options": usage}),
			"stream with continuous usage": with(long, streaming, object{"stream_options": continuous}),
			"stream of prompts":            with(long, streaming, object{"prompt": [][]int{{5, 6}, {7}}}),
			"stream of an echo":            with(long, streaming, object{"echo": true}),
			"texts with an empty one":      with(long, object{"prompt": []string{"a", ""}}),
			"priority":                     with(long, object{"priority": 3}),
			"cut at the window":            with(long, object{"prompt": ids(window - 4), "max_tokens": 9}),
			"unknown field":                with(long, object{"early_stopping": true, "best_of": 3}),
		}),
		posts(chat, false, map[string]any{
			"plain": talk, "token ids": with(talk, object{"return_token_ids": true}), "max_completion_tokens": with(talk, object{"max_completion_tokens": 2}),
			"two choices": with(talk, object{"n": 2, "temperature": 1}), "model named": with(talk, object{"model": model}),
			"stream": with(talk, object{"stream": true}), "stream with ids": with(talk, streaming),
			"stream with usage":            with(talk, streaming, object{"stream_options": usage}),
			"stream with continuous usage": with(talk, streaming, object{"stream_options": continuous}),
			"stream of two choices":        with(talk, streaming, object{"n": 2, "temperature": 1, "max_tokens": 1}),
		}),
		posts(completions, true, map[string]any{
			"unknown model": with(long, object{"model": "nobody"}), "no prompt": object{"max_tokens": 1}, "empty prompt": object{"prompt": ""},
			"no prompts": object{"prompt": []string{}}, "empty ids": object{"prompt": [][]int{{}}}, "unknown id": object{"prompt": []int{99999}},
			"max_tokens 0": with(long, object{"max_tokens": 0}), "max_tokens beyond the window": with(long, object{"max_tokens": window + 1}),
			"prompt beyond the window": object{"prompt": ids(window + 9), "max_tokens": 1}, "prompt of the window": object{"prompt": ids(window), "max_tokens": 1},
			"temperature": with(long, object{"temperature": -1}), "top_p": with(long, object{"top_p": 0}), "n 0": with(long, object{"n": 0}),
			"n beyond": with(long, object{"n": 20000}), "n greedy": with(long, object{"n": 2}),
			"min_tokens above": with(long, object{"min_tokens": 99}), "min_tokens below": with(long, object{"min_tokens": -9}),
			"stop empty": with(long, object{"stop": []string{""}}), "stream_options": with(long, object{"stream_options": usage}),
			"beam stream": with(long, object{"use_beam_search": true, "n": 2, "stream": true}),
		}),
		posts(completions, false, map[string]any{
			"max_tokens text": with(long, object{"max_tokens": "a"}), "stop number": with(long, object{"stop": 5}), "prompt number": object{"prompt": 5},
			"id below 0": object{"prompt": []int{-1}}, "stream_interval": with(long, object{"stream_interval": 0}),
			"truncate": with(long, object{"truncate_prompt_tokens": -5}), "list": "[]", "no JSON": "{bad",
		}),
		posts(chat, true, map[string]any{
			"no messages": object{"messages": []object{}}, "unknown model": with(talk, object{"model": "nobody"}),
			"begun and continued": with(talk, object{"continue_final_message": true}),
		}),
		posts(chat, false, map[string]any{"messages missing": object{}, "messages text": object{"messages": "x"}}),
		posts("/tokenize", true, map[string]any{
			"prompt": object{"model": model, "prompt": "Hi there"}, "strings": object{"prompt": "Hi", "return_token_strs": true},
			"messages": object{"messages": user}, "unknown model": object{"model": "nobody", "prompt": "x"},
		}),
		posts("/tokenize", false, map[string]any{"neither": object{"model": model}}),
		posts("/detokenize", true, map[string]any{
			"ids": object{"model": model, "tokens": []int{5, 300}}, "none": object{"tokens": []int{}}, "unknown id": object{"tokens": []int{99999}},
			"unknown model": object{"model": "nobody", "tokens": []int{5}},
		}),
		posts("/detokenize", false, map[string]any{"missing": object{"model": model}}),
		[]exchange{
			{"models", http.MethodGet, "/v1/models", nil, false}, {"version", http.MethodGet, "/version", nil, false},
			{"health", http.MethodGet, "/health", nil, false}, {"ping", http.MethodGet, "/ping", nil, false}, {"load", http.MethodGet, "/load", nil, false},
			{"post health", http.MethodPost, "/health", object{}, true}, {"get completions", http.MethodGet, completions, nil, true},
			{"nowhere", http.MethodGet, "/nowhere", nil, true}, {"post nowhere", http.MethodPost, "/nowhere", object{}, true},
		},
	)
}

// seen is what is compared of an answer.
type seen struct {
	Status int
	Type   string
	Frames []string
}

// look sends the request and tells what came back.
func (x exchange) look(t *testing.T, server, contentType string) seen {
	t.Helper()
	raw, _ := x.body.(string)
	if _, text := x.body.(string); !text && x.body != nil {
		encoded, err := json.Marshal(x.body)
		if err != nil {
			t.Fatal(err)
		}
		raw = string(encoded)
	}
	req, err := http.NewRequestWithContext(t.Context(), x.method, server+x.path, strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	s := seen{Status: resp.StatusCode, Type: kind}
	if kind != "text/event-stream" {
		s.Frames = append(s.Frames, x.shape(string(body)))
		return s
	}
	for frame := range strings.SplitSeq(strings.TrimSpace(string(body)), "\n\n") {
		s.Frames = append(s.Frames, x.shape(strings.TrimPrefix(frame, "data: ")))
	}
	// Choices of one step come in any order, and tokens that have piled up in one chunk.
	slices.Sort(s.Frames)
	s.Frames = slices.Compact(s.Frames)
	return s
}

// shape writes what kind of value everything in a JSON text is.
func (x exchange) shape(text string) string {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return text
	}
	return x.describe("", v)
}

// values are fields whose values must be the same, and not just of a kind.
var values = []string{"object", "index", "finish_reason", "stop_reason", "role", "type", "param", "code", "count", "max_model_len", "detail", "owned_by"}

func (x exchange) describe(name string, v any) string {
	switch v := v.(type) {
	case map[string]any:
		parts := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+":"+x.describe(k, v[k]))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		if name == "choices" {
			parts := make([]string, len(v))
			for i := range v {
				parts[i] = x.describe("", v[i])
			}
			return "[" + strings.Join(parts, " ") + "]"
		}
		return "[" + x.describe("", v[0]) + "...]"
	case nil:
		return "null"
	}
	counted := name == "count" && x.path == "/tokenize" // how many tokens a text has is the tokenizer's own
	if slices.Contains(values, name) && !counted || name == "message" && x.words {
		return fmt.Sprintf("%#v", v)
	}
	return fmt.Sprintf("%T", v)
}

// shapes compares vLLM's answers with the simulator's.
func (b *bed) shapes(t *testing.T) {
	m := b.model
	sim, err := vllmsim.New(vllmsim.Config{Model: m.name, MaxModelLen: window, MaxNumSeqs: slots, Priority: m.priority()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(server.Close)
	check(t, "simulator_answers_like_vllm", m.name, func(t *testing.T) string {
		list := exchanges(m.name)
		for _, x := range list {
			want := x.look(t, server.URL, "application/json")
			diff := "not asked"
			// A busy vLLM sends all that has piled up in one chunk; a difference that is one stays.
			for try := 0; diff != "" && try < 10; try++ {
				diff = cmp.Diff(x.look(t, b.engine.url, "application/json"), want)
			}
			if diff != "" {
				t.Errorf("%s %s, %s (-vLLM +simulator):\n%s", x.method, x.path, x.name, diff)
			}
		}
		text := exchange{"text", http.MethodPost, completions, object{"prompt": "x"}, true}
		if diff := cmp.Diff(text.look(t, b.engine.url, "text/plain"), text.look(t, server.URL, "text/plain")); diff != "" {
			t.Errorf("text/plain (-vLLM +simulator):\n%s", diff)
		}
		return fmt.Sprintf("%d requests", len(list)+1)
	})
	check(t, "simulator_metrics_are_vllms", m.name, func(t *testing.T) string {
		theirs, ours := names(t, b.engine.url), names(t, server.URL)
		for _, name := range ours {
			if !slices.Contains(theirs, name) {
				t.Errorf("the simulator has %s; vLLM has not", name)
			}
		}
		return fmt.Sprintf("%d of vLLM's %d", len(ours), len(theirs))
	})
}

// names lists the metrics of a server with the names of their labels, and of the finish reasons the values.
func names(t *testing.T, server string) []string {
	t.Helper()
	resp, err := http.Get(server + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "vllm:") || strings.Contains(line, "_bucket{") || strings.Contains(line, "_created{") {
			continue
		}
		name, rest, _ := strings.Cut(line, "{")
		labels, _, _ := strings.Cut(rest, "}")
		if name == "vllm:cache_config_info" {
			all[name] = true // it has a label for every setting, others in every version
			continue
		}
		var kinds []string
		for pair := range strings.SplitSeq(labels, ",") {
			key, _, _ := strings.Cut(pair, "=")
			if key == "finished_reason" {
				key = pair
			}
			kinds = append(kinds, key)
		}
		slices.Sort(kinds)
		all[name+"{"+strings.Join(kinds, ",")+"}"] = true
	}
	return slices.Sorted(maps.Keys(all))
}
