package moderation

import "unicode"

// A phrase is compared by units: runes after case folding, with runs of white space as one space and
// without what cannot be seen.

// invisible reports whether a rune shows nothing and may stand anywhere: a way around a block list.
func invisible(r rune) bool {
	if r < 0xa0 {
		return (r < ' ' || r >= 0x7f) && !space(r)
	}
	return unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// foldMany are the runes whose full case folding has several runes.
var foldMany = map[rune][]rune{
	'ß': {'s', 's'}, 'ẞ': {'s', 's'}, 'ŉ': {'ʼ', 'n'},
	'ﬀ': {'f', 'f'}, 'ﬁ': {'f', 'i'}, 'ﬂ': {'f', 'l'}, 'ﬃ': {'f', 'f', 'i'}, 'ﬄ': {'f', 'f', 'l'},
	'ﬅ': {'s', 't'}, 'ﬆ': {'s', 't'},
}

// fold appends the units of r, which is neither invisible nor white space, to dst.
func fold(dst []rune, r rune) []rune {
	if r < unicode.MaxASCII {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return append(dst, r)
	}
	if many, ok := foldMany[r]; ok {
		return append(dst, many...)
	}
	least := r
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		least = min(least, o)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return append(dst, least)
}

// word reports whether r belongs to a word.
func word(r rune) bool {
	if r < unicode.MaxASCII {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_'
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
}

func space(r rune) bool {
	if r < unicode.MaxASCII {
		return r == ' ' || '\t' <= r && r <= '\r'
	}
	return unicode.IsSpace(r)
}

// units are those of a whole phrase, without white space around it.
func units(phrase string) []rune {
	var out []rune
	for _, r := range phrase {
		switch {
		case invisible(r):
		case !space(r):
			out = fold(out, r)
		case len(out) > 0 && out[len(out)-1] != ' ':
			out = append(out, ' ')
		}
	}
	if n := len(out); n > 0 && out[n-1] == ' ' {
		out = out[:n-1]
	}
	return out
}
