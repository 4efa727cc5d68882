package prompt_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/cmd/internal/prompt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a reader that is closed at the end of the test.
func open(t *testing.T, in io.Reader, echo io.Writer, cfg prompt.Config) *prompt.Reader {
	t.Helper()
	r, err := prompt.New(in, echo, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// all reads messages up to the first error.
func all(t *testing.T, r *prompt.Reader) (messages []string, err error) {
	t.Helper()
	for {
		m, err := r.Read(t.Context(), ">>> ", "... ")
		if err != nil {
			return messages, err
		}
		messages = append(messages, m)
	}
}

func TestMessagesOfAPipe(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   string
		want []string
		err  error
	}{
		"nothing":                {"", nil, io.EOF},
		"a line is a message":    {"one\ntwo\r\n\nthree", []string{"one", "two", "", "three"}, io.EOF},
		"backslash":              {"one\\\ntwo\\\nthree\nfour\n", []string{"one\ntwo\nthree", "four"}, io.EOF},
		"quotes":                 {"\"\"\"one\ntwo\\\n\nthree\"\"\"\nfour\n", []string{"one\ntwo\\\n\nthree", "four"}, io.EOF},
		"quotes on lines":        {"  \"\"\"\none\n  two\n\"\"\"  \nthree\n", []string{"one\n  two", "three"}, io.EOF},
		"quotes on one line":     {"\"\"\"one\"\"\"\ntwo\n", []string{"one", "two"}, io.EOF},
		"quotes within are text": {"a \"\"\" b\n", []string{`a """ b`}, io.EOF},
		"unfinished quotes":      {"\"\"\"one\ntwo\n", nil, io.ErrUnexpectedEOF},
		"unfinished backslash":   {"zero\none\\\n", []string{"zero"}, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var echo strings.Builder
			r := open(t, strings.NewReader(tc.in), &echo, prompt.Config{})
			got, err := all(t, r)
			if diff := cmp.Diff(tc.want, got); diff != "" || !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v; messages (-want +got):\n%s", err, tc.err, diff)
			}
			if echo.Len() > 0 || r.Edited() {
				t.Errorf("edited %v, echo %q; want neither", r.Edited(), echo.String())
			}
		})
	}
}

// TestTooLong drops what is beyond the bound, says so, and goes on.
func TestTooLong(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	r := open(t, strings.NewReader("one\n"+long+"\ntwo\na\\\n"+long[:95]+"\nthree\n"+long), io.Discard, prompt.Config{MaxBytes: 96})
	var got []string
	for {
		m, err := r.Read(t.Context(), "", "")
		if errors.Is(err, io.EOF) {
			break
		}
		if long, ok := errors.AsType[*prompt.TooLongError](err); ok {
			m = long.Error()
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	want := []string{"one", "line is longer than 96 bytes and was dropped", "two", "message is longer than 96 bytes and was dropped", "three", "line is longer than 96 bytes and was dropped"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// TestTooLongMessageIsDroppedWhole up to its end, or that of the input.
func TestTooLongMessageIsDroppedWhole(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	for name, tc := range map[string]struct {
		in   string
		want []string
	}{
		"a long line in quotes":       {"\"\"\"\n" + long + "\n/clear\n\"\"\"\ntwo\n", []string{"line is longer", "two"}},
		"the first line in quotes":    {"\"\"\"" + long + "\n/clear\n\"\"\"\ntwo\n", []string{"line is longer", "two"}},
		"many lines in quotes":        {"\"\"\"\n" + strings.Repeat("y\n", 60) + "\"\"\"\ntwo\n", []string{"message is longer", "two"}},
		"many lines with backslashes": {strings.Repeat("y\\\n", 60) + "/clear\ntwo\n", []string{"message is longer", "two"}},
		"no end of it":                {"\"\"\"\n" + long + "\n/clear\n", []string{"line is longer"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t, strings.NewReader(tc.in), io.Discard, prompt.Config{MaxBytes: 96})
			for i, want := range tc.want {
				text, err := r.Read(t.Context(), "", "")
				_, tooLong := errors.AsType[*prompt.TooLongError](err)
				if tooLong != (i == 0) || tooLong && !strings.HasPrefix(err.Error(), want) || !tooLong && text != want {
					t.Errorf("read %q and %v, want %q", text, err, want)
				}
			}
			if text, err := r.Read(t.Context(), "", ""); !errors.Is(err, io.EOF) {
				t.Errorf("read %q and %v at the end, want %v", text, err, io.EOF)
			}
		})
	}
}

// TestEndOfContext ends a read that waits for a pipe, and those after it.
func TestEndOfContext(t *testing.T) {
	t.Parallel()
	in, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer other.Close()
	r := open(t, in, io.Discard, prompt.Config{})
	if _, err := other.WriteString("one\n"); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Read(t.Context(), "", ""); m != "one" || err != nil {
		t.Fatalf("read %q and %v, want one", m, err)
	}
	gone := errors.New("gone")
	ctx, end := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() {
		_, err := r.Read(ctx, "", "")
		done <- err
	}()
	end(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("error = %v, want %v", err, gone)
	}
	if _, err := r.Read(ctx, "", ""); !errors.Is(err, gone) {
		t.Errorf("error = %v, want %v", err, gone)
	}
}

// TestFiles are read as pipes are.
func TestFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(path, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{path: {"one", "two"}, os.DevNull: nil} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := all(t, open(t, f, io.Discard, prompt.Config{}))
		if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, io.EOF) {
			t.Errorf("%s: error %v; messages (-want +got):\n%s", name, err, diff)
		}
	}
	closed, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if r, err := prompt.New(closed, io.Discard, prompt.Config{}); err == nil {
		t.Error("a closed file can be read")
		_ = r.Close()
	}
	broken := errors.New("broken")
	r := open(t, io.MultiReader(strings.NewReader("one\n"), failing{broken}), io.Discard, prompt.Config{})
	if got, err := all(t, r); len(got) != 1 || !errors.Is(err, broken) {
		t.Errorf("messages %q and %v, want one and %v", got, err, broken)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
