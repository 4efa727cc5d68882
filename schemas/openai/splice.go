package openai

import (
	"fmt"
	"slices"

	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

// Field is one top-level field of a request: a name and a raw JSON value. A nil Value removes the
// field.
type Field struct {
	Name  string
	Value []byte
}

// Splice returns body, a JSON object, with the given top-level fields replaced or added and every
// other byte as it was; what is added comes last, in the order given. Every occurrence of a
// duplicate name is replaced. Of fields with the same name the last one counts. Body and values
// are checked, so the result is valid JSON; body itself is not changed.
func Splice(body []byte, fields ...Field) ([]byte, error) {
	size := len(body)
	for i := range fields {
		f := &fields[i]
		size += len(f.Name) + len(f.Value) + len(`,"":`)
		if f.Value != nil {
			if err := check(f.Value); err != nil {
				return nil, fmt.Errorf("field %.40q: %w", f.Name, err)
			}
		}
	}
	s := jsonscan.New(body, 0)
	if err := s.Open('{'); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	// Fields are few: a bit for each that was found.
	found := make([]bool, len(fields))
	edit := &editor{src: body, dst: make([]byte, 0, size)}
	edit.object()
	for first := true; ; first = false {
		name, ok, err := s.Name(first)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		if !ok {
			break
		}
		comma, start, which := s.Comma(), s.NamePos(), find(fields, name)
		s.Peek()
		value := s.Pos()
		if _, err := s.Skip(); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		edit.member(comma, start, s.Pos(), which >= 0 && fields[which].Value == nil)
		if which >= 0 && fields[which].Value != nil {
			found[which] = true
			edit.replace(value, s.Pos(), fields[which].Value)
		}
	}
	end := s.Pos() - 1
	if err := s.End(); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	for edit.done < end && isSpace(body[end-1]) {
		end--
	}
	edit.finish(end)
	for i, f := range fields {
		if f.Value == nil || found[i] || repeated(fields[i+1:], f.Name) {
			continue
		}
		if edit.kept {
			edit.dst = append(edit.dst, ',')
		}
		edit.kept = true
		edit.dst = append(append(jsonscan.AppendString(edit.dst, f.Name), ':'), f.Value...)
	}
	return edit.finish(len(body)), nil
}

func check(value []byte) error {
	s := jsonscan.New(value, 1)
	if _, err := s.Skip(); err != nil {
		return err
	}
	return s.End()
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func find(fields []Field, name jsonscan.String) int {
	for i, f := range slices.Backward(fields) {
		if name.Is(f.Name) {
			return i
		}
	}
	return -1
}

func repeated(later []Field, name string) bool {
	return slices.ContainsFunc(later, func(f Field) bool { return f.Name == name })
}

// editor copies a text, leaving members of its objects out. Each member that is left out takes one
// comma with it: the one before it, or the one after it where no member before it is kept.
type editor struct {
	src    []byte
	dst    []byte
	done   int // src is copied or left out up to here
	edited bool

	// Of the object at hand:
	kept    bool // a member was kept
	dropped bool // the member before this one was left out
}

// object begins an object. A nil editor does nothing.
func (e *editor) object() {
	if e != nil {
		e.kept, e.dropped = false, false
	}
}

// member tells of the member whose name is at start, whose value ends at end, and which follows the
// comma at the given offset, or -1.
func (e *editor) member(comma, start, end int, drop bool) {
	if e == nil {
		return
	}
	if e.dropped && !e.kept {
		e.done = comma + 1 // no member stands before that comma
	}
	e.dropped = drop
	if !drop {
		e.kept = true
		return
	}
	e.edited = true
	upTo := start
	if e.kept {
		upTo = comma
	}
	e.dst = append(e.dst, e.src[e.done:upTo]...)
	e.done = end
}

// replace puts value in the place of src[start:end].
func (e *editor) replace(start, end int, value []byte) {
	e.edited = true
	e.dst = append(append(e.dst, e.src[e.done:start]...), value...)
	e.done = end
}

// finish copies the rest up to end and returns the copy.
func (e *editor) finish(end int) []byte {
	e.dst = append(e.dst, e.src[e.done:end]...)
	e.done = end
	return e.dst
}
