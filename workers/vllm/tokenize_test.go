package vllm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func tokenizer(h http.HandlerFunc) fake {
	return fake{version: "0.31.0", models: vllmModels, routes: map[string]http.HandlerFunc{"/tokenize": h}}
}

func TestCountTokens(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		endpoint schemas.Endpoint
		body     string
		want     int
		sent     []string
	}{
		"text":     {schemas.Completions, `{"prompt":"four","add_special_tokens":false,"n":2}`, 50, []string{`{"model":"m","prompt":"four","add_special_tokens":false}`}},
		"texts":    {schemas.Completions, `{"prompt":["a","abc","ab"]}`, 28, []string{`{"model":"m","prompt":"a"}`, `{"model":"m","prompt":"abc"}`, `{"model":"m","prompt":"ab"}`}},
		"ids":      {schemas.Completions, `{"prompt":[5, 6,7]}`, 3, nil},
		"id lists": {schemas.Completions, `{"prompt":[[5],[5,6,7,8],[1,2]]}`, 4, nil},
		"chat": {schemas.ChatCompletions, `{"messages":[{"role":"user","content":"x"}],"tools":[],"temperature":1,"add_generation_prompt":true}`, 93,
			[]string{`{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[],"add_generation_prompt":true}`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sent []string
			e := newEngine(t, start(t, tokenizer(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				sent = append(sent, string(b))
				fmt.Fprintf(w, `{"count":%d,"max_model_len":4096,"tokens":[1,2]}`, len(b))
			})).URL, vllm.Config{})
			got, err := e.CountTokens(t.Context(), tt.endpoint, []byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.sent, sent); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			want := tt.want
			for _, s := range tt.sent {
				want = max(want, len(s))
			}
			if got != want {
				t.Errorf("count = %d, want %d", got, want)
			}
		})
	}
}

// An engine without a tokenizer endpoint is asked once, and its health says what is lost.
func TestCountTokensUnsupportedIsRemembered(t *testing.T) {
	t.Parallel()
	tests := map[string]http.HandlerFunc{
		"404":       answer(404, `{"detail":"Not Found"}`),
		"405":       answer(405, ""),
		"501":       answer(501, ""),
		"llama.cpp": answer(200, `{"tokens":[]}`),
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls, version atomic.Int64
			f := tokenizer(func(w http.ResponseWriter, r *http.Request) { calls.Add(1); h(w, r) })
			f.routes["/version"] = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"version":"0.3%d.0"}`, version.Load()) }
			e := newEngine(t, start(t, f).URL, vllm.Config{})
			for range 2 {
				if _, err := e.CountTokens(t.Context(), schemas.Completions, []byte(`{"prompt":"x"}`)); !errors.Is(err, workers.ErrUnsupported) {
					t.Fatalf("error = %v", err)
				}
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("asked %d times, want once", n)
			}
			health, err := e.Health(t.Context())
			if err != nil || !strings.Contains(strings.Join(health.Missing, ";"), "/tokenize") {
				t.Errorf("health = %+v, %v", health, err)
			}
			version.Store(1) // another engine took its place
			if health, err = e.Health(t.Context()); err != nil || len(health.Missing) != 0 {
				t.Errorf("health of the next version = %+v, %v", health, err)
			}
		})
	}
}

func TestCountTokensErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		handler   http.HandlerFunc
		endpoint  schemas.Endpoint
		body      string
		code      schemas.Code
		retryable bool
		message   string
	}{
		"template":       {answer(400, `{"error":{"message":"roles must alternate","code":400}}`), schemas.ChatCompletions, `{"messages":[]}`, schemas.CodeInvalidRequest, false, "alternate"},
		"unknown model":  {answer(404, `{"error":{"message":"The model m does not exist.","type":"NotFoundError","param":"model"}}`), schemas.Completions, `{"prompt":"x"}`, schemas.CodeEngineUnavailable, true, "does not exist"},
		"500":            {answer(500, ""), schemas.Completions, `{"prompt":["x"]}`, schemas.CodeEngineUnavailable, true, "POST /tokenize"},
		"not JSON":       {answer(200, "<html>"), schemas.Completions, `{"prompt":"x"}`, schemas.CodeEngineUnavailable, true, "POST /tokenize"},
		"no answer":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, schemas.Completions, `{"prompt":"x"}`, schemas.CodeEngineUnavailable, true, "POST /tokenize"},
		"no body":        {nil, schemas.Completions, `x`, schemas.CodeInvalidRequest, false, "body"},
		"no prompt":      {nil, schemas.Completions, `{}`, schemas.CodeInvalidRequest, false, "prompt is missing"},
		"no messages":    {nil, schemas.ChatCompletions, `{}`, schemas.CodeInvalidRequest, false, "messages is missing"},
		"no endpoint":    {nil, "/x", `{}`, schemas.CodeInvalidRequest, false, `endpoint is "/x"`},
		"takes too long": {func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }, schemas.Completions, `{"prompt":"x"}`, schemas.CodeEngineUnavailable, true, "counting tokens within 200ms"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := vllm.Config{}
			if name == "takes too long" {
				cfg.TokenizeTimeout = 200 * time.Millisecond
			}
			e := newEngine(t, start(t, tokenizer(tt.handler)).URL, cfg)
			_, err := e.CountTokens(t.Context(), tt.endpoint, []byte(tt.body))
			check(t, err, tt.code, tt.retryable, tt.message)
		})
	}
}

func TestCountTokensOfWhatNobodyCounts(t *testing.T) {
	t.Parallel()
	e := newEngine(t, start(t, fake{models: vllmModels}).URL, vllm.Config{})
	for _, body := range []string{`{"prompt_embeds":"xx"}`, `{"prompt":"an engine that is not vLLM"}`} {
		if _, err := e.CountTokens(t.Context(), schemas.Completions, []byte(body)); !errors.Is(err, workers.ErrUnsupported) {
			t.Errorf("%s: error = %v", body, err)
		}
	}
	if n, err := e.CountTokens(t.Context(), schemas.Completions, []byte(`{"prompt":[1],"prompt_embeds":null}`)); n != 1 || err != nil {
		t.Errorf("count = %d, %v", n, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errOwn)
	if _, err := newEngine(t, "http://127.0.0.1:1", vllm.Config{}).CountTokens(ctx, schemas.Completions, []byte(`{"prompt":"x"}`)); !errors.Is(err, errOwn) {
		t.Errorf("error = %v", err)
	}
}

// What is far beyond the window has more token ids than anyone wants to read.
func TestCountOfAPromptFarBeyondTheWindow(t *testing.T) {
	t.Parallel()
	e := newEngine(t, start(t, tokenizer(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"count":700000,"tokens":[`+strings.Repeat("12,", 700_000)+"12]}")
	})).URL, vllm.Config{})
	_, err := e.CountTokens(t.Context(), schemas.Completions, []byte(`{"prompt":"x"}`))
	if schemas.ErrorCode(err) != schemas.CodeContextLengthExceeded || schemas.AsError(err).Retryable {
		t.Errorf("CountTokens = %v, want context_length_exceeded", err)
	}
}

func TestTokenizeAndBack(t *testing.T) {
	t.Parallel()
	f := tokenizer(answer(200, `{"count":2,"tokens":[7,8]}`))
	f.routes["/detokenize"] = func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"prompt":%q}`, b)
	}
	e := newEngine(t, start(t, f).URL, vllm.Config{})
	for _, tt := range []struct {
		endpoint schemas.Endpoint
		body     string
		want     []int
		code     schemas.Code
	}{
		{schemas.Completions, `{"prompt":"x"}`, []int{7, 8}, ""},
		{schemas.Completions, `{"prompt":["x"]}`, []int{7, 8}, ""},
		{schemas.Completions, `{"prompt":[[1,2,3]]}`, []int{1, 2, 3}, ""},
		{schemas.Completions, `{"prompt":["x","y"]}`, nil, schemas.CodeInvalidRequest},
		{schemas.Completions, `{"prompt":[1,"y"]}`, nil, schemas.CodeInvalidRequest},
		{schemas.ChatCompletions, `{"messages":[{}]}`, []int{7, 8}, ""},
		{schemas.ChatCompletions, `{}`, nil, schemas.CodeInvalidRequest},
		{"/v1/embeddings", `{}`, nil, schemas.CodeInvalidRequest},
		{schemas.Completions, `[]`, nil, schemas.CodeInvalidRequest},
	} {
		got, err := e.Tokenize(t.Context(), tt.endpoint, []byte(tt.body))
		if diff := cmp.Diff(tt.want, got); diff != "" || schemas.ErrorCode(err) != tt.code {
			t.Errorf("Tokenize(%s) = %v, want %s\n%s", tt.body, err, tt.code, diff)
		}
	}
	if got, err := e.Detokenize(t.Context(), []int{7, 8}); err != nil || got != `{"model":"m","tokens":[7,8]}` {
		t.Errorf("Detokenize = %q, %v", got, err)
	}
	none := newEngine(t, start(t, fake{version: "0.31.0", models: vllmModels, routes: map[string]http.HandlerFunc{"/detokenize": answer(200, `{}`)}}).URL, vllm.Config{})
	if _, err := none.Detokenize(t.Context(), nil); !errors.Is(err, workers.ErrUnsupported) {
		t.Errorf("Detokenize without a text = %v, want ErrUnsupported", err)
	}
}
