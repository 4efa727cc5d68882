package moderation

import (
	"cmp"
	"slices"
)

// phrases finds any of many phrases in a text that comes in pieces: the automaton of Aho and Corasick
// over units. It is built once and shared; a phraseScan is the place in it that one text has reached.
type phrases struct {
	states []phraseState
	edges  []phraseEdge
	ascii  [128]int32 // from the root
	// whole asks for a border of a word where a phrase begins or ends with a part of one.
	whole   bool
	longest int
}

type phraseState struct {
	edges, count int32
	fail         int32
	out          int32 // the nearest state on the way of failures that ends a phrase, or 0
	depth        int32
	ends         bool
}

type phraseEdge struct {
	unit rune
	to   int32
}

// newPhrases builds the automaton. The phrases have units.
func newPhrases(list [][]rune, whole bool) *phrases {
	p := &phrases{whole: whole}
	list = slices.Clone(list)
	slices.SortFunc(list, slices.Compare)
	list = slices.CompactFunc(list, slices.Equal)
	p.grow(list)
	p.link()
	return p
}

// grow makes the tree of the sorted phrases, level by level, so that the edges of a state are neighbours.
func (p *phrases) grow(list [][]rune) {
	type open struct{ from, to int } // the phrases that share the state's path
	p.states = []phraseState{{}}
	shared := []open{{0, len(list)}}
	for s := 0; s < len(p.states); s++ {
		depth := int(p.states[s].depth)
		at := shared[s].from
		p.states[s].edges = int32(len(p.edges))
		for at < shared[s].to && len(list[at]) == depth {
			p.states[s].ends = true
			p.longest = max(p.longest, depth)
			at++
		}
		for at < shared[s].to {
			unit, end := list[at][depth], at+1
			for end < shared[s].to && list[end][depth] == unit {
				end++
			}
			to := int32(len(p.states))
			p.edges = append(p.edges, phraseEdge{unit, to})
			p.states = append(p.states, phraseState{depth: int32(depth) + 1})
			shared = append(shared, open{at, end})
			if depth == 0 && unit < 128 {
				p.ascii[unit] = to
			}
			at = end
		}
		p.states[s].count = int32(len(p.edges)) - p.states[s].edges
	}
}

// link sets where each state goes on after a unit that it has no edge for. States are in the order of their depth.
func (p *phrases) link() {
	for s := range p.states {
		from := &p.states[s]
		for _, e := range p.edges[from.edges : from.edges+from.count] {
			to := &p.states[e.to]
			if s > 0 {
				to.fail = p.next(from.fail, e.unit)
			}
			if to.out = p.states[to.fail].out; p.states[to.fail].ends {
				to.out = to.fail
			}
		}
	}
}

// next is the state after one more unit.
func (p *phrases) next(state int32, unit rune) int32 {
	for ; state != 0; state = p.states[state].fail {
		if to := p.edge(state, unit); to != 0 {
			return to
		}
	}
	if unit < 128 {
		return p.ascii[unit]
	}
	return p.edge(0, unit)
}

func (p *phrases) edge(state int32, unit rune) int32 {
	s := &p.states[state]
	edges := p.edges[s.edges : s.edges+s.count]
	if len(edges) > 8 {
		i, ok := slices.BinarySearchFunc(edges, unit, func(e phraseEdge, u rune) int { return cmp.Compare(e.unit, u) })
		if !ok {
			return 0
		}
		return edges[i].to
	}
	for i := range edges {
		if edges[i].unit == unit {
			return edges[i].to
		}
	}
	return 0
}

// phraseUnit is one unit of the text that a phrase may have begun with.
type phraseUnit struct {
	at     int  // where its rune begins
	inside bool // a word goes on over its beginning
}

// phraseScan looks for phrases in one text.
type phraseScan struct {
	p     *phrases
	state int32
	count int          // units so far
	ring  []phraseUnit // the last of them, by count
	last  rune         // the last unit, 0 before the first
	// waiting is the beginning of a phrase that is complete if the next unit is no part of a word, or -1.
	waiting int
	folded  []rune
}

func newPhraseScan(p *phrases) *phraseScan {
	return &phraseScan{p: p, ring: make([]phraseUnit, p.longest+1), waiting: -1}
}

// step takes in the rune at an offset. found is the beginning of a phrase that is there, or -1.
func (s *phraseScan) step(r rune, at int) (found int) {
	switch {
	case ' ' < r && r < 0x7f:
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return s.unit(r, at)
	case invisible(r):
		return -1
	case space(r):
		if s.last == ' ' {
			return -1
		}
		return s.unit(' ', at)
	}
	s.folded = fold(s.folded[:0], r)
	for _, u := range s.folded {
		if found := s.unit(u, at); found >= 0 {
			return found
		}
	}
	return -1
}

func (s *phraseScan) unit(u rune, at int) int {
	inside := word(u)
	if s.waiting >= 0 && !inside {
		return s.waiting
	}
	s.waiting = -1
	s.ring[s.count%len(s.ring)] = phraseUnit{at: at, inside: inside && word(s.last)}
	s.count++
	s.last = u
	s.state = s.p.next(s.state, u)
	for end := s.state; end != 0; end = s.p.states[end].out {
		if !s.p.states[end].ends {
			continue
		}
		first := s.first(end)
		switch {
		case !s.p.whole:
			return first.at
		case first.inside: // no border before it
		case !inside:
			return first.at
		case s.waiting < 0:
			s.waiting = first.at // the longest of those that end here
		}
	}
	return -1
}

// first is the unit that the path to a state began with.
func (s *phraseScan) first(state int32) phraseUnit {
	return s.ring[(s.count-int(s.p.states[state].depth))%len(s.ring)]
}

// end says that the text is complete.
func (s *phraseScan) end() (found int) { return s.waiting }

// open is the beginning of the earliest phrase that may still come to be, or end if there is none.
func (s *phraseScan) open(end int) int {
	state := s.state
	// A state that nothing goes on from is a phrase that waits for its border, or that has none before it.
	for state != 0 && (s.p.states[state].count == 0 || s.p.whole && s.first(state).inside) {
		state = s.p.states[state].fail
	}
	if state != 0 {
		end = s.first(state).at
	}
	if s.waiting >= 0 {
		end = min(end, s.waiting)
	}
	return end
}
