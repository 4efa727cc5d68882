package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
)

// screen is a terminal, and the person at it.
type screen struct {
	t    *testing.T
	ptmx *os.File

	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{}
}

// watch reads what is shown until the terminal is closed.
func watch(t *testing.T, ptmx *os.File, closeTTY func()) *screen {
	t.Helper()
	s := &screen{t: t, ptmx: ptmx, more: make(chan struct{}, 1)}
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
	t.Cleanup(func() { closeTTY(); ptmx.Close(); <-done })
	return s
}

// expect waits until a text is shown, and takes what was shown up to it.
func (s *screen) expect(text string) (shown string) {
	s.t.Helper()
	patience := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		before, _, found := strings.Cut(s.shown.String(), text)
		if found {
			s.shown.Next(len(before) + len(text))
		}
		s.mu.Unlock()
		if found {
			return before
		}
		select {
		case <-s.more:
		case <-patience:
			s.t.Fatalf("%q is not shown; the screen has %q", text, s.shown.String())
		}
	}
}

func (s *screen) typing(keys string) {
	s.t.Helper()
	if _, err := s.ptmx.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// TestRepliesDoNotSteerTheTerminal, and reach a pipe or a file as they are.
func TestRepliesDoNotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	const reply = "one\ttwo\x1b]0;owned\x07\u009b31m\r\nthree"
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := watch(t, ptmx, func() { tty.Close() })
	if err := newOutput(tty, tty, nil).show(reply + "|"); err != nil {
		t.Fatal(err)
	}
	shown := s.expect("|")
	if strings.ContainsAny(shown, "\x1b\x07\u009b") || !strings.Contains(shown, "\ufffd31m") || !strings.HasSuffix(shown, "\nthree") {
		t.Errorf("a terminal is shown %q", shown)
	}
	var file bytes.Buffer
	if err := newOutput(&file, &file, nil).show(reply); err != nil || file.String() != reply {
		t.Errorf("a file has %q (%v), want %q", file.String(), err, reply)
	}
}

const prompted = ">>> "

// TestE2EChatAtATerminal runs the program at a terminal of its own, whose Ctrl-C is a signal while a
// reply is generated and a key while a line is edited.
func TestE2EChatAtATerminal(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "hermes", "--sim-itl", "200ms", "--log-level", "error")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, c.keep("chat", "hermes", "--session", "term")...)
	home := t.TempDir()
	cmd.Env = []string{asProcess + "=1", "PATH=" + os.Getenv("PATH"), "XDG_STATE_HOME=" + home, "TERM=xterm"}
	ptmx, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	s := watch(t, ptmx, func() {})
	s.expect("/help lists what can be done")
	s.expect(prompted)
	s.typing("Count to a thousand\r")
	s.expect("\n") // of the line
	for range 3 {  // tokens are on their way
		s.expect(" ")
	}
	s.typing("\x03")
	s.expect("was cancelled (decode)")
	s.expect(prompted)
	s.typing("/fly\r")
	s.expect("/fly is no command")
	s.expect(prompted)
	s.typing("/sta\tx\x7f\r") // completed
	s.expect("turns generated")
	s.expect(prompted)
	s.typing("half a line\x03")
	s.expect("Ctrl-C again")
	s.expect(prompted)
	s.typing("/show\r")
	s.expect("Count to a thousand")
	s.expect(prompted)
	s.typing("\x03")
	s.expect("Ctrl-C again")
	s.expect(prompted)
	s.typing("\x03")
	s.expect("\n")
	if got := code(t, cmd.Wait()); got != exitOK {
		t.Errorf("exit code %d, want 0", got)
	}
	if data, err := os.ReadFile(home + "/hxp/chat_history"); err != nil || !strings.HasPrefix(string(data), "Count to a thousand\n/fly\n/stats\n") {
		t.Errorf("history = %q (%v)", data, err)
	}
	// SIGTERM ends it in the middle of a line, and leaves the terminal as it was.
	cmd = exec.CommandContext(t.Context(), self, c.keep("chat", "hermes")...)
	cmd.Env = []string{asProcess + "=1", "TERM=xterm"}
	if ptmx, err = pty.Start(cmd); err != nil {
		t.Fatal(err)
	}
	s = watch(t, ptmx, func() {})
	s.expect(prompted)
	s.typing("half a line")
	s.expect("half a line")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := code(t, cmd.Wait()); got != exitInterrupted {
		t.Errorf("exit code %d, want %d", got, exitInterrupted)
	}
}

// TestChatAtATerminal is the same in this process, with what a person does wrong.
func TestChatAtATerminal(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "hermes", "--sim-itl", "100ms", "--log-level", "error")
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := watch(t, ptmx, func() { tty.Close() })
	x := newCLI(tty, tty, tty, []string{"NO_COLOR=1"})
	ctx, interrupt := context.WithCancelCause(t.Context())
	defer interrupt(nil)
	done := make(chan int, 1)
	go func() { done <- x.run(ctx, c.keep("chat", "hermes", "--max-tokens", "4")) }()
	s.expect(prompted)
	s.typing("one\r")
	if got := s.expect(prompted); strings.Contains(got, "stored as") || !strings.Contains(got, "4 tokens") {
		t.Errorf("after a turn: %q, want its tokens and nothing else", got)
	}
	s.typing(strings.Repeat("x", 4200) + "\r")
	s.expect("longer than 4095 characters")
	s.expect(prompted)
	if !x.interrupts.taken() {
		t.Error("a Ctrl-C that comes late ends the program")
	}
	s.typing("/regenerate now\r")
	s.expect("takes nothing")
	s.expect(prompted)
	s.typing("/regenerate\r")
	s.expect("4 tokens")
	s.expect(prompted)
	s.typing("\x04")
	if got := <-done; got != exitOK {
		t.Errorf("exit code %d, want 0", got)
	}
	if x.interrupts.taken() {
		t.Error("a turn that has ended takes an interrupt")
	}

	// A second Ctrl-C in one turn is the program's.
	go func() { done <- x.run(ctx, c.keep("chat", "hermes", "--max-tokens", "4000")) }()
	s.expect(prompted)
	s.typing("one\r")
	s.expect("\n")
	s.expect(" ")
	if !x.interrupts.taken() || x.interrupts.taken() {
		t.Error("a turn takes no interrupt, or two")
	}
	interrupt(app.ErrInterrupted)
	if got := <-done; got != exitInterrupted {
		t.Errorf("exit code %d, want %d", got, exitInterrupted)
	}
}
