package vllmsim

import "strings"

// Tokenize returns the tokens of text: the longest known word at each place, or a single byte.
// It adds no special token and finds none in text.
func Tokenize(text string) []int {
	return appendTokens(make([]int, 0, len(text)/3+1), text)
}

func appendTokens(dst []int, text string) []int {
	v := vocab()
	for len(text) > 0 {
		id, n := firstByte+int(text[0]), 1
		for l := min(v.longest[text[0]], len(text)); l > 0; l-- {
			if w, ok := v.id[text[:l]]; ok {
				id, n = w, l
				break
			}
		}
		dst, text = append(dst, id), text[n:]
	}
	return dst
}

// Detokenize returns the text of ids. It undoes [Tokenize] for every string; special tokens are
// spelled out, ids outside the vocabulary are left out.
func Detokenize(ids []int) string {
	v := vocab()
	var b strings.Builder
	for _, id := range ids {
		if id >= 0 && id < v.size() {
			b.WriteString(v.text[id])
		}
	}
	return b.String()
}
