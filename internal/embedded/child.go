package embedded

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// child is a process that dies with this one.
type child struct {
	pid  int
	done chan struct{}
	err  error // how it ended; read after done
	cmd  *exec.Cmd
}

// spawn starts a child in a process group of its own. On Linux the kernel ends it when the thread
// that started it ends, so the goroutine that starts it keeps its thread until the child has ended.
func spawn(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = childAttr()
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// stop asks the child to end and kills its group if it has not done so within grace.
func (c *child) stop(grace time.Duration) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	if grace > 0 {
		_ = terminate(c.cmd.Process)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.done:
			if exit, ok := errors.AsType[*exec.ExitError](c.err); ok && exit.Exited() {
				return fmt.Errorf("it ended with status %d: its data may be incomplete", exit.ExitCode())
			}
			return nil
		case <-timer.C:
		}
	}
	_ = killGroup(c.cmd.Process)
	<-c.done
	if grace > 0 {
		return fmt.Errorf("it did not end within %s and was killed; what it was last told may be lost", grace)
	}
	return nil
}
