//go:build !unix

package vllm

import (
	"os"
	"os/exec"
)

const (
	clockTicks = 100
	readsProc  = false
)

func detach(*exec.Cmd, *os.File) {}

func detachGuard(*exec.Cmd) {}

// member is not known here: the leader alone is ended.
type member struct {
	pid   int
	name  string
	start uint64
	ticks uint64
	rss   int64
}

func (member) proportional() int64 { return 0 }

type tree struct{}

func newTree(int) *tree { return &tree{} }

func (*tree) scan([]int) []member { return nil }

func (*tree) kill([]member) {}
