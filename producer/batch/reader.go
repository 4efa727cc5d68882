package batch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/hxp-enterprise/hxp/schemas"
)

// DefaultMaxLine is the length in bytes that a line may have: the largest body and room for what is around it.
const DefaultMaxLine = 16<<20 + 64<<10

// lines reads a JSONL file one line at a time.
type lines struct {
	r    *bufio.Reader
	most int
	n    int64 // of the line that was read last, from 1
	size int64 // bytes read
	buf  []byte
}

func newLines(r io.Reader, most int) *lines {
	return &lines{r: bufio.NewReaderSize(r, 64<<10), most: most}
}

var bom = []byte("\xef\xbb\xbf")

// next returns the next line that is not blank, without its end, and its number. It is valid until the
// next call. A line above the bound is skipped, and its fault returned in its place; io.EOF ends the file.
func (l *lines) next() (raw []byte, n int64, fault *LineError, err error) {
	for {
		raw, size, err := l.line()
		if err != nil {
			return nil, l.n, nil, err
		}
		if l.n == 1 {
			raw = bytes.TrimPrefix(raw, bom)
		}
		if size > int64(l.most) {
			return nil, l.n, newFault(l.n, "", schemas.Errorf(schemas.CodePayloadTooLarge, "the line is %d bytes; want at most %d", size, l.most)), nil
		}
		if raw = bytes.TrimSpace(raw); len(raw) > 0 {
			return raw, l.n, nil, nil
		}
	}
}

// line returns one line, blank ones too, and how long it is. What is beyond the bound is read and dropped.
func (l *lines) line() (raw []byte, size int64, err error) {
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if size += int64(len(part)); size <= int64(l.most)+int64(len("\r\n")) {
			l.buf = append(l.buf, part...)
		}
		l.size += int64(len(part))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil, errors.Is(err, io.EOF) && size > 0:
			l.n++
			if l.n > maxLines {
				return nil, 0, fmt.Errorf("the file has more than %d lines", maxLines)
			}
			if err == nil {
				size-- // the end of the line is not part of it
			}
			return l.buf, size, nil
		case errors.Is(err, io.EOF):
			return nil, 0, io.EOF
		default:
			return nil, 0, fmt.Errorf("read line %d: %w", l.n+1, err)
		}
	}
}
