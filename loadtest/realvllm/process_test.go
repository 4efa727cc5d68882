//go:build vllm && linux

package realvllm_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is a process with its children, in a process group of its own.
type program struct {
	name string
	args []string
	env  []string // besides PATH and HOME
	dir  string
	// owner is the test that it ends with at the latest.
	owner *testing.T

	pid  int
	done chan struct{}
	err  error // how it ended; read after done
}

// start runs the program. What is left of its group ends with its owner.
func (p *program) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir}, p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
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
		t.Fatalf("start %s: %v", p.name, err)
	}
	p.done = done
	pid := p.pid
	p.owner.Cleanup(func() {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-done
		if p.owner.Failed() {
			p.owner.Logf("the end of the log of %s:\n%s", p.name, p.tail(2<<10))
		}
	})
}

func (p *program) log() string { return filepath.Join(p.dir, p.name+".log") }

func (p *program) tail(n int) string {
	data, _ := os.ReadFile(p.log())
	return string(data[max(0, len(data)-n):])
}

func (p *program) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the whole group without a word and waits until all of it is gone.
func (p *program) kill(t *testing.T) {
	t.Helper()
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.done
	eventually(t, 20*time.Second, p.name+"'s group is gone", func() bool { return len(alive(p.pid)) == 0 })
}

// exit says how the process ended: an exit code, or a signal.
func (p *program) exit() string {
	if ended, ok := p.err.(*exec.ExitError); ok {
		return ended.String()
	}
	return "exit status 0"
}

// process is what /proc says of one.
type process struct {
	pid, parent, group int
	zombie             bool
	title              string
}

func processes() []process {
	var list []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		p := process{pid: pid}
		var state string
		_, rest, _ := strings.Cut(string(stat), ") ")
		if n, _ := fmt.Sscan(rest, &state, &p.parent, &p.group); n < 3 {
			continue // it has just ended
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		p.zombie, p.title = state == "Z", strings.ReplaceAll(string(line), "\x00", " ")
		list = append(list, p)
	}
	return list
}

// child returns the process below parent whose title is like that, or 0.
func child(parent int, title string) int {
	for _, p := range processes() {
		if p.parent == parent && !p.zombie && strings.Contains(p.title, title) {
			return p.pid
		}
	}
	return 0
}

// alive names the processes of a group that have not ended.
func alive(group int) []string {
	var list []string
	for _, p := range processes() {
		if p.group == group && !p.zombie {
			list = append(list, fmt.Sprintf("%d %.60s", p.pid, p.title))
		}
	}
	return list
}

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
	deadline := time.Now().Add(within)
	for !ready() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, within)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: the test ends", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers returns the status of a GET, 0 for no answer.
func answers(url string) int {
	client := http.Client{Timeout: 2 * time.Second}
	r, err := client.Get(url)
	if err != nil {
		return 0
	}
	r.Body.Close()
	return r.StatusCode
}
