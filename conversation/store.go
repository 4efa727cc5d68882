package conversation

import (
	"context"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/schemas"
)

//go:embed scripts/*.lua
var scriptFiles embed.FS

// Store keeps sessions in Redis. It holds no state of its own and is safe for concurrent use.
type Store struct {
	rdb     redis.UniversalClient
	cfg     Config
	scripts map[string]*redis.Script
	metrics *metrics
}

// New returns a store on rdb, a client of one Redis, of a replicated one or of a cluster. It does no I/O and leaves rdb to its owner.
func New(rdb redis.UniversalClient, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("conversation store: %w", err)
	}
	s := &Store{rdb: rdb, cfg: cfg, scripts: make(map[string]*redis.Script)}
	for _, op := range operations {
		s.scripts[op] = redis.NewScript(scriptText("prelude") + scriptText(op))
	}
	s.scripts[listOp] = redis.NewScript(scriptText(listOp))
	var err error
	if s.metrics, err = newMetrics(cfg.Registry); err != nil {
		return nil, fmt.Errorf("conversation store: %w", err)
	}
	return s, nil
}

// scriptText returns an embedded script; a file that is missing is found by any test.
func scriptText(name string) string {
	text, err := scriptFiles.ReadFile("scripts/" + name + ".lua")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Ref names a session. Another tenant's session with the same id is another session.
type Ref struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
}

func (r Ref) validate() error {
	if err := schemas.CheckToken(r.Tenant); err != nil {
		return invalid("tenant %w", err)
	}
	if err := schemas.CheckToken(r.ID); err != nil {
		return invalid("session.id %w", err)
	}
	return nil
}

// keys are the session's keys, in the order that the scripts know.
func (s *Store) keys(r Ref) []string {
	tag := s.cfg.Prefix + ":c:{" + r.Tenant + ":" + r.ID + "}:"
	return []string{tag + "meta", tag + "idx", tag + "msgs", tag + "log", tag + "pend", tag + "sum", tag + "heads"}
}

// listKey is the key of a user's list. A user's name may hold anything, so it is encoded.
func (s *Store) listKey(tenant, user string) string {
	return s.cfg.Prefix + ":u:{" + tenant + ":" + base64.RawURLEncoding.EncodeToString([]byte(user)) + "}"
}

// run runs a script on a session and turns its reply into values, or into an error.
func (s *Store) run(ctx context.Context, op string, r Ref, args ...any) (reply, error) {
	if err := r.validate(); err != nil {
		return reply{}, fmt.Errorf("%s: %w", op, err)
	}
	values, err := s.eval(ctx, op, s.keys(r), args...)
	if err != nil {
		return reply{}, fmt.Errorf("%s session %s: %w", op, r.ID, err)
	}
	return values, nil
}

// eval runs a script within the store's timeout.
func (s *Store) eval(ctx context.Context, op string, keys []string, args ...any) (reply, error) {
	start := time.Now()
	short, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("no answer within %s", s.cfg.Timeout))
	defer cancel()
	raw, err := s.scripts[op].Run(short, s.rdb, keys, args...).Slice()
	var values reply
	if err = classify(ctx, err); err == nil {
		values, err = parseReply(raw)
	}
	s.metrics.observe(op, err, time.Since(start))
	return values, err
}

// reply is what a script answered after its first word, read from the front. The first value that is
// not as it should be makes every later one empty, and is the error.
type reply struct {
	word   string
	values []any
	err    error
}

// parseReply turns the refusals of scripts into errors.
func parseReply(raw []any) (reply, error) {
	if len(raw) == 0 {
		return reply{}, fmt.Errorf("%w: empty reply", ErrCorrupt)
	}
	word, _ := raw[0].(string)
	r := reply{word: word, values: raw[1:]}
	switch word {
	case "ok", "duplicate":
		return r, nil
	case "notfound":
		return r, ErrNotFound
	case "deleted":
		return r, ErrDeleted
	case "exists":
		return r, ErrExists
	case "noturn":
		return r, fmt.Errorf("%w: %.128q", ErrNoTurn, r.text())
	case "unfinished":
		return r, fmt.Errorf("%w: %.128q", ErrUnfinished, r.text())
	case "nobranch":
		return r, fmt.Errorf("%w: %.64q", ErrNoBranch, r.text())
	case "active":
		return r, fmt.Errorf("%w: %.64q", ErrActiveBranch, r.text())
	case "conflict":
		return r, &ConflictError{Have: r.int(), Pending: r.text(), Want: r.int()}
	case "toolarge":
		return r, &TooLargeError{Field: r.text(), Value: r.int(), Bound: r.int()}
	}
	return r, fmt.Errorf("%w: reply %.64q", ErrCorrupt, word)
}

func (r *reply) next() any {
	if len(r.values) == 0 {
		r.fail("reply ends early")
		return nil
	}
	v := r.values[0]
	r.values = r.values[1:]
	return v
}

func (r *reply) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %w", ErrCorrupt, fmt.Errorf(format, args...))
	}
}

func (r *reply) text() string {
	switch v := r.next().(type) {
	case string:
		return v
	case nil:
	default:
		r.fail("reply holds a %T; want a string", v)
	}
	return ""
}

func (r *reply) int() int64 {
	text := r.text()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		r.fail("reply holds %.32q; want an integer", text)
	}
	return n
}

func (r *reply) bool() bool { return r.text() == "1" }

// texts reads an array of strings.
func (r *reply) texts() []string {
	values, ok := r.next().([]any)
	if !ok {
		r.fail("reply lacks an array")
		return nil
	}
	inner := reply{values: values}
	out := make([]string, len(values))
	for i := range values {
		out[i] = inner.text()
	}
	if inner.err != nil {
		r.err = errors.Join(r.err, inner.err)
	}
	return out
}

// fields reads an array of names and values.
func (r *reply) fields() map[string]string {
	flat := r.texts()
	out := make(map[string]string, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		out[flat[i]] = flat[i+1]
	}
	return out
}

// millis is a time as it is stored.
func millis(t time.Time) int64 { return t.UnixMilli() }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// revision is an expected revision as scripts take it.
func revision(rev *int64) string {
	if rev == nil {
		return ""
	}
	return strconv.FormatInt(*rev, 10)
}
