//go:build chaos && linux

package chaos_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// program is a process that may be killed and started again with the same arguments.
type program struct {
	t    *testing.T
	name string
	args func() []string
	dir  string
	out  io.Writer // stdout, if it is wanted

	pid  int
	done chan struct{}
	err  error // how it ended; read after done
}

// start runs the program. It ends at the latest with the test, or with this process, whatever
// happens to that: the kernel sees to it.
func (p *program) start() {
	p.t.Helper()
	args := p.args()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if p.out != nil {
		cmd.Stdout = p.out
	}
	done, started := make(chan struct{}), make(chan error)
	go func() {
		// The death signal is bound to the thread that starts the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(done)
		}
		log.Close()
	}()
	if err := <-started; err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	p.done = done
}

func (p *program) log() string { return filepath.Join(p.dir, p.name+".log") }

// run starts the program and has it killed when the test ends.
func (p *program) run() {
	p.t.Helper()
	p.t.Cleanup(func() {
		p.kill()
		if p.t.Failed() {
			p.t.Logf("the end of the log of %s:\n%s", p.name, p.tail(1<<10))
		}
	})
	p.start()
}

func (p *program) tail(n int) string {
	data, _ := os.ReadFile(p.log())
	return string(data[max(0, len(data)-n):])
}

func (p *program) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(p.pid, s) // it may be ending by itself
	}
}

// kill ends the program without a word and waits until it is gone.
func (p *program) kill() {
	if p.done == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually asks ready until it says yes, and fails the test after so long.
func eventually(t *testing.T, within time.Duration, what string, ready func() bool) {
	t.Helper()
	if !soon(t.Context(), within, ready) {
		t.Fatalf("%s: not within %s", what, within)
	}
}

// soon asks ready until it says yes, or for so long.
func soon(ctx context.Context, within time.Duration, ready func() bool) bool {
	deadline := time.Now().Add(within)
	for !ready() {
		if time.Now().After(deadline) || !pause(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return true
}

// pause reports false if the context has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
