package workers

import (
	"sync"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// The keepers of the gate. The first four can hold it shut; the others only say what is not well.
const (
	keeperEngine    = "engine"
	keeperBreaker   = "breaker"
	keeperLease     = "lease"
	keeperResults   = "results"
	keeperQueue     = "queue"
	keeperPressure  = "pressure"
	keeperSaturated = "saturated"
	keeperSlow      = "slow"
)

// gate lets the puller through while no keeper's complaint stops it. It holds the worker's health.
type gate struct {
	metrics *healthMetrics

	mu      sync.Mutex
	health  *health
	changed chan struct{} // closed and replaced whenever the gate opens or shuts
	moved   chan struct{} // the same whenever anything changes that others are told of
}

func newGate(m *healthMetrics) *gate {
	return &gate{metrics: m, health: newHealth(time.Now()), changed: make(chan struct{}), moved: make(chan struct{})}
}

// state returns whether the gate is open and a channel that is closed when that changes.
func (g *gate) state() (bool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.health.open(), g.changed
}

// watch returns a channel that is closed when the worker's state or the causes for it change.
func (g *gate) watch() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.moved
}

// status returns the worker's health as far as the gate knows it.
func (g *gate) status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Status{
		State: g.health.state, Since: g.health.since.UTC(),
		Pulling: g.health.pulling(),
		Causes:  append([]Complaint{}, g.health.complaints()...), // an empty list in JSON, not null
	}
}

// held returns the words of keeper's complaint, or "".
func (g *gate) held(keeper string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.health.held[keeper].Detail
}

// hold notes keeper's complaint, which shuts the gate if it is of that kind, and reports whether
// keeper had none before.
func (g *gate) hold(keeper string, cause schemas.WorkerCause, detail string) (first bool) {
	g.change(func(now time.Time) {
		_, had := g.health.held[keeper]
		first = !had
		g.health.hold(keeper, Complaint{cause, detail}, now)
	})
	return first
}

// release takes keeper's complaint back and reports whether there was one.
func (g *gate) release(keeper string) (had bool) {
	g.change(func(now time.Time) {
		_, had = g.health.held[keeper]
		g.health.release(keeper, now)
	})
	return had
}

// drain says that the worker pulls no more, for good.
func (g *gate) drain() { g.change(g.health.drain) }

// touch tells the watchers that something else has changed which the worker is to announce.
func (g *gate) touch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.moved)
	g.moved = make(chan struct{})
}

func (g *gate) change(f func(now time.Time)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	open, state, causes := g.health.open(), g.health.state, g.causes()
	f(time.Now())
	if g.health.open() != open {
		close(g.changed)
		g.changed = make(chan struct{})
	}
	after := g.causes()
	if g.health.state == state && after == causes {
		return // words alone: a number in them may rise with every look
	}
	close(g.moved)
	g.moved = make(chan struct{})
	g.metrics.show(state, g.health.state, after)
}

// causeSet is a set of causes, one bit for each.
type causeSet uint32

func (g *gate) causes() (set causeSet) {
	for i, c := range schemas.WorkerCauses() {
		for _, held := range g.health.held {
			if held.Cause == c {
				set |= 1 << i
			}
		}
	}
	return set
}

func (s causeSet) has(i int) bool { return s&(1<<i) != 0 }
