package workers

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxSamples bounds the first tokens of one measurement; later ones take the place of earlier ones.
const maxSamples = 512

// latency measures what jobs see of the engine, against its targets. Without targets it costs nothing.
type latency struct {
	aimed atomic.Bool // there is a target

	mu         sync.Mutex
	first, gap time.Duration // the targets; 0 for none
	since      time.Time     // of the measurement
	cut        time.Time     // jobs that began before are not counted
	firsts     []time.Duration
	seen       int
	gaps       time.Duration // between tokens, summed
	tokens     int
	open       map[*probe]struct{} // those without a first token
}

// probe is one job at the engine. nil measures nothing.
type probe struct {
	l     *latency
	begun time.Time
}

// aim sets the targets.
func (l *latency) aim(first, gap time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first, l.gap = first, gap
	l.aimed.Store(first > 0 || gap > 0)
}

// begin says that a job's request goes to the engine.
func (l *latency) begin(now time.Time) *probe {
	if !l.aimed.Load() {
		return nil
	}
	p := &probe{l: l, begun: now}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[*probe]struct{})
	}
	l.open[p] = struct{}{}
	return p
}

// first says that the first token has come.
func (p *probe) first(now time.Time) {
	if p == nil {
		return
	}
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, p)
	if p.begun.Before(l.cut) {
		return
	}
	d := now.Sub(p.begun)
	if len(l.firsts) < maxSamples {
		l.firsts = append(l.firsts, d)
	} else {
		l.firsts[l.seen%maxSamples] = d
	}
	l.seen++
}

// next says that more tokens have come, some time after the last ones, for each of a job's sequences.
func (p *probe) next(gap time.Duration, tokens, sequences int) {
	if p == nil {
		return
	}
	p.l.mu.Lock()
	p.l.gaps += gap * time.Duration(sequences)
	p.l.tokens += tokens
	p.l.mu.Unlock()
}

// end says that the job is no longer at the engine.
func (p *probe) end() {
	if p == nil {
		return
	}
	p.l.mu.Lock()
	delete(p.l.open, p)
	p.l.mu.Unlock()
}

// strain returns the measurement as a part of its target, the worse of the two if there are two, how
// many samples it comes from, and since when they are taken.
func (l *latency) strain(now time.Time) (strain float64, n int, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first > 0 {
		all := slices.Clone(l.firsts)
		for p := range l.open {
			if wait := now.Sub(p.begun); wait > l.first && !p.begun.Before(l.cut) {
				all = append(all, wait)
			}
		}
		if n = len(all); n > 0 {
			slices.Sort(all)
			strain = float64(all[n/2]) / float64(l.first)
		}
	}
	if l.gap > 0 && l.tokens > 0 {
		n = max(n, l.tokens)
		strain = max(strain, float64(l.gaps)/float64(l.tokens)/float64(l.gap))
	}
	return strain, n, l.since
}

// reset begins a new measurement.
func (l *latency) reset(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since, l.firsts, l.seen, l.gaps, l.tokens = now, l.firsts[:0], 0, 0, 0
}

// restart begins a new measurement, of jobs that have yet to begin.
func (l *latency) restart(now time.Time) {
	l.reset(now)
	l.mu.Lock()
	l.cut = now
	l.mu.Unlock()
}
