package app_test

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/conversation"
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
