package vllm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// linger is how long what is left when the first process has ended may end by itself: Python's
	// resource tracker then removes shared memory that nobody else would.
	linger = time.Second
	// lookAgain is the time between two looks for processes that are to be gone.
	lookAgain = 20 * time.Millisecond
)

// process is one run of vLLM, with all processes that it consists of.
type process struct {
	cmd     *exec.Cmd
	tree    *tree
	cgroup  *cgroup
	guard   *guard
	log     *engineLog
	output  *os.File
	sockets string // the folder of its sockets, or ""
	started time.Time
	// done is closed when the first process has ended; how is then in cmd.ProcessState.
	done chan struct{}
}

// launch starts the process, in the cgroup unless that is nil. An engine without a guard is started
// all the same: guardErr says why there is none.
func launch(cmd *exec.Cmd, group *cgroup, log *engineLog) (p *process, guardErr, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe for the engine's log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	p = &process{cmd: cmd, cgroup: group, log: log, output: r, started: time.Now(), done: make(chan struct{})}
	if group == nil {
		detach(cmd, nil)
	} else {
		detach(cmd, group.folder)
	}
	began := make(chan error)
	go func() {
		// The death signal is bound to the thread that starts the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		began <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
			close(p.done)
		}
	}()
	err = <-began
	_ = w.Close() // the child has its own
	if err != nil {
		_ = r.Close()
		return nil, nil, err
	}
	go log.read(r)
	p.tree = newTree(cmd.Process.Pid)
	p.guard, guardErr = newGuard(cmd.Process.Pid, group.killFile())
	return p, guardErr, nil
}

// members are the processes that live.
func (p *process) members() []member { return p.tree.scan(p.cgroup.members()) }

// gone reports whether the first process has ended.
func (p *process) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// how says how the first process ended.
func (p *process) how() string {
	after := time.Since(p.started).Round(time.Millisecond)
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s) after %s", int(status.Signal()), status.Signal(), after)
	}
	return fmt.Sprintf("exited with code %d after %s", p.cmd.ProcessState.ExitCode(), after)
}

// end stops what lives, and waits until all of it is gone. SIGTERM goes once, to the first process,
// which ends the others; a second one, or one of their own, makes vLLM leave workers behind. stuck is
// told of what does not die even so: a process in the middle of a driver's call does not. Once ctx has
// ended, patience bounds that wait.
func (p *process) end(ctx context.Context, grace, patience time.Duration, stuck func(words string)) error {
	p.members() // what descends from the first process is seen while that lives
	if !p.gone() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may end at this moment
		wait(grace, p.done)
	}
	if p.gone() {
		for until := time.Now().Add(linger); time.Now().Before(until) && len(p.members()) > 0; {
			wait(lookAgain, nil)
		}
	}
	var err error
	for killed, told := time.Now(), time.Now(); ; {
		left := p.members()
		if len(left) == 0 && p.gone() {
			break
		}
		p.cgroup.kill()
		p.tree.kill(left)
		if !p.gone() {
			_ = p.cmd.Process.Kill()
		}
		wait(lookAgain, nil)
		words := fmt.Sprintf("killed %s ago and not gone: %s", time.Since(killed).Round(time.Second), names(left))
		if time.Since(told) > progressInterval {
			told = time.Now()
			stuck(words)
		}
		if ctx.Err() != nil && time.Since(killed) > patience {
			err = errors.New(words)
			break
		}
	}
	p.guard.dismiss()
	// Whoever holds the other end is gone, or never will be.
	wait(linger, p.log.ended)
	_ = p.output.Close()
	if p.gone() {
		<-p.log.ended
	}
	p.cgroup.close()
	if len(p.members()) == 0 {
		_ = os.RemoveAll(p.sockets) // what stays is a few empty files
	}
	return err
}

// wait waits for an event, but not longer than d, and reports whether it came.
func wait(d time.Duration, event <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-event:
		return true
	case <-t.C:
		return false
	}
}

func names(members []member) string {
	list := make([]string, 0, len(members))
	for _, m := range members {
		list = append(list, fmt.Sprintf("%d (%s)", m.pid, m.name))
	}
	return strings.Join(list, ", ")
}
