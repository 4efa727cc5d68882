package workers

import (
	"slices"
	"sync"
	"time"
)

// The times to the first token that are looked at: those of the last minute, up to a number of them,
// and not before there are a few.
const (
	paceWindow = time.Minute
	paceMost   = 256
	paceLeast  = 10
)

// pace remembers the latest times to the first token.
type pace struct {
	mu    sync.Mutex
	ring  [paceMost]sample
	added int
}

type sample struct {
	at   time.Time
	took time.Duration
}

func (p *pace) add(at time.Time, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ring[p.added%paceMost] = sample{at, took}
	p.added++
}

// p90 returns the 90th percentile, or 0 while there are too few.
func (p *pace) p90(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var recent []time.Duration
	for _, s := range p.ring[:min(p.added, paceMost)] {
		if now.Sub(s.at) <= paceWindow {
			recent = append(recent, s.took)
		}
	}
	if len(recent) < paceLeast {
		return 0
	}
	slices.Sort(recent)
	return recent[(len(recent)*9+9)/10-1]
}
