package prompt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/cmd/internal/prompt"
)

// screen is a terminal, and the person at it.
type screen struct {
	t    *testing.T
	ptmx *os.File
	tty  *os.File

	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{}
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, ptmx: ptmx, tty: tty, more: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buf)
			s.mu.Lock()
			s.shown.Write(buf[:n])
			s.mu.Unlock()
			select {
			case s.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		ptmx.Close()
		<-done
	})
	return s
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// typing types once something is shown that was not before.
func (s *screen) typing(shown, keys string) {
	s.t.Helper()
	for {
		s.mu.Lock()
		found := strings.Contains(s.shown.String(), shown)
		if found {
			s.shown.Reset()
		}
		s.mu.Unlock()
		if found {
			break
		}
		select {
		case <-s.more:
		case <-s.t.Context().Done():
			return
		}
	}
	if _, err := s.ptmx.WriteString(keys); err != nil {
		s.t.Error(err)
	}
}

// answer is one message, or an error.
type answer struct {
	text string
	err  error
}

// read reads a message while the test types.
func (s *screen) read(r *prompt.Reader) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		text, err := r.Read(s.t.Context(), ">>> ", "... ")
		out <- answer{text, err}
	}()
	return out
}

func TestLinesAreEdited(t *testing.T) {
	t.Parallel()
	const left, up, backspace, home = "\x1b[D", "\x1b[A", "\x7f", "\x01"
	for name, tc := range map[string]struct {
		keys []string // each once there is a prompt
		want []string
	}{
		"a line":             {[]string{"hello\r"}, []string{"hello"}},
		"keys":               {[]string{"hxllo" + left + left + left + backspace + "e\r", "b" + home + "a\r"}, []string{"hello", "ab"}},
		"history":            {[]string{"one\r", "two\r", "two\r", " \r", up + up + "!\r"}, []string{"one", "two", "two", " ", "one!"}},
		"several lines":      {[]string{"one\\\r", "two\r"}, []string{"one\ntwo"}},
		"quotes":             {[]string{"\"\"\"one\r", "\r", "two\"\"\"\r"}, []string{"one\n\ntwo"}},
		"a paste":            {[]string{"\x1b[200~one \\\rtwo\r\x1b[201~\r"}, []string{"one \\\ntwo"}},
		"a paste and more":   {[]string{"\x1b[200~one\rtwo\x1b[201~!\r"}, []string{"one\ntwo!"}},
		"typed ahead":        {[]string{"one\rtwo\r"}, []string{"one", "two"}},
		"tab":                {[]string{"/he\t\r", "/s\tx\r", "a\tb\r"}, []string{"/help", "/sx", "ab"}},
		"Ctrl-C within text": {[]string{"one\x03", "two\r"}, []string{"interrupted", "two"}},
		"Ctrl-C and ahead":   {[]string{"one\x03\x03two\r"}, []string{"interrupted", "interrupted", "two"}},
		"beyond ASCII":       {[]string{"Grüße 🐢\r"}, []string{"Grüße 🐢"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScreen(t)
			r := open(t, s.tty, s.tty, prompt.Config{Complete: func(line string) (out []string) {
				for _, c := range []string{"/help", "/save", "/sun"} {
					if strings.HasPrefix(c, line) {
						out = append(out, c)
					}
				}
				return out
			}})
			if !r.Edited() {
				t.Fatal("it is no terminal")
			}
			go func() {
				first := ">>> "
				for _, k := range tc.keys {
					s.typing(first, k)
					first = ">>> "
					if strings.HasSuffix(k, "\\\r") || strings.HasPrefix(k, `"""`) || k == "\r" {
						first = "... "
					}
				}
			}()
			var got []string
			for range tc.want {
				text, err := r.Read(t.Context(), ">>> ", "... ")
				if err != nil {
					text = err.Error()
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("messages (-want +got):\n%s\nscreen: %q", diff, s.text())
			}
		})
	}
}

func TestEndsOfEditing(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	r := open(t, s.tty, s.tty, prompt.Config{})
	a := s.read(r)
	s.typing(">>> ", "one\x03")
	if got := <-a; !errors.Is(got.err, prompt.ErrInterrupted) {
		t.Errorf("Ctrl-C gives %q and %v, want %v", got.text, got.err, prompt.ErrInterrupted)
	}
	a = s.read(r)
	s.typing(">>> ", strings.Repeat("x", 5000)+"\r")
	got := <-a
	if _, ok := errors.AsType[*prompt.TooLongError](got.err); !ok {
		t.Errorf("a line of 5000 characters gives %d of them and %v, want a TooLongError", len(got.text), got.err)
	}
	a = s.read(r)
	s.typing(">>> ", "\x04")
	if got := <-a; !errors.Is(got.err, io.EOF) {
		t.Errorf("Ctrl-D gives %q and %v, want %v", got.text, got.err, io.EOF)
	}
	gone := errors.New("gone")
	ctx, end := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.Read(ctx, "?> ", "")
		done <- err
	}()
	s.typing("?> ", "half a line")
	end(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("error = %v, want %v", err, gone)
	}
	if _, err := r.Read(ctx, "", ""); !errors.Is(err, gone) {
		t.Errorf("error = %v, want %v", err, gone)
	}
}

// TestTooLongMessageIsDroppedAtATerminal with all that was pasted or quoted beside the line at fault.
func TestTooLongMessageIsDroppedAtATerminal(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5000)
	for name, keys := range map[string]string{
		"a paste":                "\x1b[200~what is wrong?\rlog: " + long + "\r/load rm\rlast line\x1b[201~\r",
		"a paste that ends":      "\x1b[200~" + long + "\r/load rm\r\x1b[201~\r",
		"quotes":                 "\"\"\"\rone\r" + long + "\r/load rm\r\"\"\"\r",
		"quotes and a backslash": "\"\"\"" + long + "\\\r/load rm\r\"\"\"\r",
		"quotes, then Ctrl-C":    "\"\"\"\r" + long + "\r/load rm\r\x03",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScreen(t)
			r := open(t, s.tty, s.tty, prompt.Config{})
			a := s.read(r)
			s.typing(">>> ", keys)
			got := <-a
			if _, ok := errors.AsType[*prompt.TooLongError](got.err); !ok {
				t.Errorf("it gives %.40q and %v, want a TooLongError", got.text, got.err)
			}
			a = s.read(r)
			s.typing(">>> ", "next\r")
			if got := <-a; got.text != "next" || got.err != nil {
				t.Errorf("after it came %.40q and %v, want next", got.text, got.err)
			}
		})
	}
}

// TestTerminalIsGone fails a read.
func TestTerminalIsGone(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	r := open(t, s.tty, s.tty, prompt.Config{})
	s.tty.Close()
	if _, err := r.Read(t.Context(), "", ""); err == nil {
		t.Error("a closed terminal can be read")
	}
}

// TestHistoryIsKept in a file that only its owner can read, also of two programs at once.
func TestHistoryIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "history")
	typed := func(lines ...string) {
		t.Helper()
		s := newScreen(t)
		r, err := prompt.New(s.tty, s.tty, prompt.Config{History: path, MaxHistory: 3})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			a := s.read(r)
			s.typing(">>> ", l+"\r")
			if got := <-a; got.err != nil {
				t.Fatal(got.err)
			}
		}
		if l := lines[len(lines)-1]; l == "two" { // meanwhile, elsewhere
			if err := os.WriteFile(path, []byte("zero\n\none\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	typed("one")
	typed("\x1b[A", "two")
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "zero\none\ntwo\n" {
		t.Errorf("history = %q (%v), want zero, one, two", data, err)
	}
	typed("three")
	if data, err := os.ReadFile(path); err != nil || string(data) != "one\ntwo\nthree\n" {
		t.Errorf("history = %q (%v), want one, two, three", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v (%v), want 0600", info.Mode(), err)
	}
}

func TestHistoryThatCannotBeKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newScreen(t)
	if _, err := prompt.New(s.tty, s.tty, prompt.Config{History: dir}); err == nil {
		t.Error("a folder is a history")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := prompt.New(s.tty, s.tty, prompt.Config{History: filepath.Join(file, "below")}); err == nil {
		t.Error("a file is a folder")
	}
	for name, spoil := range map[string]func(path string) error{
		"folder in its place": func(path string) error { return os.Mkdir(path, 0o700) },
		"file above it":       func(path string) error { return os.WriteFile(filepath.Dir(path), nil, 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "new", "history")
		if name == "folder in its place" {
			path = filepath.Join(t.TempDir(), "history")
		}
		r, err := prompt.New(s.tty, s.tty, prompt.Config{History: path})
		if err != nil {
			t.Fatal(err)
		}
		a := s.read(r)
		s.typing(">>> ", "one\r")
		if got := <-a; got.err != nil {
			t.Fatal(got.err)
		}
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err == nil {
			t.Errorf("%s: the history is lost without a word", name)
		}
	}
}

// TestLargeHistory reads the end of the file.
func TestLargeHistory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 5<<20)+"\nlast\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScreen(t)
	r := open(t, s.tty, s.tty, prompt.Config{History: path})
	a := s.read(r)
	s.typing(">>> ", "\x1b[A\r")
	if got := <-a; got.text != "last" || got.err != nil {
		t.Errorf("read %q and %v, want last", got.text, got.err)
	}
}
