package vllm

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
)

const (
	// maxLogLine bounds a line of the engine's log; what is longer is cut.
	maxLogLine = 4 << 10
	// lastLines is how many lines are kept to say what the engine's last words were.
	lastLines = 8
)

// control are the sequences that colour a terminal, and other characters that are no text.
var control = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]`)

// engineLog reads what the processes of an engine write, hands it on line by line and remembers the last.
type engineLog struct {
	out     io.Writer
	secrets []string
	ended   chan struct{}

	mu     sync.Mutex
	last   []string
	newest string
	outErr error
}

func newEngineLog(out io.Writer, secrets []string) *engineLog {
	return &engineLog{out: out, secrets: secrets, ended: make(chan struct{})}
}

// read reads until nobody holds the other end any more, or it is closed.
func (l *engineLog) read(r io.Reader) {
	defer close(l.ended)
	in := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		b, err := in.ReadByte()
		switch {
		case err != nil:
			if len(line) > 0 {
				l.add(string(line), true)
			}
			return
		case b == '\n' || b == '\r':
			// A progress bar begins its line again: it is news, but not a line of the log.
			next, _ := in.Peek(1)
			crlf := b == '\r' && in.Buffered() > 0 && next[0] == '\n'
			if !crlf {
				l.add(string(line), b == '\n')
				line = line[:0]
			}
		case len(line) < maxLogLine:
			line = append(line, b)
		}
	}
}

func (l *engineLog) add(line string, whole bool) {
	line = strings.TrimSpace(control.ReplaceAllString(strings.ToValidUTF8(line, "\uFFFD"), ""))
	line = redacted(line, l.secrets)
	if line == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = line
	if !whole {
		return
	}
	if l.last = append(l.last, line); len(l.last) > lastLines {
		l.last = l.last[1:]
	}
	if _, err := io.WriteString(l.out, line+"\n"); err != nil {
		l.outErr = errors.Join(l.outErr, err)
		l.out = io.Discard // the engine must not wait for a log that nobody takes
	}
}

// line returns the newest line, shortened for a sentence.
func (l *engineLog) line() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return clip(l.newest, 300)
}

// words returns the last lines, oldest first.
func (l *engineLog) words() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return clip(strings.Join(l.last, " | "), 2000)
}

// err returns why lines could not be handed on.
func (l *engineLog) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outErr
}

// clip keeps the end of a text: there the reason stands.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return "..." + strings.ToValidUTF8(s[len(s)-limit:], "")
}
