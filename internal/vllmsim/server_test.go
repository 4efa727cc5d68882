package vllmsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m", MaxModelLen: 64, MaxBody: 200_000})
	ids := func(n int) string { return string(encode(t, make([]int, n))) }
	for _, c := range []struct {
		path, body string
		code       int
		param      any
		message    string
	}{
		{completions, `{"prompt":"x","model":"other"}`, 404, "model", "The model `other` does not exist."},
		{completions, `{"prompt":"x","stream":true,"use_beam_search":true}`, 400, nil, "Streaming is not currently supported with beam search"},
		{completions, `{"prompt":"x","stream_options":{"include_usage":true}}`, 400, "stream_options", "Stream options can only be defined when"},
		{completions, `{"prompt":"x","n":0}`, 400, nil, "n must be at least 1, got 0."},
		{completions, `{"prompt":"x","n":20000}`, 400, nil, "at most 16384, got 20000. To increase this limit"},
		{completions, `{"prompt":["x","y"],"n":10000}`, 400, nil, "got 20000"},
		{completions, `{"prompt":"x","n":2,"temperature":0}`, 400, nil, "greedy sampling"},
		{completions, `{"prompt":"x","temperature":-1}`, 400, "temperature", "non-negative, got -1.0. (parameter=temperature, value=-1.0)"},
		{completions, `{"prompt":"x","top_p":0}`, 400, "top_p", "top_p must be in (0, 1]"},
		{completions, `{"prompt":"x","min_tokens":-1}`, 400, nil, "greater than or equal to 0"},
		{completions, `{"prompt":"x","min_tokens":17}`, 400, nil, "max_tokens=16, got 17"},
		{completions, `{"prompt":"x","max_tokens":0}`, 400, "max_tokens", "at least 1, got 0. (parameter=max_tokens, value=0)"},
		{completions, `{"prompt":"x","max_tokens":"many"}`, 400, "body.max_tokens", "max_tokens"},
		{completions, `{"prompt":"x","max_tokens":65}`, 400, "max_tokens", "max_tokens=65 cannot be greater than max_model_len=64. Please request fewer output tokens."},
		{completions, `{"prompt":` + ids(65) + `,"max_tokens":1}`, 400, "input_tokens", "This model's maximum context length is 64 tokens. However, your prompt contains 65 input tokens"},
		{completions, `{"prompt":` + ids(64) + `,"max_tokens":1}`, 400, "max_tokens", "max_tokens must be at least 1, got 0."},
		{completions, `{"prompt":"x","stream_interval":0}`, 400, "body.stream_interval", "greater than or equal to 1"},
		{completions, `{"prompt":"x","truncate_prompt_tokens":-2}`, 400, "body.truncate_prompt_tokens", "greater than or equal to -1"},
		{completions, `{"prompt":"x","stop":5}`, 400, "body.stop", "string or list"},
		{completions, `{"prompt":"x","stop":["a",""]}`, 400, nil, "empty string"},
		{completions, `{"prompt":"x","stop":["a"` + strings.Repeat(`,"a"`, 1000) + `]}`, 400, "stop", "at most 1000 strings, got 1001"},
		{completions, `{"prompt":[]}`, 400, nil, "at least one prompt"},
		{completions, `{"prompt":""}`, 400, "prompt", "non-empty. (parameter=prompt)"},
		{completions, `{"prompt":null}`, 400, "prompt", "non-empty"},
		{completions, `{"prompt":[ ]}`, 400, nil, "at least one prompt"},
		{completions, `{"prompt":[[]]}`, 400, nil, "cannot be empty"},
		{completions, `{"prompt":[99999]}`, 400, nil, "Token id 99999 is out of vocabulary"},
		{completions, `{"prompt":[-1]}`, 400, "body.prompt.0", "greater than or equal to 0"},
		{completions, `{"prompt":{}}`, 400, "body.prompt", "valid list"},
		{completions, `{"prompt":`, 400, "body.9", "JSON decode error"},
		{completions, `{"prompt":"` + strings.Repeat("x", 200_000) + `"}`, 413, nil, "200000 bytes"},
		{chat, `{"messages":[]}`, 400, nil, "empty conversation"},
		{chat, `{}`, 400, "body.messages", "Field required"},
		{chat, `{"messages":[{"content":"x"}]}`, 400, "body.messages.0.role", "role"},
		{chat, `{"messages":[{"role":"user","content":5}]}`, 400, "body.messages", "content"},
		{chat, `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, 400, nil, "image_url"},
		{chat, `{"messages":[{"role":"user","content":"x"}],"continue_final_message":true}`, 400, nil, "are not compatible"},
		{chat, `{"messages":[{"role":"user","content":"x"}],"max_completion_tokens":0}`, 400, "max_tokens", "at least 1"},
		{chat, `{"messages":[{"role":"user","content":"` + strings.Repeat(".", 64) + `"}]}`, 400, "input_tokens", "exceeds this limit even without any output tokens"},
		{"/tokenize", `{"prompt":"x","model":"other"}`, 404, "model", "does not exist"},
		{"/tokenize", `{"messages":[{"role":"user","content":"x"}],"continue_final_message":true}`, 400, nil, "are not compatible"},
		{"/tokenize", `[`, 400, "body.0", "JSON"},
		{"/tokenize", `{"model":"m"}`, 400, "body.prompt", "Field required"},
		{"/detokenize", `{"model":"m"}`, 400, "body.tokens", "Field required"},
		{"/detokenize", `{"tokens":[1],"model":"other"}`, 404, "model", "does not exist"},
	} {
		code, body := r.do(t, http.MethodPost, c.path, c.body)
		e, _ := body["error"].(obj)
		if e == nil {
			t.Errorf("%s %.60s: no error object: %v", c.path, c.body, body)
			continue
		}
		if code != c.code || e["code"] != float64(c.code) || e["param"] != c.param || !strings.Contains(e["message"].(string), c.message) {
			t.Errorf("%s %.60s:\n got %d %v\nwant %d, param %v, %q", c.path, c.body, code, e, c.code, c.param, c.message)
		}
	}
	if code, body := r.do(t, http.MethodPost, completions, obj{"prompt": make([]int, 48)}); code != 200 {
		t.Errorf("a prompt that just fits: %d %v", code, body)
	}
	resp, err := r.client.Post(r.url+completions, "text/plain", strings.NewReader(`{"prompt":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !bytes.Contains(body, []byte("Only 'application/json' is allowed")) {
		t.Errorf("text/plain: %d %s", resp.StatusCode, body)
	}
}

// What the web framework under vLLM says is no error object.
func TestPathsThatAreNotThere(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	for path, want := range map[string]struct {
		code   int
		detail string
	}{"/nowhere": {404, "Not Found"}, "/health": {405, "Method Not Allowed"}} {
		if code, body := r.do(t, http.MethodPost, path, obj{}); code != want.code || !cmp.Equal(body, obj{"detail": want.detail}) {
			t.Errorf("POST %s = %d %v, want %d %s", path, code, body, want.code, want.detail)
		}
	}
}

func TestPriorityWithoutItsSchedulingIsIgnored(t *testing.T) {
	t.Parallel()
	body := obj{"prompt": "x", "priority": 1, "max_tokens": 1}
	if code, answer := newRig(t, vllmsim.Config{}).do(t, http.MethodPost, completions, body); code != 200 {
		t.Errorf("status %d: %v", code, answer)
	}
	if code, answer := newRig(t, vllmsim.Config{RefusePriority: true}).do(t, http.MethodPost, completions, body); code != 400 {
		t.Errorf("status %d: %v, want 400 where that is asked for", code, answer)
	}
}

func TestAnswerIsCutAtTheWindow(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{MaxModelLen: 64})
	body := obj{"prompt": make([]int, 60), "max_tokens": 9, "ignore_eos": true}
	_, whole := r.do(t, http.MethodPost, completions, body)
	if n := whole["usage"].(obj)["completion_tokens"]; n != 4.0 {
		t.Errorf("%v tokens, want the 4 that there is room for: %v", n, whole)
	}
	if c := r.stream(t, completions, body).choices[0]; c.FinishReason != "length" {
		t.Errorf("finish reason is %q, want length", c.FinishReason)
	}
}

func TestDetokenizeLeavesOutWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	known := vllmsim.Tokenize("Hello")
	if _, body := r.do(t, http.MethodPost, "/detokenize", obj{"tokens": append(known, 999999)}); body["prompt"] != "Hello" {
		t.Errorf("detokenize = %v, want Hello", body)
	}
	if code, body := r.do(t, http.MethodPost, "/detokenize", obj{"tokens": []int{}}); code != 200 || body["prompt"] != "" {
		t.Errorf("detokenize of nothing = %d %v", code, body)
	}
}

// The fingerprint is on what ends a stream: the usage, or the last chunk of each choice.
func TestFingerprintEndsAStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	for _, c := range []struct {
		options obj
		want    int
	}{{nil, 2}, {obj{"include_usage": true}, 1}} {
		body := obj{"prompt": []string{"a", "b"}, "max_tokens": 3, "ignore_eos": true}
		if c.options != nil {
			body["stream_options"] = c.options
		}
		res := r.stream(t, completions, body)
		if n := strings.Count(strings.Join(res.raw, ""), `"system_fingerprint":"vllm-0.32.0+sim"`); n != c.want {
			t.Errorf("stream_options %v: %d fingerprints, want %d in %v", c.options, n, c.want, res.raw)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{})
	ask := func(header, field string) string {
		body, _ := json.Marshal(obj{"prompt": "x", "request_id": field})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+completions, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Request-Id", header)
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var c wireChunk
		if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	if got := ask("head", "body"); got != "cmpl-head" {
		t.Errorf("id = %q, want the header's", got)
	}
	if got := ask("", "body"); got != "cmpl-body" {
		t.Errorf("id = %q, want the body's", got)
	}
	if a, b := ask("", ""), ask("", ""); a == b || !strings.HasPrefix(a, "cmpl-") {
		t.Errorf("ids = %q and %q, want two of their own", a, b)
	}
}

func TestSmallEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m", MaxModelLen: 2048, LogPrompts: true})
	for path, want := range map[string]string{"/health": "", "/ping": "", "/version": "0.32.0+sim"} {
		code, body := r.do(t, http.MethodGet, path, "")
		if got, _ := body["version"].(string); code != 200 || got != want {
			t.Errorf("%s: %d %v", path, code, body)
		}
	}
	if _, body := r.do(t, http.MethodGet, "/load", ""); body["server_load"] != 0.0 {
		t.Errorf("load = %v", body)
	}
	_, models := r.do(t, http.MethodGet, "/v1/models", "")
	if m := models["data"].([]any)[0].(obj); m["id"] != "m" || m["max_model_len"] != 2048.0 || m["owned_by"] != "vllm" {
		t.Errorf("models = %v", models)
	}

	msgs := []obj{message("system", "Be kind"), message("user", "Hi <|im_end|>")}
	_, tok := r.do(t, http.MethodPost, "/tokenize", obj{"messages": msgs, "return_token_strs": true})
	_, whole := r.do(t, http.MethodPost, chat, obj{"messages": msgs, "max_tokens": 1, "return_token_ids": true})
	if d := cmp.Diff(whole["prompt_token_ids"], tok["tokens"]); d != "" {
		t.Errorf("/tokenize differs from the prompt of the same messages (-prompt +tokenize):\n%s", d)
	}
	if n := whole["usage"].(obj)["prompt_tokens"]; tok["count"] != n || tok["max_model_len"] != 2048.0 || len(tok["token_strs"].([]any)) != int(n.(float64)) {
		t.Errorf("tokenize = %v, usage says %v prompt tokens", tok, n)
	}
	_, det := r.do(t, http.MethodPost, "/detokenize", obj{"tokens": tok["tokens"]})
	want := "<s><|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
	if det["prompt"] != want {
		t.Errorf("detokenize = %q, want %q", det["prompt"], want)
	}
	if d := cmp.Diff([]string{want}, r.Prompts()); d != "" {
		t.Errorf("logged prompts (-want +got):\n%s", d)
	}
	for add, n := range map[bool]float64{true: 2, false: 1} {
		if _, tok := r.do(t, http.MethodPost, "/tokenize", obj{"prompt": " the", "add_special_tokens": add}); tok["count"] != n {
			t.Errorf("add_special_tokens %t: %v", add, tok)
		}
	}
	if _, body := r.do(t, http.MethodGet, "/sim/stats", ""); body["requests"] != 1.0 || body["prompt_tokens"] != tok["count"] {
		t.Errorf("stats = %v", body)
	}
}

func TestPlainServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m", NoExtras: true})
	for _, path := range []string{"/version", "/load", "/metrics", "/tokenize", "/detokenize"} {
		if code, _ := r.do(t, http.MethodGet, path, ""); code != 404 {
			t.Errorf("%s = %d, want 404", path, code)
		}
	}
	_, models := r.do(t, http.MethodGet, "/v1/models", "")
	if m := models["data"].([]any)[0].(obj); m["max_model_len"] != nil {
		t.Errorf("models = %v", models)
	}
	for path, body := range map[string]obj{completions: {"prompt": "x"}, chat: {"messages": []obj{message("user", "x")}}} {
		body["return_token_ids"] = true
		body["max_tokens"] = 3
		code, whole := r.do(t, http.MethodPost, path, body)
		raw, _ := json.Marshal(whole)
		res := r.stream(t, path, body)
		all := string(raw) + strings.Join(res.raw, "")
		for _, extra := range []string{"token_ids", "stop_reason", "kv_transfer"} {
			if strings.Contains(all, extra) || code != 200 {
				t.Errorf("%s answers %d with %s: %s", path, code, extra, all)
			}
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{Model: "m", ITL: time.Microsecond})
	r.stream(t, completions, story(5))
	ctx, cancel := context.WithCancel(t.Context())
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Hang, AfterTokens: 2})
	r.open(ctx, t, completions, story(9))
	scrape := func() string {
		resp, err := r.send(t.Context(), t, http.MethodGet, "/metrics", "")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	r.until(t, "the hang", func(st vllmsim.Stats) bool { return st.GenerationTokens == 7 })
	text := scrape()
	if strings.Contains(text, `vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0`+"\n") {
		t.Error("the cache is empty while a sequence runs")
	}
	cancel()
	r.until(t, "the abort", func(st vllmsim.Stats) bool { return st.Aborted == 1 })
	text += scrape()
	for _, want := range []string{
		`num_requests_running{engine="0",model_name="m"} 1`,
		`num_requests_running{engine="0",model_name="m"} 0`,
		`num_requests_waiting{engine="0",model_name="m"} 0`,
		`generation_tokens_total{engine="0",model_name="m"} 7`,
		`num_preemptions_total{engine="0",model_name="m"} 0`,
		`request_success_total{engine="0",finished_reason="length",model_name="m"} 1`,
		`request_success_total{engine="0",finished_reason="stop",model_name="m"} 0`,
		`request_success_total{engine="0",finished_reason="abort",model_name="m"} 1`,
		`time_to_first_token_seconds_count{engine="0",model_name="m"} 2`,
		`inter_token_latency_seconds_count{engine="0",model_name="m"} 5`,
		`e2e_request_latency_seconds_count{engine="0",model_name="m"} 2`,
		`request_queue_time_seconds_count{engine="0",model_name="m"} 2`,
		`prompt_tokens_total{engine="0",model_name="m"}`,
	} {
		if !strings.Contains(text, "\nvllm:"+want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{LogPrompts: true, MaxNumSeqs: 1, Faults: []vllmsim.Fault{{Kind: vllmsim.Abort}}})
	list := make([]string, 1100)
	for i := range list {
		list[i] = fmt.Sprint(i)
	}
	if code, body := r.do(t, http.MethodPost, completions, obj{"prompt": list, "add_special_tokens": false}); code != 200 {
		t.Fatalf("status %d: %v", code, body["error"])
	}
	if got := r.Prompts(); len(got) != 1024 || got[1023] != "1099" {
		t.Errorf("%d prompts are kept", len(got))
	}
	if st := r.Stats(); st.Aborted != 1100 || len(st.Aborts) != 1024 {
		t.Errorf("%d aborts, %d kept; want 1100 and 1024", st.Aborted, len(st.Aborts))
	}
}

// start runs a simulator on a port of its own.
func start(t *testing.T, cfg vllmsim.Config) (r *rig, stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	s, err := vllmsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	end := make(chan error, 1)
	go func() { end <- s.Run(ctx, l) }()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &rig{Sim: s, url: "http://" + l.Addr().String(), client: &http.Client{Transport: tr}}, cancel, end
}

func TestRunAbortsWhatIsUnderWayAndStops(t *testing.T) {
	t.Parallel()
	r, stop, ended := start(t, vllmsim.Config{ITL: time.Hour, StartDelay: 20 * time.Millisecond, MaxNumSeqs: 1})
	running := r.open(t.Context(), t, completions, obj{"prompt": "x"})
	if _, err := running.next(); err != nil {
		t.Fatal(err)
	}
	waiting := r.open(t.Context(), t, completions, obj{"prompt": "y"})
	stop()
	for _, l := range []*live{running, waiting} {
		if res := l.rest(); res.end != errDone || res.choices[0].FinishReason != "abort" {
			t.Errorf("ended with %v, %+v", res.end, res.choices[0])
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := r.send(t.Context(), t, http.MethodGet, "/health", ""); err == nil {
		t.Error("a stopped simulator answers")
	}
	// The handler outlives Run, where somebody else serves it.
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, completions, strings.NewReader(`{"prompt":"x"}`))
	req.Header.Set("Content-Type", "application/json")
	if r.Handler().ServeHTTP(w, req); w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d after shutdown, want 503", w.Code)
	}
}

func TestRunEndsOtherwise(t *testing.T) {
	t.Parallel()
	r, _, ended := start(t, vllmsim.Config{})
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Crash, AfterTokens: 2})
	if res := r.stream(t, completions, story(5)); res.end == errDone {
		t.Error("the stream survived the crash")
	}
	if err := <-ended; !errors.Is(err, vllmsim.ErrCrashed) {
		t.Errorf("Run = %v, want ErrCrashed", err)
	}

	_, stop, ended := start(t, vllmsim.Config{StartDelay: time.Hour})
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run stopped while starting = %v", err)
	}

	s, err := vllmsim.New(vllmsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.Run(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run on a closed listener = %v", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := vllmsim.New(vllmsim.Config{MaxModelLen: 1, MaxNumSeqs: -1, KVTokens: -1, MaxQueued: -1, StreamInterval: -1, MaxBody: -1, TTFT: -1,
		Prefill: -1, ITL: -1, StartDelay: -1, LoadFactor: -1, Faults: []vllmsim.Fault{{Kind: "x"}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"MaxModelLen is 1; want at least 2", "MaxNumSeqs is -1", "KVTokens is -1", "MaxQueued is -1", "StreamInterval", "MaxBody",
		"TTFT", "Prefill", "ITL", "StartDelay", "LoadFactor", `Faults[0]: kind "x"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
}

// FuzzBody sends any body to both endpoints: an answer always comes, and whole or streamed it says the same.
func FuzzBody(f *testing.F) {
	for _, c := range bodies() {
		f.Add(encode(f, c.body), c.path == chat)
	}
	f.Add([]byte(`{"prompt":"x","n":300,"stop":["\ud800"],"seed":-9}`), false)
	f.Fuzz(func(t *testing.T, body []byte, isChat bool) {
		s, err := vllmsim.New(vllmsim.Config{Model: "m", MaxModelLen: 48, MaxBody: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		path := completions
		if isChat {
			path = chat
		}
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		want, err := s.Expected(body, path)
		if w.Code == 200 && err != nil || w.Code == 400 && err == nil {
			t.Fatalf("%s: status %d, but Expected says %v", body, w.Code, err)
		}
		if w.Code != 200 || strings.HasPrefix(w.Body.String(), "data:") {
			return
		}
		var got wireChunk
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		if len(got.Choices) != len(want) {
			t.Fatalf("%s: %d choices, want %d", body, len(got.Choices), len(want))
		}
		for i, c := range got.Choices {
			if c.Text+c.Message.Content != want[i].Text {
				t.Fatalf("%s: choice %d is %q, want %q", body, i, c.Text+c.Message.Content, want[i].Text)
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	r := newRig(b, vllmsim.Config{})
	const tokens = 1000
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := r.send(context.Background(), b, http.MethodPost, completions, obj{"prompt": "Hello", "max_tokens": tokens, "ignore_eos": true, "stream": true, "return_token_ids": true})
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				b.Error(err)
			}
			resp.Body.Close()
		}
	})
	b.ReportMetric(float64(b.N*tokens)/b.Elapsed().Seconds(), "chunks/s")
}
