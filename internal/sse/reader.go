package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrTooLarge is in the chain of the error that [Reader.Next] returns for an event over the bound.
var ErrTooLarge = errors.New("event too large")

const (
	firstBuffer = 4 << 10
	// fieldSlack is what a line may hold beside its value: the field's name, a colon, a space, the line's end, a byte order mark.
	fieldSlack = 64
	// maxEmptyReads is how often a reader may return nothing at all before that is an error, as in bufio.
	maxEmptyReads = 100
)

var byteOrderMark = []byte("\xef\xbb\xbf")

// Reader takes a stream apart into events. It is not safe for concurrent use.
type Reader struct {
	r   io.Reader
	max int

	buf        []byte // buf[start:end] is read and not yet consumed
	start, end int
	scanned    int // buf[start:scanned] holds no line end
	readErr    error

	data    []byte
	hasData bool
	inEvent bool // a field was seen since the last blank line
	begun   bool // the first line is behind us
	skipLF  bool // the last line ended in CR; an LF that follows belongs to it
	err     error
}

// NewReader reads events from r whose data is at most max bytes long.
func NewReader(r io.Reader, max int) *Reader {
	return &Reader{r: r, max: max}
}

// Next returns the data of the next event, several data lines joined by a newline. The slice is
// valid until the next call. Events without data are passed over.
//
// It returns [io.EOF] where the stream ends between events, [io.ErrUnexpectedEOF] where it ends
// inside one, an error that wraps [ErrTooLarge] and names the bound, or the error of the
// underlying reader. After an error it returns the same error again.
func (r *Reader) Next() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	r.data, r.hasData = r.data[:0], false
	for {
		line, err := r.line()
		if err != nil {
			r.err = err
			return nil, err
		}
		if len(line) == 0 {
			r.inEvent = false
			if r.hasData {
				return r.data, nil
			}
			continue
		}
		if line[0] == ':' {
			continue
		}
		r.inEvent = true
		value, ok := dataOf(line)
		if !ok {
			continue
		}
		if r.hasData {
			r.data = append(r.data, '\n')
		}
		if len(r.data)+len(value) > r.max {
			r.err = r.tooLarge()
			return nil, r.err
		}
		r.data, r.hasData = append(r.data, value...), true
	}
}

// dataOf returns the value of a data line.
func dataOf(line []byte) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(line, []byte("data"))
	if !ok {
		return nil, false
	}
	if len(rest) == 0 {
		return rest, true
	}
	if rest[0] != ':' {
		return nil, false
	}
	rest = rest[1:]
	if len(rest) > 0 && rest[0] == ' ' {
		rest = rest[1:]
	}
	return rest, true
}

// line returns the next line without its end, which is LF, CR LF or CR.
func (r *Reader) line() ([]byte, error) {
	for {
		if r.skipLF && r.start < r.end {
			r.skipLF = false
			if r.buf[r.start] == '\n' {
				r.start++
			}
			r.scanned = max(r.scanned, r.start)
		}
		if i := lineEnd(r.buf[r.scanned:r.end]); i >= 0 {
			end := r.scanned + i
			line := r.buf[r.start:end]
			if len(line) > r.max+fieldSlack { // as if it had arrived byte by byte
				return nil, r.tooLarge()
			}
			r.skipLF = r.buf[end] == '\r'
			r.start, r.scanned = end+1, end+1
			if !r.begun {
				r.begun = true
				line = bytes.TrimPrefix(line, byteOrderMark)
			}
			return line, nil
		}
		r.scanned = r.end
		if r.end-r.start > r.max+fieldSlack {
			return nil, r.tooLarge()
		}
		if r.readErr != nil {
			return nil, r.ended()
		}
		r.fill()
	}
}

// lineEnd finds the first LF or CR. Two searches of vectorised code beat one byte loop.
func lineEnd(b []byte) int {
	lf := bytes.IndexByte(b, '\n')
	if lf >= 0 {
		b = b[:lf]
	}
	if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
		return cr
	}
	return lf
}

// ended says how the stream ended, when what is left holds no further line.
func (r *Reader) ended() error {
	if !errors.Is(r.readErr, io.EOF) {
		return r.readErr
	}
	if r.inEvent || r.start < r.end {
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

func (r *Reader) tooLarge() error {
	return fmt.Errorf("%w: its data is longer than %d bytes", ErrTooLarge, r.max)
}

// fill reads once into free space, making some first.
func (r *Reader) fill() {
	switch {
	case r.start == r.end:
		r.start, r.end, r.scanned = 0, 0, 0
		if r.buf == nil {
			r.buf = make([]byte, firstBuffer)
		}
	case r.end == len(r.buf) && r.start > 0:
		copy(r.buf, r.buf[r.start:r.end])
		r.end -= r.start
		r.scanned -= r.start
		r.start = 0
	case r.end == len(r.buf):
		// line refuses what is over the bound, so this stops at twice the bound.
		r.buf = append(r.buf, make([]byte, len(r.buf))...)
	}
	for range maxEmptyReads {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		r.readErr = err
		if n > 0 || err != nil {
			return
		}
	}
	r.readErr = io.ErrNoProgress
}
