package workers

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// groups sends batch completions of one shape to the engine together. To each of them it looks like
// the engine: see "Batching" in the package's documentation.
type groups struct {
	engine  Engine
	tuned   *atomic.Pointer[Tunables]
	slots   int
	metrics *metrics
	running sync.WaitGroup

	// mu guards all groups and their members.
	mu      sync.Mutex
	forming map[string]*group // by shape: those that still take members
}

func newGroups(engine Engine, tuned *atomic.Pointer[Tunables], slots int, m *metrics) *groups {
	return &groups{engine: engine, metrics: m, tuned: tuned, slots: slots, forming: make(map[string]*group)}
}

// ask has the engine run a request: as [Engine.Generate] does, in a group where that can be.
func (w *Worker) ask(ctx context.Context, r *run, req *Request) iter.Seq2[Delta, error] {
	if min(r.tuned.GroupSize, w.groups.slots) > 1 && r.class == schemas.Batch && r.history.attempt == 0 && w.tokenIDs() {
		if s, ok := shapeOf(req); ok {
			s.key = r.job.Tenant + s.key // what an engine says of a request may quote any of its prompts
			return w.groups.together(ctx, req, s)
		}
	}
	return w.groups.alone(ctx, req)
}

// tokenIDs reports whether a group's reply can be told apart.
func (w *Worker) tokenIDs() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health.TokenIDs
}

// alone sends the request of one job.
func (gs *groups) alone(ctx context.Context, req *Request) iter.Seq2[Delta, error] {
	gs.metrics.single.Inc()
	return gs.engine.Generate(ctx, req)
}

// group is jobs of one shape, from the first that waits for company to the end of their request.
type group struct {
	*groups
	key     string
	size    int
	wait    time.Duration
	ctx     context.Context // of the request
	cancel  context.CancelFunc
	full    chan struct{} // closed when no more members are waited for
	done    chan struct{} // closed when nothing of the request is left
	members []*member     // by index, once none can join
	open    int           // members that wait for more
	// deserted is set once a member has left before its end: the engine works for nobody then.
	deserted bool
	begun    bool // a member has been given something
}

// join puts m into a group of its shape.
func (gs *groups) join(ctx context.Context, m *member, key string) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.forming[key]
	if g == nil {
		// The request belongs to all members: one whose context ends only leaves.
		g = gs.newGroup(context.WithoutCancel(ctx), key)
		gs.forming[key] = g
		gs.running.Go(g.run)
	}
	g.add(m)
	if len(g.members) == g.size {
		delete(gs.forming, key)
		close(g.full)
	}
}

func (gs *groups) newGroup(ctx context.Context, key string) *group {
	tuned := gs.tuned.Load()
	size := min(tuned.GroupSize, gs.slots) // more than that is never here at once
	g := &group{groups: gs, key: key, size: size, wait: tuned.GroupWait, full: make(chan struct{}), done: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

func (g *group) add(m *member) {
	m.group = g
	g.members = append(g.members, m)
	g.open++
}

// run waits for members and sends them.
func (g *group) run() {
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case <-g.full:
	case <-timer.C:
	case <-g.ctx.Done(): // all have left
	}
	g.mu.Lock()
	if g.forming[g.key] == g {
		delete(g.forming, g.key)
	}
	g.members = slices.DeleteFunc(g.members, func(m *member) bool { return m.ended })
	g.mu.Unlock()
	g.send()
}

// send has the engine answer the members. If it refuses the request, the halves of the group are
// tried by themselves, so that only those fail whose own request is wrong.
func (g *group) send() {
	defer close(g.done)
	defer g.cancel()
	if len(g.members) < 2 {
		g.part(nil)
		return
	}
	req, err := joined(g.members)
	if err != nil {
		g.part(nil) // each as it came
		return
	}
	g.metrics.group.Inc()
	g.metrics.groupSize.Observe(float64(len(g.members)))
	err = g.read(req)
	if g.ctx.Err() != nil {
		return // nobody is left to tell
	}
	switch reason := schemas.AsError(err); {
	case err == nil:
		g.part(schemas.Errorf(schemas.CodeEngineUnavailable, "the engine ended a request of %d prompts without an answer to this one", len(g.members)))
	case reason.Retryable:
		g.part(err)
	case g.begun:
		g.part(schemas.Errorf(schemas.CodeEngineUnavailable, "refused after its first token, perhaps for another's sake: %s", reason.Message))
	default:
		g.halve()
	}
}

// errSameRequest marks the errors of all members but one: the engine failed one request, not many.
var errSameRequest = errors.New("another job of the same request tells of it")

// errDeserted ends the reading of a reply that nobody waits for.
var errDeserted = errors.New("no member is left")

// read hands the engine's deltas to the members.
func (g *group) read(req *Request) error {
	for d, err := range g.engine.Generate(g.ctx, req) {
		if err == nil {
			err = g.route(&d)
		}
		switch {
		case errors.Is(err, errDeserted):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// part ends every member that is still open: with an error of its own, or to go on alone.
func (g *group) part(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	told := false
	for _, m := range g.members {
		if m.ended {
			continue
		}
		if err == nil {
			m.alone = true
		} else if m.err = ownError(err, len(g.members)); told {
			m.err = fmt.Errorf("%w: %w", errSameRequest, m.err)
		}
		told = true
		m.end()
	}
}

// ownError is a member's own copy of what befell the request of n prompts.
func ownError(err error, n int) error {
	own := *schemas.AsError(err)
	own.Message = fmt.Sprintf("in a request of %d prompts: %s", n, own.Message)
	if errors.Is(err, ErrNotReceived) {
		return fmt.Errorf("%w: %w", ErrNotReceived, &own)
	}
	return &own
}

// halve sends the members that are left as two groups, and returns when both have ended.
func (g *group) halve() {
	g.mu.Lock()
	left := slices.DeleteFunc(g.members, func(m *member) bool { return m.ended })
	var halves [2]*group
	for i := range halves {
		halves[i] = g.newGroup(g.ctx, "")
	}
	for i, m := range left {
		halves[2*i/len(left)].add(m)
	}
	g.mu.Unlock()
	var other sync.WaitGroup
	other.Go(halves[0].send)
	halves[1].send()
	other.Wait()
}
