package jsonscan

import (
	"fmt"
	"unicode/utf8"
)

// MaxDepth is how deeply arrays and objects may be nested: encoding/json's own limit.
const MaxDepth = 10000

// Scanner reads one JSON text from front to back. The zero value is an empty text; see [New].
type Scanner struct {
	data  []byte
	pos   int
	depth int
	comma int
	name  int
}

// New returns a scanner at the beginning of data. depth is how many arrays and objects already
// surround data, so that the nesting limit counts from the outermost.
func New(data []byte, depth int) Scanner { return Scanner{data: data, depth: depth, comma: -1} }

// Pos is the offset of the next unread byte.
func (s *Scanner) Pos() int { return s.pos }

// Comma is the offset of the comma that the last [Scanner.Name] or [Scanner.Element] went over, or
// -1 if it came to the first member, the first element or the end.
func (s *Scanner) Comma() int { return s.comma }

// NamePos is the offset of the name that the last [Scanner.Name] returned, at its opening quote.
func (s *Scanner) NamePos() int { return s.name }

// Peek goes over white space and returns the first byte of the next token, or 0 at the end.
func (s *Scanner) Peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// End fails if anything but white space is left.
func (s *Scanner) End() error {
	if s.Peek(); s.pos < len(s.data) {
		return s.unexpected("the end")
	}
	return nil
}

// Open enters the object or array that comes next; bracket is '{' or '['.
func (s *Scanner) Open(bracket byte) error {
	if s.Peek() != bracket || s.pos >= len(s.data) {
		return s.unexpected(string(rune(bracket)))
	}
	if s.depth >= MaxDepth {
		return fmt.Errorf("at byte %d: nested more than %d deep", s.pos, MaxDepth)
	}
	s.depth++
	s.pos++
	return nil
}

// Element goes to the next element of the array that was opened last and reports whether there is
// one; if not, the array is closed. first is set on the first call for an array.
func (s *Scanner) Element(first bool) (bool, error) { return s.next(']', first) }

// Name goes to the value of the next member of the object that was opened last and returns its
// name; ok is false when there is none and the object is closed. first is set on the first call.
func (s *Scanner) Name(first bool) (name String, ok bool, err error) {
	if ok, err = s.next('}', first); !ok || err != nil {
		return String{}, false, err
	}
	s.Peek()
	s.name = s.pos
	if name, err = s.Str(); err != nil {
		return String{}, false, err
	}
	if s.Peek() != ':' {
		return String{}, false, s.unexpected("':' after a name")
	}
	s.pos++
	return name, true, nil
}

func (s *Scanner) next(bracket byte, first bool) (bool, error) {
	s.comma = -1
	c := s.Peek()
	if c == bracket {
		s.pos++
		s.depth--
		return false, nil
	}
	if first {
		return true, nil
	}
	if c != ',' {
		return false, s.unexpected("',' or '" + string(rune(bracket)) + "'")
	}
	s.comma = s.pos
	s.pos++
	return true, nil
}

// Skip goes over the next value, checks it, and returns its bytes.
func (s *Scanner) Skip() ([]byte, error) {
	s.Peek()
	start := s.pos
	if err := s.skip(); err != nil {
		return nil, err
	}
	return s.data[start:s.pos], nil
}

func (s *Scanner) skip() error {
	switch c := s.Peek(); c {
	case '"':
		_, _, _, err := s.str()
		return err
	case '{':
		return s.skipObject()
	case '[':
		return s.skipArray()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return s.number()
		}
		return s.unexpected("a value")
	}
}

func (s *Scanner) skipObject() error {
	if err := s.Open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		if ok, err := s.next('}', first); !ok || err != nil {
			return err
		}
		s.Peek()
		if _, _, _, err := s.str(); err != nil {
			return err
		}
		if s.Peek() != ':' {
			return s.unexpected("':' after a name")
		}
		s.pos++
		if err := s.skip(); err != nil {
			return err
		}
	}
}

func (s *Scanner) skipArray() error {
	if err := s.Open('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		if ok, err := s.next(']', first); !ok || err != nil {
			return err
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}

// Null goes over the next value if it is null and reports whether it did.
func (s *Scanner) Null() (bool, error) {
	if s.Peek() != 'n' {
		return false, nil
	}
	return true, s.literal("null")
}

// Str reads the next value, which must be a string.
func (s *Scanner) Str() (String, error) {
	if s.Peek() != '"' {
		return String{}, s.unexpected("a string")
	}
	raw, escaped, high, err := s.str()
	return String{Raw: raw, Plain: !escaped && (high < utf8.RuneSelf || utf8.Valid(raw))}, err
}

// Int reads the next value, which must be an integer without fraction or exponent.
func (s *Scanner) Int() (int, error) {
	c := s.Peek()
	if c != '-' && (c < '0' || c > '9') {
		return 0, s.unexpected("an integer")
	}
	start := s.pos
	if err := s.number(); err != nil {
		return 0, err
	}
	text := s.data[start:s.pos]
	negative := c == '-'
	if negative {
		text = text[1:]
	}
	// Held as a negative number, whose range is one wider.
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("at byte %d: %.20q is not an integer", start, text)
		}
		d := int(c - '0')
		if n < (minInt+d)/10 {
			return 0, fmt.Errorf("at byte %d: %.20q does not fit an integer", start, text)
		}
		n = n*10 - d
	}
	if negative {
		return n, nil
	}
	if n == minInt {
		return 0, fmt.Errorf("at byte %d: %.20q does not fit an integer", start, text)
	}
	return -n, nil
}

const minInt = -1 << (intBits - 1)

const intBits = 32 << (^uint(0) >> 63)

// str goes over the string that begins here. high is at least 0x80 if a byte outside ASCII is in it.
func (s *Scanner) str() (raw []byte, escaped bool, high byte, err error) {
	if s.pos >= len(s.data) || s.data[s.pos] != '"' {
		return nil, false, 0, s.unexpected("a string")
	}
	start := s.pos + 1
	for i := start; i < len(s.data); i++ {
		c := s.data[i]
		switch {
		case c == '"':
			s.pos = i + 1
			return s.data[start:i], escaped, high, nil
		case c == '\\':
			escaped = true
			n := escapeLen(s.data[i:])
			if n == 0 {
				s.pos = i
				return nil, false, 0, s.unexpected("an escape sequence")
			}
			i += n - 1
		case c < ' ':
			s.pos = i
			return nil, false, 0, s.unexpected("a character of a string")
		default:
			high |= c
		}
	}
	s.pos = len(s.data)
	return nil, false, 0, s.unexpected("the end of a string")
}

// escapeLen returns the length of the escape sequence at the front of b, or 0 if it is none.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case 'b', 'f', 'n', 'r', 't', '\\', '/', '"':
		return 2
	case 'u':
		if hex4(b) >= 0 {
			return 6
		}
	}
	return 0
}

func (s *Scanner) literal(want string) error {
	if end := s.pos + len(want); end <= len(s.data) && string(s.data[s.pos:end]) == want {
		s.pos = end
		return nil
	}
	return s.unexpected(want)
}

func (s *Scanner) number() error {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.data) && s.data[s.pos] == '0' {
		s.pos++
	} else if !s.digits() {
		return s.unexpected("a digit")
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		s.pos++
		if !s.digits() {
			return s.unexpected("a digit after '.'")
		}
	}
	if s.pos < len(s.data) && s.data[s.pos]|0x20 == 'e' {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		if !s.digits() {
			return s.unexpected("a digit of an exponent")
		}
	}
	return nil
}

func (s *Scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

func (s *Scanner) unexpected(want string) error {
	if s.pos >= len(s.data) {
		return fmt.Errorf("the text ends at byte %d; want %s", len(s.data), want)
	}
	return fmt.Errorf("at byte %d: %q; want %s", s.pos, s.data[s.pos], want)
}
