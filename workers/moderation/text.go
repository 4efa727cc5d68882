package moderation

import (
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/workers"
)

// rulesText is one text that the rules look through as it grows: rune by rune and all rules in step,
// so that what comes out does not depend on the pieces in which it came.
type rulesText struct {
	rules  *rules
	digest func(match []byte) string

	w        window
	read     int // the text is looked through up to here
	phrases  *phraseScan
	scans    []*expressionScan
	masks    []maskedSpan // by their beginning; not those before given
	given    int          // the text is settled up to here
	found    []workers.Finding
	blocked  bool
	complete bool
}

// maskedSpan is a part of the text that is to be replaced, by the rule of that number.
type maskedSpan struct {
	span
	rule int
}

func newRulesText(r *rules, digest func([]byte) string) *rulesText {
	t := &rulesText{rules: r, digest: digest, w: window{past: -1}}
	if r.phrases != nil {
		t.phrases = newPhraseScan(r.phrases)
	}
	for _, e := range r.expressions {
		t.scans = append(t.scans, newExpressionScan(e.expression))
	}
	return t
}

// write takes in more of the text.
func (t *rulesText) write(p []byte) {
	if t.blocked {
		return
	}
	t.w.buf = append(t.w.buf, p...)
	t.scan()
}

// end says that the text is complete.
func (t *rulesText) end() {
	if t.blocked || t.complete {
		return
	}
	t.complete = true
	t.scan()
	if t.blocked {
		return
	}
	if t.phrases != nil {
		if at := t.phrases.end(); at >= 0 {
			t.block(at, t.read, categoryPhrase)
			return
		}
	}
	t.expressions()
}

func (t *rulesText) scan() {
	for end := t.w.end(); t.read < end && !t.blocked; {
		rest := t.w.slice(t.read, end)
		if !t.complete && !utf8.FullRune(rest) {
			return
		}
		r, n := t.w.rune(t.read)
		at := t.read
		t.read += n
		if t.phrases != nil {
			if from := t.phrases.step(r, at); from >= 0 {
				t.block(from, t.read, categoryPhrase)
				return
			}
		}
		for i, s := range t.scans {
			if s.running || r >= 128 || s.e.begins[r] || s.at < at {
				t.advance(i)
			} else {
				s.at, s.before = t.read, r
			}
		}
	}
}

func (t *rulesText) expressions() {
	for i := range t.scans {
		t.advance(i)
	}
}

// advance lets one expression look at all that has been read.
func (t *rulesText) advance(i int) {
	for !t.blocked {
		match, ok := t.scans[i].next(&t.w, t.read, t.complete && t.read == t.w.end())
		if !ok {
			return
		}
		r := &t.rules.expressions[i]
		if !r.mask {
			t.scans[i].at = match.from // nothing behind it is decided
			t.block(match.from, match.to, r.category)
			return
		}
		t.found = append(t.found, workers.Finding{Category: r.category, Digest: t.digest(t.w.slice(match.from, match.to)), Masked: true})
		t.mask(maskedSpan{match, i})
	}
}

// mask notes a span. Those that overlap become one, which the first of them names.
func (t *rulesText) mask(m maskedSpan) {
	at := len(t.masks)
	for at > 0 && (t.masks[at-1].from > m.from || t.masks[at-1].from == m.from && t.masks[at-1].rule > m.rule) {
		at--
	}
	if at > 0 && t.masks[at-1].to > m.from {
		at--
		t.masks[at].to = max(t.masks[at].to, m.to)
	} else {
		t.masks = append(t.masks, maskedSpan{})
		copy(t.masks[at+1:], t.masks[at:])
		t.masks[at] = m
	}
	for at+1 < len(t.masks) && t.masks[at+1].from < t.masks[at].to {
		t.masks[at].to = max(t.masks[at].to, t.masks[at+1].to)
		t.masks = append(t.masks[:at+1], t.masks[at+2:]...)
	}
}

func (t *rulesText) block(from, to int, category string) {
	from = max(from, t.w.base)
	t.found = append(t.found, workers.Finding{Category: category, Digest: t.digest(t.w.slice(from, to))})
	t.blocked = true
	t.settle(from)
}

// settle moves the point before which everything is decided, to bound at most.
func (t *rulesText) settle(bound int) {
	at := min(bound, t.read)
	if t.phrases != nil && (t.blocked || !t.complete) {
		at = min(at, t.phrases.open(t.read))
	}
	for _, s := range t.scans {
		at = min(at, s.at)
	}
	for _, m := range t.masks {
		if m.from < at && at < m.to {
			at = m.from // what overlaps it may still come
		}
	}
	t.given = max(t.given, at)
}

// settled is up to where the text is decided. taken are the masks up to there that were not returned before.
func (t *rulesText) settled() (at int, taken []maskedSpan) {
	if !t.blocked {
		t.settle(t.read)
	}
	n := 0
	for n < len(t.masks) && t.masks[n].to <= t.given {
		n++
	}
	taken = append(taken, t.masks[:n]...)
	t.masks = append(t.masks[:0], t.masks[n:]...)
	return t.given, taken
}

// forget drops the text that nobody needs any more.
func (t *rulesText) forget(before int) { t.w.drop(min(before, t.given)) }
