package vllm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/workers/vllm"
)

const socketsVar = "VLLM_RPC_BASE_PATH="

// sockets is the folder for sockets that the first start was given, or "".
func (b *bed) sockets(start int) string {
	for _, v := range b.starts()[start].Env {
		if folder, ok := strings.CutPrefix(v, socketsVar); ok {
			return folder
		}
	}
	return ""
}

// Each process has a folder for its sockets, and what it leaves there goes with it.
func TestSocketsGoWithTheProcess(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "ok"}).run()
	b.ready(0)
	first := b.sockets(0)
	if err := os.WriteFile(filepath.Join(first, "left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.Restart("test")
	b.ready(1)
	second := b.sockets(1)
	if _, err := os.Stat(first); !os.IsNotExist(err) || first == second {
		t.Errorf("the first process's folder %s is there (%v), the second has %s", first, err, second)
	}
	b.stop()
	if err := b.finish(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(second); !os.IsNotExist(err) {
		t.Errorf("%s is there after the end: %v", second, err)
	}
}

func TestSocketsWhereTheConfigurationSays(t *testing.T) {
	t.Parallel()
	mine := t.TempDir()
	b := newBed(t, setting{plan: "ok", cfg: vllm.ServerConfig{Env: map[string]string{"VLLM_RPC_BASE_PATH": mine}}}).run()
	b.ready(0)
	b.stop()
	if err := b.finish(); err != nil {
		t.Error(err)
	}
	if got := b.sockets(0); got != mine {
		t.Errorf("sockets lie in %q, want %q", got, mine)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

// A socket's path has a bound, so a deep folder is of no use.
func TestSocketsNeedAShortPath(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 80))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{deep, filepath.Join(deep, "missing")} {
		t.Setenv("TMPDIR", dir)
		b := newBed(t, setting{plan: "ok"}).run()
		b.ready(0)
		b.stop()
		if err := b.finish(); err != nil {
			t.Error(err)
		}
		if got := b.sockets(0); got != "" {
			t.Errorf("sockets lie in %q, want vLLM's own choice", got)
		}
	}
	if left, _ := os.ReadDir(deep); len(left) != 0 {
		t.Errorf("%v is left behind", left)
	}
}
