package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
)

// odd is an engine that answers groups as a test tells it to, and a request of one prompt with "alone".
type odd struct {
	*script
	plan  atomic.Pointer[plan]
	order chan []string // receives the prompts of a group
}

// plan is how groups are answered.
type plan struct {
	deltas  []string // choices, or lists of them
	garbage bool     // the choices are no JSON
	err     error
	hold    chan struct{} // if set, the end waits for it
}

func newOdd() *odd {
	e := &odd{script: says("alone"), order: make(chan []string, 10)}
	e.health.TokenIDs = true
	return e
}

func (e *odd) Generate(ctx context.Context, req *workers.Request) iter.Seq2[workers.Delta, error] {
	var body struct{ Prompt json.RawMessage }
	if err := json.Unmarshal(req.Body, &body); err != nil {
		panic(err)
	}
	if body.Prompt[0] != '[' {
		return e.script.Generate(ctx, req)
	}
	return func(yield func(workers.Delta, error) bool) {
		e := struct {
			*odd
			*plan
		}{e, e.plan.Load()}
		var prompts []string
		if err := json.Unmarshal(body.Prompt, &prompts); err != nil {
			panic(err)
		}
		e.order <- prompts
		for _, raw := range e.deltas {
			parts, err := openai.ParseChoices([]byte("["+raw+"]"), nil)
			if err != nil {
				panic(err)
			}
			if e.garbage {
				raw = strings.ReplaceAll(raw, "}", "")
			}
			if !yield(workers.Delta{Choices: []byte(raw), Parts: parts, Tokens: len(parts), PromptTokens: []int{1, 2}}, nil) {
				return
			}
		}
		if e.hold != nil {
			select {
			case <-e.hold:
			case <-ctx.Done():
			}
		}
		if e.err != nil {
			yield(workers.Delta{}, e.err)
		}
	}
}

// piece is a choice of one token.
func piece(index int, text, finish string) string {
	end := "null"
	if finish != "" {
		end = fmt.Sprintf("%q", finish)
	}
	return fmt.Sprintf(`{"index":%d,"text":%q,"logprobs":null,"finish_reason":%s,"token_ids":[7]}`, index, text, end)
}

//nolint:tparallel // The plan is the one engine's, for the next group whichever that is.
func TestOddEnginesAndGroups(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newOdd()
	b.run(engine, patient(2))
	broken := schemas.Errorf(schemas.CodeEngineUnavailable, "gone")
	for name, c := range map[string]struct {
		engine func(*plan)
		texts  string // of the two jobs, in the order of their places in the group
		kinds  string // of the second job's events
		reason string // of its interruption
	}{
		"each has its own end": {
			func(e *plan) {
				e.deltas = []string{piece(1, "b", ""), piece(0, "a", "stop"), piece(1, "c", "stop"), piece(1, "after the end", "")}
				e.err = broken // and nobody cares any more
			}, "a bc", "started delta usage done", "",
		},
		"several choices at once": {
			func(e *plan) {
				e.deltas = []string{piece(0, "a", ""), piece(1, "b", ""), piece(0, "c", "stop") + "," + piece(1, "d", "stop")}
			}, "ac bd", "started delta usage done", "",
		},
		"whose prompt is not clear": {
			func(e *plan) { e.deltas = []string{piece(0, "a", "") + "," + piece(1, "b", "")} },
			"alone alone", "started delta usage done", "",
		},
		"only one is not clear": {
			func(e *plan) {
				e.deltas = []string{piece(0, "a", ""), piece(0, "b", "") + "," + piece(1, "x", ""), piece(0, "c", "stop")}
			}, "abc alone", "started delta usage done", "",
		},
		"a choice too many": {
			func(e *plan) { e.deltas = []string{piece(0, "a", "stop"), piece(2, "c", "")} },
			"a alone", "started interrupted resumed delta usage done", "sent choice 2 of a request for 2",
		},
		"choices that cannot be told apart": {
			func(e *plan) { e.garbage = true; e.deltas = []string{piece(0, "a", "") + "," + piece(1, "b", "")} },
			"alone alone", "started interrupted resumed delta usage done", "2 choices that are 0 JSON values",
		},
		"a choice that is no object": {
			func(e *plan) { e.garbage = true; e.deltas = []string{piece(1, "a", "")} },
			"alone alone", "started interrupted resumed delta usage done", "choice 1: body",
		},
		"no answer": {
			func(e *plan) { e.deltas = []string{piece(0, "a", "stop")} },
			"a alone", "started interrupted resumed delta usage done", "without an answer to this one",
		},
		"refused after the first token": {
			func(e *plan) {
				e.deltas = []string{piece(0, "a", "stop")}
				e.err = schemas.Errorf(schemas.CodeInvalidRequest, "that is too much")
			}, "a alone", "started interrupted resumed delta usage done", "refused after its first token, perhaps for another's sake: that is too much",
		},
		"not received": {
			func(e *plan) { e.err = fmt.Errorf("%w: %w", workers.ErrNotReceived, broken) },
			"alone alone", "started interrupted resumed delta usage done", "in a request of 2 prompts: gone",
		},
		"far more than was asked for": {
			func(e *plan) {
				e.deltas = []string{piece(0, "a", "stop"), piece(1, "b", ""), strings.Repeat(piece(1, "b", "")+",", 400) + piece(1, "b", "")}
			}, "a alone", "started delta interrupted restarted delta usage done", "deltas wait",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := b.in(t)
			p := &plan{}
			c.engine(p)
			engine.plan.Store(p)
			l := b.listen(schemas.AllEvents)
			jobs := map[string]schemas.Job{"one": b.submit(batch(`{"prompt":"one"}`)), "two": b.submit(batch(`{"prompt":"two"}`))}
			order := <-engine.order
			first, second := jobs[order[0]], jobs[order[1]]
			streams := make(map[string][]schemas.Event)
			for ended := 0; ended < 2; {
				e := l.next()
				streams[e.ID] = append(streams[e.ID], e)
				if e.Kind.Terminal() {
					ended++
				}
			}
			events := streams[second.ID]
			if got := b.result(first).Text + " " + b.result(second).Text; got != c.texts {
				t.Errorf("texts = %q, want %q", got, c.texts)
			}
			if got := kinds(events); got != c.kinds {
				t.Errorf("kinds = %q, want %q", got, c.kinds)
			}
			said := ""
			for _, e := range events {
				if e.Kind == schemas.Interrupted {
					said = e.Error.Message
				}
				if want := name == "not received"; e.Kind == schemas.Interrupted && e.Handback != want {
					t.Errorf("handback = %t, want %t", e.Handback, want)
				}
			}
			if !strings.Contains(said, c.reason) || (said == "") != (c.reason == "") {
				t.Errorf("interrupted by %q, want %q", said, c.reason)
			}
			if n := len(engine.order); n != 0 {
				t.Errorf("%d further groups, want none", n)
			}
		})
	}
}

// What one member's leaving does not wait for, the worker's end does: nothing of a group is left after it.
func TestDrainEndsGroups(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newOdd()
	engine.plan.Store(&plan{deltas: []string{piece(0, "a", ""), piece(1, "b", "")}, hold: make(chan struct{})})
	cfg := patient(2)
	cfg.DrainTimeout = -1
	s := b.run(engine, cfg)
	l := b.listen(schemas.AllEvents)
	b.submit(batch(`{"prompt":"first"}`))
	b.submit(batch(`{"prompt":"second"}`))
	seen := make(map[string]bool)
	for len(seen) < 2 {
		if e := l.next(); e.Kind == schemas.DeltaKind {
			seen[e.ID] = true
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if e := l.next(); e.Kind != schemas.Interrupted || !e.Handback {
			t.Errorf("event = %+v, want the jobs to be handed back", e)
		}
	}
}
