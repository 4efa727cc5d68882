package prompt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// history is the lines that were typed, oldest first.
type history struct {
	path  string
	max   int
	lines []string
	fresh []string // those that the file does not have
}

// maxHistoryBytes bounds what is read of a file, whose end counts.
const maxHistoryBytes = 4 << 20

func openHistory(path string, most int) (*history, error) {
	h := &history{path: path, max: most}
	if path == "" {
		return h, nil
	}
	lines, err := readHistory(path)
	h.lines = last(lines, most)
	return h, err
}

func readHistory(path string) ([]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer func() { _ = f.Close() }() // it is only read
	if info, err := f.Stat(); err == nil && info.Size() > maxHistoryBytes {
		if _, err := f.Seek(-maxHistoryBytes, io.SeekEnd); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHistoryBytes))
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), nil
}

func last(lines []string, most int) []string { return lines[max(0, len(lines)-most):] }

// Add is called for each line that was typed.
func (h *history) Add(line string) {
	if strings.TrimSpace(line) == "" || len(h.lines) > 0 && h.lines[len(h.lines)-1] == line {
		return
	}
	h.lines = last(append(h.lines, line), h.max)
	h.fresh = last(append(h.fresh, line), h.max)
}

// Len is how many lines there are.
func (h *history) Len() int { return len(h.lines) }

// At returns a line, 0 the newest.
func (h *history) At(i int) string { return h.lines[len(h.lines)-1-i] }

// save puts the new lines after those that the file has by now, which another program may have added to. Only its owner can read the file.
func (h *history) save() error {
	if h.path == "" || len(h.fresh) == 0 {
		return nil
	}
	stored, err := readHistory(h.path)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, l := range last(append(stored, h.fresh...), h.max) {
		out.WriteString(l + "\n")
	}
	if err := os.MkdirAll(filepath.Dir(h.path), 0o700); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(h.path), filepath.Base(h.path)+".*")
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	_, err = out.WriteTo(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), h.path)
	}
	if err != nil {
		return fmt.Errorf("history: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
