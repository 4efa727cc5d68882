package vllm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// TestMain lets the test binary be the programs that a Server runs; see program_linux_test.go.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

const vllmModels = `{"object":"list","data":[{"id":"m","object":"model","owned_by":"vllm","max_model_len":4096}]}`

// fake is a server that says who it is, and does with everything else what the test wants.
type fake struct {
	version string // "" for none
	models  string
	// routes are handlers by path; they win over the above.
	routes map[string]http.HandlerFunc
}

func (f fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h, ok := f.routes[r.URL.Path]; ok {
		h(w, r)
		return
	}
	switch {
	case r.URL.Path == "/health":
	case r.URL.Path == "/version" && f.version != "":
		fmt.Fprintf(w, `{"version":%q}`, f.version)
	case r.URL.Path == "/v1/models" && f.models != "":
		io.WriteString(w, f.models)
	default:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"detail":"Not Found"}`)
	}
}

// serve starts a vLLM whose both generation endpoints are h.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	return start(t, fake{version: "0.31.0", models: vllmModels, routes: generation(h)})
}

func generation(h http.HandlerFunc) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{"/v1/completions": h, "/v1/chat/completions": h}
}

func start(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func newEngine(tb testing.TB, url string, cfg vllm.Config) *vllm.Engine {
	tb.Helper()
	e, err := vllm.New(url, cfg)
	if err != nil {
		tb.Fatalf("New(%q): %v", url, err)
	}
	tb.Cleanup(func() { _ = e.Close() })
	return e
}

// stream answers with the given events.
func stream(events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for _, ev := range events {
			fmt.Fprintf(w, "data: %s\n\n", ev)
			flush(w)
		}
	}
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// text is a chunk of /v1/completions as vLLM sends it.
func text(index int, s, finish string, ids ...int) string {
	reason := "null"
	if finish != "" {
		reason = fmt.Sprintf("%q", finish)
	}
	tokens, _ := json.Marshal(append([]int{}, ids...))
	return fmt.Sprintf(`{"id":"cmpl-1","object":"text_completion","choices":[{"index":%d,"text":%q,"logprobs":null,"finish_reason":%s,"stop_reason":null,"token_ids":%s}]}`,
		index, s, reason, tokens)
}

const (
	done  = "[DONE]"
	usage = `{"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}`
)

func completion(body string) *workers.Request {
	return &workers.Request{ID: "job-1", Attempt: 1, Endpoint: schemas.Completions, Body: []byte(body), Class: schemas.Standard}
}

func chat(body string) *workers.Request {
	r := completion(body)
	r.Endpoint = schemas.ChatCompletions
	return r
}

// result is what a whole generation came to.
type result struct {
	text   map[int]string
	finish map[int]string
	// choices are the raw choices of every delta, joined.
	choices string
	tokens  int
	prompt  []int
	usage   *schemas.Usage
	deltas  int
	err     error
}

func collect(ctx context.Context, e *vllm.Engine, req *workers.Request) result {
	r := result{text: map[int]string{}, finish: map[int]string{}}
	var all []string
	for d, err := range e.Generate(ctx, req) {
		if err != nil {
			r.err = err
			continue
		}
		r.deltas++
		r.tokens += d.Tokens
		if len(d.Choices) > 0 {
			all = append(all, string(d.Choices))
		}
		r.prompt = append(r.prompt, d.PromptTokens...)
		for _, p := range d.Parts {
			r.text[p.Index] += string(p.Text)
			if p.FinishReason != "" {
				r.finish[p.Index] = p.FinishReason
			}
		}
		if d.Usage != nil {
			r.usage = d.Usage
		}
	}
	r.choices = strings.Join(all, ",")
	return r
}

// check compares an error with a code, its retryability and a part of its message.
func check(t *testing.T, err error, code schemas.Code, retryable bool, message string) {
	t.Helper()
	if err == nil {
		t.Fatalf("error = nil, want %s", code)
	}
	e := schemas.AsError(err)
	if e.Code != code || e.Retryable != retryable || !strings.Contains(err.Error(), message) {
		t.Errorf("error = %s (retryable %t) %q; want %s (retryable %t) with %q", e.Code, e.Retryable, err, code, retryable, message)
	}
}
