package workers

import (
	"context"
	"encoding/json"
	"slices"
	"sort"
	"sync"
	"time"
	"unicode/utf8"
)

// screen is what stands between an engine's deltas and everything that can be read. A delta goes on
// when all that it shows is settled, and so do those behind it, in their order. Until then nothing of it is in an
// event, in the record, in the answer or in a log.
type screen struct {
	r     *run
	audit bool
	check ReplyCheck
	// moved holds a value when a ruling has changed.
	moved chan struct{}

	mu      sync.Mutex // guards the rest, the check, and the run's answer while the screen is in use
	texts   map[textKey]*shownText
	order   []*shownText
	first   map[int]string // what of a choice's text was sent before
	held    []heldDelta
	outcome outcome
	err     error // why nothing more goes through
	ended   bool  // the reply is complete
	stopped bool
}

// textKey names one text of a reply: choices, and what is in them, are texts of their own.
type textKey struct {
	choice int
	kind   string
	call   int
}

// The kinds of text.
const (
	kindContent   = "content"
	kindReasoning = "reasoning"
	kindRefusal   = "refusal"
	kindToolName  = "tool_name"
	kindArguments = "arguments"
	kindTools     = "tool_calls" // of a form that is not OpenAI's
)

// shownText is one text and what is known of it.
type shownText struct {
	check   TextCheck
	end     int // bytes so far
	settled int
	edits   []Edit // that may still concern a held delta
	runes   int    // so far
	ends    []textEnd
}

// textEnd is where a piece of a text ends. They are kept where tokens run ahead of their text.
type textEnd struct{ at, runes int }

// beyond is the end of the first piece with which the text has so many runes; false if there is none yet.
func (t *shownText) beyond(runes int) (at int, ok bool) {
	i := sort.Search(len(t.ends), func(i int) bool { return t.ends[i].runes >= runes })
	if i == len(t.ends) {
		return 0, false
	}
	return t.ends[i].at, true
}

// heldDelta is a delta that waits.
type heldDelta struct {
	Delta
	pieces []piece
	since  time.Time
	// ahead are its parts with tokens whose text is in the choice's next one.
	ahead []int
	after []piece // that text
}

// tokens reports whether a choice of the delta tells of tokens.
func (h *heldDelta) tokens(part int) bool {
	c := &h.Parts[part]
	return len(c.TokenIDs) > 0 || c.Logprobs != nil
}

// piece is the part of a text that a choice of a delta shows.
type piece struct {
	text     *shownText
	key      textKey
	part     int // the choice in the delta
	entry    int // of its tool calls
	from, to int
	runes    int // of the text, with this
}

// watch begins to check the reply of an attempt. The answer holds what was sent before.
func (r *run) watch(ctx context.Context) {
	if r.screen != nil {
		r.screen.stop() // of a continuation that diverged
	}
	r.screen = nil
	if r.policy == nil || !r.policy.Checks(StageOutput) {
		return
	}
	s := &screen{r: r, audit: r.policy.Audit(), moved: make(chan struct{}, 1), texts: map[textKey]*shownText{}, first: map[int]string{}}
	for _, p := range r.answer.parts {
		s.first[p.index] = string(p.text)
	}
	if s.audit {
		ctx = r.jobs // it may outlive the attempt, by the time of its last requests
	}
	s.check = r.policy.Output(ctx, r.asked, s.changed)
	r.screen = s
}

// take takes in a delta, which is valid during the call, and lets through what may go.
func (s *screen) take(d *Delta) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	h := heldDelta{Delta: *d, since: time.Now()}
	s.read(&h)
	if s.audit {
		s.poll()
		return s.r.emit(d)
	}
	s.held = append(s.held, h)
	if err := s.advance(); err != nil {
		return err
	}
	if n := len(s.held); n > 0 {
		s.held[n-1].own()
	}
	return nil
}

// read gives the texts of a delta to their checks.
func (s *screen) read(h *heldDelta) {
	for i := range h.Parts {
		p := &h.Parts[i]
		before := len(h.pieces)
		s.write(h, piece{key: textKey{p.Index, kindContent, 0}, part: i}, p.Text)
		s.write(h, piece{key: textKey{p.Index, kindReasoning, 0}, part: i}, p.Reasoning)
		s.write(h, piece{key: textKey{p.Index, kindRefusal, 0}, part: i}, p.Refusal)
		if p.ToolCalls != nil {
			s.readTools(h, i)
		}
		if shown := h.pieces[before:]; len(shown) > 0 {
			for i := range s.held {
				s.held[i].follow(p.Index, shown[0])
			}
			h.follow(p.Index, shown[0])
		}
		// A token whose character is not complete is told before its text, and so may be the last of several.
		// Where texts are behind anyway, a piece tells how far.
		bare := len(h.pieces) == before
		several := s.r.lag == 0 && len(p.TokenIDs) != 1
		if h.tokens(i) && (bare || several) && p.FinishReason == "" {
			h.ahead = append(h.ahead, i)
		}
	}
}

// follow tells a delta where the text is that it is ahead of.
func (h *heldDelta) follow(choice int, text piece) {
	h.ahead = slices.DeleteFunc(h.ahead, func(part int) bool {
		if h.Parts[part].Index != choice {
			return false
		}
		next := text
		next.part = part
		if slices.ContainsFunc(h.pieces, func(own piece) bool { return own.part == part }) {
			next.to = next.from + 1 // it lacks one character
		}
		h.after = append(h.after, next)
		return true
	})
}

func (s *screen) readTools(h *heldDelta, part int) {
	p := &h.Parts[part]
	var calls []toolCall
	if json.Unmarshal(p.ToolCalls, &calls) != nil {
		s.write(h, piece{key: textKey{p.Index, kindTools, 0}, part: part}, p.ToolCalls)
		return
	}
	for i, c := range calls {
		index := i
		if c.Index != nil {
			index = *c.Index
		}
		s.write(h, piece{key: textKey{p.Index, kindToolName, index}, part: part, entry: i}, []byte(c.Function.Name))
		s.write(h, piece{key: textKey{p.Index, kindArguments, index}, part: part, entry: i}, []byte(c.Function.Arguments))
	}
}

func (s *screen) write(h *heldDelta, p piece, text []byte) {
	if len(text) == 0 {
		return
	}
	t := s.texts[p.key]
	if t == nil {
		before := ""
		if p.key.kind == kindContent {
			before = s.first[p.key.choice]
		}
		t = &shownText{check: s.check.Text(before)}
		s.texts[p.key] = t
		s.order = append(s.order, t)
	}
	p.text, p.from, p.to = t, t.end, t.end+len(text)
	t.end = p.to
	if s.r.lag > 0 {
		t.runes += utf8.RuneCount(text)
		p.runes = t.runes
		t.ends = append(t.ends, textEnd{p.to, p.runes})
	}
	t.check.Write(text)
	h.pieces = append(h.pieces, p)
}
