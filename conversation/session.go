package conversation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Session is a conversation without its turns.
type Session struct {
	Ref
	// User owns the session within the tenant; it is listed among theirs.
	User  string `json:"user"`
	Title string `json:"title,omitempty"`
	Model string `json:"model,omitempty"`
	// System is the system prompt, pinned to the front of every window.
	System   string            `json:"system,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// TTL is how long the session outlives its last change.
	TTL     time.Duration `json:"ttl_ns"`
	Created time.Time     `json:"created"`
	Updated time.Time     `json:"updated"`
	// Rev rises with each finished turn, each move of a head and each change of System.
	Rev int64 `json:"rev"`
	// Seq is the sequence number of the last message.
	Seq int64 `json:"seq"`
	// Branch is the active branch, Head its last turn: "" before the first one.
	Branch string `json:"branch"`
	Head   string `json:"head"`
	// Heads are all branches with a turn, by name.
	Heads map[string]string `json:"heads,omitempty"`
	// Pending are the turns in flight.
	Pending []string `json:"pending,omitempty"`
	// Messages, Bytes and Tokens are of what is stored; Tokens is an estimate.
	Messages int `json:"messages"`
	Bytes    int `json:"bytes"`
	Tokens   int `json:"tokens"`
	// Dropped is how many of the oldest turns have lost their messages, Forgotten how many are gone altogether.
	Dropped   int   `json:"dropped"`
	Forgotten int   `json:"forgotten"`
	Stats     Stats `json:"stats"`
}

// Stats are what a session has seen since it was created, whatever was dropped since.
type Stats struct {
	// Turns counts finished turns, Branches those of them that moved no head.
	Turns    int `json:"turns"`
	Branches int `json:"branches"`
	// Aborted counts turns that did not finish: kept, aborted, or in flight until their time was over.
	Aborted int `json:"aborted"`
	// Truncated counts turns whose window left something out.
	Truncated        int           `json:"truncated"`
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	LatencySum       time.Duration `json:"latency_sum_ns"`
	LatencyMax       time.Duration `json:"latency_max_ns"`
}

// NewSession is a session to create. Only Tenant is required.
type NewSession struct {
	Tenant string
	// ID is a new UUIDv7 by default.
	ID, User, Title, Model, System string
	// Metadata is bounded as a job's.
	Metadata map[string]string
	// TTL is the store's by default.
	TTL time.Duration
}

// DefaultBranch is the active branch of a new session.
const DefaultBranch = "main"

// Create stores a new session. To repeat it safely, give it an ID. It fails with [ErrExists] if there is one with this id, and with
// [ErrDeleted] if there was one until lately.
func (s *Store) Create(ctx context.Context, spec NewSession) (*Session, error) {
	return s.create(ctx, spec, contents{branch: DefaultBranch})
}

// contents is what a new session begins with.
type contents struct {
	branch    string
	heads     map[string]string
	turns     []Turn // oldest first, with everything but Seq
	summaries []Summary
}

func (s *Store) create(ctx context.Context, spec NewSession, with contents) (*Session, error) {
	if spec.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("create session: %w", err)
		}
		spec.ID = id.String()
	}
	if spec.TTL == 0 {
		spec.TTL = s.cfg.TTL
	}
	ref := Ref{Tenant: spec.Tenant, ID: spec.ID}
	if err := s.validate(ref, spec); err != nil {
		return nil, fmt.Errorf("create session: %w", err)
	}
	args, err := s.createArgs(spec, with)
	if err != nil {
		return nil, fmt.Errorf("create session %s: %w", ref.ID, err)
	}
	// The list comes first here: an entry without a session is found when the list is read, a
	// session without an entry would not be.
	if err := s.enlist(ctx, ref, spec.User, millis(time.Now()), spec.TTL); err != nil {
		return nil, fmt.Errorf("create session %s: %w", ref.ID, err)
	}
	if _, err := s.run(ctx, "create", ref, args...); err != nil {
		return nil, err
	}
	return s.Get(ctx, ref)
}

func (s *Store) validate(ref Ref, spec NewSession) error {
	if err := ref.validate(); err != nil {
		return err
	}
	for _, f := range []struct {
		name, value string
		bound       int
	}{
		{"user", spec.User, MaxUser}, {"title", spec.Title, MaxTitle}, {"model", spec.Model, MaxModel},
		{"system", spec.System, s.cfg.MaxSystemBytes},
	} {
		if err := tooLarge("bytes of "+f.name, len(f.value), f.bound); err != nil {
			return err
		}
		if !utf8.ValidString(f.value) {
			return invalid("%s is not UTF-8", f.name)
		}
	}
	if err := tooLarge("pairs of metadata", len(spec.Metadata), schemas.MaxMetadata); err != nil {
		return err
	}
	for k, v := range spec.Metadata {
		if err := tooLarge("bytes of a key of metadata", len(k), schemas.MaxMetadataKey); err != nil {
			return err
		}
		if err := tooLarge("bytes of a value of metadata", len(v), schemas.MaxMetadataValue); err != nil {
			return err
		}
	}
	if spec.TTL < time.Millisecond || spec.TTL > s.cfg.MaxTTL {
		return invalid("ttl is %s; want 1ms to %s", spec.TTL, s.cfg.MaxTTL)
	}
	return nil
}

// createArgs are the arguments of the create script. Turns are numbered here.
func (s *Store) createArgs(spec NewSession, with contents) ([]any, error) {
	now := millis(time.Now())
	var seq int64
	var messages, bytes, tokens, bare int
	places := make(map[string]place, len(with.turns))
	var turns []any
	for i := range with.turns {
		t := &with.turns[i]
		var body []byte
		if t.Dropped {
			bare++
		} else {
			var err error
			if body, err = encodeTurn(t); err != nil {
				return nil, fmt.Errorf("turn %.128q: %w", t.ID, err)
			}
			if err := tooLarge("bytes of the turn", len(body), s.cfg.MaxTurnBytes); err != nil {
				return nil, fmt.Errorf("turn %.128q: %w", t.ID, err)
			}
		}
		parent := places[t.Parent]
		p := place{
			parent: t.Parent, seq: seq + 1, n: len(t.Messages), bytes: len(body), tokens: t.Tokens, status: t.Status,
			depth: parent.depth + 1, messages: parent.messages + len(t.Messages), total: parent.total + t.Tokens,
		}
		if t.Dropped {
			p.n = max(1, t.lost) // it had messages, and they keep their numbers
			p.messages = parent.messages + p.n
		} else {
			messages, bytes, tokens = messages+p.n, bytes+p.bytes, tokens+p.tokens
		}
		seq += int64(p.n)
		places[t.ID] = p
		turns = append(turns, t.ID, p.String(), body)
	}
	if err := tooLarge("messages of the session", messages, s.cfg.MaxMessages); err != nil {
		return nil, err
	}
	if err := tooLarge("bytes of the session", bytes, s.cfg.MaxBytes); err != nil {
		return nil, err
	}
	metadata, err := json.Marshal(spec.Metadata)
	if err != nil {
		return nil, err
	}
	fields := []any{
		"tenant", spec.Tenant, "user", spec.User, "title", spec.Title, "model", spec.Model, "system", spec.System,
		"metadata", metadata, "ttl", spec.TTL.Milliseconds(), "created", now, "updated", now, "rev", 0, "seq", seq,
		"branch", with.branch, "messages", messages, "bytes", bytes, "tokens", tokens, "bare", bare, "forgotten", 0, "relinked", 0,
		"s_turns", 0, "s_branches", 0, "s_aborted", 0, "s_truncated", 0, "s_in", 0, "s_out", 0, "s_latency", 0, "s_latency_max", 0,
	}
	args := append([]any{
		uuid.NewString(), len(fields) / 2, len(with.turns), len(with.heads), len(with.summaries),
	}, fields...)
	args = append(args, turns...)
	for branch, turn := range with.heads {
		args = append(args, branch, turn)
	}
	for _, summary := range with.summaries {
		text, err := json.Marshal(summary)
		if err != nil {
			return nil, err
		}
		args = append(args, summary.Turn, text)
	}
	return args, nil
}

// Get returns a session.
func (s *Store) Get(ctx context.Context, ref Ref) (*Session, error) {
	r, err := s.run(ctx, "get", ref)
	if err != nil {
		return nil, err
	}
	return r.session(ref)
}

// session reads the three arrays that describe a session.
func (r *reply) session(ref Ref) (*Session, error) {
	m, heads, pending := r.fields(), r.fields(), r.texts()
	num := func(name string) int {
		n, err := strconv.Atoi(m[name])
		if err != nil {
			r.fail("%s of session %s is %.32q; want an integer", name, ref.ID, m[name])
		}
		return n
	}
	at := func(name string) time.Time { return time.UnixMilli(int64(num(name))).UTC() }
	span := func(name string) time.Duration { return time.Duration(num(name)) * time.Millisecond }
	out := &Session{
		Ref: ref, User: m["user"], Title: m["title"], Model: m["model"], System: m["system"],
		TTL: span("ttl"), Created: at("created"), Updated: at("updated"),
		Rev: int64(num("rev")), Seq: int64(num("seq")), Branch: m["branch"], Head: heads[m["branch"]], Heads: heads,
		Messages: num("messages"), Bytes: num("bytes"), Tokens: num("tokens"), Dropped: num("bare"), Forgotten: num("forgotten"),
		Stats: Stats{
			Turns: num("s_turns"), Branches: num("s_branches"), Aborted: num("s_aborted"), Truncated: num("s_truncated"),
			PromptTokens: num("s_in"), CompletionTokens: num("s_out"), LatencySum: span("s_latency"), LatencyMax: span("s_latency_max"),
		},
	}
	if len(pending) > 0 {
		slices.Sort(pending)
		out.Pending = pending
	}
	if err := json.Unmarshal([]byte(m["metadata"]), &out.Metadata); err != nil {
		r.fail("metadata of session %s: %w", ref.ID, err)
	}
	return out, r.err
}

// Update is a change of a session's fields. What is nil stays.
type Update struct {
	Title  *string
	Model  *string
	System *string
	// Metadata replaces all of it.
	Metadata map[string]string
	TTL      *time.Duration
	// ExpectRev refuses the change if the conversation has moved on.
	ExpectRev *int64
}

// Update changes a session and returns it. A change of the system prompt moves the revision on. What is
// so already stays, whatever is expected.
func (s *Store) Update(ctx context.Context, ref Ref, u Update) (*Session, error) {
	spec := NewSession{Metadata: u.Metadata, TTL: s.cfg.TTL}
	args := []any{millis(time.Now()), revision(u.ExpectRev)}
	for _, f := range []struct {
		name string
		from *string
		to   *string
	}{{"title", u.Title, &spec.Title}, {"model", u.Model, &spec.Model}, {"system", u.System, &spec.System}} {
		if f.from != nil {
			*f.to = *f.from
			args = append(args, f.name, *f.from)
		}
	}
	if u.Metadata != nil {
		metadata, err := json.Marshal(u.Metadata)
		if err != nil {
			return nil, fmt.Errorf("update session %s: %w", ref.ID, err)
		}
		args = append(args, "metadata", metadata)
	}
	if u.TTL != nil {
		spec.TTL = *u.TTL
		args = append(args, "ttl", spec.TTL.Milliseconds())
	}
	if err := s.validate(ref, spec); err != nil {
		return nil, fmt.Errorf("update session %s: %w", ref.ID, err)
	}
	r, err := s.run(ctx, "update", ref, args...)
	if err != nil {
		return nil, err
	}
	out, err := r.session(ref)
	if err != nil {
		return nil, err
	}
	s.relist(ctx, ref, out.User, millis(out.Updated), out.TTL)
	return out, nil
}

// Delete removes a session and leaves a tombstone. A session that is deleted already is [ErrDeleted].
func (s *Store) Delete(ctx context.Context, ref Ref) error {
	r, err := s.run(ctx, "delete", ref, millis(time.Now()), s.cfg.TombstoneTTL.Milliseconds())
	if err != nil {
		return err
	}
	user := r.text()
	if r.err != nil {
		return r.err
	}
	s.unlist(ctx, ref.Tenant, user, ref.ID)
	return nil
}
