package prompt

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/muesli/cancelreader"
)

// lines are lines of a pipe or a file.
type lines struct {
	in  cancelreader.CancelReader
	buf *bufio.Reader
	max int
}

func newLines(in cancelreader.CancelReader, maxBytes int) *lines {
	return &lines{in: in, buf: bufio.NewReader(in), max: maxBytes}
}

func (l *lines) line(ctx context.Context, _ string) (text string, pasted bool, err error) {
	stop := context.AfterFunc(ctx, func() { l.in.Cancel() })
	defer stop()
	var out strings.Builder
	long := false
	for {
		if ctx.Err() != nil {
			return "", false, context.Cause(ctx)
		}
		part, err := l.buf.ReadSlice('\n')
		room := l.max + 1 - out.Len()
		long = long || len(part) > room
		_, _ = out.Write(part[:min(len(part), room)]) // a Builder takes everything
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (out.Len() > 0 || long):
			// The last line needs no end.
		case errors.Is(err, cancelreader.ErrCanceled):
			return "", false, context.Cause(ctx)
		case err != nil:
			return "", false, err
		}
		if long {
			return out.String(), false, &TooLongError{What: "line", Unit: "bytes", Bound: l.max}
		}
		return strings.TrimRight(out.String(), "\r\n"), false, nil
	}
}

func (l *lines) close() error { return l.in.Close() }
