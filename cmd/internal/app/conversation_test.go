package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/schemas"
)

// redisServer is a stand-in of the test's own.
func redisServer(t *testing.T) *miniredis.Miniredis {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestConversationsAreOpenedWhereRedisIs(t *testing.T) {
	t.Parallel()
	m := redisServer(t)
	m.RequireUserAuth("me", "p,w")
	for name, flags := range map[string][]string{
		"url":            {"redis.url=redis://me:p%2Cw@" + m.Addr() + "/0?protocol=2"},
		"user, password": {"redis.url=redis://" + m.Addr(), "redis.user=me"},
		"address":        {"redis.addresses=" + m.Addr(), "redis.user=me"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := quick(t, flags...)
			cfg.Redis.Password = "p,w"
			store, closed, err := app.OpenConversations(t.Context(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Create(t.Context(), conversation.NewSession{Tenant: "acme"}); err != nil {
				t.Error(err)
			}
			if err := closed(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConversationsThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	m := redisServer(t)
	m.RequireUserAuth("me", "pw")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	l.Close()
	for name, tc := range map[string]struct {
		flag string
		is   error
		say  []string
	}{
		"nobody there":    {"redis.url=redis://me:secret@" + free, app.ErrCannotConnect, []string{free, "redis.url"}},
		"no hxp up":       {"redis.listen=" + free, app.ErrCannotConnect, []string{free, "is an hxp up running?"}},
		"wrong password":  {"redis.url=redis://me:secret@" + m.Addr(), app.ErrNotAllowed, []string{m.Addr(), "REDIS_PASSWORD"}},
		"no password":     {"redis.url=redis://" + m.Addr(), app.ErrNotAllowed, []string{"NOAUTH"}},
		"a cluster of it": {"redis.url=redis://" + free + "," + free, app.ErrCannotConnect, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := quick(t, tc.flag, "conversation.timeout=2s")
			_, _, err := app.OpenConversations(t.Context(), cfg, nil)
			wantError(t, err, tc.is, tc.say...)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error = %q; it tells the password", err)
			}
		})
	}
}

func TestRedisAndConversationsAreChecked(t *testing.T) {
	t.Parallel()
	got := faultsOf(t, app.LoadOptions{}, `
redis: {url: "redis://a:1,b/x", addresses: ["e:6379", "d:70000"], listen: "0.0.0.0:11479"}
conversation: {prefix: "{", ttl: 1ms, max_messages: 0, max_bytes: 1, commit_timeout: 2h, window: {strategy: all, last_n: 0, keep: 2, margin: -1, summary_tokens: 0, reply_tokens: -1}}
ai_model_services: {phi3: {conversation: {window: {keep: 0}}}}
`)
	want := []string{
		"ai_model_services.phi3.conversation.window.keep: 0 is not above 0 (hxp.yaml:4)",
		"conversation.commit_timeout: 2h0m0s is above 1m0s (hxp.yaml:3)",
		"conversation.max_bytes: 1 is below 1KiB (hxp.yaml:3)",
		"conversation.max_messages: 0 is below 1 (hxp.yaml:3)",
		"conversation.prefix: \"{\" is not what a key may begin with; want some text without braces (hxp.yaml:3)",
		"conversation.ttl: 1ms is below 1s (hxp.yaml:3)",
		"conversation.window.keep: 2 is above 1 (hxp.yaml:3)",
		"conversation.window.last_n: 0 is below 1 (hxp.yaml:3)",
		"conversation.window.margin: -1 is below 0 (hxp.yaml:3)",
		"conversation.window.reply_tokens: -1 is below 0 (hxp.yaml:3)",
		"conversation.window.strategy: \"all\" is none of token_budget, last_n, summarize, error (hxp.yaml:3)",
		"conversation.window.summary_tokens: 0 is below 1 (hxp.yaml:3)",
		"redis.addresses: \"d:70000\" is not an address; want host:port (hxp.yaml:2)",
		"redis.listen: \"0.0.0.0:11479\" is not an address of 127.0.0.1; the Redis that up starts has no password (hxp.yaml:2)",
		"redis.url: \"redis://a:1/x\" has a database or an option that is none (hxp.yaml:2)",
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("no fault %q among\n%s", w, strings.Join(got, "\n"))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d faults, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	cfg := load(t, app.LoadOptions{Environ: []string{"REDIS_PASSWORD=hush", "REDIS_URL=redis://me:p,w@a:1,b:2"}})
	for _, s := range cfg.Settings() {
		if text, ok := s.Value.(string); ok && (strings.Contains(text, "hush") || strings.Contains(text, "p,w") || strings.Contains(text, "w@")) {
			t.Errorf("%s = %q shows a password", s.Path, text)
		}
	}
	if cfg.Redis.Password != "hush" {
		t.Errorf("redis.password = %q, want what REDIS_PASSWORD says", cfg.Redis.Password)
	}
}

// TestModelHasAWindowOfItsOwn inherits what its block does not say.
func TestModelHasAWindowOfItsOwn(t *testing.T) {
	t.Parallel()
	cfg := load(t, app.LoadOptions{Files: []string{file(t, `
conversation: {serialize: true, ttl: 48h, window: {margin: 9}}
ai_model_services: {phi3: {conversation: {serialize: false, window: {strategy: last_n, last_n: 4}}}}
`)}})
	if got := cfg.Models["phi3"].Conversation; got.Serialize || got.Window.Strategy != "last_n" || got.Window.LastN != 4 || got.Window.Margin != 9 {
		t.Errorf("phi3 = %+v", got)
	}
	if got := cfg.Models["hermes"].Conversation; !got.Serialize || got.Window.Strategy != "token_budget" || got.Window.Margin != 9 {
		t.Errorf("hermes = %+v", got)
	}
	if cfg.Conversation.TTL != 48*time.Hour {
		t.Errorf("ttl = %s", cfg.Conversation.TTL)
	}
}

// TestConversationsInUp answers a second turn with the first in mind, stored where another process finds it.
func TestConversationsInUp(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{})
	c := dial(t, r.cfg)
	for i, text := range []string{"Hello", "And then?"} {
		got := converse(t, c, text)
		if got.Status != schemas.StatusCompleted || got.Turn == nil || got.Turn.State != schemas.TurnStored || got.Turn.Rev != int64(i+1) {
			t.Fatalf("result %s (%v), turn %+v", got.Status, got.Error, got.Turn)
		}
	}
	cfg := *r.cfg
	cfg.Redis.Listen = r.Redis
	store, closed, err := app.OpenConversations(t.Context(), &cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closed() }()
	s, err := store.Get(t.Context(), conversation.Ref{Tenant: cfg.Tenant, ID: "s"})
	if err != nil || s.Stats.Turns != 2 {
		t.Errorf("session = %+v (%v)", s, err)
	}
	status, body := get(t, "http://"+r.HTTP+"/readyz")
	if status != http.StatusOK || !strings.Contains(body, `"conversations":{"ok":true}`) {
		t.Errorf("readyz: %d %s", status, body)
	}
	_, metrics := get(t, "http://"+r.HTTP+"/metrics")
	for _, want := range []string{`hxp_session_jobs_total{model="phi3",outcome="stored"} 2`, `hxp_session_turns_total{status="finished"} 2`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
}

func converse(t *testing.T, c *app.Client, text string) *schemas.Result {
	t.Helper()
	job, err := app.Prompt{Model: "phi3", Text: text, MaxTokens: 4}.Job()
	if err != nil {
		t.Fatal(err)
	}
	job.Session = &schemas.Session{ID: "s"}
	got, err := c.Do(t.Context(), job)
	if got == nil {
		t.Fatal(err)
	}
	return got
}

// TestUpStartsWithoutItsRedis serves what needs no conversation.
func TestUpStartsWithoutItsRedis(t *testing.T) {
	t.Parallel()
	m := redisServer(t)
	addr := m.Addr()
	m.Close()
	r := up(t, quick(t, "redis.url=redis://"+addr), app.UpOptions{})
	c := dial(t, r.cfg)
	job, err := app.Prompt{Model: "phi3", Text: "Hello", MaxTokens: 4}.Job()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Do(t.Context(), job); err != nil || got.Status != schemas.StatusCompleted {
		t.Errorf("result %+v, %v", got, err)
	}
	status, body := get(t, "http://"+r.HTTP+"/readyz")
	if status != http.StatusOK || !strings.Contains(body, "jobs with a session wait") || !strings.Contains(body, addr) {
		t.Errorf("readyz: %d %s", status, body)
	}
	if err := m.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	if got := converse(t, c, "Hello"); got.Turn == nil || got.Turn.State != schemas.TurnStored {
		t.Errorf("result %s (%v), turn %+v", got.Status, got.Error, got.Turn)
	}
}

// TestRedisOfUpIsWhereItIsLookedFor names the setting if the address is taken.
func TestRedisOfUpIsWhereItIsLookedFor(t *testing.T) {
	t.Parallel()
	m := redisServer(t)
	cfg := quick(t, "redis.listen="+m.Addr(), "nats.listen=127.0.0.1:0", "http.listen=127.0.0.1:0")
	for name, inMemory := range map[string]bool{"server": false, "stand-in": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := app.Up(t.Context(), cfg, app.UpOptions{Data: t.TempDir(), InMemoryRedis: inMemory, Stderr: io.Discard})
			wantError(t, err, nil, "redis.listen", strings.TrimPrefix(m.Addr(), "127.0.0.1:"))
		})
	}
}

// TestWorkerWithoutRedisKeepsNoConversations, and says so.
func TestWorkerWithoutRedisKeepsNoConversations(t *testing.T) {
	t.Parallel()
	cfg := quick(t, "nats.url="+broker(t, server.Options{JetStream: true}), "http.listen=127.0.0.1:0", "ai_model_services.phi3.engine=sim",
		"service_network.internal_communication.localhost="+loopback(), "ai_model_services.phi3.port=11467")
	r := begin(t, cfg, func(ctx context.Context, r *role, started func(app.Running)) error {
		return app.Worker(ctx, cfg, app.WorkerOptions{Model: "phi3", Stderr: r.stderr, Started: started})
	})
	if want := "warning: redis.url is not set: jobs with a session are refused"; strings.Count(r.stderr.String(), want) != 1 {
		t.Errorf("stderr without %q, or with more than one:\n%s", want, r.stderr)
	}
	if got := converse(t, dial(t, cfg), "Hello"); got.Status != schemas.StatusFailed || got.Error.Param != "session" {
		t.Errorf("result %s, %v", got.Status, got.Error)
	}
	if _, body := get(t, "http://"+r.HTTP+"/readyz"); strings.Contains(body, "conversations") {
		t.Errorf("readyz speaks of conversations: %s", body)
	}
}

// TestWorkerWithRedis keeps them in the Redis that is configured.
func TestWorkerWithRedis(t *testing.T) {
	t.Parallel()
	m := redisServer(t)
	cfg := quick(t, "nats.url="+broker(t, server.Options{JetStream: true}), "http.listen=127.0.0.1:0", "ai_model_services.phi3.engine=sim",
		"service_network.internal_communication.localhost="+loopback(), "ai_model_services.phi3.port=11468", "redis.url=redis://"+m.Addr())
	begin(t, cfg, func(ctx context.Context, r *role, started func(app.Running)) error {
		return app.Worker(ctx, cfg, app.WorkerOptions{Model: "phi3", Stderr: r.stderr, Started: started})
	})
	if got := converse(t, dial(t, cfg), "Hello"); got.Turn == nil || got.Turn.State != schemas.TurnStored {
		t.Errorf("result %s (%v), turn %+v", got.Status, got.Error, got.Turn)
	}
}

func TestDoctorLooksAtRedis(t *testing.T) {
	t.Parallel()
	m := redisServer(t)
	addr := m.Addr()
	cfg, _ := install(t, "redis.url=redis://"+addr)
	find(t, diagnose(t, cfg), app.Fine, "Redis at redis://"+addr+" answers", "")
	m.Close()
	find(t, diagnose(t, cfg), app.Problem, "Redis at redis://"+addr+" does not answer", "redis.url")
	cfg.Redis.Addresses = []string{"127.0.0.1:1"}
	find(t, diagnose(t, cfg), app.Problem, "Redis at redis://"+addr+",127.0.0.1:1 does not answer", "redis.url")
	cfg.Redis.URL = ""
	find(t, diagnose(t, cfg), app.Problem, "Redis at 127.0.0.1:1 does not answer", "redis.url")
	cfg.Redis.Addresses, cfg.Redis.Listen = nil, addr
	find(t, diagnose(t, cfg), app.Fine, "no Redis is configured", "")
	cfg.Redis.URL = "http://x"
	find(t, diagnose(t, cfg), app.Problem, "Redis cannot be used", "redis.url")
}

// TestDoctorLooksAtEveryNode of a cluster.
func TestDoctorLooksAtEveryNode(t *testing.T) {
	t.Parallel()
	srv, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	m := redisServer(t) // says that it is a cluster of one
	cfg, _ := install(t, "redis.url=redis://"+m.Addr(), "redis.cluster=true")
	find(t, diagnose(t, cfg), app.Fine, "Redis at redis://"+m.Addr()+" answers", "")
	cfg.Redis.URL = "redis://" + srv.Addr() // knows of no cluster
	find(t, diagnose(t, cfg), app.Problem, "Redis at redis://"+srv.Addr()+" does not answer", "redis.url")
}

// TestDoctorLooksAtHowRedisKeeps starts real servers that would lose something.
func TestDoctorLooksAtHowRedisKeeps(t *testing.T) {
	t.Parallel()
	cfg, _ := install(t)
	srv, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: t.TempDir(), MaxMemory: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	set := func(name, value string) {
		t.Helper()
		if err := rdb.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Redis.URL = "redis://" + srv.Addr()
	if got := diagnose(t, cfg); !strings.Contains(fmt.Sprint(got), "Redis at "+cfg.Redis.URL+" answers") || strings.Contains(fmt.Sprint(got), "appendonly") {
		t.Errorf("findings of a good server: %+v", got)
	}
	set("maxmemory-policy", "allkeys-lru")
	find(t, diagnose(t, cfg), app.Problem, "Redis evicts with maxmemory-policy allkeys-lru", "noeviction")
	set("maxmemory-policy", "noeviction")
	set("appendonly", "no")
	find(t, diagnose(t, cfg), app.Warning, "Redis keeps its data in memory alone", "appendonly yes")
	set("save", "3600 1")
	find(t, diagnose(t, cfg), app.Warning, "Redis stores its data from time to time", "appendonly yes")
	if err := rdb.SetRange(t.Context(), "x", 6<<20, "x").Err(); err != nil {
		t.Fatal(err)
	}
	find(t, diagnose(t, cfg), app.Warning, "Redis uses ", "maxmemory")
}
