package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/internal/embedded"
)

func needRedis(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("this test needs a real redis-server on PATH: run `make tools`, which provides one (%v)", err)
	}
	return path
}

func startRedis(t *testing.T, cfg embedded.RedisConfig) *embedded.Redis {
	t.Helper()
	r, err := embedded.StartRedis(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func client(t *testing.T, r *embedded.Redis) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func pidOf(t *testing.T, c *redis.Client) int {
	t.Helper()
	info, err := c.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "process_id:")
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\r\n", 2)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func refused(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// Both kinds do what conversations need.
func TestRedis(t *testing.T) {
	t.Parallel()
	needRedis(t)
	for _, inMemory := range []bool{false, true} {
		t.Run(fmt.Sprint("in memory ", inMemory), func(t *testing.T) {
			t.Parallel()
			r := startRedis(t, embedded.RedisConfig{Dir: t.TempDir(), InMemory: inMemory})
			c := client(t, r)
			ctx := t.Context()
			if host, _, err := net.SplitHostPort(r.Addr()); err != nil || host != "127.0.0.1" {
				t.Errorf("Addr = %q", r.Addr())
			}
			if r.Persistent() == inMemory || (r.Warning != "") != inMemory {
				t.Errorf("Persistent = %v, Warning = %q", r.Persistent(), r.Warning)
			}
			script := redis.NewScript(`redis.call("HSET", KEYS[1], "f", ARGV[1]) return redis.call("HGET", KEYS[1], "f")`)
			if got, err := script.Run(ctx, c, []string{"k"}, "v").Text(); err != nil || got != "v" {
				t.Errorf("script = %q, %v", got, err)
			}
			if err := c.Set(ctx, "short", "x", 150*time.Millisecond).Err(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the key has expired", func() bool { return errors.Is(c.Get(ctx, "short").Err(), redis.Nil) })
			select {
			case <-r.Done():
				t.Error("Done is closed while it runs")
			default:
			}
			for range 2 {
				if err := r.Close(); err != nil {
					t.Errorf("Close = %v", err)
				}
			}
			<-r.Done()
			if !refused(r.Addr()) {
				t.Error("it still listens after Close")
			}
		})
	}
}

func TestRedisKeepsWhatIsStored(t *testing.T) {
	t.Parallel()
	needRedis(t)
	dir := t.TempDir()
	r := startRedis(t, embedded.RedisConfig{Dir: dir})
	if err := client(t, r).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process is using the data") {
		t.Errorf("a second one on the same directory = %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = startRedis(t, embedded.RedisConfig{Dir: dir})
	if got, err := client(t, r).Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("after a restart k = %q, %v", got, err)
	}
}

func TestRedisOnAGivenPort(t *testing.T) {
	t.Parallel()
	needRedis(t)
	for _, inMemory := range []bool{false, true} {
		l, err := net.Listen("tcp", anyPort)
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		cfg := embedded.RedisConfig{Dir: t.TempDir(), InMemory: inMemory, Port: port}
		if _, err := embedded.StartRedis(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d of 127.0.0.1 cannot be used", port)) {
			t.Errorf("on a port that is taken = %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if r := startRedis(t, cfg); r.Addr() != fmt.Sprint("127.0.0.1:", port) {
			t.Errorf("Addr = %s, want port %d", r.Addr(), port)
		}
	}
}

// Not parallel: it changes PATH.
func TestRedisWithoutRedisServer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if r.Persistent() || !strings.Contains(r.Warning, "no redis-server on PATH") || !strings.Contains(r.Warning, "in memory only") {
		t.Errorf("Persistent = %v, Warning = %q", r.Persistent(), r.Warning)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "redis-server")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	real := needRedis(t)
	broken := t.TempDir()
	aof := filepath.Join(broken, "redis", "appendonlydir")
	file := filepath.Join(t.TempDir(), "file")
	noLock := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(aof, 0o700), os.WriteFile(filepath.Join(aof, "appendonly.aof.manifest"), []byte("junk\n"), 0o600),
		os.WriteFile(file, nil, 0o600), os.Mkdir(filepath.Join(noLock, "redis.lock"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		cfg  embedded.RedisConfig
		want []string
	}{
		{"every fault", embedded.RedisConfig{Port: -1, MaxMemory: -1}, []string{"dir is empty", "port is -1", "max_memory is -1"}},
		{"no such program", embedded.RedisConfig{Dir: t.TempDir(), Path: "/no/such/redis"}, []string{`path "/no/such/redis" is not a program`}},
		{"not a program", embedded.RedisConfig{Dir: t.TempDir(), Path: script(t, "")[:1]}, []string{"is not a program"}},
		{"ends at once", embedded.RedisConfig{Dir: t.TempDir(), Path: script(t, "echo no luck; exit 3")}, []string{"ended before it answered", "no luck"}},
		{"ends silently", embedded.RedisConfig{Dir: t.TempDir(), Path: script(t, "exit 3")}, []string{"ended before it answered", "it wrote nothing"}},
		{"writes a lot", embedded.RedisConfig{Dir: t.TempDir(), Path: script(t, "yes line | head -c 100000; exit 3")}, []string{"ended before it answered", "line / line / line"}},
		{"never answers", embedded.RedisConfig{Dir: t.TempDir(), Path: script(t, "sleep 60"), StartTimeout: 200 * time.Millisecond}, []string{"did not answer in time"}},
		{"another answers", embedded.RedisConfig{Dir: t.TempDir(), Path: script(t, `"`+real+`" "$@" & wait`)}, []string{"another Redis answers there"}},
		{"wrong format", embedded.RedisConfig{Dir: t.TempDir(), Path: file}, []string{"is not a program"}},
		{"damaged file", embedded.RedisConfig{Dir: broken}, []string{"ended before it answered", "manifest"}},
		{"directory is a file", embedded.RedisConfig{Dir: file}, []string{"make the directory"}},
		{"lock cannot be written", embedded.RedisConfig{Dir: noLock}, []string{"cannot be written"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := embedded.StartRedis(t.Context(), c.cfg)
			if err == nil {
				_ = r.Close()
				t.Fatal("it was started")
			}
			for _, want := range append(c.want, "embedded Redis: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
		})
	}
}

// The lock of a start that failed is given back.
func TestRedisAfterAFailure(t *testing.T) {
	t.Parallel()
	needRedis(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded.StartRedis(ctx, embedded.RedisConfig{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("StartRedis = %v, want %v", err, context.Canceled)
	}
	startRedis(t, embedded.RedisConfig{Dir: dir})
}

func TestRedisThatDoesNotStop(t *testing.T) {
	t.Parallel()
	needRedis(t)
	r := startRedis(t, embedded.RedisConfig{Dir: t.TempDir(), StopTimeout: 100 * time.Millisecond})
	if err := syscall.Kill(pidOf(t, client(t, r)), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("Close = %v, want that it had to be killed", err)
	}
	<-r.Done()
}

func TestRedisThatDies(t *testing.T) {
	t.Parallel()
	needRedis(t)
	r := startRedis(t, embedded.RedisConfig{Dir: t.TempDir()})
	if err := syscall.Kill(pidOf(t, client(t, r)), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.Done()
	if err := r.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// A parent that is killed takes its Redis with it.
func TestRedisDiesWithItsParent(t *testing.T) {
	t.Parallel()
	needRedis(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), redisDir+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimSpace(line)
	if refused(addr) {
		t.Fatalf("the parent's Redis does not answer: %s", addr)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "its Redis has ended", func() bool { return refused(addr) })
}
