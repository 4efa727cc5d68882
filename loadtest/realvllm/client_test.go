//go:build vllm && linux

package realvllm_test

import (
	"fmt"
	"testing"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// client checks what hxp's engine client makes of vLLM, without a queue.
func (b *bed) client(t *testing.T) {
	m := b.model
	e, err := vllm.New(b.engine.url, vllm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	check(t, "client_knows_vllm", m.name, func(t *testing.T) string {
		h, err := e.Health(t.Context())
		if err != nil || len(h.Missing) > 0 || h.Model != m.name || h.MaxModelLen != window || h.Simulated {
			t.Errorf("health = %+v %v, want %s with a window of %d and nothing missing", h, err, m.name, window)
		}
		if err := e.Canary(t.Context()); err != nil {
			t.Error(err)
		}
		return "version " + h.Version
	})
	check(t, "client_reads_load", m.name, func(t *testing.T) string {
		load, err := e.Load(t.Context())
		if err != nil || load.Running != 0 || load.Waiting != 0 || load.KVTokens == 0 {
			t.Errorf("load = %+v %v, want none, and the size of the cache", load, err)
		}
		return fmt.Sprintf("a cache of %d tokens", load.KVTokens)
	})
	check(t, "client_tokenizes", m.name, func(t *testing.T) string {
		const text = "Hello, 🙂"
		body := fmt.Appendf(nil, `{"prompt":%q}`, text)
		ids, err := e.Tokenize(t.Context(), schemas.Completions, body)
		n, countErr := e.CountTokens(t.Context(), schemas.Completions, body)
		if err != nil || countErr != nil || n != len(ids) || n < 2 {
			t.Fatalf("tokens = %v %v, count = %d %v", ids, err, n, countErr)
		}
		if got, err := e.Detokenize(t.Context(), ids[1:]); err != nil || got != text {
			t.Errorf("detokenized = %q %v, want %q", got, err, text)
		}
		return ""
	})
	refused := func(t *testing.T, body string) {
		t.Helper()
		req := &workers.Request{ID: "long", Attempt: 1, Endpoint: schemas.Completions, Body: []byte(body), Class: schemas.Standard}
		var got error
		for _, got = range e.Generate(t.Context(), req) {
		}
		if schemas.ErrorCode(got) != schemas.CodeContextLengthExceeded {
			t.Errorf("%v, want %s", got, schemas.CodeContextLengthExceeded)
		}
	}
	check(t, "client_tells_a_prompt_beyond_the_window", m.name, func(t *testing.T) string {
		refused(t, fmt.Sprintf(`{"prompt":%s,"max_tokens":1}`, zeros(window+9)))
		return ""
	})
	check(t, "client_tells_max_tokens_beyond_the_window", m.name, func(t *testing.T) string {
		refused(t, fmt.Sprintf(`{"prompt":"x","max_tokens":%d}`, window+1))
		return ""
	})
}

// zeros is a prompt of so many tokens.
func zeros(n int) string {
	b := []byte("[0")
	for range n - 1 {
		b = append(b, ",0"...)
	}
	return string(append(b, ']'))
}
