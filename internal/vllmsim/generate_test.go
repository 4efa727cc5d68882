package vllmsim_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

// same compares choices; stop reasons have been through JSON.
var same = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".StopReason" },
		cmp.Comparer(func(a, b any) bool { return fmt.Sprint(a) == fmt.Sprint(b) })),
}

// bodies are requests of both endpoints that must come out as Expected says, streamed or not.
func bodies() map[string]struct {
	path string
	body obj
} {
	long := "Write a long story about a queue that never loses a message."
	period := vllmsim.Tokenize(".")[0]
	type c = struct {
		path string
		body obj
	}
	return map[string]c{
		"text":               {completions, obj{"prompt": "Hello"}},
		"tokens":             {completions, obj{"prompt": vllmsim.Tokenize(long), "max_tokens": 100}},
		"texts, n":           {completions, obj{"prompt": []string{"a", "b c"}, "n": 2, "max_tokens": 30}},
		"token lists":        {completions, obj{"prompt": [][]int{{1}, {1, 300}}, "max_tokens": 9}},
		"to the end":         {completions, obj{"prompt": long, "max_tokens": 3000}},
		"past the end":       {completions, obj{"prompt": long, "max_tokens": 600, "ignore_eos": true}},
		"specials shown":     {completions, obj{"prompt": long, "max_tokens": 600, "ignore_eos": true, "skip_special_tokens": false}},
		"stop":               {completions, obj{"prompt": long, "max_tokens": 300, "stop": " the"}},
		"stop over tokens":   {completions, obj{"prompt": long, "max_tokens": 300, "stop": []string{"zzz", "y. T", "d. H", "s. M", "r. E"}}},
		"stop never":         {completions, obj{"prompt": long, "max_tokens": 100, "stop": []string{"qqqqqqqqqqqqqqqqqqqq"}}},
		"stop included":      {completions, obj{"prompt": long, "max_tokens": 300, "stop": []string{". "}, "include_stop_str_in_output": true}},
		"stop late":          {completions, obj{"prompt": long, "max_tokens": 300, "stop": ".", "min_tokens": 50}},
		"stop in UTF-8":      {completions, obj{"prompt": long, "max_tokens": 2000, "ignore_eos": true, "stop": []string{"é", "☕"}}},
		"stop token":         {completions, obj{"prompt": long, "max_tokens": 300, "stop_token_ids": []int{period}}},
		"stop token shown":   {completions, obj{"prompt": long, "max_tokens": 300, "stop_token_ids": []int{period}, "include_stop_str_in_output": true}},
		"seed":               {completions, obj{"prompt": long, "max_tokens": 30, "seed": 42}},
		"no seed":            {completions, obj{"prompt": long, "max_tokens": 30, "seed": -1}},
		"no BOS":             {completions, obj{"prompt": long, "max_tokens": 30, "add_special_tokens": false}},
		"truncated":          {completions, obj{"prompt": long, "max_tokens": 30, "truncate_prompt_tokens": 3}},
		"echo":               {completions, obj{"prompt": "x \"quoted\" \\ \x01 café\n", "max_tokens": 4, "echo": true}},
		"broken character":   {completions, obj{"prompt": []int{8 + 0xc3}, "max_tokens": 4}},
		"interval":           {completions, obj{"prompt": long, "max_tokens": 100, "stream_interval": 7}},
		"chat":               {chat, obj{"messages": []obj{message("user", "Hi")}}},
		"chat limits":        {chat, obj{"messages": []obj{message("system", "Be brief"), message("user", "Hi")}, "max_tokens": 50, "max_completion_tokens": 7}},
		"chat n":             {chat, obj{"messages": []obj{message("user", "Hi")}, "n": 3, "max_tokens": 20}},
		"chat parts":         {chat, obj{"messages": []obj{{"role": "user", "content": []obj{{"type": "text", "text": "a"}, {"type": "text", "text": "b"}}}, {"role": "assistant", "content": nil}}, "max_tokens": 5}},
		"chat continued":     {chat, obj{"messages": []obj{message("user", "Hi"), message("assistant", "The quiet")}, "add_generation_prompt": false, "continue_final_message": true, "max_tokens": 20}},
		"chat without turn":  {chat, obj{"messages": []obj{message("user", "Hi")}, "add_generation_prompt": false, "max_tokens": 5, "add_special_tokens": true}},
		"beam without chunk": {completions, obj{"prompt": "x", "use_beam_search": true, "n": 2, "temperature": 0}},
	}
}

func TestAnswersAreAsExpected(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m"})
	for name, c := range bodies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.body["return_token_ids"] = true
			want, err := r.Expected(encode(t, c.body), c.path)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := vllmsim.Expected("m", encode(t, c.body), c.path)
			if d := cmp.Diff(want, plain); d != "" || err != nil {
				t.Errorf("the function differs from the method (%v):\n%s", err, d)
			}
			usage := wireUsage{Prompt: 0}
			seen := map[string]bool{}
			for _, w := range want {
				if key := fmt.Sprint(w.PromptTokenIDs); !seen[key] {
					seen[key] = true
					usage.Prompt += len(w.PromptTokenIDs)
				}
				usage.Completion += len(w.TokenIDs)
			}
			usage.Total = usage.Prompt + usage.Completion

			// In one piece.
			resp, err := r.send(t.Context(), t, http.MethodPost, c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var whole wireChunk
			if err := json.NewDecoder(resp.Body).Decode(&whole); err != nil {
				t.Fatal(err)
			}
			var got []vllmsim.Completion
			for _, ch := range whole.Choices {
				ids := ch.PromptTokenIDs
				if c.path == chat {
					ids = whole.PromptTokenIDs
				}
				got = append(got, vllmsim.Completion{Index: ch.Index, Text: ch.Text + ch.Message.Content, TokenIDs: ch.TokenIDs,
					PromptTokenIDs: ids, FinishReason: *ch.FinishReason, StopReason: ch.StopReason})
			}
			if d := cmp.Diff(want, got, same); d != "" {
				t.Errorf("in one piece (-want +got):\n%s", d)
			}
			if d := cmp.Diff(&usage, whole.Usage); d != "" {
				t.Errorf("usage (-want +got):\n%s", d)
			}
			if c.body["use_beam_search"] == true {
				return
			}

			// As a stream.
			c.body["stream_options"] = obj{"include_usage": true, "continuous_usage_stats": true}
			res := r.stream(t, c.path, c.body)
			if res.end != errDone || len(res.choices) != len(want) {
				t.Fatalf("stream ended with %v and %d choices", res.end, len(res.choices))
			}
			for i, w := range want {
				if d := cmp.Diff(w, *res.choices[i], same); d != "" {
					t.Errorf("stream, choice %d (-want +got):\n%s", i, d)
				}
			}
			if d := cmp.Diff(&usage, res.usage); d != "" {
				t.Errorf("stream usage (-want +got):\n%s", d)
			}
			sofar := map[int]int{}
			for _, chunk := range res.chunks[:len(res.chunks)-1] {
				ch := chunk.Choices[0]
				sofar[ch.Index] += len(ch.TokenIDs)
				if n := chunk.Usage.Completion; n != sofar[ch.Index] {
					t.Errorf("usage after %d tokens says %d", sofar[ch.Index], n)
				}
			}
		})
	}
}

// The text of the prompt comes first, unless its tokens are asked for.
func TestEcho(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m"})
	const prompt = "x \"quoted\" \\ \x01 café\n"
	plain := obj{"prompt": prompt, "max_tokens": 4}
	reply := r.stream(t, completions, plain).choices[0].Text
	for _, c := range []struct {
		ids  bool
		want string
	}{{false, prompt + reply}, {true, reply}} {
		body := obj{"prompt": prompt, "max_tokens": 4, "echo": true, "return_token_ids": c.ids}
		if got := r.stream(t, completions, body).choices[0].Text; got != c.want {
			t.Errorf("return_token_ids=%t: streamed %q, want %q", c.ids, got, c.want)
		}
		delete(body, "stream")
		if _, whole := r.do(t, http.MethodPost, completions, body); whole["choices"].([]any)[0].(obj)["text"] != c.want {
			t.Errorf("return_token_ids=%t: %v, want %q", c.ids, whole, c.want)
		}
	}
}

// TestStreamWire holds the frames byte for byte, apart from what differs by the run.
func TestStreamWire(t *testing.T) {
	t.Parallel()
	prompt := vllmsim.Tokenize("Hello")
	ids, _ := vllmsim.Generate("m", prompt, 0, 0, 2)
	one, two := vllmsim.Detokenize(ids[:1]), vllmsim.Detokenize(ids[1:])
	list := func(ids []int) string { return strings.ReplaceAll(fmt.Sprint(ids), " ", ",") }
	for name, c := range map[string]struct {
		cfg  vllmsim.Config
		path string
		body obj
		want []string
	}{
		"completion": {vllmsim.Config{}, completions, obj{"prompt": prompt, "max_tokens": 2, "return_token_ids": true, "stream_options": obj{"include_usage": true}}, []string{
			`{"id":"cmpl-X","object":"text_completion","created":0,"model":"m","choices":[{"index":0,"text":"` + one + `","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":` + list(prompt) + `,"token_ids":` + list(ids[:1]) + `}]}`,
			`{"id":"cmpl-X","object":"text_completion","created":0,"model":"m","choices":[{"index":0,"text":"` + two + `","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":` + list(ids[1:]) + `}]}`,
			fmt.Sprintf(`{"id":"cmpl-X","object":"text_completion","created":0,"model":"m","choices":[],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":2},"system_fingerprint":"vllm-0.32.0+sim"}`, len(prompt), len(prompt)+2),
			`[DONE]`,
		}},
		"completion without extras": {vllmsim.Config{NoExtras: true}, completions, obj{"prompt": prompt, "max_tokens": 1, "return_token_ids": true}, []string{
			`{"id":"cmpl-X","object":"text_completion","created":0,"model":"m","choices":[{"index":0,"text":"` + one + `","logprobs":null,"finish_reason":"length"}]}`,
			`[DONE]`,
		}},
		"chat": {vllmsim.Config{}, chat, obj{"messages": []obj{message("user", "x"), message("assistant", "Hello")}, "add_generation_prompt": false, "continue_final_message": true, "max_tokens": 1, "stop": "qq"}, []string{
			`{"id":"chatcmpl-X","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}`,
			`{"id":"chatcmpl-X","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,"delta":{"content":"?"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0+sim"}`,
			`[DONE]`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.cfg.Model = "m"
			r := newRig(t, c.cfg)
			if c.path == chat {
				e, err := r.Expected(encode(t, c.body), chat)
				if err != nil {
					t.Fatal(err)
				}
				c.want[1] = strings.Replace(c.want[1], "?", e[0].Text, 1)
			}
			c.body["request_id"] = "X"
			got := r.stream(t, c.path, c.body).raw
			for i, frame := range got {
				if at := strings.Index(frame, `"created":`); at >= 0 {
					end := at + strings.IndexByte(frame[at:], ',')
					got[i] = frame[:at] + `"created":0` + frame[end:]
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("frames (-want +got):\n%s", d)
			}
		})
	}
}

// TestUnfinishedCharactersWait: the token is reported at once, its text with the one that completes the character.
func TestUnfinishedCharactersWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m"})
	prompt := vllmsim.Tokenize("Hello")
	ids, _ := vllmsim.Generate("m", prompt, 0, 0, 3000)
	body := obj{"prompt": prompt, "max_tokens": 3000, "ignore_eos": true, "return_token_ids": true}
	res := r.stream(t, completions, body)
	waited := 0
	for i, chunk := range res.chunks {
		ch := chunk.Choices[0]
		if len(ch.TokenIDs) != 1 {
			t.Fatalf("chunk %d holds %d tokens, want 1", i, len(ch.TokenIDs))
		}
		if strings.ContainsRune(ch.Text, '\ufffd') {
			t.Fatalf("chunk %d shows half a character: %q", i, ch.Text)
		}
		if vllmsim.Detokenize(ch.TokenIDs) == "\xc3" && ch.Text == "" {
			waited++
			// A continuation from here yields the whole character.
			next := slices.Concat(prompt, res.choices[0].TokenIDs[:i+1])
			got, err := r.Expected(encode(t, obj{"prompt": next, "max_tokens": 1}), completions)
			if err != nil || got[0].Text != res.chunks[i+1].Choices[0].Text || len([]rune(got[0].Text)) != 1 {
				t.Errorf("continued inside a character: %+v, %v; want the text %q", got, err, res.chunks[i+1].Choices[0].Text)
			}
		}
	}
	if waited == 0 {
		t.Errorf("no character waited in %d tokens (%d in the first text)", len(res.chunks), len(ids))
	}
	// A reply that ends inside one never shows it.
	at := slices.IndexFunc(res.choices[0].TokenIDs, func(id int) bool { return vllmsim.Detokenize([]int{id}) == "\xc3" })
	body["max_tokens"] = at + 1
	if got := r.stream(t, completions, body).choices[0]; len(got.TokenIDs) != at+1 || strings.ContainsAny(got.Text, "é\ufffd") || strings.Contains(got.Text, "\xc3") {
		t.Errorf("cut inside a character: %q", got.Text)
	}
}

// TestContinuationOverHTTP continues every split of a stream with a token-id prompt, as a worker does.
func TestContinuationOverHTTP(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	body := obj{"messages": []obj{message("user", "Tell me a story")}, "max_tokens": 60, "ignore_eos": true, "return_token_ids": true}
	res := r.stream(t, chat, body)
	whole := res.choices[0]
	text, cut := "", 0
	for _, chunk := range res.chunks {
		text += chunk.Choices[0].Delta.Content
		cut += len(chunk.Choices[0].TokenIDs)
		if cut == 60 {
			break
		}
		rest := r.stream(t, completions, obj{"prompt": slices.Concat(whole.PromptTokenIDs, whole.TokenIDs[:cut]), "max_tokens": 60 - cut, "ignore_eos": true})
		if got := text + rest.choices[0].Text; got != whole.Text {
			t.Fatalf("cut after %d tokens:\n got %q\nwant %q", cut, got, whole.Text)
		}
	}
}

func TestStopStringsAreHeldBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	whole := r.stream(t, completions, obj{"prompt": "Hello", "max_tokens": 40, "ignore_eos": true}).choices[0].Text
	stop := whole[30:42] // some characters in the middle of tokens
	res := r.stream(t, completions, obj{"prompt": "Hello", "max_tokens": 40, "ignore_eos": true, "stop": stop})
	got := res.choices[0]
	if want, _, _ := strings.Cut(whole, stop); got.Text != want || got.FinishReason != "stop" || got.StopReason != stop {
		t.Errorf("text %q, finish %s, stop reason %v; want %q", got.Text, got.FinishReason, got.StopReason, want)
	}
	sent := ""
	for _, chunk := range res.chunks {
		if sent += chunk.Choices[0].Text; !strings.HasPrefix(whole, sent) || strings.Contains(sent, stop[:len(stop)-1]) && chunk.Choices[0].FinishReason == nil {
			t.Errorf("%q was sent too early", sent)
		}
	}
}

func TestStreamInterval(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{StreamInterval: 4})
	for per, want := range map[int][]int{1: {1, 4, 4, 1}, 8: {1, 8, 1}} {
		var got []int
		for _, c := range r.stream(t, completions, obj{"prompt": "Hello", "max_tokens": 10, "ignore_eos": true, "stream_interval": per, "return_token_ids": true}).chunks {
			got = append(got, len(c.Choices[0].TokenIDs))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("stream_interval %d: tokens by chunk (-want +got):\n%s", per, d)
		}
	}
}

func TestChoicesInterleave(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	var order []int
	res := r.stream(t, chat, obj{"messages": []obj{message("user", "x")}, "n": 2, "max_tokens": 2, "ignore_eos": true})
	for _, c := range res.chunks {
		order = append(order, c.Choices[0].Index)
	}
	if d := cmp.Diff([]int{0, 1, 0, 1, 0, 1}, order); d != "" {
		t.Errorf("order of choices: two roles, then each in turn (-want +got):\n%s", d)
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{MaxNumSeqs: 16})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			body := obj{"prompt": fmt.Sprintf("Stream %d", i), "max_tokens": 100, "return_token_ids": true}
			want, err := r.Expected(encode(t, body), completions)
			if err != nil {
				t.Error(err)
				return
			}
			res := r.stream(t, completions, body)
			if d := cmp.Diff(want[0], *res.choices[0], same); d != "" || res.end != errDone {
				t.Errorf("stream %d ended with %v (-want +got):\n%s", i, res.end, d)
			}
		})
	}
	wg.Wait()
	st := r.Stats()
	if st.Finished != 64 || st.Aborted != 0 || st.Requests != 64 || st.Running+st.Waiting != 0 {
		t.Errorf("stats = %+v", st)
	}
}

func TestSay(t *testing.T) {
	t.Parallel()
	const text = "The weather in Tromsø is splendid ☕."
	sim, err := vllmsim.New(vllmsim.Config{Say: text})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := sim.Expected([]byte(`{"prompt":"How is it?","max_tokens":100}`), "/v1/completions")
	if err != nil {
		t.Fatal(err)
	}
	if got := whole[0]; got.Text != text || got.FinishReason != "stop" {
		t.Errorf("reply = %q (%s), want %q", got.Text, got.FinishReason, text)
	}
	for n := range whole[0].TokenIDs {
		prompt, err := json.Marshal(slices.Concat(whole[0].PromptTokenIDs, whole[0].TokenIDs[:n]))
		if err != nil {
			t.Fatal(err)
		}
		rest, err := sim.Expected(fmt.Appendf(nil, `{"prompt":%s,"max_tokens":100}`, prompt), "/v1/completions")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(whole[0].TokenIDs[n:], rest[0].TokenIDs); diff != "" {
			t.Errorf("after %d tokens (-want +got):\n%s", n, diff)
		}
	}
}
