package vllm_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func answer(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestStatusesBecomeErrors(t *testing.T) {
	t.Parallel()
	const (
		invalid     = schemas.CodeInvalidRequest
		unavailable = schemas.CodeEngineUnavailable
	)
	tests := map[string]struct {
		handler   http.HandlerFunc
		code      schemas.Code
		retryable bool
		param     string
		message   string
	}{
		"400": {answer(400, `{"error":{"message":"temperature must be non-negative, got -1.0.","type":"BadRequestError","param":"temperature","code":400}}`),
			invalid, false, "temperature", "invalid_request: temperature must be non-negative, got -1.0."},
		"400 flat": {answer(400, `{"object":"error","message":"bad n","type":"BadRequestError","param":null,"code":400}`), invalid, false, "", "invalid_request: bad n"},
		"400 context": {answer(400, `{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000.","type":"BadRequestError","param":"input_tokens","code":400}}`),
			schemas.CodeContextLengthExceeded, false, "input_tokens", "4096"},
		"400 max_tokens above the window": {answer(400, `{"error":{"message":"max_tokens=65 cannot be greater than max_model_len=64. Please request fewer output tokens.","type":"BadRequestError","param":"max_tokens","code":400}}`),
			schemas.CodeContextLengthExceeded, false, "max_tokens", "65"},
		"400 llama.cpp context": {answer(400, `{"error":{"code":400,"message":"too big","type":"exceed_context_size_error","n_ctx":512}}`), schemas.CodeContextLengthExceeded, false, "", "too big"},
		"400 OpenAI context":    {answer(400, `{"error":{"code":"context_length_exceeded","message":"too big","type":"invalid_request_error"}}`), schemas.CodeContextLengthExceeded, false, "", "too big"},
		"400 text":              {answer(400, "no\nsuch"), invalid, false, "", "POST /v1/completions: the engine answered 400 Bad Request: no such"},
		"400 empty":             {answer(400, ""), invalid, false, "", "400 Bad Request"},
		"400 other JSON":        {answer(400, `{"ok":false}`), invalid, false, "", `400 Bad Request: {"ok":false}`},
		"400 param no string":   {answer(400, `{"error":{"message":"m","param":["a","b"]}}`), invalid, false, `["a","b"]`, "m"},
		"400 null error":        {answer(400, `{"error":null,"message":"m"}`), invalid, false, "", "m"},
		"401":                   {answer(401, `{"error":"Unauthorized"}`), unavailable, true, "", "refuses the API key that hxp has for it: Unauthorized"},
		"401 that repeats":      {answer(401, `{"error":{"message":"Incorrect API key provided: sk-secret."}}`), unavailable, true, "", "provided: [redacted]."},
		"403":                   {answer(403, ``), unavailable, true, "", "API key"},
		"404":                   {answer(404, `{"error":{"message":"The model x does not exist.","type":"NotFoundError","param":"model","code":404}}`), unavailable, true, "", "does not exist"},
		"405":                   {answer(405, `{"detail":"Method Not Allowed"}`), invalid, false, "", "Method Not Allowed"},
		"408":                   {answer(408, ""), unavailable, true, "", "408 Request Timeout"},
		"409":                   {answer(409, `{"error":{"message":"paused"}}`), unavailable, true, "", "paused"},
		"413":                   {answer(413, ""), schemas.CodePayloadTooLarge, false, "", "413"},
		"422": {answer(422, `{"detail":[{"type":"int_parsing","loc":["body","n"],"msg":"not an integer"},{"loc":["body","messages",0],"msg":"bad"}]}`),
			invalid, false, "n", "n: not an integer; messages.0: bad"},
		"429":             {answer(429, `{"error":{"message":"slow down"}}`, "Retry-After", "7"), schemas.CodeRateLimited, true, "", "slow down (Retry-After: 7)"},
		"500":             {answer(500, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`), unavailable, true, "", "500 Internal Server Error: Internal server error"},
		"500 dead engine": {answer(500, `{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","code":500}}`), unavailable, true, "", "EngineCore"},
		"400 dead engine": {answer(400, `{"object":"error","message":"","type":"EngineDeadError","code":400}`), unavailable, true, "", ""},
		"501":             {answer(501, `{"error":{"message":"suffix is not supported","param":"suffix"}}`), invalid, false, "suffix", "suffix is not supported"},
		"502":             {answer(502, "<html>\n<h1>Bad Gateway</h1>"), unavailable, true, "", "502 Bad Gateway: <html> <h1>Bad Gateway</h1>"},
		"503":             {answer(503, `{"error":{"message":"The queue is full","type":"Service Unavailable","code":503}}`, "Retry-After", "2"), unavailable, true, "", "The queue is full (Retry-After: 2)"},
		"504":             {answer(504, ""), unavailable, true, "", "504 Gateway Timeout"},
		"a redirect":      {answer(307, "", "Location", "http://elsewhere/v1"), unavailable, true, "", `moved to "http://elsewhere/v1"; configure that`},
		"204":             {answer(204, ""), unavailable, true, "", "204 No Content"},
		"a flood":         {answer(400, strings.Repeat("<p>no\xff</p> ", 100_000)), invalid, false, "", "<p>no\uFFFD</p> <p>"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, serve(t, tt.handler).URL, vllm.Config{Model: "m", APIKey: "sk-secret"})
			r := collect(t.Context(), e, completion(`{"prompt":"x"}`))
			check(t, r.err, tt.code, tt.retryable, tt.message)
			if got, want := errors.Is(r.err, workers.ErrNotReceived), name == "503" || name == "429"; got != want {
				t.Errorf("not received = %v, want %v", got, want)
			}
			if got := schemas.AsError(r.err).Param; got != tt.param {
				t.Errorf("param = %q, want %q", got, tt.param)
			}
			if strings.Contains(r.err.Error(), "sk-secret") || len(r.err.Error()) > 4096 {
				t.Errorf("error of %d bytes: %.200s", len(r.err.Error()), r.err)
			}
		})
	}
}

func TestNoAnswerIsRetryable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	e := newEngine(t, "http://"+l.Addr().String(), vllm.Config{})
	refused := collect(t.Context(), e, completion(`{}`)).err
	check(t, refused, schemas.CodeEngineUnavailable, true, "connection refused")
	if !errors.Is(refused, workers.ErrNotReceived) {
		t.Errorf("error = %v, want ErrNotReceived in its chain", refused)
	}
	_, err = e.Health(t.Context())
	check(t, err, schemas.CodeEngineUnavailable, true, "GET /health")

	// It identified itself, and is gone when the generation comes.
	srv := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	gone := newEngine(t, srv.URL, vllm.Config{})
	check(t, collect(t.Context(), gone, completion(`{}`)).err, schemas.CodeEngineUnavailable, true, "POST /v1/completions: no usable answer")

	plain := start(t, fake{models: vllmModels})
	tls := newEngine(t, strings.Replace(plain.URL, "http:", "https:", 1), vllm.Config{})
	check(t, collect(t.Context(), tls, completion(`{}`)).err, schemas.CodeEngineUnavailable, true, "GET /v1/models: no usable answer")
}

// After a 404 the name is learned again: the engine may have been started with another model.
func TestModelNameIsLearnedAgain(t *testing.T) {
	t.Parallel()
	calls := 0
	f := fake{version: "0.31.0", routes: generation(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"model":"old"`) {
			answer(404, `{"error":{"message":"The model old does not exist."}}`)(w, r)
			return
		}
		stream(text(0, "a", "stop", 1), done)(w, r)
	})}
	f.routes["/v1/models"] = func(w http.ResponseWriter, _ *http.Request) {
		calls++
		io.WriteString(w, map[bool]string{true: `{"data":[{"id":"old"}]}`, false: `{"data":[{"id":"new"}]}`}[calls == 1])
	}
	e := newEngine(t, start(t, f).URL, vllm.Config{})
	check(t, collect(t.Context(), e, completion(`{}`)).err, schemas.CodeEngineUnavailable, true, "old")
	if r := collect(t.Context(), e, completion(`{}`)); r.err != nil {
		t.Error(r.err)
	}
}
