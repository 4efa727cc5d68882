package vllm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func simulate(t *testing.T, cfg vllmsim.Config) (*vllmsim.Sim, *vllm.Engine) {
	t.Helper()
	sim, err := vllmsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(sim.Handler())
	t.Cleanup(srv.Close)
	return sim, newEngine(t, srv.URL, vllm.Config{})
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

const simChat = `{"messages":[{"role":"user","content":"Tell me about the sea."}],"max_tokens":40,"ignore_eos":true}`

func TestSimulatorHealth(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, vllmsim.Config{Model: "phi3", MaxModelLen: 2048})
	h, err := e.Health(t.Context())
	if err != nil || h.Model != "phi3" || h.MaxModelLen != 2048 || !h.Simulated || len(h.Missing) != 0 {
		t.Errorf("health = %+v, %v", h, err)
	}
	_, bare := simulate(t, vllmsim.Config{Model: "phi3", NoExtras: true})
	if h, err = bare.Health(t.Context()); err != nil || h.Version != "" || h.MaxModelLen != 0 || len(h.Missing) != 4 {
		t.Errorf("health of a plain server = %+v, %v", h, err)
	}
	if _, err = bare.CountTokens(t.Context(), schemas.ChatCompletions, []byte(simChat)); !errors.Is(err, workers.ErrUnsupported) {
		t.Errorf("CountTokens of a plain server: %v", err)
	}
	if r := collect(t.Context(), bare, chat(simChat)); r.err != nil || r.tokens == 0 || r.text[0] == "" || r.prompt != nil {
		t.Errorf("reply of a plain server = %+v", r)
	}
}

func TestSimulatorCountsAgree(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, vllmsim.Config{Model: "m"})
	r := collect(t.Context(), e, chat(simChat))
	if r.err != nil {
		t.Fatal(r.err)
	}
	n, err := e.CountTokens(t.Context(), schemas.ChatCompletions, []byte(simChat))
	if err != nil || n != len(r.prompt) || n != r.usage.PromptTokens || r.tokens != 40 || r.usage.CompletionTokens != 40 {
		t.Errorf("tokenizer says %d, %v; the reply has %d prompt tokens, usage %+v and %d tokens", n, err, len(r.prompt), r.usage, r.tokens)
	}
	many := collect(t.Context(), e, completion(`{"prompt":["one","two","three"],"n":2,"max_tokens":5,"ignore_eos":true}`))
	if many.err != nil || len(many.finish) != 6 || many.tokens != 30 {
		t.Errorf("reply = %+v", many)
	}
}

// What was cut off goes on, token by token, from the ids that came with the reply.
func TestSimulatorContinuation(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, vllmsim.Config{Model: "m"})
	whole := collect(t.Context(), e, chat(simChat))
	if whole.err != nil {
		t.Fatal(whole.err)
	}
	var ids []int
	var head strings.Builder
	for d, err := range e.Generate(t.Context(), chat(simChat)) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.PromptTokens...)
		for _, p := range d.Parts {
			ids = append(ids, p.TokenIDs...)
			head.Write(p.Text)
		}
		if len(ids) >= len(whole.prompt)+15 {
			break
		}
	}
	prompt, _ := json.Marshal(ids)
	left := 40 - (len(ids) - len(whole.prompt))
	rest := collect(t.Context(), e, completion(fmt.Sprintf(`{"prompt":%s,"max_tokens":%d,"ignore_eos":true}`, prompt, left)))
	if rest.err != nil || head.String()+rest.text[0] != whole.text[0] {
		t.Errorf("%q then %q, %v; want %q", head.String(), rest.text[0], rest.err, whole.text[0])
	}
}

func TestSimulatorSeesAborts(t *testing.T) {
	t.Parallel()
	leave := map[string]func(ctx context.Context, cancel context.CancelFunc, e *vllm.Engine, req *workers.Request){
		"break": func(ctx context.Context, _ context.CancelFunc, e *vllm.Engine, req *workers.Request) {
			for range e.Generate(ctx, req) { //nolint:errcheck // the point is to leave
				break
			}
		},
		"cancel": func(ctx context.Context, cancel context.CancelFunc, e *vllm.Engine, req *workers.Request) {
			for _, err := range e.Generate(ctx, req) {
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		},
	}
	for name, leave := range leave {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, e := simulate(t, vllmsim.Config{Model: "m", ITL: time.Millisecond})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req := chat(`{"messages":[{"role":"user","content":"x"}],"max_tokens":3000,"ignore_eos":true}`)
			req.Attempt = 2
			leave(ctx, cancel, e, req)
			eventually(t, "the engine aborts", func() bool { return sim.Stats().Aborted == 1 })
			st := sim.Stats()
			if st.Running != 0 || st.Finished != 0 || !strings.Contains(st.Aborts[0].ID, "job-1-2") || st.Aborts[0].Phase != vllmsim.Decode {
				t.Errorf("stats = %+v", st)
			}
		})
	}
}

func TestSimulatorFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault   vllmsim.Fault
		message string
		tokens  int
	}{
		"error before":    {vllmsim.Fault{Kind: vllmsim.ErrorBefore}, "answered 500", 0},
		"queue full":      {vllmsim.Fault{Kind: vllmsim.QueueFull}, "answered 503", 0},
		"error in stream": {vllmsim.Fault{Kind: vllmsim.ErrorInStream, AfterTokens: 5}, "(after 5 tokens)", 5},
		"eof":             {vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 5}, "(after 5 tokens)", 5},
		"abort":           {vllmsim.Fault{Kind: vllmsim.Abort, AfterTokens: 5}, `finish reason "abort" (after 5 tokens)`, 5},
		"crash":           {vllmsim.Fault{Kind: vllmsim.Crash, AfterTokens: 5}, "unexpected EOF (after 5 tokens)", 5},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, e := simulate(t, vllmsim.Config{Model: "m"})
			if _, err := e.Health(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := sim.InjectFault(tt.fault); err != nil {
				t.Fatal(err)
			}
			r := collect(t.Context(), e, chat(simChat))
			check(t, r.err, schemas.CodeEngineUnavailable, true, tt.message)
			if r.tokens != tt.tokens {
				t.Errorf("%d tokens before the error, want %d", r.tokens, tt.tokens)
			}
			if tt.fault.Kind == vllmsim.Crash {
				return
			}
			if r = collect(t.Context(), e, chat(simChat)); r.err != nil || r.tokens != 40 {
				t.Errorf("after the fault: %d tokens, %v", r.tokens, r.err)
			}
		})
	}
}

func TestSimulatorRefusals(t *testing.T) {
	t.Parallel()
	_, e := simulate(t, vllmsim.Config{Model: "m", MaxModelLen: 64, RefusePriority: true})
	for body, code := range map[string]schemas.Code{
		`{"prompt":"` + strings.Repeat(".", 99) + `"}`: schemas.CodeContextLengthExceeded,
		`{"prompt":"x","n":0}`:                         schemas.CodeInvalidRequest,
		`{"prompt":"x","priority":5}`:                  schemas.CodeInvalidRequest,
	} {
		check(t, collect(t.Context(), e, completion(body)).err, code, false, "")
	}
}

// A hung engine passes the health check and fails the canary.
func TestSimulatorHang(t *testing.T) {
	t.Parallel()
	sim, e := simulate(t, vllmsim.Config{Model: "m"})
	if err := e.Canary(t.Context()); err != nil {
		t.Error(err)
	}
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.Hang}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Health(t.Context()); err != nil {
		t.Error(err)
	}
	hasty := newEngine(t, e.String(), vllm.Config{CanaryTimeout: 100 * time.Millisecond})
	check(t, hasty.Canary(t.Context()), schemas.CodeEngineUnavailable, true, "within 100ms")
	sim.ClearFaults()
	if err := e.Canary(t.Context()); err != nil {
		t.Error(err)
	}
}
