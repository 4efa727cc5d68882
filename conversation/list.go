package conversation

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Thread is a session as a list shows it.
type Thread struct {
	Ref
	Title    string    `json:"title,omitempty"`
	Model    string    `json:"model,omitempty"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
	Turns    int       `json:"turns"`
	Messages int       `json:"messages"`
}

// ListQuery says which of a user's sessions to list.
type ListQuery struct {
	Tenant, User string
	// Title is a text that titles hold, in any case; "" is any title.
	Title string
	// Limit is how many to return. Defaults to 50; at most 1,000.
	Limit int
	// Cursor is where the page before ended.
	Cursor string
}

// Threads is one page of a list.
type Threads struct {
	Threads []Thread
	// Cursor is where the next page begins, "" if there is none. A page may be short and have a next one all the same.
	Cursor string
}

// grace is how young an entry of a list may be without a session: it may be on its way.
const grace = time.Minute

// listPage is how many sessions are looked at in one round trip.
const listPage = 100

// List returns a user's sessions, newest change first. It looks at no more than [Config.MaxScan] of
// them. Entries whose session is gone are removed, and those that are behind are brought up to date.
func (s *Store) List(ctx context.Context, q ListQuery) (*Threads, error) {
	q.Limit = cmp.Or(q.Limit, listPage/2)
	cur, err := s.listQuery(q)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	out, err := s.list(ctx, q, cur)
	if err != nil {
		return nil, fmt.Errorf("list sessions of tenant %s: %w", q.Tenant, err)
	}
	slices.SortStableFunc(out.Threads, newestFirst) // entries may have been behind
	return out, nil
}

func (s *Store) list(ctx context.Context, q ListQuery, cur cursor) (*Threads, error) {
	out := &Threads{}
	key := s.listKey(q.Tenant, q.User)
	for scanned := 0; scanned < s.cfg.MaxScan; {
		page, err := s.listPage(ctx, key, cur, min(listPage, s.cfg.MaxScan-scanned))
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			out.Cursor = ""
			return out, nil
		}
		threads, err := s.threads(ctx, q, key, page)
		if err != nil {
			return nil, err
		}
		for i, t := range threads {
			cur = page[i]
			if t == nil || q.Title != "" && !strings.Contains(strings.ToLower(t.Title), strings.ToLower(q.Title)) {
				continue
			}
			if out.Threads = append(out.Threads, *t); len(out.Threads) == q.Limit {
				out.Cursor = cur.String()
				return out, nil
			}
		}
		scanned += len(page)
		out.Cursor = cur.String()
	}
	return out, nil
}

func (s *Store) listQuery(q ListQuery) (cursor, error) {
	if err := schemas.CheckToken(q.Tenant); err != nil {
		return cursor{}, invalid("tenant %w", err)
	}
	if err := tooLarge("bytes of user", len(q.User), MaxUser); err != nil {
		return cursor{}, err
	}
	if err := tooLarge("bytes of title", len(q.Title), MaxTitle); err != nil {
		return cursor{}, err
	}
	if q.Limit < 0 {
		return cursor{}, invalid("limit is %d; want 1 to 1000", q.Limit)
	}
	if err := tooLarge("limit", q.Limit, 1000); err != nil {
		return cursor{}, err
	}
	return parseCursor(q.Cursor)
}

// cursor is a place in a list: after this entry.
type cursor struct {
	score int64
	id    string
}

func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(c.score, 10) + ":" + c.id))
}

func parseCursor(text string) (cursor, error) {
	if text == "" {
		return cursor{score: math.MaxInt64}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	score, id, _ := strings.Cut(string(raw), ":")
	n, err2 := strconv.ParseInt(score, 10, 64)
	if err != nil || err2 != nil || schemas.CheckToken(id) != nil {
		return cursor{}, invalid("cursor is %.64q; want one that a list returned", text)
	}
	return cursor{n, id}, nil
}

// listPage reads the entries after cur. Those of one millisecond are in the order of their ids, downwards.
func (s *Store) listPage(ctx context.Context, key string, cur cursor, n int) ([]cursor, error) {
	top := "+inf"
	if cur.id != "" {
		top = strconv.FormatInt(cur.score, 10)
	}
	for offset := 0; ; offset += n {
		short, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		found, err := s.rdb.ZRevRangeByScoreWithScores(short, key, &redis.ZRangeBy{
			Min: "-inf", Max: top, Offset: int64(offset), Count: int64(n),
		}).Result()
		cancel()
		if err != nil {
			return nil, classify(ctx, err)
		}
		var out []cursor
		for _, z := range found {
			id, _ := z.Member.(string)
			if entry := (cursor{int64(z.Score), id}); cur.id == "" || entry.score < cur.score || entry.id < cur.id {
				out = append(out, entry)
			}
		}
		if len(out) > 0 || len(found) < n {
			return out, nil
		}
	}
}

// threadFields are what a list shows, in the order that threads knows.
var threadFields = []string{"deleted", "ttl", "title", "model", "created", "updated", "s_turns", "messages"}

// threads reads what a list shows of sessions, in one round trip, and repairs the list. An entry without a session is nil.
func (s *Store) threads(ctx context.Context, q ListQuery, key string, page []cursor) ([]*Thread, error) {
	short, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	pipe := s.rdb.Pipeline()
	cmds := make([]*redis.SliceCmd, len(page))
	for i, entry := range page {
		cmds[i] = pipe.HMGet(short, s.keys(Ref{q.Tenant, entry.id})[0], threadFields...)
	}
	if _, err := pipe.Exec(short); err != nil {
		return nil, classify(ctx, err)
	}
	out := make([]*Thread, len(page))
	var gone []any
	var late []redis.Z
	for i, cmd := range cmds {
		var text [8]string
		for j, v := range cmd.Val() {
			text[j], _ = v.(string)
		}
		if text[1] == "" {
			if text[0] != "" || time.Since(time.UnixMilli(page[i].score)) > grace {
				gone = append(gone, page[i].id)
			}
			continue
		}
		num := func(field int) int64 {
			n, _ := strconv.ParseInt(text[field], 10, 64) // Get says what is wrong with it
			return n
		}
		out[i] = &Thread{
			Ref: Ref{q.Tenant, page[i].id}, Title: text[2], Model: text[3],
			Created: time.UnixMilli(num(4)).UTC(), Updated: time.UnixMilli(num(5)).UTC(), Turns: int(num(6)), Messages: int(num(7)),
		}
		if num(5) > page[i].score {
			late = append(late, redis.Z{Score: float64(num(5)), Member: page[i].id})
		}
	}
	if len(gone) > 0 {
		if err := s.rdb.ZRem(short, key, gone...).Err(); err != nil {
			return nil, classify(ctx, err)
		}
	}
	if len(late) > 0 {
		if err := s.rdb.ZAdd(short, key, late...).Err(); err != nil {
			return nil, classify(ctx, err)
		}
	}
	return out, nil
}

// enlist puts a session into its user's list. A list that is full is first rid of sessions that are gone.
func (s *Store) enlist(ctx context.Context, ref Ref, user string, updated int64, ttl time.Duration) error {
	key := s.listKey(ref.Tenant, user)
	for try := 0; ; try++ {
		_, err := s.eval(ctx, listOp, []string{key}, ref.ID, updated, ttl.Milliseconds(), s.cfg.MaxSessions)
		if !errors.Is(err, ErrTooLarge) || try == 1 {
			return err
		}
		if err := s.sweep(ctx, ref.Tenant, user); err != nil {
			return err
		}
	}
}

// sweep looks at the oldest entries of a list, which repairs it.
func (s *Store) sweep(ctx context.Context, tenant, user string) error {
	key := s.listKey(tenant, user)
	short, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	oldest, err := s.rdb.ZRangeWithScores(short, key, 0, listPage-1).Result()
	if err != nil {
		return classify(ctx, err)
	}
	page := make([]cursor, len(oldest))
	for i, z := range oldest {
		id, _ := z.Member.(string)
		page[i] = cursor{int64(z.Score), id}
	}
	if len(page) > 0 {
		_, err = s.threads(ctx, ListQuery{Tenant: tenant, User: user}, key, page)
	}
	return err
}

// relist tells a user's list of a change that has been made. What it misses is repaired when the list
// is read, so the change stands; the miss is counted.
func (s *Store) relist(ctx context.Context, ref Ref, user string, updated int64, ttl time.Duration) {
	if err := s.enlist(ctx, ref, user, updated, ttl); err != nil {
		s.metrics.unlisted.Inc()
	}
}

// unlist is relist for a session that was deleted.
func (s *Store) unlist(ctx context.Context, tenant, user, id string) {
	short, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := s.rdb.ZRem(short, s.listKey(tenant, user), id).Err(); err != nil {
		s.metrics.unlisted.Inc()
	}
}

// newestFirst orders threads as a list does.
func newestFirst(a, b Thread) int {
	return cmp.Or(b.Updated.Compare(a.Updated), strings.Compare(b.ID, a.ID))
}
