package batch

// bitmap is a set of line numbers, at one bit for each line of the file.
type bitmap struct {
	words []uint64
	n     int64
}

func (b *bitmap) has(line int64) bool {
	w := line >> 6
	return w < int64(len(b.words)) && b.words[w]&(1<<(line&63)) != 0
}

// add reports whether the line is new.
func (b *bitmap) add(line int64) bool {
	w := line >> 6
	if w >= int64(len(b.words)) {
		b.words = append(b.words, make([]uint64, w+1-int64(len(b.words)))...)
	}
	if b.words[w]&(1<<(line&63)) != 0 {
		return false
	}
	b.words[w] |= 1 << (line & 63)
	b.n++
	return true
}
