package vllm_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func classed(class schemas.Class, prompt string, tokens int) *workers.Request {
	r := completion(fmt.Sprintf(`{"prompt":%q,"max_tokens":%d,"ignore_eos":true}`, prompt, tokens))
	r.Class = class
	return r
}

func TestUrgentRequestsOvertakeInAFullEngine(t *testing.T) {
	t.Parallel()
	sim, plain := simulate(t, vllmsim.Config{Priority: true, MaxNumSeqs: 1, ITL: 3 * time.Millisecond})
	e := newEngine(t, plain.String(), vllm.Config{Priority: true})
	var mu sync.Mutex
	var order []schemas.Class
	var all sync.WaitGroup
	enter := func(class schemas.Class) {
		all.Go(func() {
			first := true
			for _, err := range e.Generate(t.Context(), classed(class, "x", 20)) {
				if err != nil {
					t.Error(err)
				}
				if first {
					first = false
					mu.Lock()
					order = append(order, class)
					mu.Unlock()
				}
			}
		})
	}
	enter(schemas.Batch)
	eventually(t, "the engine is full", func() bool { return sim.Stats().Running == 1 })
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.Hang}); err != nil {
		t.Fatal(err)
	}
	for i, class := range []schemas.Class{schemas.Batch, schemas.Batch, schemas.Standard, schemas.Interactive} {
		enter(class)
		eventually(t, "it waits", func() bool { return sim.Stats().Waiting == i+1 })
	}
	sim.ClearFaults()
	all.Wait()
	want := []schemas.Class{schemas.Batch, schemas.Interactive, schemas.Standard, schemas.Batch, schemas.Batch}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("order of first tokens (-want +got):\n%s", diff)
	}
	if h, err := e.Health(t.Context()); err != nil || len(h.Missing) != 0 {
		t.Errorf("health = %+v, %v", h, err)
	}
}

func TestEngineWithoutPrioritiesGetsNone(t *testing.T) {
	t.Parallel()
	sim, plain := simulate(t, vllmsim.Config{RefusePriority: true})
	e := newEngine(t, plain.String(), vllm.Config{Priority: true})
	missing := func() bool {
		h, err := e.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(h.Missing, func(s string) bool { return strings.Contains(s, "--scheduling-policy priority") })
	}
	if r := collect(t.Context(), e, classed(schemas.Interactive, "x", 3)); r.err != nil || missing() {
		t.Errorf("interactive: %v; no one has been refused", r.err)
	}
	for range 3 {
		if r := collect(t.Context(), e, classed(schemas.Batch, "x", 3)); r.err != nil || r.tokens != 3 {
			t.Errorf("batch = %+v", r)
		}
		if !missing() {
			t.Error("health does not say that the engine has no priorities")
		}
	}
	// An engine that was away may come back with another policy.
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.SlowStart}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Health(t.Context()); err == nil {
		t.Error("health of a starting engine = nil")
	}
	sim.ClearFaults()
	if missing() {
		t.Error("the refusal is remembered of an engine that was away")
	}
}

// priorities is an engine that notes the priority of every request, and may refuse it.
type priorities struct {
	mu   sync.Mutex
	seen []string
}

func (p *priorities) serve(answer func(w http.ResponseWriter, r *http.Request, priority string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, after, _ := strings.Cut(string(body), `"priority":`)
		value := strings.TrimRight(strings.SplitN(after, ",", 2)[0], "}")
		p.mu.Lock()
		p.seen = append(p.seen, value)
		p.mu.Unlock()
		answer(w, r, value)
	}
}

func (p *priorities) check(t *testing.T, want ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if diff := cmp.Diff(want, p.seen); diff != "" {
		t.Errorf("priorities (-want +got):\n%s", diff)
	}
	p.seen = nil
}

func TestPriorityRefusedInTheStream(t *testing.T) {
	t.Parallel()
	p := &priorities{}
	srv := serve(t, p.serve(func(w http.ResponseWriter, r *http.Request, priority string) {
		if priority != "" {
			stream(`{"error":{"message":"Got priority 20 but Priority scheduling is not enabled.","type":"BadRequestError","code":400}}`, done)(w, r)
			return
		}
		stream(text(0, "a", "stop", 1), usage, done)(w, r)
	}))
	e := newEngine(t, srv.URL, vllm.Config{Priority: true})
	for range 2 {
		if r := collect(t.Context(), e, classed(schemas.Batch, "x", 3)); r.err != nil || r.text[0] != "a" {
			t.Errorf("reply = %+v", r)
		}
	}
	p.check(t, "20", "", "")
}

// A request that is wrong for another reason, and only mentions priorities, takes them from nobody.
func TestOtherRefusalsLeavePrioritiesOn(t *testing.T) {
	t.Parallel()
	p := &priorities{}
	srv := serve(t, p.serve(func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"temperature: input should be a number, got 'priority'","code":400}}`)
	}))
	e := newEngine(t, srv.URL, vllm.Config{Priority: true})
	for range 2 {
		check(t, collect(t.Context(), e, classed(schemas.Standard, "x", 3)).err, schemas.CodeInvalidRequest, false, "temperature")
	}
	p.check(t, "10", "", "10", "")
}

func TestPlaceInTheEnginesQueueIsTheClasss(t *testing.T) {
	t.Parallel()
	p := &priorities{}
	answer := p.serve(func(w http.ResponseWriter, r *http.Request, _ string) {
		stream(text(0, "a", "stop", 1), usage, done)(w, r)
	})
	srv := serve(t, answer)
	for _, on := range []bool{false, true} {
		e := newEngine(t, srv.URL, vllm.Config{Priority: on})
		for _, own := range []string{"5", "-1", `"7"`, "[]"} {
			err := collect(t.Context(), e, completion(`{"prompt":"x","priority":`+own+`}`)).err
			check(t, err, schemas.CodeInvalidRequest, false, "priority is "+own)
		}
		for _, own := range []string{"0", "null", "0.0"} {
			if err := collect(t.Context(), e, completion(`{"prompt":"x","priority":`+own+`}`)).err; err != nil {
				t.Errorf("priority %s: %v", own, err)
			}
		}
	}
	p.check(t, "0", "null", "0.0", "10", "10", "10")
	// Only vLLM is sure to know the field.
	other := start(t, fake{models: `{"data":[{"id":"m"}]}`, routes: generation(answer)})
	e := newEngine(t, other.URL, vllm.Config{Priority: true})
	if err := collect(t.Context(), e, classed(schemas.Batch, "x", 3)).err; err != nil {
		t.Error(err)
	}
	p.check(t, "")
	if h, err := e.Health(t.Context()); err != nil || !strings.Contains(strings.Join(h.Missing, "\n"), "no priority scheduling") || h.TokenIDs {
		t.Errorf("health = %+v, %v", h, err)
	}
}
