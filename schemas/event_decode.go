package schemas

import (
	"bytes"
	"encoding/json"
	"math"

	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

// Decode reads an event from a message, in any form that encoding/json accepts. Nothing of the
// event refers to data or to what the event held before, so both may be used again.
func (e *Event) Decode(data []byte) error {
	if e.decodeUsual(data) {
		return nil
	}
	*e = Event{}
	return json.Unmarshal(data, e)
}

// decodeUsual reads what [Event.Append] writes for the events there are many of: the fields up to
// choices, in that order, without white space and escapes. It reports false for everything else,
// and has then changed nothing.
func (e *Event) decodeUsual(data []byte) bool {
	d := usual{rest: data, ok: true}
	d.literal(`{"id":"`)
	id := d.text()
	d.literal(`,"seq":`)
	seq := d.digits(math.MaxUint64)
	d.literal(`,"attempt":`)
	attempt := d.digits(math.MaxInt)
	d.literal(`,"kind":"`)
	kind := d.text()
	d.literal(`,"ts":`)
	ts := d.digits(math.MaxInt64)
	var worker, choices []byte
	if d.skip(`,"worker":"`) {
		worker = d.text()
	}
	if d.skip(`,"choices":`) {
		choices = d.array()
	}
	if !d.ok || string(d.rest) != "}" {
		return false
	}
	*e = Event{
		ID: keep(e.ID, id), Seq: seq, Attempt: int(attempt), Kind: keepKind(kind), TS: int64(ts),
		Worker: keep(e.Worker, worker), Choices: bytes.Clone(choices),
	}
	return true
}

// keep returns b as a string, and old if that is the same, to save the copy: the events of a
// stream have one id.
func keep(old string, b []byte) string {
	if string(b) == old {
		return old
	}
	return string(b)
}

func keepKind(b []byte) Kind {
	switch string(b) {
	case string(DeltaKind):
		return DeltaKind
	case string(Started):
		return Started
	default:
		return Kind(b)
	}
}

// usual reads the pieces of an event in its usual form. Once one did not match, ok is false and
// nothing matches any more.
type usual struct {
	rest []byte
	ok   bool
}

func (d *usual) skip(literal string) bool {
	if len(d.rest) < len(literal) || string(d.rest[:len(literal)]) != literal {
		return false
	}
	d.rest = d.rest[len(literal):]
	return true
}

func (d *usual) literal(literal string) { d.ok = d.ok && d.skip(literal) }

// text reads up to the closing quote of a string without escapes, in ASCII.
func (d *usual) text() []byte {
	for i, c := range d.rest {
		switch {
		case c == '"':
			text := d.rest[:i]
			d.rest = d.rest[i+1:]
			return text
		case c < ' ' || c >= 0x80 || c == '\\':
			d.ok = false
			return nil
		}
	}
	d.ok = false
	return nil
}

// digits reads a whole number from 0 to bound.
func (d *usual) digits(bound uint64) uint64 {
	var n uint64
	i := 0
	for ; i < len(d.rest) && d.rest[i] >= '0' && d.rest[i] <= '9'; i++ {
		digit := uint64(d.rest[i] - '0')
		if n > (bound-digit)/10 {
			d.ok = false
			return 0
		}
		n = n*10 + digit
	}
	if i == 0 || i > 1 && d.rest[0] == '0' {
		d.ok = false
		return 0
	}
	d.rest = d.rest[i:]
	return n
}

// array reads an array, brackets and all.
func (d *usual) array() []byte {
	if len(d.rest) == 0 || d.rest[0] != '[' {
		d.ok = false
		return nil
	}
	s := jsonscan.New(d.rest, 1) // inside the event
	array, err := s.Skip()
	if err != nil {
		d.ok = false
		return nil
	}
	d.rest = d.rest[len(array):]
	return array
}
