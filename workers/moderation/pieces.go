package moderation

import (
	"context"
	"sync"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/workers"
)

// MaxPiece is the most bytes of a text that an endpoint is asked about at once, besides the overlap.
const MaxPiece = 16 << 10

// pieces has an endpoint look at a text that grows: a piece at a time, each with the end of what was
// before it, while the next one comes together.
type pieces struct {
	p       *policy
	ctx     context.Context
	prompt  string
	changed func()
	running sync.WaitGroup

	mu       sync.Mutex
	w        window // offsets below 0 are text that was sent before
	checked  int    // the text is settled up to here
	busy     bool
	complete bool
	blocked  bool
	ruled    workers.Ruling // since it was last asked for
}

func newPieces(ctx context.Context, p *policy, prompt, before string, changed func()) *pieces {
	tail := before[pieceStart([]byte(before), len(before)-p.cfg.Endpoint.Overlap):]
	return &pieces{p: p, ctx: ctx, prompt: prompt, changed: changed, w: window{buf: []byte(tail), base: -len(tail), past: -1}}
}

// write takes in more of the text and returns its length.
func (s *pieces) write(text []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.buf = append(s.w.buf, text...)
	s.next()
	return s.w.end()
}

func (s *pieces) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete = true
	s.next()
}

// ruling is what is known: up to where the text is settled, and what was found since the last call.
func (s *pieces) ruling() (settled int, r workers.Ruling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, s.ruled = s.ruled, workers.Ruling{}
	r.Blocked = s.blocked
	return s.checked, r
}

// next asks about the next piece if there is one and none is being looked at. The caller holds the lock.
func (s *pieces) next() {
	total := s.w.end()
	wait := !s.complete && total-s.checked < s.p.cfg.Endpoint.Chunk
	if s.busy || s.blocked || wait || total == s.checked || s.ctx.Err() != nil {
		return
	}
	s.busy = true
	from := s.w.base + pieceStart(s.w.buf, s.checked-s.p.cfg.Endpoint.Overlap-s.w.base)
	end := s.w.base + pieceEnd(s.w.buf, s.checked+MaxPiece-s.w.base)
	q := question{text: string(s.w.slice(from, end)), prompt: s.prompt, output: true}
	s.running.Go(func() {
		found, err := s.p.judge.judge(s.ctx, q)
		if s.ctx.Err() != nil {
			return
		}
		s.settle(end, s.p.ruling(found, err, []byte(q.text)))
		s.changed()
	})
}

// settle takes in what the endpoint said of the text up to an offset.
func (s *pieces) settle(end int, r workers.Ruling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy, s.blocked = false, r.Blocked
	s.ruled.Findings = append(s.ruled.Findings, r.Findings...)
	if r.Unchecked != nil {
		s.ruled.Unchecked = r.Unchecked
	}
	if s.blocked {
		return
	}
	s.checked = end
	s.w.drop(s.w.base + pieceStart(s.w.buf, end-s.p.cfg.Endpoint.Overlap-s.w.base))
	s.next()
}

// pieceStart is the first beginning of a rune at or after an offset.
func pieceStart(text []byte, at int) int {
	at = min(max(at, 0), len(text))
	for at < len(text) && !utf8.RuneStart(text[at]) {
		at++
	}
	return at
}

// pieceEnd is the last beginning of a rune at or before an offset, or the end of the text.
func pieceEnd(text []byte, at int) int {
	if at >= len(text) {
		return len(text)
	}
	for n := 0; at > 0 && n < utf8.UTFMax && !utf8.RuneStart(text[at]); n++ {
		at--
	}
	return at
}
