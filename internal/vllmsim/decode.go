package vllmsim

import "unicode/utf8"

// decoder turns tokens into text. Bytes that do not yet make a character wait for the rest of it, as in
// vLLM: their token is reported at once, the character with the token that completes it.
type decoder struct {
	v    *vocabulary
	wait []byte
	// showSpecial spells special tokens out.
	showSpecial bool
}

// newDecoder starts after prompt. A character that the prompt left unfinished is the reply's: vLLM
// primes its decoder with the end of the prompt, so a continuation loses no character.
func newDecoder(prompt []int, showSpecial bool) *decoder {
	d := &decoder{v: vocab(), showSpecial: showSpecial}
	for n := 1; n < utf8.UTFMax && n <= len(prompt) && isByte(prompt[len(prompt)-n]); n++ {
		if !utf8.RuneStart(byte(prompt[len(prompt)-n] - firstByte)) {
			continue
		}
		var tail []byte
		for _, id := range prompt[len(prompt)-n:] {
			tail = append(tail, byte(id-firstByte))
		}
		if !utf8.FullRune(tail) {
			d.wait = tail
		}
		break
	}
	return d
}

// push appends the characters that id completes to dst.
func (d *decoder) push(dst []byte, id int) []byte {
	if special(id) {
		if d.showSpecial {
			dst = append(d.flushInvalid(dst), d.v.text[id]...)
		}
		return dst
	}
	text := d.v.text[id]
	if len(d.wait) == 0 && !isByte(id) {
		return append(dst, text...)
	}
	d.wait = append(d.wait, text...)
	rest := d.wait
	for len(rest) > 0 && utf8.FullRune(rest) {
		r, n := utf8.DecodeRune(rest)
		dst, rest = utf8.AppendRune(dst, r), rest[n:]
	}
	d.wait = append(d.wait[:0], rest...)
	return dst
}

// flushInvalid gives up on an unfinished character.
func (d *decoder) flushInvalid(dst []byte) []byte {
	if len(d.wait) > 0 {
		dst = utf8.AppendRune(dst, utf8.RuneError)
		d.wait = d.wait[:0]
	}
	return dst
}

// release returns how many bytes of held may be sent when its last chars characters must wait.
func release(held []byte, chars int) int {
	n := len(held)
	for range chars {
		if n == 0 {
			return 0
		}
		_, size := utf8.DecodeLastRune(held[:n])
		n -= size
	}
	return n
}
