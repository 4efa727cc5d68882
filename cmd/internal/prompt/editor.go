package prompt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/muesli/cancelreader"
	"golang.org/x/term"
)

// maxLine is how many characters the line editor takes; it drops those beyond without a word.
const maxLine = 4096

// editor edits lines at a terminal.
type editor struct {
	keyboard, screen *os.File
	in               cancelreader.CancelReader
	keys             *keys
	history          *history
	complete         func(string) []string
	term             *term.Terminal
}

func newEditor(keyboard, screen *os.File, in cancelreader.CancelReader, cfg Config) (*editor, error) {
	h, err := openHistory(cfg.History, cfg.MaxHistory)
	if err != nil {
		return nil, err
	}
	e := &editor{keyboard: keyboard, screen: screen, in: in, keys: &keys{in: in}, history: h, complete: cfg.Complete}
	e.reset()
	return e, nil
}

// reset begins with an empty line.
func (e *editor) reset() {
	e.term = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{e.keys, e.screen}, "")
	e.term.History = e.history
	e.term.AutoCompleteCallback = e.tab
}

func (e *editor) line(ctx context.Context, prompt string) (text string, pasted bool, err error) {
	if ctx.Err() != nil {
		return "", false, context.Cause(ctx)
	}
	state, err := term.MakeRaw(int(e.keyboard.Fd()))
	if err != nil {
		return "", false, fmt.Errorf("edit a line: %w", err)
	}
	if width, height, err := term.GetSize(int(e.screen.Fd())); err == nil && width > 0 {
		_ = e.term.SetSize(width, height) // it draws worse, and that shows
	}
	e.term.SetPrompt(prompt)
	e.term.SetBracketedPasteMode(true)
	stop := context.AfterFunc(ctx, func() { e.in.Cancel() })
	text, err = e.term.ReadLine()
	stop()
	e.term.SetBracketedPasteMode(false)
	if again := term.Restore(int(e.keyboard.Fd()), state); again != nil {
		return "", false, errors.Join(err, fmt.Errorf("restore the terminal: %w", again))
	}
	pasted = errors.Is(err, term.ErrPasteIndicator)
	switch {
	case errors.Is(err, io.EOF) && e.keys.interrupted():
		err = ErrInterrupted
	case errors.Is(err, cancelreader.ErrCanceled):
		err = context.Cause(ctx)
	case pasted:
		err = nil
	}
	if err != nil {
		e.reset()
		_, _ = fmt.Fprintln(e.screen) // the line that was begun
		return "", false, err
	}
	if utf8.RuneCountInString(text) >= maxLine {
		return text, pasted, &TooLongError{What: "line", Unit: "characters", Bound: maxLine - 1}
	}
	return text, pasted, nil
}

// tab completes a line that has one completion, as far as it goes.
func (e *editor) tab(line string, pos int, key rune) (completed string, at int, ok bool) {
	if key != '\t' || e.complete == nil || pos != len(line) {
		return "", 0, false
	}
	found := e.complete(line)
	if len(found) == 0 {
		return line, pos, true // no tab in the text
	}
	first, last := slices.Min(found), slices.Max(found)
	n := 0
	for n < min(len(first), len(last)) && first[n] == last[n] {
		n++
	}
	return first[:n], n, true
}

func (e *editor) close() error { return errors.Join(e.history.save(), e.in.Close()) }
