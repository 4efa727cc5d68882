package jsonscan

import (
	"unicode/utf16"
	"unicode/utf8"
)

// String is a JSON string as it stands in the text.
type String struct {
	// Raw is what stands between the quotes.
	Raw []byte
	// Plain is set when Raw is also the decoded string: no escapes, valid UTF-8.
	Plain bool
}

// Is reports whether the decoded string is want.
func (t String) Is(want string) bool {
	if t.Plain {
		return string(t.Raw) == want
	}
	// An escape is at most six bytes for one.
	if len(t.Raw) > 6*len(want) {
		return false
	}
	var buf [64]byte
	return string(t.Append(buf[:0])) == want
}

// Bytes returns the decoded string: part of the text where it is plain, otherwise appended to
// *buf.
func (t String) Bytes(buf *[]byte) []byte {
	if t.Plain {
		return t.Raw
	}
	start := len(*buf)
	*buf = t.Append(*buf)
	return (*buf)[start:len(*buf):len(*buf)]
}

// Append appends the decoded string to dst. Half a surrogate pair and bytes that are not UTF-8
// become U+FFFD, as in encoding/json.
func (t String) Append(dst []byte) []byte {
	if t.Plain {
		return append(dst, t.Raw...)
	}
	for b := t.Raw; len(b) > 0; {
		switch c := b[0]; {
		case c == '\\' && b[1] == 'u':
			r := hex4(b)
			b = b[6:]
			if utf16.IsSurrogate(r) {
				pair := utf16.DecodeRune(r, hex4(b))
				if pair != utf8.RuneError {
					b = b[6:]
				}
				r = pair
			}
			dst = utf8.AppendRune(dst, r)
		case c == '\\':
			dst = append(dst, unescaped(b[1]))
			b = b[2:]
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			b = b[1:]
		default:
			r, n := utf8.DecodeRune(b)
			dst = utf8.AppendRune(dst, r)
			b = b[n:]
		}
	}
	return dst
}

func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}

// hex4 returns the code unit of the \uXXXX at the front of b, or -1.
func hex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// AppendString appends text as a JSON string, byte for byte as encoding/json writes it with HTML
// escaping off.
func AppendString(dst []byte, text string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, text[done:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\b':
				dst = append(dst, '\\', 'b')
			case '\f':
				dst = append(dst, '\\', 'f')
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
			}
			i++
			done = i
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(append(dst, text[done:i]...), `\ufffd`...)
			done = i + n
		case r == '\u2028' || r == '\u2029': // line ends in JavaScript, though not in JSON
			dst = append(append(dst, text[done:i]...), '\\', 'u', '2', '0', '2', hex[r&0xf])
			done = i + n
		}
		i += n
	}
	return append(append(dst, text[done:]...), '"')
}
