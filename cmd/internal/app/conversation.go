package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// Conversation is how sessions are kept in Redis. All processes on one Redis must agree on Prefix.
type Conversation struct {
	Prefix string `config:"prefix"`
	// TTL is how long a session outlives its last change, TombstoneTTL how long a deleted one cannot come back.
	TTL          time.Duration `config:"ttl"`
	TombstoneTTL time.Duration `config:"tombstone_ttl"`
	// PendingTTL is how long a turn counts as in flight after its worker was last heard of.
	PendingTTL time.Duration `config:"pending_ttl"`
	// MaxMessages and MaxBytes bound a session. Beyond them the oldest messages go.
	MaxMessages int   `config:"max_messages"`
	MaxBytes    Bytes `config:"max_bytes"`
	// MaxSessions bounds the sessions of one user. Those of jobs that name no user have the same owner.
	MaxSessions int `config:"max_sessions"`
	// Timeout bounds one call to Redis.
	Timeout time.Duration `config:"timeout"`
	// CommitTimeout is how long the end of a job waits for its turn to be stored.
	CommitTimeout time.Duration `config:"commit_timeout"`
	// Serialize refuses a turn while another of its session is in flight. Otherwise the two branch.
	Serialize bool   `config:"serialize"`
	Window    Window `config:"window"`
}

// ModelConversation is what a model has of its own.
type ModelConversation struct {
	Serialize bool   `config:"serialize"`
	Window    Window `config:"window"`
}

// Window is what of a history a model is shown.
type Window struct {
	// Strategy is token_budget, last_n, summarize or error.
	Strategy string `config:"strategy"`
	// LastN is how many turns last_n keeps.
	LastN int `config:"last_n"`
	// Keep is the part of the room that is used after something was left out.
	Keep float64 `config:"keep"`
	// Margin is kept free, beside the reply's room.
	Margin int `config:"margin"`
	// SummaryTokens is the room of a summary.
	SummaryTokens int `config:"summary_tokens"`
	// ReplyTokens is the room of a reply whose request sets no max_tokens; 0 is the smaller of 1024 and a quarter of the window.
	ReplyTokens int `config:"reply_tokens"`
}

// store is how package conversation takes it.
func (c Conversation) store(reg *prometheus.Registry) conversation.Config {
	return conversation.Config{
		Prefix: c.Prefix, TTL: c.TTL, TombstoneTTL: c.TombstoneTTL, PendingTTL: c.PendingTTL,
		MaxMessages: c.MaxMessages, MaxBytes: int(c.MaxBytes), MaxSessions: c.MaxSessions, Timeout: c.Timeout, Registry: reg,
	}
}

// sessions is how the worker of a model treats jobs with a session.
func (c *Config) sessions(model string) workers.Sessions {
	m := c.Models[model].Conversation
	return workers.Sessions{
		Strategy: schemas.WindowStrategy(m.Window.Strategy), LastN: m.Window.LastN, Keep: m.Window.Keep, Margin: m.Window.Margin,
		SummaryTokens: m.Window.SummaryTokens, ReplyTokens: m.Window.ReplyTokens, Serialize: m.Serialize, CommitTimeout: c.Conversation.CommitTimeout,
	}
}

// talks are the conversations of a process. The zero value keeps none.
type talks struct {
	store *conversation.Store
	rdb   redis.UniversalClient
	where Redis
}

// pingTimeout bounds the question whether Redis is there, for a person or a probe that waits.
const pingTimeout = time.Second

// check is the line of /readyz. Jobs without a session are served whatever it says.
func (t *talks) check(ctx context.Context) workers.Check {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := t.rdb.Ping(ctx).Err(); err != nil {
		return workers.Check{Detail: "jobs with a session wait: " + explainRedis(t.where, err).Error()}
	}
	return workers.Check{OK: true}
}

// OpenConversations returns the conversations in the configured Redis, or in that of an hxp up on this
// machine, and what closes its connections. [ErrCannotConnect] if no Redis answers there, [ErrNotAllowed] if it
// turns the user away. reg receives the metrics; nil keeps them to the store.
func OpenConversations(ctx context.Context, cfg *Config, reg *prometheus.Registry) (*conversation.Store, func() error, error) {
	t, err := openConversations(cfg, cfg.Redis, "hxp", reg)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Conversation.Timeout)
	defer cancel()
	if err := t.rdb.Ping(ctx).Err(); err != nil {
		return nil, nil, errors.Join(explainRedis(cfg.Redis, err), t.rdb.Close())
	}
	return t.store, t.rdb.Close, nil
}

// openConversations makes a client of a Redis and a store on it. It does no I/O: a Redis that is away may come.
func openConversations(cfg *Config, where Redis, name string, reg *prometheus.Registry) (*talks, error) {
	o, err := where.options(name)
	if err != nil {
		return nil, fmt.Errorf("redis.url: %w", err)
	}
	logging.Disable() // of the whole library: it writes to stderr what the calls return as errors
	rdb := redis.NewUniversalClient(o)
	store, err := conversation.New(rdb, cfg.Conversation.store(reg))
	if err != nil {
		return nil, errors.Join(err, rdb.Close())
	}
	return &talks{store, rdb, where}, nil
}

// explainRedis says in words why a Redis cannot be used.
func explainRedis(r Redis, err error) error {
	for _, prefix := range []string{"NOAUTH", "WRONGPASS", "NOPERM"} {
		if redis.HasErrorPrefix(err, prefix) {
			return fmt.Errorf("%w: Redis at %s: %w: check redis.url (REDIS_URL), redis.user and REDIS_PASSWORD", ErrNotAllowed, r.shown(), err)
		}
	}
	hint := "is it running? set redis.url (REDIS_URL) to where it is"
	if !r.configured() {
		hint = "is an hxp up running? otherwise set redis.url (REDIS_URL)"
	}
	return fmt.Errorf("%w to Redis at %s: %w: %s", ErrCannotConnect, r.shown(), err, hint)
}

func validateConversation(c Conversation, f *faults) {
	const most = 400 * 24 * time.Hour
	if c.Prefix == "" || strings.ContainsAny(c.Prefix, "{}") {
		f.add("conversation.prefix", "%q is not what a key may begin with; want some text without braces", c.Prefix)
	}
	between(f, "conversation.ttl", c.TTL, time.Second, most)
	between(f, "conversation.tombstone_ttl", c.TombstoneTTL, time.Second, most)
	between(f, "conversation.pending_ttl", c.PendingTTL, time.Second, 24*time.Hour)
	between(f, "conversation.max_messages", c.MaxMessages, 1, 1<<20)
	between(f, "conversation.max_bytes", c.MaxBytes, 1<<10, 1<<28)
	between(f, "conversation.max_sessions", c.MaxSessions, 1, 1<<20)
	between(f, "conversation.timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	between(f, "conversation.commit_timeout", c.CommitTimeout, 10*time.Millisecond, time.Minute)
	validateWindow(c.Window, "conversation.window", f)
}

func validateWindow(w Window, path string, f *faults) {
	if !schemas.WindowStrategy(w.Strategy).Valid() {
		f.add(path+".strategy", "%q is none of token_budget, last_n, summarize, error", w.Strategy)
	}
	between(f, path+".last_n", w.LastN, 1, 10_000)
	fraction(f, path+".keep", w.Keep)
	between(f, path+".margin", w.Margin, 0, 1<<20)
	between(f, path+".summary_tokens", w.SummaryTokens, 1, 1<<20)
	between(f, path+".reply_tokens", w.ReplyTokens, 0, 1<<20)
}
