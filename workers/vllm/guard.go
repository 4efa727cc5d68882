package vllm

import (
	"io"
	"os/exec"
	"strconv"
)

// guardScript waits for its input. A line means that the engine is gone; the end without a line, that
// hxp is: then it kills the group, and what is in the cgroup.
const guardScript = `trap '' HUP INT TERM
if read -r _; then exit 0; fi
kill -s KILL -- "-$1"
if [ -n "$2" ]; then echo 1 >"$2"; fi`

// guard is a process that ends the engine if this one is killed. The kernel's death signal reaches
// vLLM's first process alone.
type guard struct {
	cmd   *exec.Cmd
	input io.WriteCloser
}

// newGuard starts the guard of a process group.
func newGuard(group int, killFile string) (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", guardScript, "hxp-engine-guard", strconv.Itoa(group), killFile)
	cmd.Env = []string{} // it needs none of ours
	detachGuard(cmd)
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd, input}, nil
}

// dismiss ends the guard and waits for it.
func (g *guard) dismiss() {
	if g == nil {
		return
	}
	// If it is gone already there is nobody to tell.
	_, _ = io.WriteString(g.input, "\n")
	_ = g.input.Close()
	_ = g.cmd.Wait()
}
