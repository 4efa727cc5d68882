//go:build vllm && linux

package realvllm_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// greedy asks for so many tokens, the same every time. Special tokens are left out: a model of noise would write
// them in mid-text, where they have no text in a stream and one in /detokenize, which makes hxp begin again.
func greedy(tokens int) object {
	bias := object{}
	for id := range 8 {
		bias[fmt.Sprint(id)] = -100
	}
	return object{"temperature": 0, "max_tokens": tokens, "ignore_eos": true, "logit_bias": bias}
}

func prompt(text string, tokens int) object { return with(greedy(tokens), object{"prompt": text}) }

func message(role, content string) object { return object{"role": role, "content": content} }

func say(text string, tokens int) object {
	return with(greedy(tokens), object{"messages": []object{message("user", text)}})
}

// tokens asks for the tokens of a text without those that open one.
func (e *engine) tokens(t *testing.T, text string) []int {
	t.Helper()
	var a struct {
		Count  int   `json:"count"`
		Window int   `json:"max_model_len"`
		Tokens []int `json:"tokens"`
	}
	e.answered(t, "/tokenize", object{"model": e.model, "prompt": text, "add_special_tokens": false}, &a)
	if a.Count != len(a.Tokens) || a.Window != window {
		t.Errorf("/tokenize of %q = %+v, want as many tokens as it counts and a window of %d", text, a, window)
	}
	return a.Tokens
}

func (e *engine) text(t *testing.T, ids []int) string {
	t.Helper()
	var a struct {
		Prompt string `json:"prompt"`
	}
	e.answered(t, "/detokenize", object{"model": e.model, "tokens": ids}, &a)
	return a.Prompt
}

// direct checks vLLM on its own: what hxp relies on.
func (b *bed) direct(t *testing.T) {
	m := b.model
	check(t, "vllm_chat_template", m.name, func(t *testing.T) string {
		messages := []object{message("system", "S"), message("user", "U1"), message("assistant", "A1"), message("user", "U2")}
		if m.noSystem {
			b.refused(t, chat, with(greedy(1), object{"messages": messages}), http.StatusBadRequest, "must alternate")
			messages = messages[1:]
		}
		s := b.stream(t, chat, with(greedy(1), object{"messages": messages}))
		if got := b.text(t, s.prompt); got != m.chat {
			t.Errorf("the prompt is %q, want %q", got, m.chat)
		}
		var a struct {
			Tokens []int `json:"tokens"`
		}
		b.answered(t, "/tokenize", object{"model": m.name, "messages": messages}, &a)
		if !slices.Equal(a.Tokens, s.prompt) {
			t.Errorf("/tokenize says %v, the chat was made of %v", a.Tokens, s.prompt)
		}
		return ""
	})
	check(t, "vllm_end_tokens", m.name, func(t *testing.T) string {
		for i, end := range m.ends {
			ids := b.tokens(t, end)
			if len(ids) != 1 {
				t.Fatalf("%s is %v, want one token", end, ids)
			}
			body := say("Hi", 9)
			delete(body, "ignore_eos")
			got := b.reference(t, chat, with(body, object{"logit_bias": object{fmt.Sprint(ids[0]): 100}}))
			stop := ""
			if i > 0 {
				stop = fmt.Sprint(ids[0]) // one that generation_config.json adds is named
			}
			if got.finish != "stop" || got.stop != stop || len(got.text) > 0 || !slices.Equal(got.ids, ids) {
				t.Errorf("a reply of %s ends with %s %q and reads %q %v", end, got.finish, got.stop, got.text, got.ids)
			}
		}
		return "`" + strings.Join(m.ends, "` `") + "`"
	})
	check(t, "vllm_tokenize_and_back", m.name, func(t *testing.T) string {
		for _, text := range []string{"Hello, world", "  é→🙂 你好\n", "[INST] <|im_end|> <|end|> </s>", ""} {
			if got := b.text(t, b.tokens(t, text)); got != text {
				t.Errorf("%q comes back as %q", text, got)
			}
		}
		return ""
	})
	check(t, "vllm_same_reply_from_tokens", m.name, func(t *testing.T) string {
		whole := b.stream(t, chat, say("Tell me more", 120))
		want := whole.choices[0]
		for _, cut := range []int{1, 57, 119} {
			body := with(greedy(120-cut), object{"prompt": slices.Concat(whole.prompt, want.ids[:cut]), "cache_salt": fmt.Sprint(cut)})
			if got := b.reference(t, completions, body); !slices.Equal(got.ids, want.ids[cut:]) {
				t.Errorf("the reply goes on after %d tokens with %v, want %v", cut, got.ids, want.ids[cut:])
			}
		}
		return ""
	})
	check(t, "vllm_prompts_by_index", m.name, func(t *testing.T) string {
		texts := []string{"one", "the second", "and a third one"}
		s := b.stream(t, completions, with(greedy(12), object{"prompt": texts}))
		if len(s.choices) != len(texts) {
			t.Fatalf("%d choices, want %d", len(s.choices), len(texts))
		}
		for i, text := range texts {
			if want := b.reference(t, completions, prompt(text, 12)); !slices.Equal(s.choices[i].ids, want.ids) {
				t.Errorf("choice %d is %v, want that of prompt %q, %v", i, s.choices[i].ids, text, want.ids)
			}
		}
		return ""
	})
	check(t, "vllm_errors", m.name, func(t *testing.T) string {
		long := make([]int, window+9)
		b.refused(t, completions, object{"prompt": long, "max_tokens": 1}, http.StatusBadRequest,
			"maximum context length", fmt.Sprint(window), fmt.Sprint(len(long)))
		b.refused(t, completions, object{"prompt": "x", "max_tokens": window + 1}, http.StatusBadRequest,
			fmt.Sprintf("max_tokens=%d", window+1), fmt.Sprintf("max_model_len=%d", window))
		b.refused(t, completions, object{"model": "nobody", "prompt": "x"}, http.StatusNotFound, "`nobody` does not exist")
		b.refused(t, completions, with(prompt("x", 1), object{"use_beam_search": true, "n": 2, "stream": true}), http.StatusBadRequest, "beam search")
		b.refused(t, chat, object{"messages": "x"}, http.StatusBadRequest, "valid list")
		return ""
	})
	check(t, "vllm_clamps_max_tokens", m.name, func(t *testing.T) string {
		// Prompt and answer together exceed the window, each alone does not: cut short without a word.
		got := b.reference(t, completions, with(greedy(window-1), object{"prompt": make([]int, window-20)}))
		if got.finish != "length" || len(got.ids) != 20 {
			t.Errorf("%d tokens and %s, want 20 and length", len(got.ids), got.finish)
		}
		return ""
	})
	check(t, "vllm_priority", m.name, func(t *testing.T) string {
		// The field's description promises an error without --scheduling-policy priority. There is none.
		if got := b.reference(t, chat, with(say("x", 3), object{"priority": 7})); len(got.ids) != 3 {
			t.Errorf("%d tokens, want 3", len(got.ids))
		}
		if m.priority() {
			return "(by priority)"
		}
		return "(ignored)"
	})
	check(t, "vllm_load_metrics", m.name, func(t *testing.T) string {
		before, err := b.scrape(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.reference(t, completions, prompt("count", 30))
		after, err := b.scrape(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{
			"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
			"vllm:num_preemptions_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:cache_config_info",
		} {
			if _, ok := after[name]; !ok {
				t.Errorf("no metric %s", name)
			}
		}
		if n := after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]; n != 30 {
			t.Errorf("30 tokens count as %v", n)
		}
		return ""
	})
}
