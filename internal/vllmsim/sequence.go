package vllmsim

import "time"

// group is the sequences of one HTTP request: every choice of every prompt. The scheduler appends
// to it, the request's handler takes from it.
type group struct {
	id  string
	req *request

	// notify holds a value when there is something to take. Only the handler receives.
	notify chan struct{}

	// The fields below belong to the scheduler's lock.
	sequences []*sequence
	live      int // sequences that have not ended
	out       []emission
	text      *string // of the prompts, made when a fault asks for it
	held      outage
	struck    *armed
}

// emission is one token of one choice, or the end of a choice by a fault.
type emission struct {
	choice int32
	token  int32 // below 0: none
	end    *ending
}

// sequence is one choice on its way through the engine.
type sequence struct {
	group    *group
	choice   int
	prompt   []int
	gen      *generation
	arrival  time.Time
	order    uint64    // of arrival
	ready    time.Time // when prefill is done; zero while waiting
	previous time.Time // when the last token came; zero before the first
	ended    bool
}

// most is how many tokens of the cache q may come to fill.
func (q *sequence) most() int { return len(q.prompt) + q.gen.p.maxTokens }

// newGroup makes the sequences of r, index = choice + prompt*n as vLLM numbers them.
func newGroup(model, id string, r *request) *group {
	g := &group{id: id, req: r, notify: make(chan struct{}, 1)}
	for p, prompt := range r.prompts {
		for i := range r.n {
			g.sequences = append(g.sequences, &sequence{
				group: g, choice: i + p*r.n, prompt: prompt,
				gen: newGeneration(model, prompt, i, r.samplings[p]),
			})
		}
	}
	g.live = len(g.sequences)
	return g
}

// due reports whether the handler has something to do: one that does not stream sleeps until the end.
func (g *group) due() bool { return g.req.stream || g.live == 0 }

// signal wakes the handler. It needs no lock.
func (g *group) signal() {
	select {
	case g.notify <- struct{}{}:
	default:
	}
}

// promptText is the rendered text of all prompts.
func (g *group) promptText() string {
	if g.text == nil {
		var s string
		for _, p := range g.req.prompts {
			s += Detokenize(p)
		}
		g.text = &s
	}
	return *g.text
}

// phase says how far q is.
func (q *sequence) phase() Phase {
	switch {
	case q.ready.IsZero():
		return Waiting
	case q.previous.IsZero():
		return Prefill
	}
	return Decode
}
