//go:build unix && !linux

package vllm

import (
	"os"
	"os/exec"
	"syscall"
)

const (
	clockTicks = 100
	readsProc  = false
)

func detach(cmd *exec.Cmd, _ *os.File) { detachGuard(cmd) }

func detachGuard(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// member stands for the whole group: no more is known here.
type member struct {
	pid   int
	name  string
	start uint64
	ticks uint64
	rss   int64
}

func (member) proportional() int64 { return 0 }

type tree struct{ leader int }

func newTree(leader int) *tree { return &tree{leader} }

func (t *tree) scan([]int) []member {
	if syscall.Kill(-t.leader, 0) != nil {
		return nil
	}
	return []member{{pid: t.leader, name: "process group"}}
}

func (t *tree) kill(members []member) {
	if len(members) > 0 {
		_ = syscall.Kill(-t.leader, syscall.SIGKILL) // who is gone needs no signal
	}
}
