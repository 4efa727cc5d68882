package vllm_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func TestGenerateSendsTheRequestAndYieldsTheReply(t *testing.T) {
	t.Parallel()
	type seen struct{ Path, ID, ContentType, Accept, Auth, Body string }
	got := make(chan seen, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := r.Header
		got <- seen{r.URL.Path, h.Get("X-Request-Id"), h.Get("Content-Type"), h.Get("Accept"), h.Get("Authorization"), string(body)}
		stream(
			`{"choices":[{"index":0,"text":" foo","logprobs":null,"finish_reason":null,"prompt_token_ids":[7,8,9],"token_ids":[1,2]}]}`,
			text(0, "", "stop", 2), usage, done)(w, r)
	})
	e := newEngine(t, srv.URL, vllm.Config{APIKey: "sk-1"})
	req := completion(`{ "prompt":"hi", "custom" : {"a":1.0}, "model":"alias", "stream":false, "stream_options":{"continuous_usage_stats":true}, "n":null }`)
	req.Attempt = 3
	r := collect(t.Context(), e, req)
	if r.err != nil {
		t.Fatal(r.err)
	}
	want := seen{"/v1/completions", "job-1-3", "application/json", "text/event-stream", "Bearer sk-1",
		`{ "prompt":"hi", "custom" : {"a":1.0}, "model":"m", "stream":true, "stream_options":{"include_usage":true}, "n":null,"return_token_ids":true }`}
	have := <-got
	have.Body = strings.ReplaceAll(have.Body, `, "return_token_ids"`, `,"return_token_ids"`)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if r.text[0] != " foo" || r.finish[0] != "stop" || r.tokens != 3 || r.deltas != 3 {
		t.Errorf("reply = %+v", r)
	}
	if diff := cmp.Diff([]int{7, 8, 9}, r.prompt); diff != "" {
		t.Errorf("prompt tokens (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&schemas.Usage{PromptTokens: 3, CompletionTokens: 2, TotalTokens: 5}, r.usage); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	if strings.Contains(r.choices, "prompt_token_ids") || !strings.Contains(r.choices, `"text":" foo","logprobs":null`) {
		t.Errorf("choices = %s", r.choices)
	}
}

// Streams of other engines, as their servers send them.
func TestGenerateReadsOtherEngines(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		models       string
		events       []string
		text         string
		tokens       int
		finish       string
		promptTokens int
	}{
		"llama.cpp": {
			models: `{"models":[{"name":"q.gguf"}],"object":"list","data":[{"id":"q.gguf","object":"model","meta":{"n_ctx_train":32768}}]}`,
			events: []string{
				`{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"chatcmpl-x","model":"q.gguf","system_fingerprint":"b6000","object":"chat.completion.chunk"}`,
				`{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hel"}}],"created":1,"id":"chatcmpl-x"}`,
				`{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"lo"}}],"created":1,"id":"chatcmpl-x"}`,
				`{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1,"id":"chatcmpl-x"}`,
				`{"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":11,"total_tokens":13},"timings":{"prompt_n":11,"predicted_ms":9.5}}`,
				done,
			},
			text: "Hello", tokens: 2, finish: "stop", promptTokens: 11,
		},
		"ollama": {
			models: `{"object":"list","data":[{"id":"phi3:mini","object":"model","created":1700000000,"owned_by":"library"}]}`,
			events: []string{
				`{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"phi3:mini","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}`,
				`{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","reasoning":"so"},"finish_reason":null}]}`,
				`{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"load"}]}`,
				`{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}`,
				done,
			},
			text: "Hi", tokens: 2, finish: "load", promptTokens: 10,
		},
		"usage beside the choices": {
			models: vllmModels,
			events: []string{
				`{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}}`,
				`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}`,
				done,
			},
			text: "a", tokens: 2, finish: "tool_calls", promptTokens: 5,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bodies := make(chan string, 1)
			srv := start(t, fake{models: tt.models, routes: generation(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				bodies <- string(b)
				stream(tt.events...)(w, r)
			})})
			e := newEngine(t, srv.URL, vllm.Config{})
			r := collect(t.Context(), e, chat(`{"messages":[],"return_token_ids":true}`))
			if r.err != nil {
				t.Fatal(r.err)
			}
			if r.text[0] != tt.text || r.tokens != tt.tokens || r.finish[0] != tt.finish || r.usage.PromptTokens != tt.promptTokens {
				t.Errorf("reply = %+v (usage %+v)", r, r.usage)
			}
			if body := <-bodies; strings.Contains(body, "return_token_ids") {
				t.Errorf("body = %s; return_token_ids went to an engine that does not know it", body)
			}
		})
	}
}

func TestGenerateWaitsForEveryChoice(t *testing.T) {
	t.Parallel()
	two := []string{text(0, "a", "", 1), text(1, "b", "stop", 2), text(0, "c", "length", 3)}
	tests := map[string]struct {
		body    string
		events  []string
		version string
		code    schemas.Code
		message string
	}{
		"n":                       {body: `{"prompt":"x","n":2}`, events: two},
		"n as the engine reads":   {body: `{"prompt":"x","n":"2"}`, events: two},
		"n as a fraction":         {body: `{"prompt":"x","n":2.0}`, events: two},
		"prompts":                 {body: `{"prompt":["x","y"]}`, events: two},
		"token ids of prompts":    {body: `{"prompt":[[1,2,3],[4]]}`, events: two},
		"embeddings":              {body: `{"prompt":null,"prompt_embeds":["x","y"]}`, events: two},
		"token ids of one prompt": {body: `{"prompt": [ 1,2,3]}`, events: []string{text(0, "a", "stop", 1)}},
		"no prompt":               {body: `{"prompt":[]}`, events: []string{text(0, "a", "stop", 1)}},
		"a finish twice":          {body: `{"n":2}`, events: slices.Concat(two, []string{text(0, "", "length")})},
		"n of prompts":            {body: `{"prompt":["x","y"],"n":2}`, events: two, code: schemas.CodeEngineUnavailable, message: "2 of 4 choices finished (after 3 tokens)"},
		"one unfinished":          {body: `{"n":2}`, events: two[:2], code: schemas.CodeEngineUnavailable, message: "1 of 2 choices finished (after 2 tokens)"},
		"nothing":                 {body: `{"n":0}`, code: schemas.CodeEngineUnavailable, message: "0 of 1 choices finished"},
		"a choice too many":       {body: `{"N":2}`, events: two, code: schemas.CodeEngineUnavailable, message: "choice 1 of a request for 1"},
		"engine without n":        {body: `{"n":2}`, version: "none", events: []string{text(0, "a", "stop")}, code: schemas.CodeInvalidRequest, message: "1 of 2 choices"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake{version: "0.31.0", models: vllmModels, routes: generation(stream(slices.Concat(tt.events, []string{done})...))}
			if tt.version == "none" {
				f.version = ""
			}
			e := newEngine(t, start(t, f).URL, vllm.Config{})
			r := collect(t.Context(), e, completion(tt.body))
			if tt.code != "" {
				check(t, r.err, tt.code, tt.code == schemas.CodeEngineUnavailable, tt.message)
			} else if r.err != nil {
				t.Error(r.err)
			}
		})
	}
}

func TestGenerateToldOfBrokenStreams(t *testing.T) {
	t.Parallel()
	first := text(0, "a", "", 1, 2)
	huge := text(0, strings.Repeat("x", 3000), "", 3)
	tests := map[string]struct {
		handler   http.HandlerFunc
		code      schemas.Code
		permanent bool
		message   string
		deltas    int
	}{
		"end without done":  {handler: stream(first), deltas: 1, message: "ended without [DONE] (after 2 tokens)"},
		"nothing":           {handler: stream(), message: "ended without [DONE] (after 0 tokens)"},
		"abort":             {handler: stream(first, text(0, "b", "abort", 3), done), deltas: 1, message: `finish reason "abort" (after 2 tokens)`},
		"finish error":      {handler: stream(text(0, "", "error"), done), message: `finish reason "error"`},
		"not JSON":          {handler: stream(first, `{"choices":[`), deltas: 1, message: "cannot be read, after 2 tokens"},
		"event over bound":  {handler: stream(first, huge), deltas: 1, code: schemas.CodePayloadTooLarge, permanent: true, message: "2048"},
		"error 500":         {handler: stream(first, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`, done), deltas: 1, message: "Internal server error (after 2 tokens)"},
		"error 400":         {handler: stream(`{"error":{"message":"bad grammar","type":"BadRequestError","param":"guided","code":400}}`, done), code: schemas.CodeInvalidRequest, permanent: true, message: "bad grammar"},
		"error by type":     {handler: stream(`{"error":{"message":"no","type":"invalid_request_error","code":null}}`, done), code: schemas.CodeInvalidRequest, permanent: true, message: "no"},
		"context by words":  {handler: stream(`{"error":{"message":"the request exceeds the available context size","type":"x"}}`, done), code: schemas.CodeContextLengthExceeded, permanent: true},
		"error in a word":   {handler: stream(`{"error":"overloaded"}`, done), message: "overloaded"},
		"flat error":        {handler: stream(`{"object":"error","message":"slow down","type":"RateLimitError","code":"429"}`, done), code: schemas.CodeRateLimited, message: "slow down"},
		"rate by type":      {handler: stream(`{"error":{"message":"slow down","type":"rate_limit_exceeded"}}`, done), code: schemas.CodeRateLimited, message: "slow down"},
		"dead engine":       {handler: stream(first, `{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"BadRequestError","code":400}}`, done), deltas: 1, message: "EngineCore"},
		"HTML":              {handler: plainAnswer("text/html", "<html>\n<b>proxy</b></html>"), message: `content type "text/html"; want text/event-stream: <html> <b>proxy</b></html>`},
		"JSON error":        {handler: plainAnswer("application/json", `{"object":"error","message":"This model's maximum context length is 9 tokens","code":400}`), code: schemas.CodeContextLengthExceeded, permanent: true},
		"a reply in one":    {handler: plainAnswer("application/json", `{"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}`), message: "want text/event-stream"},
		"connection broken": {handler: func(w http.ResponseWriter, r *http.Request) { stream(first)(w, r); panic(http.ErrAbortHandler) }, deltas: 1, message: "broke: unexpected EOF (after 2 tokens)"},
		"broken inside an event": {handler: func(w http.ResponseWriter, r *http.Request) {
			stream(first)(w, r)
			io.WriteString(w, `data: {"choices"`)
		}, deltas: 1, message: "unexpected EOF (after 2 tokens)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, serve(t, tt.handler).URL, vllm.Config{MaxEventBytes: 2048})
			r := collect(t.Context(), e, completion(`{"prompt":"x"}`))
			code := tt.code
			if code == "" {
				code = schemas.CodeEngineUnavailable
			}
			check(t, r.err, code, !tt.permanent, tt.message)
			if r.deltas != tt.deltas {
				t.Errorf("%d deltas before the error, want %d", r.deltas, tt.deltas)
			}
		})
	}
}

func plainAnswer(kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		io.WriteString(w, body)
	}
}

func TestGenerateRefusesWhatItCannotSend(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the engine was asked") }).URL, vllm.Config{})
	for param, req := range map[string]string{"body": `[1]`, "body ": `null`, "body  ": `{"a":1`, "endpoint": `{}`, "id": `{}`} {
		r := completion(req)
		switch param {
		case "endpoint":
			r.Endpoint = "/v1/embeddings"
		case "id":
			r.ID = "a\r\nb"
		}
		err := collect(t.Context(), e, r).err
		check(t, err, schemas.CodeInvalidRequest, false, "")
		if got := schemas.AsError(err).Param; got != strings.TrimSpace(param) {
			t.Errorf("param = %q, want %q", got, param)
		}
	}
}

// The engine's context window raises the bound on one event: the first may carry the prompt's ids.
func TestGenerateTakesTheIDsOfALongPrompt(t *testing.T) {
	t.Parallel()
	ids := strings.TrimSuffix(strings.Repeat("151643,", 200_000), ",")
	srv := start(t, fake{
		version: "0.31.0", models: `{"data":[{"id":"m","max_model_len":262144}]}`,
		routes: generation(stream(fmt.Sprintf(`{"choices":[{"index":0,"text":"a","finish_reason":"stop","prompt_token_ids":[%s]}]}`, ids), done)),
	})
	r := collect(t.Context(), newEngine(t, srv.URL, vllm.Config{}), completion(`{}`))
	if r.err != nil || len(r.prompt) != 200_000 {
		t.Errorf("%d prompt tokens, %v", len(r.prompt), r.err)
	}
}

// Ids that came once make text without ids part of tokens that are counted already.
func TestGenerateCountsTokensByIDs(t *testing.T) {
	t.Parallel()
	srv := serve(t, stream(text(0, "", "", 1, 2), text(0, "held back", ""), text(0, "!", "stop", 3), done))
	r := collect(t.Context(), newEngine(t, srv.URL, vllm.Config{}), completion(`{}`))
	if r.err != nil || r.tokens != 3 || r.usage != nil {
		t.Errorf("tokens = %d, usage = %v, err = %v; want 3 and none", r.tokens, r.usage, r.err)
	}
}

func TestGenerateConcurrently(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		var events []string
		for i := range 20 {
			events = append(events, text(0, fmt.Sprintf("%s.%d ", id, i), "", i))
		}
		stream(append(events, text(0, "", "stop", 99), usage, done)...)(w, r)
	})
	e := newEngine(t, srv.URL, vllm.Config{MaxConns: 16})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			req := completion(`{"prompt":"x"}`)
			req.ID = fmt.Sprintf("job-%d", i)
			r := collect(t.Context(), e, req)
			if r.err != nil || r.tokens != 21 || strings.Count(r.text[0], req.ID+".") != 20 {
				t.Errorf("%s: %d tokens, %q, %v", req.ID, r.tokens, r.text[0], r.err)
			}
		})
	}
	wg.Wait()
}
