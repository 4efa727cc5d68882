package prompt

import (
	"bytes"
	"io"
)

// ctrlC is what the key sends at a raw terminal.
const ctrlC = 3

// keys passes a terminal's input on, with Ctrl-C always by itself: the editor ends a line on Ctrl-C as on Ctrl-D,
// and forgets what came with it.
type keys struct {
	in   io.Reader
	rest []byte
	buf  [1024]byte
	last byte
}

// Read returns what was typed up to a Ctrl-C, or one Ctrl-C.
func (k *keys) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(k.rest) == 0 {
		n, err := k.in.Read(k.buf[:])
		if n == 0 {
			return 0, err
		}
		k.rest = k.buf[:n] // an error comes again
	}
	part := k.rest
	switch i := bytes.IndexByte(part, ctrlC); {
	case i == 0:
		part = part[:1]
	case i > 0:
		part = part[:i]
	}
	n := copy(p, part)
	k.rest, k.last = k.rest[n:], p[n-1]
	return n, nil
}

// interrupted reports whether Ctrl-C was the last key.
func (k *keys) interrupted() bool { return k.last == ctrlC }
