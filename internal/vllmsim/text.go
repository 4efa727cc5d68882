package vllmsim

import (
	"hash/fnv"
	"math/bits"
)

// endPercent is how likely a text is to end with a sentence. It has no memory, so a continuation ends where the whole would have.
const endPercent = 10

// writer is the model: it knows the tokens so far as one rolling hash and the last few of them,
// and says which comes next.
type writer struct {
	v    *vocabulary
	hash uint64
	last [5]int // newest first; unknown, a special token, where there is none
}

// newWriter starts a text. A seed of 0 is no seed.
func newWriter(model string, seed int64, index int, prompt []int) *writer {
	h := fnv.New64a()
	h.Write([]byte(model))
	w := &writer{v: vocab(), hash: h.Sum64()}
	if seed != 0 {
		w.hash ^= mix(uint64(seed))
	}
	if index > 0 {
		w.hash ^= mix(uint64(index) << 32)
	}
	for _, id := range prompt {
		w.push(id)
	}
	return w
}

// push takes one token into the past.
func (w *writer) push(id int) {
	w.hash = bits.RotateLeft64(w.hash, 5) ^ uint64(id)
	w.hash *= 0x9e3779b97f4a7c15
	copy(w.last[1:], w.last[:])
	w.last[0] = id
}

// mix spreads every bit of x over the result (the finaliser of SplitMix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// next returns the token that follows, other than those that are banned.
func (w *writer) next(banned func(int) bool) int {
	if b, ok := w.tailByte(); ok && (banned == nil || !banned(b)) {
		return b
	}
	context := w.context()
	for try := range uint64(64) {
		id := w.pick(context, mix(w.hash+try*0x9e3779b97f4a7c15))
		if banned == nil || !banned(id) {
			return id
		}
	}
	for id := firstWord; id < w.v.size(); id++ {
		if !banned(id) {
			return id
		}
	}
	return unknown // a request that bans everything gets nothing
}

// tailByte returns the next byte of a word that is still incomplete.
func (w *writer) tailByte() (int, bool) {
	for n := range w.last {
		if tail, ok := w.v.tail[w.last[n]]; ok {
			if n < len(tail) && w.endsWith(tail[:n]) {
				return firstByte + int(tail[n]), true
			}
			return 0, false
		}
	}
	return 0, false
}

// endsWith reports whether the last tokens are the bytes of s.
func (w *writer) endsWith(s string) bool {
	for i := range len(s) {
		if w.last[len(s)-1-i] != firstByte+int(s[i]) {
			return false
		}
	}
	return true
}

// context is the category of the last word, with those that were spelled in bytes seen as objects.
func (w *writer) context() category {
	id := w.last[0]
	if !isByte(id) {
		if special(id) {
			return nothing
		}
		return w.v.cat[id]
	}
	if id == firstByte+'\n' {
		return nothing
	}
	if w.afterTail(0) {
		return object
	}
	return other
}

// afterTail reports whether a whole tail ends at last[from].
func (w *writer) afterTail(from int) bool {
	for n := from + 1; n < len(w.last); n++ {
		if tail, ok := w.v.tail[w.last[n]]; ok {
			if n-from != len(tail) {
				return false
			}
			for i := range len(tail) {
				if w.last[n-1-i] != firstByte+int(tail[i]) {
					return false
				}
			}
			return true
		}
	}
	return false
}

// pick chooses a token by the bits of r: what kind, then which.
func (w *writer) pick(context category, r uint64) int {
	c := follow(context, int(r%100))
	if context == fullStop {
		// Only a sentence of the grammar may end the text: a prompt that ends with a full stop gets an answer.
		if int(r%100) < endPercent && (w.v.cat[w.last[1]] == object || w.afterTail(1)) {
			return endText
		}
	}
	ids := w.v.of[c]
	return ids[int((r>>32)%uint64(len(ids)))]
}

// follow is the grammar: which category comes after another, given a number below 100.
func follow(c category, p int) category {
	// one returns a below limit and b from there on.
	one := func(limit int, a, b category) category {
		if p < limit {
			return a
		}
		return b
	}
	switch c {
	case nothing:
		return opening
	case opening, starting, ourDet:
		return one(45, subjectAdj, subject)
	case subjectAdj:
		return one(10, subjectAdj, subject)
	case subject:
		return one(25, adverb, verb)
	case adverb:
		return verb
	case verb, preposition, joining:
		return objectDet
	case objectDet:
		return one(50, objectAdj, objectNoun(p))
	case objectAdj:
		return one(8, objectAdj, objectNoun(p))
	case object:
		switch {
		case p < 45:
			return fullStop
		case p < 75:
			return preposition
		case p < 88:
			return joining
		}
		return linking
	case fullStop:
		return starting
	}
	return ourDet
}

func objectNoun(p int) category {
	if p >= 92 {
		return splitHead
	}
	return object
}
