package batch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// recordStart is how every record begins.
const recordStart = `{"id":"`

// parseRecord returns the mark of a record by its first bytes.
func parseRecord(line []byte) (mark, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(recordStart))
	if !ok || len(rest) <= requestLen || rest[requestLen] != '"' {
		return mark{}, false
	}
	return parseRequestID(string(rest[:requestLen]))
}

// scanRecords calls found for each record of a file, in order, with where it begins and how long it is. It returns how
// long the file is up to the end of its last whole record; what follows is a record that was being written when its
// writer was killed. Memory does not grow with the length of lines.
func scanRecords(r io.Reader, found func(m mark, start, size int64) error) (whole int64, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var at int64
	for n := int64(1); ; n++ {
		head, last, size, ended, err := scanLine(in)
		if err != nil {
			return whole, err
		}
		if size == 0 {
			return whole, nil
		}
		m, ok := parseRecord(head)
		switch {
		case ok && ended && last == '}':
			if err := found(m, at, size); err != nil {
				return whole, err
			}
			at += size
			whole = at
		case !ended, atEnd(in):
			return whole, nil
		default:
			return whole, fmt.Errorf("line %d begins with %.40q: it is not a record of a batch", n, head)
		}
	}
}

// atEnd reports whether nothing but zero bytes follows: what a power cut leaves of blocks that were not written.
func atEnd(in *bufio.Reader) bool {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		if b != 0 {
			return false
		}
	}
}

// scanLine reads one line: its beginning, the byte before its end, its length, and whether it has an end.
func scanLine(in *bufio.Reader) (head []byte, last byte, size int64, ended bool, err error) {
	const most = len(recordStart) + requestLen + 1
	for {
		part, err := in.ReadSlice('\n')
		size += int64(len(part))
		if room := most - len(head); room > 0 {
			head = append(head, part[:min(len(part), room)]...)
		}
		text, newline := bytes.CutSuffix(part, []byte("\n"))
		if len(text) > 0 {
			last = text[len(text)-1]
		}
		switch {
		case newline:
			return head, last, size, true, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return head, last, size, false, nil
		case err != nil:
			return head, last, size, false, fmt.Errorf("read: %w", err)
		}
	}
}
