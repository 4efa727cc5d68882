package prompt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/muesli/cancelreader"
	"golang.org/x/term"
)

// ErrInterrupted says that Ctrl-C was pressed while a message was typed. What had been typed is dropped.
var ErrInterrupted = errors.New("interrupted")

// TooLongError says that a line or a message is beyond its bound. It has been read and dropped.
type TooLongError struct {
	// What is "line" or "message"; Unit is what it is measured in.
	What, Unit string
	Bound      int
}

// Error names the bound.
func (e *TooLongError) Error() string {
	return fmt.Sprintf("%s is longer than %d %s and was dropped", e.What, e.Bound, e.Unit)
}

// Config tunes a reader. The zero value is ready for use.
type Config struct {
	// MaxBytes bounds a message. Defaults to 16 MiB.
	MaxBytes int
	// History is the file that keeps the lines typed at a terminal; "" keeps them until Close.
	History string
	// MaxHistory is how many lines are kept. Defaults to 1,000.
	MaxHistory int
	// Complete returns what the line so far may become, for the tab key. May be nil.
	Complete func(line string) []string
}

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, 16<<20)
	c.MaxHistory = cmp.Or(c.MaxHistory, 1000)
	return c
}

// source is where lines come from.
type source interface {
	// line returns a line without its end, and whether it was pasted with others that follow. One that is too long
	// comes with a [*TooLongError], and with its beginning alone.
	line(ctx context.Context, prompt string) (text string, pasted bool, err error)
	close() error
}

// Reader reads messages. It is not safe for concurrent use.
type Reader struct {
	cfg    Config
	from   source
	edited bool
}

// New returns a reader of in. If in and echo are both the terminal, lines are edited there, and prompts are
// shown; otherwise nothing is written to echo. Reading stops when the context of a call ends, if in is
// a file. in and echo stay their owner's.
func New(in io.Reader, echo io.Writer, cfg Config) (*Reader, error) {
	cfg = cfg.withDefaults()
	input, err := interruptible(in)
	if err != nil {
		return nil, err
	}
	keyboard, screen := terminal(in), terminal(echo)
	if keyboard == nil || screen == nil {
		return &Reader{cfg: cfg, from: newLines(input, cfg.MaxBytes)}, nil
	}
	e, err := newEditor(keyboard, screen, input, cfg)
	if err != nil {
		return nil, errors.Join(err, input.Close())
	}
	return &Reader{cfg: cfg, from: e, edited: true}, nil
}

// Edited reports whether a person types at a terminal.
func (r *Reader) Edited() bool { return r.edited }

// Close stores the history and releases what the reader holds.
func (r *Reader) Close() error { return r.from.close() }

// Read returns the next message, whose first line is asked for with prompt and the others with more. The error is
// io.EOF at the end of the input or on Ctrl-D, [ErrInterrupted] on Ctrl-C, and a [*TooLongError] for a
// message that is too long or has such a line: all of it is dropped, and reading goes on after its end.
func (r *Reader) Read(ctx context.Context, prompt, more string) (string, error) {
	var m message
	for {
		text, pasted, err := r.from.line(ctx, prompt)
		long, tooLong := errors.AsType[*TooLongError](err)
		switch {
		case tooLong:
			m.drop(long)
		case err != nil && m.dropped != nil && (errors.Is(err, io.EOF) || errors.Is(err, ErrInterrupted)):
			return "", m.dropped // the end comes again; Ctrl-C has ended what is dropped
		case errors.Is(err, io.EOF) && m.begun:
			return "", fmt.Errorf("the input ends within a message: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return "", err
		}
		if m.size += len(text) + 1; m.size > r.cfg.MaxBytes {
			m.drop(&TooLongError{What: "message", Unit: "bytes", Bound: r.cfg.MaxBytes})
		}
		prompt = more
		switch goesOn := m.add(text, pasted, tooLong); {
		case goesOn:
		case m.dropped != nil:
			return "", m.dropped
		default:
			return m.text(), nil
		}
	}
}

// terminal is stream's file if it is a terminal, otherwise nil.
func terminal(stream any) *os.File {
	if f, ok := stream.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// interruptible is in as something whose reads can be cancelled, where that is possible.
func interruptible(in io.Reader) (cancelreader.CancelReader, error) {
	if f, ok := in.(*os.File); ok {
		// A file on a disk never blocks, and cannot be waited for either.
		if info, err := f.Stat(); err == nil && (info.Mode().IsRegular() || info.Mode()&os.ModeCharDevice != 0 && terminal(f) == nil) {
			in = struct{ io.Reader }{f}
		}
	}
	return cancelreader.NewReader(in)
}
