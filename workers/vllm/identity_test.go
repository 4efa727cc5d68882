package vllm_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	const (
		noVersion  = "no /version: the engine is taken for a server that is not vLLM"
		noIDs      = "no token ids: tokens are counted as chunks and an interrupted stream restarts instead of continuing"
		noTokenize = "no /tokenize: a prompt that is too long is refused by the engine and not before"
		noContext  = "no max_model_len: the context window is not known"
		noHealth   = "no /health: the engine counts as alive when it lists its models"
	)
	notFound := answer(404, "404 page not found")
	full := workers.Health{Model: "m", MaxModelLen: 4096}
	version := func(v string, missing ...string) workers.Health {
		h := full
		h.Version, h.Missing = v, missing
		return h
	}
	tests := map[string]struct {
		fake fake
		want workers.Health
	}{
		"vLLM":              {fake{version: "0.31.0"}, version("0.31.0")},
		"vLLM 1":            {fake{version: "1.0.0rc1"}, version("1.0.0rc1")},
		"from source":       {fake{version: "0.1.dev9000+g1a2b3c"}, version("0.1.dev9000+g1a2b3c")},
		"a word":            {fake{version: "nightly"}, version("nightly")},
		"letters":           {fake{version: "main.x"}, version("main.x")},
		"old vLLM":          {fake{version: "v0.9.2"}, version("v0.9.2", noIDs)},
		"simulator":         {fake{version: "0.31.0+sim"}, workers.Health{Model: "m", MaxModelLen: 4096, Version: "0.31.0+sim", Simulated: true}},
		"key on /health":    {fake{version: "0.31.0", routes: map[string]http.HandlerFunc{"/health": answer(401, "")}}, version("0.31.0", noHealth)},
		"version in HTML":   {fake{routes: map[string]http.HandlerFunc{"/version": answer(200, "<html>")}}, version("", noVersion, noIDs, noTokenize)},
		"version of flood":  {fake{routes: map[string]http.HandlerFunc{"/version": answer(501, strings.Repeat("x", 1<<20))}}, version("", noVersion, noIDs, noTokenize)},
		"version empty":     {fake{routes: map[string]http.HandlerFunc{"/version": answer(200, "{}")}}, version("", noVersion, noIDs, noTokenize)},
		"llama.cpp":         {fake{models: `{"models":[{"name":"q"}],"data":[{"id":"q.gguf","meta":{"n_ctx_train":32768}}]}`}, workers.Health{Model: "q.gguf", Missing: []string{noVersion, noIDs, noTokenize, noContext}}},
		"ollama":            {fake{models: `{"data":[{"id":"phi3:mini","owned_by":"library"}]}`, routes: map[string]http.HandlerFunc{"/health": notFound, "/": answer(200, "Ollama is running")}}, workers.Health{Model: "phi3:mini", Missing: []string{noVersion, noIDs, noTokenize, noContext, noHealth}}},
		"first that has id": {fake{version: "0.31.0", models: `{"data":[{"id":""},{"id":"a","max_model_len":-1},{"id":"b"}]}`}, workers.Health{Model: "a", Version: "0.31.0", Missing: []string{noContext}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.fake.models == "" {
				tt.fake.models = vllmModels
			}
			tt.want.TokenIDs = !slices.Contains(tt.want.Missing, noIDs)
			e := newEngine(t, start(t, tt.fake).URL, vllm.Config{})
			for range 2 {
				got, err := e.Health(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("health (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestHealthErrors(t *testing.T) {
	t.Parallel()
	routes := func(path string, h http.HandlerFunc) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{path: h}
	}
	drop := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "{")
		flush(w)
		panic(http.ErrAbortHandler)
	}
	many := `{"data":[` + strings.Repeat(`{"id":"x"},`, 50) + `{"id":"y"}]}`
	tests := map[string]struct {
		fake    fake
		model   string
		message string
	}{
		"dead engine":     {fake{routes: routes("/health", answer(503, ""))}, "", "GET /health: the engine answered 503 Service Unavailable"},
		"loading":         {fake{routes: routes("/health", answer(503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`))}, "", "Loading model"},
		"wrong key":       {fake{routes: routes("/v1/models", answer(401, `{"error":"Unauthorized"}`))}, "", "refuses the API key"},
		"no model":        {fake{models: `{"data":[]}`}, "", "serves no model"},
		"another model":   {fake{models: `{"data":[{"id":"a"},{"id":"b"}]}`}, "m", `does not serve model "m"; of its 2 models the first are: "a", "b"`},
		"many others":     {fake{models: many}, "m", "of its 51 models"},
		"models no JSON":  {fake{models: `<html>`}, "", "GET /v1/models: no usable answer"},
		"models too long": {fake{models: `{"data":[` + strings.Repeat(" ", 1<<20) + `]}`}, "", "longer than 1048576 bytes"},
		"models cut":      {fake{routes: routes("/v1/models", drop)}, "", "unexpected EOF"},
		"version 500":     {fake{models: vllmModels, routes: routes("/version", answer(500, ""))}, "", "GET /version: the engine answered 500"},
		"version cut":     {fake{models: vllmModels, routes: routes("/version", drop)}, "", "unexpected EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, start(t, tt.fake).URL, vllm.Config{Model: tt.model})
			_, err := e.Health(t.Context())
			check(t, err, schemas.CodeEngineUnavailable, true, tt.message)
		})
	}
}

func TestHealthHasATimeout(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	srv := start(t, fake{routes: map[string]http.HandlerFunc{"/health": hang, "/v1/models": hang}})
	e := newEngine(t, srv.URL, vllm.Config{HealthTimeout: 30 * time.Millisecond})
	_, err := e.Health(t.Context())
	check(t, err, schemas.CodeEngineUnavailable, true, "did not finish a health check within 30ms")
	check(t, collect(t.Context(), e, completion(`{}`)).err, schemas.CodeEngineUnavailable, true, "telling what it is within 30ms")

	slow := newEngine(t, srv.URL, vllm.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	// One of the two holds the turn to ask, the other waits for it; both end with the context.
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := collect(ctx, slow, completion(`{}`)).err; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error = %v", err)
			}
		})
	}
	wg.Wait()
}

// A version may promise what a proxy in between takes out.
func TestHealthLearnsFromReplies(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serve(t, stream(`{"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}`, done)).URL, vllm.Config{})
	if r := collect(t.Context(), e, completion(`{}`)); r.err != nil {
		t.Fatal(r.err)
	}
	h, err := e.Health(t.Context())
	if err != nil || !strings.Contains(strings.Join(h.Missing, ";"), "no token ids") {
		t.Errorf("health = %+v, %v", h, err)
	}
}

func TestIdentityIsLearnedOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	f := fake{version: "0.31.0", routes: generation(stream(text(0, "a", "stop", 1), done))}
	f.routes["/v1/models"] = func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		io.WriteString(w, vllmModels)
	}
	e := newEngine(t, start(t, f).URL, vllm.Config{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if r := collect(t.Context(), e, completion(`{}`)); r.err != nil {
				t.Error(r.err)
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestCanary(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !strings.HasPrefix(r.Header.Get("X-Request-Id"), "hxp-canary-") || !strings.Contains(string(body), `"max_tokens":1,`) {
			t.Errorf("canary %q: %s", r.Header.Get("X-Request-Id"), body)
		}
		stream(text(0, "a", "length", 1), done)(w, r)
	}).URL, vllm.Config{})
	if err := e.Canary(t.Context()); err != nil {
		t.Error(err)
	}

	hung := newEngine(t, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}).URL, vllm.Config{CanaryTimeout: 50 * time.Millisecond})
	check(t, hung.Canary(t.Context()), schemas.CodeEngineUnavailable, true, "did not finish a completion of one token within 50ms")
}
