package moderation

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// MaxHoldBack is the most bytes that a match may have: so much of a reply may be held back.
const MaxHoldBack = 8 << 10

const (
	// maxPattern bounds the text of an expression, maxProgram what it compiles to.
	maxPattern = 4 << 10
	maxProgram = 4 << 10
)

// expression is a regular expression of RE2's syntax whose matches have a bound. Package regexp
// cannot say whether a text that goes on may still match; this runs the same program and can.
type expression struct {
	prog *syntax.Prog
	most int // bytes of a match
	// border asks that no part of a word is next to the match.
	border bool
	// valid has the last word on a match; nil takes all.
	valid func(match []byte) bool
	// shortest takes the first end of a match that comes: nothing is done with the rest.
	shortest bool
	// begins are the ASCII runes that a match can begin with. Others are tried.
	begins [128]bool
}

func newExpression(pattern string, most int) (*expression, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("is %d bytes long; want at most %d", len(pattern), maxPattern)
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		if at, ok := errors.AsType[*syntax.Error](err); ok {
			return nil, fmt.Errorf("%s: %q", at.Code, at.Expr)
		}
		return nil, err
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if n := len(prog.Inst); n > maxProgram {
		return nil, fmt.Errorf("compiles to %d instructions; want at most %d", n, maxProgram)
	}
	e := &expression{prog: prog, most: most}
	sim := newSimulation(e)
	sim.follow(uint32(prog.Start), ^syntax.EmptyOp(0))
	if sim.matched {
		return nil, errors.New("matches the empty text; want one that needs a character")
	}
	for _, pc := range sim.runes {
		inst := &prog.Inst[pc]
		for r := range rune(128) {
			e.begins[r] = e.begins[r] || takes(inst, r)
		}
	}
	return e, nil
}

// within reports whether a match may not begin or end between two runes.
func (e *expression) within(before, after rune) bool { return e.border && word(before) && word(after) }

// simulation is the set of places in the program that a text has led to.
type simulation struct {
	e       *expression
	from    []uint32 // where the runes so far have led, before assertions are looked at
	runes   []uint32 // the instructions that take a rune
	matched bool
	seen    []uint32 // by instruction: the round in which it was visited
	round   uint32
	stack   []uint32
}

func newSimulation(e *expression) *simulation {
	return &simulation{e: e, seen: make([]uint32, len(e.prog.Inst))}
}

// look follows every place to the instructions that take a rune, under the assertions that hold.
func (s *simulation) look(holds syntax.EmptyOp) {
	s.round++
	s.runes, s.matched = s.runes[:0], false
	for _, pc := range s.from {
		s.visit(pc, holds)
	}
}

func (s *simulation) follow(pc uint32, holds syntax.EmptyOp) {
	s.from = append(s.from[:0], pc)
	s.look(holds)
}

func (s *simulation) visit(pc uint32, holds syntax.EmptyOp) {
	s.stack = append(s.stack[:0], pc)
	for len(s.stack) > 0 {
		pc = s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if s.seen[pc] == s.round {
			continue
		}
		s.seen[pc] = s.round
		switch inst := &s.e.prog.Inst[pc]; inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			s.stack = append(s.stack, inst.Arg, inst.Out)
		case syntax.InstCapture, syntax.InstNop:
			s.stack = append(s.stack, inst.Out)
		case syntax.InstEmptyWidth:
			if want := syntax.EmptyOp(inst.Arg); want&^holds == 0 {
				s.stack = append(s.stack, inst.Out)
			}
		case syntax.InstMatch:
			s.matched = true
		case syntax.InstFail:
		default:
			s.runes = append(s.runes, pc)
		}
	}
}

// take goes on by one rune, and reports whether anything is left.
func (s *simulation) take(r rune) bool {
	s.from = s.from[:0]
	for _, pc := range s.runes {
		if inst := &s.e.prog.Inst[pc]; takes(inst, r) {
			s.from = append(s.from, inst.Out)
		}
	}
	return len(s.from) > 0
}

func takes(inst *syntax.Inst, r rune) bool {
	switch inst.Op {
	case syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return r != '\n'
	default:
		return inst.MatchRune(r)
	}
}

// expressionScan looks for the matches of an expression in one text: the leftmost, and of those that
// begin there the longest that is valid. A later one begins where it ends.
type expressionScan struct {
	e   *expression
	sim *simulation
	// at is where the next match may begin: everything before it is decided.
	at      int
	before  rune // the rune before at, or -1
	running bool
	pos     int  // how far a match from at has been followed
	prev    rune // the rune before pos
	ends    []int
}

func newExpressionScan(e *expression) *expressionScan {
	return &expressionScan{e: e, sim: newSimulation(e), before: -1}
}

// next looks on in a text of which there is w up to its offset end, a border between runes. It
// returns the next match, or false if more of the text has to come; none will if it is complete.
func (s *expressionScan) next(w *window, end int, complete bool) (match span, ok bool) {
	for {
		if !s.running && !s.begin(w, end) {
			return span{}, false
		}
		if !s.run(w, end, complete) {
			return span{}, false
		}
		s.running = false
		if to := s.longest(w); to > 0 {
			match = span{s.at, to}
			s.at, s.before = to, w.before(to)
			return match, true
		}
		r, n := w.rune(s.at)
		s.at, s.before = s.at+n, r
	}
}

// begin moves at to the next rune that a match can begin with.
func (s *expressionScan) begin(w *window, end int) bool {
	for s.at < end {
		r, n := w.rune(s.at)
		may := r >= 128 || s.e.begins[r]
		if may && !s.e.within(s.before, r) {
			s.running, s.pos, s.prev, s.ends = true, s.at, s.before, s.ends[:0]
			s.sim.from = append(s.sim.from[:0], uint32(s.e.prog.Start))
			return true
		}
		s.at, s.before = s.at+n, r
	}
	return false
}

// run follows the match from at. It reports whether all its ends are known.
func (s *expressionScan) run(w *window, end int, complete bool) bool {
	for {
		next, n := rune(-1), 0
		switch {
		case s.pos < end:
			next, n = w.rune(s.pos)
		case !complete:
			return false
		}
		s.sim.look(syntax.EmptyOpContext(s.prev, next))
		if s.sim.matched && s.pos > s.at && !s.e.within(s.prev, next) {
			s.ends = append(s.ends, s.pos)
			if s.e.shortest {
				return true
			}
		}
		if next < 0 || s.pos+n-s.at > s.e.most || !s.sim.take(next) {
			return true
		}
		s.pos, s.prev = s.pos+n, next
	}
}

// longest is the last end of a valid match, or 0.
func (s *expressionScan) longest(w *window) int {
	for _, end := range slices.Backward(s.ends) {
		if s.e.valid == nil || s.e.valid(w.slice(s.at, end)) {
			return end
		}
	}
	return 0
}

// span is a part of a text, by offsets.
type span struct{ from, to int }

// window is the part of a text that is still of use.
type window struct {
	buf  []byte
	base int // the offset of buf
	// past is the rune before base, or -1 at the beginning of the text.
	past rune
}

func (w *window) end() int                  { return w.base + len(w.buf) }
func (w *window) slice(from, to int) []byte { return w.buf[from-w.base : to-w.base] }

func (w *window) rune(at int) (rune, int) {
	if c := w.buf[at-w.base]; c < utf8.RuneSelf {
		return rune(c), 1
	}
	return utf8.DecodeRune(w.buf[at-w.base:])
}

// before is the rune that ends at an offset.
func (w *window) before(at int) rune {
	if at == w.base {
		return w.past
	}
	r, _ := utf8.DecodeLastRune(w.buf[:at-w.base])
	return r
}

// drop forgets the text before an offset. What is behind the beginning moves once it is worth it.
func (w *window) drop(at int) {
	if n := at - w.base; n > 0 {
		w.past = w.before(at)
		w.buf = w.buf[:copy(w.buf, w.buf[n:])]
		w.base = at
	}
}
