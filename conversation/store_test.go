package conversation_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/schemas"
)

// private starts a Redis for one test.
func private(t *testing.T, cfg embedded.RedisConfig) (*embedded.Redis, *redis.Client) {
	t.Helper()
	srv, err := embedded.StartRedis(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	c := redis.NewClient(&redis.Options{Addr: srv.Addr(), PoolSize: 32, ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return srv, c
}

func on(t testing.TB, rdb redis.UniversalClient, cfg conversation.Config) *env {
	t.Helper()
	return open(t, backend{"own", func() (redis.UniversalClient, error) { return rdb, nil }}, cfg)
}

// redis-server is killed under load and started again: every turn that was acknowledged is there, once.
func TestRedisKilledUnderLoad(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	srv, _ := private(t, embedded.RedisConfig{Dir: path})
	c := redis.NewClient(&redis.Options{Addr: srv.Addr(), PoolSize: 32, MaxRetries: -1})
	t.Cleanup(func() { c.Close() })
	if err := c.ConfigSet(t.Context(), "appendfsync", "always").Err(); err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "process_id:")
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\r\n", 2)[0]))
	if err != nil {
		t.Fatal(err)
	}
	e := on(t, c, conversation.Config{Timeout: 2 * time.Second})
	ref := e.session(conversation.NewSession{})
	const writers, turns = 8, 20 // and more, until somebody has noticed
	var acked, away atomic.Int64
	half, back := make(chan struct{}), make(chan struct{})
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := 0; i < turns || away.Load() == 0; i++ {
				for {
					_, err := e.Append(t.Context(), ref, turn(fmt.Sprintf("w%d-%d", w, i), ""))
					if err == nil {
						break
					}
					if !errors.Is(err, conversation.ErrUnavailable) {
						return err
					}
					away.Add(1)
					<-back
				}
				if acked.Add(1) == writers*turns/2 {
					close(half)
				}
			}
			return nil
		})
	}
	<-half
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-srv.Done()
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(srv.Addr())
	n, _ := strconv.Atoi(port)
	again, err := embedded.StartRedis(t.Context(), embedded.RedisConfig{Dir: path, Port: n})
	if err != nil {
		close(back)
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	close(back)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	tree, err := e.Tree(t.Context(), ref, true)
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
	if n := int(acked.Load()); len(tree.Turns) != n || tree.Session.Stats.Turns != n {
		t.Errorf("%d turns, %d counted, want %d", len(tree.Turns), tree.Session.Stats.Turns, n)
	}
}

// Every call says that Redis is away, and of a caller that gave up it does not.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	srv, c := private(t, embedded.RedisConfig{InMemory: true})
	e := on(t, c, conversation.Config{Timeout: 2 * time.Second})
	ref := e.session(conversation.NewSession{User: "u"})
	e.say(ref, "a", "")
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func(context.Context) error{
		"Create": func(ctx context.Context) error {
			_, err := e.Create(ctx, conversation.NewSession{Tenant: "acme"})
			return err
		},
		"Get":    func(ctx context.Context) error { _, err := e.Get(ctx, ref); return err },
		"Update": func(ctx context.Context) error { _, err := e.Update(ctx, ref, conversation.Update{}); return err },
		"Append": func(ctx context.Context) error { _, err := e.Append(ctx, ref, turn("b", "t-a")); return err },
		"Begin": func(ctx context.Context) error {
			_, err := e.Begin(ctx, ref, conversation.BeginTurn{Job: "b"})
			return err
		},
		"Abort":  func(ctx context.Context) error { return e.Abort(ctx, ref, "b") },
		"Path":   func(ctx context.Context) error { _, err := e.Path(ctx, ref, conversation.PathQuery{}); return err },
		"Turns":  func(ctx context.Context) error { _, err := e.Turns(ctx, ref, "t-a"); return err },
		"Tree":   func(ctx context.Context) error { _, err := e.Tree(ctx, ref, false); return err },
		"Export": func(ctx context.Context) error { _, err := e.Export(ctx, ref); return err },
		"ExportShareGPT": func(ctx context.Context) error {
			_, _, err := e.ExportShareGPT(ctx, ref, "")
			return err
		},
		"Import": func(ctx context.Context) error {
			_, err := e.ImportShareGPT(ctx, strings.NewReader(`{}`), conversation.NewSession{Tenant: "acme"})
			return err
		},
		"Fork": func(ctx context.Context) error { _, err := e.Fork(ctx, ref, "", conversation.NewSession{}); return err },
		"List": func(ctx context.Context) error {
			_, err := e.List(ctx, conversation.ListQuery{Tenant: "acme"})
			return err
		},
		"SetHead": func(ctx context.Context) error {
			_, err := e.SetHead(ctx, ref, conversation.Head{Branch: "b"})
			return err
		},
		"PutSummary": func(ctx context.Context) error {
			return e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-a", Text: "x"})
		},
		"Delete": func(ctx context.Context) error { return e.Delete(ctx, ref) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := call(context.Background())
			is(t, name, err, conversation.ErrUnavailable)
			if wire := conversation.WireError(err); !wire.Retryable {
				t.Errorf("WireError = %+v, want it retryable", wire)
			}
			err = call(gone)
			if is(t, name, err, context.Canceled); errors.Is(err, conversation.ErrUnavailable) {
				t.Errorf("%s of a caller that gave up = %v", name, err)
			}
		})
	}
}

// A Redis that takes connections and says nothing, or refuses for now, is away too.
func TestRedisAilsOrIsFull(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	mute := redis.NewClient(&redis.Options{Addr: l.Addr().String(), ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true, Protocol: 2})
	t.Cleanup(func() { mute.Close() })
	e := on(t, mute, conversation.Config{Timeout: 50 * time.Millisecond})
	_, err = e.Get(t.Context(), conversation.Ref{Tenant: "acme", ID: "s"})
	is(t, "Get of a mute server", err, conversation.ErrUnavailable)

	_, c := private(t, embedded.RedisConfig{Dir: t.TempDir()})
	e = on(t, c, conversation.Config{})
	ref := e.session(conversation.NewSession{})
	if err := c.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	_, err = e.Append(t.Context(), ref, turn("a", ""))
	is(t, "Append to a full server", err, conversation.ErrUnavailable)
	if err := c.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	e.say(ref, "a", "")
	if err := c.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	e.say(ref, "b", "t-a") // the script is sent again
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get(t.Context(), ref); !errors.Is(err, redis.ErrClosed) || errors.Is(err, conversation.ErrUnavailable) {
		t.Errorf("Get with a closed client = %v", err)
	}
}

// hook changes what the client sees of a command.
type hook func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return h(ctx, cmd, next) }
}

// A create whose answer was lost is asked again by the client: it has made the session.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	_, c := private(t, embedded.RedisConfig{InMemory: true})
	c.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if err := next(ctx, cmd); err != nil {
			return err
		}
		return next(ctx, cmd)
	}))
	e := on(t, c, conversation.Config{})
	ref := e.session(conversation.NewSession{User: "u"})
	if got := e.say(ref, "a", ""); !got.Duplicate || got.Head != "t-a" {
		t.Errorf("Append = %+v", got)
	}
	four := int64(1)
	if rev, err := e.SetHead(t.Context(), ref, conversation.Head{Branch: "b", Turn: "t-a", ExpectRev: &four}); err != nil || rev != 2 {
		t.Errorf("SetHead = %d, %v", rev, err)
	}
	if s := e.get(ref); s.Stats.Turns != 1 || s.Rev != 2 {
		t.Errorf("session = %+v", s)
	}
}

// Replies that no script gives are errors.
func TestRepliesOfNoScript(t *testing.T) {
	t.Parallel()
	_, c := private(t, embedded.RedisConfig{InMemory: true})
	var answer atomic.Pointer[[]any]
	c.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if x, ok := cmd.(*redis.Cmd); ok && answer.Load() != nil {
			x.SetVal(*answer.Load())
			return nil
		}
		return next(ctx, cmd)
	}))
	e := on(t, c, conversation.Config{})
	ref := e.session(conversation.NewSession{})
	meta := []any{"metadata", "{}"}
	wellFormed := map[string]string{"Delete": "string", "SetHead": "string", "Turns": "[]interface {}"}
	for _, reply := range [][]any{
		{}, {"what"}, {int64(5)}, {"ok"}, {"ok", "x", int64(1), "a", nil, "b", "c", "d"}, {"ok", []any{int64(1)}, []any{}, []any{}},
		{"ok", meta, []any{}, []any{}, "main"},
		{"ok", "1", "1", []any{}, meta, []any{}, []any{}, []any{"t-a", "["}},
		{"duplicate", "x"},
	} {
		answer.Store(&reply)
		for name, call := range map[string]func() error{
			"Get":     func() error { _, err := e.Get(t.Context(), ref); return err },
			"Update":  func() error { _, err := e.Update(t.Context(), ref, conversation.Update{}); return err },
			"Append":  func() error { _, err := e.Append(t.Context(), ref, turn("a", "")); return err },
			"Path":    func() error { _, err := e.Path(t.Context(), ref, conversation.PathQuery{}); return err },
			"Turns":   func() error { _, err := e.Turns(t.Context(), ref, "t-a"); return err },
			"Tree":    func() error { _, err := e.Tree(t.Context(), ref, true); return err },
			"SetHead": func() error { _, err := e.SetHead(t.Context(), ref, conversation.Head{Branch: "b"}); return err },
			"Begin":   func() error { _, err := e.Begin(t.Context(), ref, conversation.BeginTurn{Job: "a"}); return err },
			"Delete":  func() error { return e.Delete(t.Context(), ref) },
		} {
			err := call()
			if err == nil && wellFormed[name] != "" && fmt.Sprintf("%T", reply[1]) == wellFormed[name] {
				continue // all that it looks at is as it should be
			}
			is(t, fmt.Sprintf("%s with %v", name, reply), err, conversation.ErrCorrupt)
		}
	}
}

// Damage in Redis is an error, not a panic and not a silent loss.
func TestDamage(t *testing.T) {
	t.Parallel()
	e := open(t, realRedis, conversation.Config{})
	ctx := t.Context()
	for name, tt := range map[string]struct{ key, field, value string }{
		"rev": {"meta", "rev", "x"}, "metadata": {"meta", "metadata", "["},
		"entry parts": {"idx", "t-a", "a|b"}, "entry number": {"idx", "t-a", "|1|2|3|x|f|1|2|3"}, "entry status": {"idx", "t-a", "|1|2|3|4|z|1|2|3"},
		"body": {"msgs", "t-a", "["}, "count": {"msgs", "t-a", `{"m":[{}],"k":[1]}`}, "summary": {"sum", "t-a", "["},
	} {
		ref := e.session(conversation.NewSession{})
		e.say(ref, "a", "")
		key := fmt.Sprintf("%s:c:{%s:%s}:%s", e.prefix, ref.Tenant, ref.ID, tt.key)
		if err := e.rdb.HSet(ctx, key, tt.field, tt.value).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Path(ctx, ref, conversation.PathQuery{}); err == nil {
			t.Errorf("%s: Path reads it", name)
		}
		if _, err := e.Export(ctx, ref); err == nil {
			t.Errorf("%s: Export reads it", name)
		}
	}
}

// A user's list that cannot be written does not undo what was stored; it is counted.
func TestListMissed(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	e := open(t, realRedis, conversation.Config{Registry: reg})
	ctx := t.Context()
	ref := e.session(conversation.NewSession{})
	for _, key := range e.keys() {
		if strings.Contains(key, ":u:") {
			if err := e.rdb.Set(ctx, key, "x", time.Hour).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.say(ref, "a", "")
	if _, err := e.List(ctx, conversation.ListQuery{Tenant: "acme"}); err == nil {
		t.Error("List reads a text")
	}
	if err := e.Delete(ctx, ref); err != nil {
		t.Error(err)
	}
	if _, err := e.Create(ctx, conversation.NewSession{Tenant: "acme"}); err == nil || errors.Is(err, conversation.ErrUnavailable) {
		t.Errorf("Create = %v", err)
	}
	if got := value(t, reg, "hxp_session_list_misses_total"); got != 2 {
		t.Errorf("misses = %v, want 2", got)
	}
}

// value is the sum over a metric's series.
func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
			return sum
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	e := open(t, standIn, conversation.Config{Registry: reg, MaxMessages: 4})
	open(t, standIn, conversation.Config{Registry: reg}) // shares them
	ref := e.session(conversation.NewSession{})
	x := turn("a", "")
	x.Usage, x.Truncated, x.Latency = schemas.Usage{PromptTokens: 7, CompletionTokens: 3}, true, time.Second
	e.add(ref, x)
	e.add(ref, x)
	e.say(ref, "b", "")
	e.say(ref, "c", "t-a")
	y := turn("d", "t-a")
	y.Status = conversation.Blocked
	e.add(ref, y)
	for name, want := range map[string]float64{
		"hxp_session_turns_total": 4, "hxp_session_tokens_total": 10, "hxp_session_truncations_total": 1, "hxp_session_branches_total": 1,
		"hxp_session_dropped_messages_total": 4, "hxp_session_list_misses_total": 0, "hxp_session_turn_duration_seconds": 3,
	} {
		if got := value(t, reg, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "hxp_session_turns_total", Help: "Another."}))
	if _, err := conversation.New(e.rdb, conversation.Config{Registry: other}); err == nil || !strings.Contains(err.Error(), "register metrics") {
		t.Errorf("New = %v", err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	_, err := conversation.New(nil, conversation.Config{
		Prefix: "{", TTL: time.Hour, MaxTTL: time.Minute, Timeout: -1, MaxMessages: -1, MaxTurnBytes: 1 << 30, MaxTurnMessages: 1,
	})
	for _, want := range []string{
		`Prefix is "{"`, "TTL is 1h0m0s; want at most MaxTTL, 1m0s", "Timeout is -1ns", "MaxMessages is -1; want 1 to", "MaxTurnBytes is 1073741824; want 1 to 8388608",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q in it", err, want)
		}
	}
}

func TestWireError(t *testing.T) {
	t.Parallel()
	if conversation.WireError(nil) != nil {
		t.Error("an error out of nothing")
	}
	own := schemas.Errorf(schemas.CodeRateLimited, "slow down")
	for err, want := range map[error]struct {
		code  schemas.Code
		param string
	}{
		conversation.ErrNotFound: {schemas.CodeInvalidRequest, "session.id"}, conversation.ErrDeleted: {schemas.CodeInvalidRequest, "session.id"},
		conversation.ErrNoTurn: {schemas.CodeInvalidRequest, "session.parent"}, conversation.ErrUnfinished: {schemas.CodeInvalidRequest, "session.parent"},
		conversation.ErrTooLarge: {schemas.CodePayloadTooLarge, "session"}, conversation.ErrExists: {schemas.CodeInvalidRequest, "session"},
		conversation.ErrWindow: {schemas.CodeContextLengthExceeded, "messages"}, conversation.ErrConflict: {schemas.CodeSessionConflict, "session"},
		conversation.ErrUnavailable: {schemas.CodeInternal, ""}, own: {schemas.CodeRateLimited, ""},
	} {
		got := conversation.WireError(fmt.Errorf("try: %w", err))
		if got.Code != want.code || got.Param != want.param {
			t.Errorf("WireError(%v) = %+v, want %v", err, got, want)
		}
	}
}

// A tree that changes while it is read is read again.
func TestTreeChangesInTheMiddle(t *testing.T) {
	t.Parallel()
	srv, c := private(t, embedded.RedisConfig{InMemory: true})
	plain := redis.NewClient(&redis.Options{Addr: srv.Addr()})
	t.Cleanup(func() { plain.Close() })
	e := on(t, plain, conversation.Config{})
	ref := e.session(conversation.NewSession{})
	for i := range 20 {
		x := turn(fmt.Sprint(i), "")
		x.Status = conversation.Interrupted
		e.add(ref, x)
	}
	var pages, changes atomic.Int64
	changes.Store(1)
	c.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		err := next(ctx, cmd)
		if n := pages.Add(1); n <= changes.Load() {
			if _, err := e.Append(ctx, ref, turn(fmt.Sprint(n-1), "")); err != nil {
				return err
			}
		}
		return err
	}))
	// The scripts are there already, so each page is one command.
	if _, err := e.Tree(t.Context(), ref, true); err != nil {
		t.Fatal(err)
	}
	slow := on(t, c, conversation.Config{Prefix: e.prefix})
	tree, err := slow.Tree(t.Context(), ref, true)
	if err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
	if len(tree.Turns) != 20 || pages.Load() != 4 {
		t.Errorf("%d turns after %d pages", len(tree.Turns), pages.Load())
	}
	pages.Store(1)
	changes.Store(100)
	_, err = slow.Tree(t.Context(), ref, true)
	is(t, "Tree that changes all the time", err, conversation.ErrUnavailable)
}
