package embedded_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A redis-server takes the configuration in deploy/, and is then what conversations need.
func TestDeployedRedisConfiguration(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "hxp-redis-") //nolint:usetesting // a socket's path has a bound
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.CommandContext(t.Context(), needRedis(t), "../../deploy/redis/redis.conf", "--port", "0", "--unixsocket", socket, "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	defer func() { _ = c.Close() }()
	for deadline := time.Now().Add(10 * time.Second); c.Ping(t.Context()).Err() != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("no answer within 10 s: %v", c.Ping(t.Context()).Err())
		}
		<-time.After(20 * time.Millisecond)
	}
	for name, want := range map[string]string{
		"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always", "bind": "127.0.0.1", "protected-mode": "yes",
	} {
		if got := c.ConfigGet(t.Context(), name).Val()[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
