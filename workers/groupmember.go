package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// memberSlack is how many deltas more than it may generate tokens wait for a member: the usage, and what
// an engine with another default for max_tokens makes.
const memberSlack = 256

// member is one job's part of a group.
type member struct {
	req    *Request
	prompt json.RawMessage
	room   int           // how many deltas may wait
	ready  chan struct{} // holds a value when there is something to take

	// The groups' lock guards the fields below.
	group          *group
	deltas         []Delta // that wait to be taken; they own their memory
	prompts, count int     // tokens of the prompt, and produced
	ended          bool    // nothing more comes, or nobody waits for it
	alone          bool    // it has to be sent by itself
	err            error
}

// together is [Engine.Generate] for a member of a group.
func (gs *groups) together(ctx context.Context, req *Request, s shape) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		m := &member{req: req, prompt: s.prompt, room: s.maxTokens + memberSlack, ready: make(chan struct{}, 1)}
		gs.join(ctx, m, s.key)
		defer gs.leave(m)
		for ended := false; !ended; {
			select {
			case <-ctx.Done():
				yield(Delta{}, fmt.Errorf("leave the group: %w", context.Cause(ctx)))
				return
			case <-m.ready:
			}
			var deltas []Delta
			deltas, ended = gs.take(m)
			for _, d := range deltas {
				if !yield(d, nil) {
					return
				}
			}
		}
		switch {
		case m.err != nil:
			yield(Delta{}, m.err)
		case m.alone:
			gs.alone(ctx, req)(yield)
		}
	}
}

// take returns what waits for m, and whether that is all there will be.
func (gs *groups) take(m *member) (deltas []Delta, ended bool) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	deltas, m.deltas = m.deltas, nil
	return deltas, m.ended
}

// leave takes out a member that waits no longer. With the last one that has not had its end the request
// is aborted, and has been when leave returns.
func (gs *groups) leave(m *member) {
	gs.mu.Lock()
	g := m.group
	last := false
	if !m.ended {
		g.deserted = true
		m.end()
		if last = g.open == 0; last && gs.forming[g.key] == g {
			delete(gs.forming, g.key)
		}
	}
	gs.mu.Unlock()
	if last {
		g.cancel()
		<-g.done
	}
}

// end closes a member. The caller holds the lock.
func (m *member) end() {
	m.ended = true
	m.group.open--
	m.signal()
}

func (m *member) signal() {
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// route gives every choice of d to the member whose prompt it answers. It returns errDeserted when
// what is still to come is for nobody.
func (g *group) route(d *Delta) error {
	raw, err := objects(d)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range d.Parts {
		p := &d.Parts[i]
		if p.Index < 0 || p.Index >= len(g.members) {
			return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine sent choice %d of a request for %d", p.Index, len(g.members))
		}
		m := g.members[p.Index]
		if m.ended {
			continue
		}
		own := Delta{Tokens: len(p.TokenIDs)}
		if m.count == 0 {
			if len(d.Parts) > 1 || len(d.PromptTokens) == 0 || own.Tokens == 0 {
				g.dissolve()
				continue
			}
			own.PromptTokens = slices.Clone(d.PromptTokens)
			m.prompts = len(own.PromptTokens)
		}
		if own.Choices, err = openai.Splice(raw[i], openai.Field{Name: "index", Value: []byte("0")}); err != nil {
			return schemas.Errorf(schemas.CodeEngineUnavailable, "choice %d: %v", p.Index, err)
		}
		own.Parts = []openai.Choice{ownPart(p)}
		g.begun = true
		m.give(own, p.FinishReason != "")
	}
	if g.open == 0 && g.deserted {
		return errDeserted
	}
	return nil
}

// give lets a delta wait for m. After the last comes the usage.
func (m *member) give(d Delta, last bool) {
	m.count += d.Tokens
	m.deltas = append(m.deltas, d)
	switch {
	case last:
		m.deltas = append(m.deltas, Delta{Usage: &schemas.Usage{
			PromptTokens: m.prompts, CompletionTokens: m.count, TotalTokens: m.prompts + m.count,
		}})
		m.end()
	case len(m.deltas) > m.room:
		m.err = schemas.Errorf(schemas.CodeEngineUnavailable, "%d deltas wait that the engine sent for one prompt; want at most %d", len(m.deltas), m.room)
		m.group.deserted = true
		m.end()
	default:
		m.signal()
	}
}

// dissolve has every member that was given nothing yet go alone: the engine does not tell whose
// tokens are whose. The caller holds the lock.
func (g *group) dissolve() {
	g.deserted = true
	for _, m := range g.members {
		if !m.ended && m.count == 0 {
			m.alone = true
			m.end()
		}
	}
}

// objects takes the choices of a delta apart.
func objects(d *Delta) ([]json.RawMessage, error) {
	if len(d.Parts) == 1 {
		return []json.RawMessage{d.Choices}, nil
	}
	var list []json.RawMessage
	err := json.Unmarshal(slices.Concat([]byte{'['}, d.Choices, []byte{']'}), &list)
	if err != nil || len(list) != len(d.Parts) {
		return nil, schemas.Errorf(schemas.CodeEngineUnavailable, "the engine sent %d choices that are %d JSON values (%v)", len(d.Parts), len(list), err)
	}
	return list, nil
}

// ownPart is a copy of a choice, as that of a request of its own.
func ownPart(p *openai.Choice) openai.Choice {
	own := *p
	own.Index = 0
	own.Text, own.Reasoning, own.ToolCalls = bytes.Clone(p.Text), bytes.Clone(p.Reasoning), bytes.Clone(p.ToolCalls)
	own.Refusal = bytes.Clone(p.Refusal)
	own.Logprobs, own.StopReason, own.TokenIDs = bytes.Clone(p.Logprobs), bytes.Clone(p.StopReason), slices.Clone(p.TokenIDs)
	return own
}
