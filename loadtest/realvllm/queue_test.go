//go:build vllm && linux

package realvllm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/schemas"
)

// queued checks what comes of requests that go through hxp.
func (b *bed) queued(t *testing.T) {
	m := b.model
	w := b.startWorker(t)
	check(t, "hxp_streams_what_vllm_says", m.name, func(t *testing.T) string {
		for path, body := range map[string]object{chat: say("How are you?", 150), completions: prompt("Once upon a time", 150)} {
			want := b.stream(t, path, body)
			r := b.submit(t, path, body).is(t, *want.choices[0])
			if r.Usage == nil || *r.Usage != *want.usage {
				t.Errorf("%s: usage is %+v, want %+v", path, r.Usage, want.usage)
			}
		}
		return ""
	})
	check(t, "hxp_answer_without_stream", m.name, func(t *testing.T) string {
		body := say("Be brief", 20)
		want := b.reference(t, chat, body)
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.jobs.Do(t.Context(), schemas.Job{Model: m.name, Endpoint: schemas.ChatCompletions, Body: raw})
		if err != nil || r.Text != string(want.text) {
			t.Errorf("result = %+v %v, want %q", r, err, want.text)
		}
		return ""
	})
	check(t, "hxp_context_length", m.name, func(t *testing.T) string {
		for name, body := range map[string]object{
			"prompt":     with(greedy(1), object{"prompt": make([]int, window+9)}),
			"text":       prompt(strings.Repeat("q x z ", window), 1),
			"max_tokens": prompt("x", window+1),
			"both":       with(greedy(21), object{"prompt": make([]int, window-20)}),
		} {
			r := b.submit(t, completions, body).result(t)
			if r.Error == nil || r.Error.Code != schemas.CodeContextLengthExceeded || !strings.Contains(r.Error.Message, fmt.Sprint(window)) {
				t.Errorf("%s: %s %+v, want context_length_exceeded with the window", name, r.Status, r.Error)
			}
		}
		return ""
	})
	check(t, "hxp_refusals", m.name, func(t *testing.T) string {
		for words, body := range map[string]object{
			"top_p": with(say("x", 3), object{"top_p": 7}),
			"stop":  with(say("x", 3), object{"stop": []string{""}}),
			"list":  {"messages": "x"},
		} {
			r := b.submit(t, chat, body).result(t)
			if r.Error == nil || r.Error.Code != schemas.CodeInvalidRequest || !strings.Contains(r.Error.Message, words) || r.Attempts != 1 {
				t.Errorf("%v: %s %+v after %d attempts, want invalid_request about %s at once", body, r.Status, r.Error, r.Attempts, words)
			}
		}
		return ""
	})
	check(t, "hxp_choices_and_prompts", m.name, func(t *testing.T) string {
		texts := []string{"one", "the second"}
		j := b.submit(t, completions, with(greedy(10), object{"prompt": texts}))
		if r := j.result(t); r.Status != schemas.StatusCompleted || len(j.choices) != 2 {
			t.Fatalf("%s %v with %d choices, want 2", r.Status, r.Error, len(j.choices))
		}
		for i, text := range texts {
			if want := b.reference(t, completions, prompt(text, 10)); !slices.Equal(j.choices[i].ids, want.ids) {
				t.Errorf("choice %d is %v, want %v", i, j.choices[i].ids, want.ids)
			}
		}
		j = b.submit(t, chat, with(say("Roll the dice", 10), object{"n": 3, "temperature": 1, "seed": 7}))
		r := j.result(t)
		var choices []json.RawMessage
		if err := json.Unmarshal(r.Choices, &choices); err != nil || len(choices) != 3 || len(j.choices) != 3 {
			t.Fatalf("%s %v %v with %d choices in the result and %d in the stream, want 3", r.Status, r.Error, err, len(choices), len(j.choices))
		}
		if bytes.Equal(j.choices[0].text, j.choices[1].text) && bytes.Equal(j.choices[1].text, j.choices[2].text) {
			t.Error("three samples are the same")
		}
		return ""
	})
	check(t, "hxp_logprobs", m.name, func(t *testing.T) string {
		r := b.submit(t, chat, with(say("Are you sure?", 8), object{"logprobs": true, "top_logprobs": 2})).result(t)
		var choices []struct {
			Logprobs struct {
				Content []struct {
					Token   string  `json:"token"`
					Logprob float64 `json:"logprob"`
					Top     []any   `json:"top_logprobs"`
				} `json:"content"`
			} `json:"logprobs"`
		}
		if err := json.Unmarshal(r.Choices, &choices); err != nil || len(choices) != 1 {
			t.Fatalf("%s %v: %v in %s", r.Status, r.Error, err, r.Choices)
		}
		content := choices[0].Logprobs.Content
		if len(content) != 8 || len(content[0].Top) != 2 || content[0].Logprob >= 0 {
			t.Errorf("logprobs are %+v, want 8 with 2 alternatives each", content)
		}
		return ""
	})
	check(t, "hxp_cancel_aborts", m.name, func(t *testing.T) string {
		const produced = "vllm:generation_tokens_total"
		before := b.metric(t, produced)
		j := b.submit(t, chat, say("Never stop", window-100))
		j.read(t, 5)
		began := time.Now()
		if _, err := j.stream.Cancel(t.Context(), "enough"); err != nil {
			t.Fatal(err)
		}
		var took time.Duration
		eventually(t, 20*time.Second, "vLLM runs nothing", func() bool {
			took = time.Since(began)
			return b.metric(t, "vllm:num_requests_running") == 0
		})
		// An abort by a client is in no counter of finished requests: what tells is how much was generated.
		after := b.metric(t, produced)
		<-time.After(300 * time.Millisecond)
		if n := b.metric(t, produced); n != after || n-before > window/2 {
			t.Errorf("vLLM generated %v tokens, and %v more in a moment; want it stopped long before %d", after-before, n-after, window-100)
		}
		r := j.result(t)
		if r.Status != schemas.StatusCancelled || r.Usage != nil && r.Usage.CompletionTokens > window/2 {
			t.Errorf("%s after %+v, want cancelled long before the end", r.Status, r.Usage)
		}
		return fmt.Sprintf("%d ms", took.Milliseconds())
	})
	b.seams(t, w)
}

// seams checks replies that are interrupted by the death of a worker.
func (b *bed) seams(t *testing.T, w *program) {
	m := b.model
	check(t, "continues_after_worker_killed", m.name, func(t *testing.T) string {
		body := say("A long story, please", 1500)
		want := b.reference(t, chat, body)
		j := b.submit(t, chat, body)
		j.read(t, 20)
		began := time.Now()
		w.kill(t)
		w = b.startWorker(t)
		j.until(t, func() bool { return len(j.resumed) > 0 })
		took := time.Since(began)
		j.is(t, want)
		return j.wentOn(t, took)
	})
	check(t, "stop_string_across_the_seam", m.name, func(t *testing.T) string {
		body := say("And another one", 1500)
		whole := b.reference(t, chat, body)
		// So long that it has begun when the worker dies, and has not ended.
		stop, begins, ends := long(whole.text)
		body["stop"] = []string{stop}
		want := b.reference(t, chat, body)
		if want.finish != "stop" {
			t.Fatalf("the undisturbed reply ends with %s, want stop", want.finish)
		}
		j := b.submit(t, chat, body)
		j.read(t, 40)
		began := time.Now()
		w.kill(t)
		w = b.startWorker(t)
		j.until(t, func() bool { return len(j.resumed) > 0 })
		took := time.Since(began)
		if at := len(b.text(t, whole.ids[:j.sent])); at <= begins || at >= ends {
			t.Errorf("the worker died at byte %d, outside of the stop string from %d to %d: nothing was shown", at, begins, ends)
		}
		j.is(t, want)
		return j.wentOn(t, took)
	})
	check(t, "hands_back_when_worker_stops", m.name, func(t *testing.T) string {
		stop(t, w)
		w = b.startWorker(t, "worker.drain_timeout=100ms")
		body := say("The last of them", 1500)
		want := b.reference(t, chat, body)
		j := b.submit(t, chat, body)
		j.read(t, 20)
		began := time.Now()
		terminate(t, w)
		b.startWorker(t)
		j.until(t, func() bool { return len(j.resumed) > 0 })
		took := time.Since(began)
		j.is(t, want)
		<-w.done
		if w.err != nil {
			t.Errorf("the worker ended with %s", w.exit())
		}
		return j.wentOn(t, took)
	})
}

// long picks a stop string of a third of a text from near its start, and says where it lies.
func long(text []byte) (stop string, begins, ends int) {
	boundary := func(at int) int {
		for !utf8.RuneStart(text[at]) {
			at++
		}
		return at
	}
	begins, ends = boundary(30), boundary(len(text)/3)
	return string(text[begins:ends]), begins, ends
}

// wentOn says how long it took until a job went on.
func (j *job) wentOn(t *testing.T, took time.Duration) string {
	t.Helper()
	said := fmt.Sprintf("%s, kept %d tokens", seconds(took), j.kept(t))
	if n := len(j.resumed) - 1; n > 0 {
		said += fmt.Sprintf(", %d leases lost besides", n)
	}
	return said
}

// kept holds that an interrupted reply did not begin again, and returns how many tokens it went on from. On a machine
// that starts two engines at once a worker may lose its leases besides: that is excused, and the reply goes on again.
func (j *job) kept(t *testing.T) int {
	t.Helper()
	if len(j.again) > 0 || len(j.resumed) == 0 || slices.ContainsFunc(j.resumed[1:], func(e schemas.Event) bool { return !e.Excused }) {
		t.Errorf("%v, restarted for %v; want one resumed", j.kinds, j.again)
		return 0
	}
	return j.resumed[0].Kept
}
