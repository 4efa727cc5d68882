package conversation_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
)

// backend is a Redis that the tests share; each test has a prefix of its own.
type backend struct {
	name string
	rdb  func() (redis.UniversalClient, error)
}

var (
	standIn   = backend{"stand-in", sync.OnceValues(func() (redis.UniversalClient, error) { return single(true) })}
	realRedis = backend{"redis", sync.OnceValues(func() (redis.UniversalClient, error) { return single(false) })}
	cluster   = backend{"cluster", sync.OnceValues(startCluster)}
	backends  = []backend{standIn, realRedis, cluster}
)

// servers are what TestMain stops.
var servers struct {
	sync.Mutex
	stop []func()
}

func atEnd(stop func()) {
	servers.Lock()
	defer servers.Unlock()
	servers.stop = append(servers.stop, stop)
}

func TestMain(m *testing.M) {
	redis.SetLogger(silent{})
	code := m.Run()
	for _, stop := range slices.Backward(servers.stop) {
		stop()
	}
	os.Exit(code)
}

// silent drops what the client says of servers that tests have stopped.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// dir makes a directory that is removed at the end.
func dir() (string, error) {
	path, err := os.MkdirTemp("", "hxp-conversation-")
	if err == nil {
		atEnd(func() { _ = os.RemoveAll(path) })
	}
	return path, err
}

func single(inMemory bool) (redis.UniversalClient, error) {
	path, err := dir()
	if err != nil {
		return nil, err
	}
	srv, err := startServer(embedded.RedisConfig{Dir: path, InMemory: inMemory})
	if err != nil {
		return nil, err
	}
	c := redis.NewClient(&redis.Options{Addr: srv.Addr(), PoolSize: 64})
	atEnd(func() { _ = c.Close() })
	return c, nil
}

func startServer(cfg embedded.RedisConfig) (*embedded.Redis, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, fmt.Errorf("this test needs a real redis-server on PATH: run `make tools`, which provides one (%w)", err)
	}
	srv, err := embedded.StartRedis(ctx, cfg)
	if err == nil {
		atEnd(func() { _ = srv.Close() })
	}
	return srv, err
}

// startCluster starts three masters on loopback, a third of the slots each.
func startCluster() (redis.UniversalClient, error) {
	const nodes = 3
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	real, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, err
	}
	var addrs []string
	var clients []*redis.Client
	var host, port, bus string
	for i := range nodes {
		path, err := dir()
		if err != nil {
			return nil, err
		}
		p, err := freePort()
		if err != nil {
			return nil, err
		}
		// The last words on the command line count.
		wrapper := filepath.Join(path, "redis-server")
		text := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\" --cluster-enabled yes --cluster-port %d --cluster-node-timeout 15000\n", real, p)
		if err := os.WriteFile(wrapper, []byte(text), 0o700); err != nil {
			return nil, err
		}
		srv, err := startServer(embedded.RedisConfig{Dir: path, Path: wrapper})
		if err != nil {
			return nil, err
		}
		c := redis.NewClient(&redis.Options{Addr: srv.Addr()})
		defer c.Close()
		addrs, clients = append(addrs, srv.Addr()), append(clients, c)
		const slots = 16384
		if err := errors.Join(
			c.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", i*slots/nodes, (i+1)*slots/nodes-1).Err(),
			c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(),
		); err != nil {
			return nil, err
		}
		if i == 0 {
			host, port, _ = net.SplitHostPort(srv.Addr())
			bus = strconv.Itoa(p)
		} else if err := c.Do(ctx, "CLUSTER", "MEET", host, port, bus).Err(); err != nil {
			return nil, err
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, c := range clients {
		for {
			info, err := c.ClusterInfo(ctx).Result()
			if err != nil {
				return nil, err
			}
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("the cluster does not come up: %s", info)
			case <-tick.C:
			}
		}
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, PoolSize: 32})
	atEnd(func() { _ = c.Close() })
	return c, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// env is a store with a prefix of its own.
type env struct {
	*conversation.Store
	// T is the test, where onEach runs it.
	T      *testing.T
	t      testing.TB
	rdb    redis.UniversalClient
	prefix string
	cfg    conversation.Config
	// inMemory is set on the stand-in.
	inMemory bool
}

var prefixes atomic.Int64

func open(t testing.TB, b backend, cfg conversation.Config) *env {
	t.Helper()
	rdb, err := b.rdb()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = fmt.Sprintf("test%d", prefixes.Add(1))
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	store, err := conversation.New(rdb, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &env{Store: store, t: t, rdb: rdb, prefix: cfg.Prefix, cfg: cfg, inMemory: b.name == standIn.name}
}

// onEach runs a test on every kind of Redis.
func onEach(t *testing.T, cfg conversation.Config, test func(e *env)) {
	t.Helper()
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			e := open(t, b, cfg)
			e.T = t
			test(e)
		})
	}
}

// session makes a session and returns its name.
func (e *env) session(spec conversation.NewSession) conversation.Ref {
	e.t.Helper()
	if spec.Tenant == "" {
		spec.Tenant = "acme"
	}
	s, err := e.Create(context.Background(), spec)
	if err != nil {
		e.t.Fatal(err)
	}
	return s.Ref
}

// say appends a finished turn of a question and an answer, and fails the test if it cannot.
func (e *env) say(ref conversation.Ref, job, parent string) *conversation.Appended {
	e.t.Helper()
	return e.add(ref, turn(job, parent))
}

func (e *env) add(ref conversation.Ref, t conversation.NewTurn) *conversation.Appended {
	e.t.Helper()
	out, err := e.Append(context.Background(), ref, t)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

func turn(job, parent string) conversation.NewTurn {
	return conversation.NewTurn{Job: job, Parent: parent, Messages: []conversation.Message{
		conversation.Text("user", "question of "+job), conversation.Text("assistant", "answer of "+job),
	}}
}

func (e *env) get(ref conversation.Ref) *conversation.Session {
	e.t.Helper()
	s, err := e.Get(context.Background(), ref)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

// path returns the ids of a path, oldest first.
func (e *env) path(ref conversation.Ref, q conversation.PathQuery) ([]string, *conversation.Path) {
	e.t.Helper()
	p, err := e.Path(context.Background(), ref, q)
	if err != nil {
		e.t.Fatal(err)
	}
	return ids(p.Turns), p
}

func ids(turns []conversation.Turn) []string {
	out := []string{}
	for _, t := range turns {
		out = append(out, t.ID)
	}
	return out
}

// keys returns every key of the test's prefix, on every node.
func (e *env) keys() []string {
	e.t.Helper()
	var mu sync.Mutex
	var out []string
	scan := func(ctx context.Context, c *redis.Client) error {
		it := c.Scan(ctx, 0, e.prefix+":*", 1000).Iterator()
		for it.Next(ctx) {
			mu.Lock()
			out = append(out, it.Val())
			mu.Unlock()
		}
		return it.Err()
	}
	var err error
	switch c := e.rdb.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(context.Background(), scan)
	case *redis.Client:
		err = scan(context.Background(), c)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

func is(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}
