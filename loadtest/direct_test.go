package loadtest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/schemas"
)

// simFast is an engine that answers at once.
var simFast = vllmsim.Config{}

func TestEveryWayThatAnEngineFailsHasACode(t *testing.T) {
	t.Parallel()
	const chunk = "data: {\"choices\":[{\"index\":0,\"text\":\"hi\"}]}\n\n"
	answer := func(text string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, text) }
	}
	cut := func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "1000")
		rw.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(rw, chunk)
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		whole   bool
		code    string
		says    string
	}{
		{"refused", func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "too much", http.StatusTooManyRequests) }, false, "http_429", "too much"},
		{"refused in half a sentence", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "1000")
			rw.WriteHeader(http.StatusBadGateway)
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}, false, "truncated", "unexpected EOF"},
		{"no end", answer(chunk), false, "truncated", "without [DONE]"},
		{"cut off", cut, false, "truncated", "unexpected EOF"},
		{"cut off in one piece", cut, true, "truncated", "unexpected EOF"},
		{"half a chunk", answer("data: {\"choices\"\n\n"), false, "malformed", "chunk"},
		{"an error frame", answer("data: {\"error\":{\"message\":\"the core is dead\"}}\n\n"), false, "engine_unavailable", "the core is dead"},
		{"aborted", answer("data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"abort\"}]}\n\ndata: [DONE]\n\n"), false, "aborted", "abort"},
		{"no JSON", answer("<html>"), true, "malformed", "invalid character"},
		{"no choices", answer("{}"), true, "malformed", "no choices"},
		{"too long", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(rw, endless{}, 64<<20+1) }, true, "payload_too_large", "longer than"},
		{"an event too long", func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, "data: ")
			_, _ = io.CopyN(rw, endless{}, 9<<20)
		}, false, "truncated", "longer than"},
		{"after the end", func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, chunk+"data: [DONE]\n\ndata: x")
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}, false, "truncated", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := straight(t, serve(t, c.handler))
			r := &loadtest.Request{Model: model, Endpoint: schemas.Completions, Body: []byte(`{"prompt":"x"}`), Stream: !c.whole}
			err := d.Do(t.Context(), r, &loadtest.Observation{})
			if loadtest.FailureCode(err) != c.code || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("code %q, error %v; want %q with %q in it", loadtest.FailureCode(err), err, c.code, c.says)
			}
			if f, ok := errors.AsType[*loadtest.FailureError](err); !ok || errors.Unwrap(f) == nil {
				t.Errorf("error %v is no failure with a cause", err)
			}
		})
	}
	if loadtest.FailureCode(nil) != "" || loadtest.FailureCode(io.EOF) != "unknown" {
		t.Error("codes of nothing and of something else")
	}
}

// endless is the letter a, for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func TestARequestThatEndsEarlySaysWhy(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 4)
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.Contains(r.Header.Get("Authorization"), "begin") {
			_, _ = io.WriteString(rw, ": hello\n\n")
			_ = http.NewResponseController(rw).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	for _, key := range []string{"", "begin"} {
		d, err := loadtest.NewDirect(loadtest.DirectConfig{URLs: map[string]string{"": url}, APIKeys: map[string]string{model: key}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-arrived; cancel(errors.New("enough")) }()
		r := &loadtest.Request{Model: model, Endpoint: schemas.Completions, Body: []byte(`{}`), Stream: true}
		if err := d.Do(ctx, r, &loadtest.Observation{}); loadtest.FailureCode(err) != "interrupted" {
			t.Errorf("key %q: %v", key, err)
		}
	}
	none, err := loadtest.NewDirect(loadtest.DirectConfig{URLs: map[string]string{"other": url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(none.Close)
	if err := none.Do(t.Context(), &loadtest.Request{Model: model}, &loadtest.Observation{}); loadtest.FailureCode(err) != "model_not_found" {
		t.Errorf("a model without a URL: %v", err)
	}
}

func TestTheModelIsPutIntoTheBody(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{}`: `{"model":"m"}`, "\t{ \"prompt\":1}": `{"model":"m", "prompt":1}`, `{"prompt":1}`: `{"model":"m","prompt":1}`,
	} {
		r := loadtest.Request{Body: []byte(body)}
		if got := string(r.DirectBody("m")); got != want {
			t.Errorf("DirectBody of %s = %s, want %s", body, got, want)
		}
	}
}

func TestABatchFileIsAsked(t *testing.T) {
	t.Parallel()
	sim, url := simulate(t, vllmsim.Config{LogPrompts: true})
	d, err := loadtest.BatchFile(strings.NewReader(`{"url":"/v1/chat/completions","body":{"model":"gpt-4","messages":[{"role":"user","content":"from a <file>"}],"max_completion_tokens":9,"stream_options":{}}}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: d, Mix: phi3(), Warmups: -1, OutputTokens: 3, IgnoreEOS: true, Timeout: time.Minute, Stages: []loadtest.Stage{{Concurrency: 1, Requests: 2}},
	}, []loadtest.Target{straight(t, url)}, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Totals[0].Completed != 2 || s.Totals[0].TotalOutputTokens != 6 || !strings.Contains(sim.Prompts()[0], "from a <file>") {
		t.Errorf("total %+v, prompts %q", s.Totals[0], sim.Prompts())
	}
}
