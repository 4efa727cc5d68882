package embedded

import (
	"bytes"
	"cmp"
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
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

// RedisConfig says which Redis and where. Dir is required unless InMemory is set.
type RedisConfig struct {
	// Dir is where redis-server keeps its append-only file, in a directory "redis" of its own.
	Dir string
	// Path is the redis-server to start. By default the one on PATH; if there is none, an
	// in-process stand-in takes its place, and Warning says so.
	Path string
	// InMemory asks for the in-process stand-in without a look at Path.
	InMemory bool
	// Port on 127.0.0.1; 0 is any free port.
	Port int
	// MaxMemory is what redis-server may hold; writes beyond it are refused, nothing is evicted. Defaults to 1 GiB.
	MaxMemory int64
	// StartTimeout is how long redis-server may take to read its file. Defaults to 30 s.
	StartTimeout time.Duration
	// StopTimeout is how long redis-server may take to write its file before it is killed. Defaults to 10 s.
	StopTimeout time.Duration
	// Logger receives redis-server's warnings.
	Logger zerolog.Logger
}

const redisHost = "127.0.0.1"

// portTries is how many free ports are tried: one may be taken between its choice and its use.
const portTries = 5

func (c RedisConfig) withDefaults() RedisConfig {
	c.MaxMemory = cmp.Or(c.MaxMemory, int64(1<<30))
	c.StartTimeout = cmp.Or(c.StartTimeout, defaultStartTimeout)
	c.StopTimeout = cmp.Or(c.StopTimeout, 10*time.Second)
	return c
}

func (c RedisConfig) validate() error {
	var errs []error
	if c.Dir == "" && !c.InMemory {
		errs = append(errs, errors.New("dir is empty; want a directory for its data"))
	}
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("port is %d; want 1 to 65535, or 0 for any", c.Port))
	}
	if c.MaxMemory < 1 {
		errs = append(errs, fmt.Errorf("max_memory is %d; want at least 1", c.MaxMemory))
	}
	return errors.Join(errs...)
}

// Redis is a running Redis, or the stand-in for one.
type Redis struct {
	// Warning is a sentence for the user if what is stored will not outlive the process; empty otherwise.
	Warning string

	addr       string
	persistent bool
	done       <-chan struct{}
	stop       func() error
}

// Addr is where it listens, host:port.
func (r *Redis) Addr() string { return r.addr }

// Persistent reports whether what is stored outlives the process.
func (r *Redis) Persistent() bool { return r.persistent }

// Done is closed when it has ended, asked or not.
func (r *Redis) Done() <-chan struct{} { return r.done }

// Close stops it and waits until its data is stored. It may be called more than once.
func (r *Redis) Close() error { return r.stop() }

// StartRedis starts a Redis on the loopback interface and waits until it answers; ctx bounds the
// wait, not the server's life. It is stopped by [Redis.Close], and by the death of this process.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("embedded Redis: %w", err)
	}
	r, err := startRedis(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded Redis: %w", err)
	}
	return r, nil
}

func startRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	if cfg.InMemory {
		return startMini(cfg, "Conversations are kept in memory only and are lost when this process ends.")
	}
	path, err := exec.LookPath(cmp.Or(cfg.Path, "redis-server"))
	if err != nil {
		if cfg.Path != "" {
			return nil, fmt.Errorf("path %q is not a program: %w", cfg.Path, err)
		}
		return startMini(cfg, "There is no redis-server on PATH, so conversations are kept in memory only and are lost when this process ends.")
	}
	dir := filepath.Join(cfg.Dir, "redis")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory for its data: %w", err)
	}
	unlock, err := lock(filepath.Join(cfg.Dir, "redis.lock"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	for try := 1; ; try++ {
		r, err := startServer(ctx, cfg, path, dir, unlock)
		if errors.Is(err, syscall.EADDRINUSE) && cfg.Port == 0 && try < portTries {
			continue
		}
		if err != nil {
			unlock()
			return nil, err
		}
		return r, nil
	}
}

// startServer starts redis-server once.
func startServer(ctx context.Context, cfg RedisConfig, path, dir string, unlock func()) (*Redis, error) {
	port, err := freePort(cfg.Port)
	if err != nil {
		return nil, err
	}
	out := &tail{}
	cmd := exec.Command(path,
		"--port", strconv.Itoa(port), "--bind", redisHost, "--protected-mode", "yes", "--daemonize", "no",
		"--dir", dir, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory", strconv.FormatInt(cfg.MaxMemory, 10),
		"--maxmemory-policy", "noeviction", "--loglevel", "warning", "--logfile", "")
	cmd.Stdout, cmd.Stderr = out, out
	// Without this a grandchild that keeps the pipe open would keep Wait from returning.
	cmd.WaitDelay = time.Second
	child, err := spawn(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	addr := net.JoinHostPort(redisHost, strconv.Itoa(port))
	if err := awaitRedis(ctx, addr, child); err != nil {
		_ = child.stop(0)
		why := out.last()
		if strings.Contains(strings.ToLower(why), "already in use") {
			err = fmt.Errorf("%w: %w", err, syscall.EADDRINUSE)
		}
		return nil, fmt.Errorf("%s on %s: %w: %s", path, addr, err, cmp.Or(why, "it wrote nothing"))
	}
	return &Redis{addr: addr, persistent: true, done: child.done, stop: func() error {
		err := child.stop(cfg.StopTimeout)
		unlock()
		if err != nil {
			return fmt.Errorf("stop %s: %w", path, err)
		}
		return nil
	}}, nil
}

// awaitRedis waits until the child, and not some other Redis on its port, answers.
func awaitRedis(ctx context.Context, addr string, child *child) error {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, PoolSize: 1, DialerRetries: 1})
	defer func() { _ = client.Close() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		// The client logs what it cannot dial, so a bare connection goes first.
		if conn, err := dialer.DialContext(ctx, "tcp", addr); err == nil {
			_ = conn.Close()
			info, err := client.Info(ctx, "server").Result()
			if err == nil && client.Ping(ctx).Err() == nil {
				if strings.Contains(info, "process_id:"+strconv.Itoa(child.pid)+"\r\n") {
					return nil
				}
				return fmt.Errorf("another Redis answers there: %w", syscall.EADDRINUSE)
			}
		}
		select {
		case <-child.done:
			return errors.New("it ended before it answered")
		case <-ctx.Done():
			return fmt.Errorf("it did not answer in time: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// freePort returns the port asked for, if it is free, or any.
func freePort(port int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(redisHost, strconv.Itoa(port)))
	if err != nil {
		return 0, fmt.Errorf("port %d of %s cannot be used; is another Redis running? %w", port, redisHost, err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// tail keeps the end of what a child writes. The child's pipe is its only writer.
type tail struct{ buf bytes.Buffer }

const maxTail = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - maxTail; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

// last returns the end of the text in one line. Only once the child has ended.
func (t *tail) last() string {
	lines := strings.FieldsFunc(t.buf.String(), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines[max(0, len(lines)-3):], " / ")
}
