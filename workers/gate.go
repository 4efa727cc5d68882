package workers

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// The keepers of the gate, each of whom may hold it shut.
const (
	keeperEngine  = "engine"
	keeperLease   = "lease"
	keeperResults = "results"
)

// gate lets the puller through while nobody holds it shut. It tells why it is shut.
type gate struct {
	mu      sync.Mutex
	reasons map[string]string
	changed chan struct{} // closed and replaced whenever the gate opens or shuts
}

func newGate(keeper, reason string) *gate {
	return &gate{reasons: map[string]string{keeper: reason}, changed: make(chan struct{})}
}

// state returns whether the gate is open and a channel that is closed when that changes.
func (g *gate) state() (bool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.reasons) == 0, g.changed
}

// why returns the reasons for which the gate is shut, or "".
func (g *gate) why() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Values(g.reasons)), "; ")
}

// held returns the reason for which keeper holds the gate shut, or "".
func (g *gate) held(keeper string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reasons[keeper]
}

// shut holds the gate shut for a reason and reports whether keeper had not before.
func (g *gate) shut(keeper, reason string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, before := g.reasons[keeper]
	if len(g.reasons) == 0 {
		g.change()
	}
	g.reasons[keeper] = reason
	return !before
}

// release lets go of the gate and reports whether keeper had held it shut.
func (g *gate) release(keeper string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, held := g.reasons[keeper]; !held {
		return false
	}
	delete(g.reasons, keeper)
	if len(g.reasons) == 0 {
		g.change()
	}
	return true
}

func (g *gate) change() {
	close(g.changed)
	g.changed = make(chan struct{})
}
