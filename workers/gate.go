package workers

import "sync"

// gate lets the puller through while the engine is well. It tells why it is closed.
type gate struct {
	mu      sync.Mutex
	open    bool
	reason  string
	changed chan struct{} // closed and replaced on every change
}

func newGate(reason string) *gate { return &gate{reason: reason, changed: make(chan struct{})} }

// state returns whether the gate is open and a channel that is closed when that changes.
func (g *gate) state() (bool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.changed
}

// why returns the reason for which the gate is closed, or "".
func (g *gate) why() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reason
}

// set opens the gate, or closes it for a reason, and reports whether that was a change.
func (g *gate) set(open bool, reason string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reason = reason
	if g.open == open {
		return false
	}
	g.open = open
	close(g.changed)
	g.changed = make(chan struct{})
	return true
}
