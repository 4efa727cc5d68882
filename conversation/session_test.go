package conversation_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/hxp-enterprise/hxp/conversation"
)

func TestSessions(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ctx := t.Context()
		spec := conversation.NewSession{
			Tenant: "acme", ID: "s1", User: "Zoë {x}:y", Title: "First", Model: "hermes", System: "Be <brief>.",
			Metadata: map[string]string{"k": "v"}, TTL: time.Hour,
		}
		got, err := e.Create(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		want := &conversation.Session{
			Ref: conversation.Ref{Tenant: "acme", ID: "s1"}, User: spec.User, Title: "First", Model: "hermes", System: "Be <brief>.",
			Metadata: spec.Metadata, TTL: time.Hour, Branch: "main", Heads: map[string]string{},
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(conversation.Session{}, "Created", "Updated")); diff != "" {
			t.Error(diff)
		}
		_, err = e.Create(ctx, spec)
		is(t, "Create again", err, conversation.ErrExists)

		title, system, ttl := "Second", "Be long.", 2*time.Hour
		if got, err = e.Update(ctx, want.Ref, conversation.Update{Title: &title}); err != nil || got.Title != title || got.Rev != 0 {
			t.Errorf("Update = %+v, %v", got, err)
		}
		rev := int64(0)
		u := conversation.Update{System: &system, Model: &title, TTL: &ttl, Metadata: map[string]string{}, ExpectRev: &rev}
		if got, err = e.Update(ctx, want.Ref, u); err != nil || got.System != system || got.Model != title || got.TTL != ttl || len(got.Metadata) != 0 || got.Rev != 1 {
			t.Errorf("Update = %+v, %v", got, err)
		}
		if got, err = e.Update(ctx, want.Ref, u); err != nil || got.Rev != 1 { // asked again
			t.Errorf("Update = %+v, %v", got, err)
		}
		u.Title = &spec.Title
		_, err = e.Update(ctx, want.Ref, u)
		is(t, "Update of an old revision", err, conversation.ErrConflict)
		long := 500 * 24 * time.Hour
		_, err = e.Update(ctx, want.Ref, conversation.Update{TTL: &long})
		is(t, "Update of ttl", err, conversation.ErrInvalid)

		if err := e.Delete(ctx, want.Ref); err != nil {
			t.Fatal(err)
		}
		is(t, "Delete again", e.Delete(ctx, want.Ref), conversation.ErrDeleted)
		is(t, "Delete of nothing", e.Delete(ctx, conversation.Ref{Tenant: "acme", ID: "s2"}), conversation.ErrNotFound)
		_, err = e.Get(ctx, want.Ref)
		is(t, "Get", err, conversation.ErrDeleted)
		_, err = e.Create(ctx, spec)
		is(t, "Create", err, conversation.ErrDeleted)
	})
}

// A turn in flight does not bring a deleted session back.
func TestDeleteWhileATurnIsInFlight(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{User: "u"})
		e.say(ref, "a", "")
		if _, err := e.Begin(ctx, ref, conversation.BeginTurn{Job: "b"}); err != nil {
			t.Fatal(err)
		}
		if err := e.Delete(ctx, ref); err != nil {
			t.Fatal(err)
		}
		_, err := e.Append(ctx, ref, turn("b", "t-a"))
		is(t, "Append", err, conversation.ErrDeleted)
		_, err = e.Begin(ctx, ref, conversation.BeginTurn{Job: "b"})
		is(t, "Begin", err, conversation.ErrDeleted)
		is(t, "Abort", e.Abort(ctx, ref, "b"), conversation.ErrDeleted)
		_, err = e.Path(ctx, ref, conversation.PathQuery{})
		is(t, "Path", err, conversation.ErrDeleted)
		_, err = e.Tree(ctx, ref, false)
		is(t, "Tree", err, conversation.ErrDeleted)
		_, err = e.Turns(ctx, ref, "t-a")
		is(t, "Turns", err, conversation.ErrDeleted)
		_, err = e.SetHead(ctx, ref, conversation.Head{Branch: "main", Turn: "t-a"})
		is(t, "SetHead", err, conversation.ErrDeleted)
		is(t, "PutSummary", e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-a", Text: "x"}), conversation.ErrDeleted)
		_, err = e.Update(ctx, ref, conversation.Update{})
		is(t, "Update", err, conversation.ErrDeleted)
		if keys := e.keys(); len(keys) != 1 || !strings.HasSuffix(keys[0], ":meta") {
			t.Errorf("keys = %v, want the tombstone alone", keys)
		}
		if got, err := e.List(ctx, conversation.ListQuery{Tenant: "acme", User: "u"}); err != nil || len(got.Threads) != 0 {
			t.Errorf("List = %+v, %v", got, err)
		}
	})
}

// Every key has a time to live, and those of one session the same.
func TestEveryKeyExpires(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{TTL: time.Hour})
		e.say(ref, "a", "")
		if _, err := e.Begin(ctx, ref, conversation.BeginTurn{Job: "b"}); err != nil {
			t.Fatal(err)
		}
		if err := e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-a", Text: "x"}); err != nil {
			t.Fatal(err)
		}
		keys := e.keys()
		if len(keys) != 8 {
			t.Errorf("%d keys, want 7 and the list: %v", len(keys), keys)
		}
		for _, key := range keys {
			left, err := e.rdb.PTTL(ctx, key).Result()
			if err != nil || left <= 50*time.Minute || left > time.Hour {
				t.Errorf("%s lives %s, %v; want an hour", key, left, err)
			}
		}
		ttl := 2 * time.Hour
		if _, err := e.Update(ctx, ref, conversation.Update{TTL: &ttl}); err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if left := e.rdb.PTTL(ctx, key).Val(); left <= time.Hour {
				t.Errorf("%s lives %s; want two hours", key, left)
			}
		}
		if err := e.Delete(ctx, ref); err != nil {
			t.Fatal(err)
		}
		for _, key := range e.keys() {
			if left := e.rdb.PTTL(ctx, key).Val(); left <= 23*time.Hour && strings.HasSuffix(key, ":meta") || left < 0 {
				t.Errorf("%s lives %s; want a day", key, left)
			}
		}
	})
}

func TestHeads(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{MaxBranches: 3}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{})
		rev, err := e.SetHead(ctx, ref, conversation.Head{Branch: "main", Activate: true})
		if err != nil || rev != 0 { // it is so already, with no turn
			t.Errorf("SetHead = %d, %v", rev, err)
		}
		e.say(ref, "a", "")
		e.say(ref, "b", "t-a")
		e.say(ref, "c", "t-a")
		set := func(h conversation.Head, wantRev int64) {
			t.Helper()
			if rev, err := e.SetHead(ctx, ref, h); err != nil || rev != wantRev {
				t.Errorf("SetHead(%+v) = %d, %v; want %d", h, rev, err, wantRev)
			}
		}
		three := int64(3)
		set(conversation.Head{Branch: "alt", Turn: "t-c", Activate: true, ExpectRev: &three}, 4)
		set(conversation.Head{Branch: "alt", Turn: "t-c", Activate: true, ExpectRev: &three}, 4) // asked again
		_, err = e.SetHead(ctx, ref, conversation.Head{Branch: "alt", Turn: "t-a", ExpectRev: &three})
		is(t, "old revision", err, conversation.ErrConflict)
		if got := e.say(ref, "d", "t-c"); !got.Moved || got.Head != "t-d" {
			t.Errorf("Append = %+v", got)
		}
		x := turn("e", "t-b")
		x.Branch = "main"
		if got := e.add(ref, x); !got.Moved || got.Head != "t-e" {
			t.Errorf("Append on main = %+v", got)
		}
		s := e.get(ref)
		if s.Branch != "alt" || s.Head != "t-d" || cmp.Diff(map[string]string{"main": "t-e", "alt": "t-d"}, s.Heads) != "" {
			t.Errorf("session = %+v", s)
		}
		got, p := e.path(ref, conversation.PathQuery{Branch: "main"})
		if diff := cmp.Diff([]string{"t-a", "t-b", "t-e"}, got); diff != "" || p.Branch != "main" {
			t.Error(p.Branch, diff)
		}
		if got, _ := e.path(ref, conversation.PathQuery{Leaf: conversation.Root}); len(got) != 0 {
			t.Errorf("path to the root = %v", got)
		}
		_, err = e.Path(ctx, ref, conversation.PathQuery{Branch: "nobody"})
		is(t, "Path", err, conversation.ErrNoBranch)
		_, err = e.Path(ctx, ref, conversation.PathQuery{Leaf: "t-nobody"})
		is(t, "Path", err, conversation.ErrNoTurn)
		_, err = e.Path(ctx, ref, conversation.PathQuery{MaxTurns: -1})
		is(t, "Path", err, conversation.ErrInvalid)
		_, err = e.SetHead(ctx, ref, conversation.Head{Branch: "new"})
		is(t, "a branch without a turn", err, conversation.ErrNoBranch)
		_, err = e.SetHead(ctx, ref, conversation.Head{Branch: "a b", Turn: "t-a"})
		is(t, "a bad name", err, conversation.ErrInvalid)
		set(conversation.Head{Branch: "third", Turn: "t-a"}, 7)
		_, err = e.SetHead(ctx, ref, conversation.Head{Branch: "fourth", Turn: "t-a"})
		is(t, "too many", err, conversation.ErrTooLarge)
		_, err = e.DeleteBranch(ctx, ref, "alt")
		is(t, "the active one", err, conversation.ErrActiveBranch)
		if rev, err := e.DeleteBranch(ctx, ref, "third"); err != nil || rev != 8 {
			t.Errorf("DeleteBranch = %d, %v", rev, err)
		}
		_, err = e.DeleteBranch(ctx, ref, "third")
		is(t, "again", err, conversation.ErrNoBranch)
		set(conversation.Head{Branch: "main", Activate: true}, 9)
		if s := e.get(ref); s.Head != "t-e" {
			t.Errorf("head = %s", s.Head)
		}
	})
}

// The cost of a path is bounded by its budget: the newest turns come, and it says why there are no more.
func TestPathBudget(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{}, func(e *env) {
		t := e.T
		ref := e.session(conversation.NewSession{})
		parent := ""
		for i := range 10 {
			x := turn(fmt.Sprint(i), parent)
			x.Messages[0].Tokens, x.Messages[1].Tokens = 3, 7
			parent = e.add(ref, x).Turn
		}
		all, p := e.path(ref, conversation.PathQuery{})
		if len(all) != 10 || p.Tokens != 100 || p.Messages != 20 || p.Depth != 10 {
			t.Fatalf("path = %+v", p)
		}
		for _, q := range []conversation.PathQuery{{MaxTokens: 39}, {MaxTurns: 3}, {MaxBytes: 3 * p.Session.Bytes / 10}} {
			got, p := e.path(ref, q)
			if diff := cmp.Diff([]string{"t-7", "t-8", "t-9"}, got); diff != "" || p.Stop != conversation.StopBudget || p.Tokens != 100 {
				t.Errorf("%+v: stop %s, %d tokens\n%s", q, p.Stop, p.Tokens, diff)
			}
		}
		if got, p := e.path(ref, conversation.PathQuery{MaxTokens: 5}); len(got) != 0 || p.Stop != conversation.StopBudget {
			t.Errorf("path = %v, %s", got, p.Stop)
		}
	})
}

// Beyond the bounds bodies go oldest first, a tenth more than needed, and then whole turns.
func TestBounds(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{MaxMessages: 20}, func(e *env) {
		t := e.T
		ctx := t.Context()
		ref := e.session(conversation.NewSession{})
		if _, err := e.SetHead(ctx, ref, conversation.Head{Branch: "old", Turn: e.say(ref, "0", "").Turn}); err != nil {
			t.Fatal(err)
		}
		parent, dropped, forgotten := "t-0", 0, 0
		if err := e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-0", Text: "oldest"}); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < 60; i++ {
			a := e.say(ref, fmt.Sprint(i), parent)
			parent, dropped, forgotten = a.Turn, dropped+a.DroppedMessages, forgotten+a.ForgottenTurns
			s := e.get(ref)
			if s.Messages > 20 || s.Messages+dropped != 2*(i+1) || s.Forgotten != forgotten || s.Dropped+s.Forgotten != dropped/2 {
				t.Fatalf("after %d turns, %d dropped, %d forgotten: %+v", i+1, dropped, forgotten, s)
			}
			if i == 10 {
				if a.DroppedMessages != 4 {
					t.Errorf("%d messages dropped, want 4", a.DroppedMessages)
				}
				if got, p := e.path(ref, conversation.PathQuery{}); len(got) != 9 || p.Stop != conversation.StopDropped || p.Summaries[0].Turn != "t-0" || p.Summaries[0].Depth != 1 {
					t.Errorf("path = %v, %s, %+v", got, p.Stop, p.Summaries)
				}
				got, err := e.Turns(ctx, ref, "t-0")
				if err != nil || !got[0].Dropped || got[0].Messages != nil {
					t.Errorf("Turns = %+v, %v", got, err)
				}
				_, err = e.Fork(ctx, ref, "t-0", conversation.NewSession{})
				is(t, "Fork", err, conversation.ErrNoTurn)
			}
		}
		for _, bodies := range []bool{false, true} {
			tree, err := e.Tree(ctx, ref, bodies)
			if err != nil {
				t.Fatal(err)
			}
			s := tree.Session
			if len(tree.Turns) != 60-s.Forgotten || len(tree.Turns) > 20 || s.Forgotten == 0 || s.Tokens <= 0 || s.Bytes <= 0 {
				t.Errorf("%d turns, session %+v", len(tree.Turns), s)
			}
			for i, x := range tree.Turns {
				if x.Dropped != (i < s.Dropped) {
					t.Errorf("turn %s is dropped: %t", x.ID, x.Dropped)
				}
			}
			if _, ok := s.Heads["old"]; ok || s.Head != parent {
				t.Errorf("heads = %v", s.Heads)
			}
			if got := ids(tree.Children("")); len(got) != 1 {
				t.Errorf("roots = %v", got)
			}
		}
		_, err := e.Append(ctx, ref, turn("x", "t-0"))
		is(t, "a parent that is forgotten", err, conversation.ErrNoTurn)

		// What is left can be copied and carried over.
		edge := e.get(ref)
		if err := e.PutSummary(ctx, ref, conversation.Summary{Turn: parent, Text: "newest"}); err != nil {
			t.Fatal(err)
		}
		fork, err := e.Fork(ctx, ref, "", conversation.NewSession{})
		if err != nil {
			t.Fatal(err)
		}
		before, _ := e.path(ref, conversation.PathQuery{})
		after, p := e.path(fork.Ref, conversation.PathQuery{})
		if diff := cmp.Diff(before, after); diff != "" || p.Stop != conversation.StopDropped || p.Messages != 120 || fork.Messages != edge.Messages || fork.Dropped != 1 {
			t.Errorf("fork %+v stops at %s\n%s", fork, p.Stop, diff)
		}
		if len(p.Summaries) != 1 || p.Summaries[0].Text != "newest" {
			t.Errorf("summaries = %+v", p.Summaries)
		}
		data, err := e.Export(ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		in, err := e.Import(ctx, strings.NewReader(string(data)), conversation.NewSession{Tenant: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := e.Export(ctx, in.Ref); err != nil || cmp.Diff(string(data), string(again)) != "" {
			t.Errorf("export of the import: %v\n%s", err, cmp.Diff(string(data), string(again)))
		}
	})
}

func TestBoundOfBytes(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{MaxBytes: 4000, MaxTurnBytes: 1000}, func(e *env) {
		t := e.T
		ref := e.session(conversation.NewSession{})
		for i := range 30 {
			x := turn(fmt.Sprint(i), "")
			x.Messages[0] = conversation.Text("user", strings.Repeat("x", 30*i))
			e.add(ref, x)
			if s := e.get(ref); s.Bytes > 4000 || s.Messages < 2 {
				t.Fatalf("session = %+v", s)
			}
		}
		// An unfinished turn that has lost its messages and finishes after all.
		lost := turn("lost", "")
		lost.Status = conversation.Interrupted
		e.add(ref, lost)
		for i := range 30 {
			e.say(ref, fmt.Sprint("more", i), "")
		}
		before := e.get(ref)
		got := e.say(ref, "lost", "")
		after := e.get(ref)
		if got.Duplicate || after.Messages != before.Messages+2-got.DroppedMessages || after.Dropped != before.Dropped-1+got.DroppedMessages/2 {
			t.Errorf("before %+v, after %+v, %+v", before, after, got)
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	onEach(t, conversation.Config{MaxScan: 4, MaxSessions: 12}, func(e *env) {
		t := e.T
		ctx := t.Context()
		var want []string
		var refs []conversation.Ref
		for i := range 12 {
			ref := e.session(conversation.NewSession{ID: fmt.Sprintf("s%02d", i), User: "u", Title: fmt.Sprintf("Title %d", i%3)})
			refs = append(refs, ref)
			want = append([]string{ref.ID}, want...)
		}
		e.session(conversation.NewSession{ID: "theirs", User: "v"})
		_, err := e.Create(ctx, conversation.NewSession{Tenant: "acme", User: "u"})
		is(t, "a session too many", err, conversation.ErrTooLarge)

		list := func(q conversation.ListQuery) (got []string) {
			t.Helper()
			q.Tenant, q.User = "acme", cmpOr(q.User, "u")
			for pages := 0; ; pages++ {
				page, err := e.List(ctx, q)
				if err != nil || pages > 20 {
					t.Fatal(pages, err)
				}
				for _, th := range page.Threads {
					got = append(got, th.ID)
				}
				if page.Cursor == "" {
					return got
				}
				q.Cursor = page.Cursor
			}
		}
		for _, limit := range []int{0, 1, 5, 100} {
			if diff := cmp.Diff(want, list(conversation.ListQuery{Limit: limit})); diff != "" {
				t.Errorf("limit %d (-want +got):\n%s", limit, diff)
			}
		}
		if got := list(conversation.ListQuery{Title: "tITLE 2"}); cmp.Diff([]string{"s11", "s08", "s05", "s02"}, got) != "" {
			t.Errorf("by title = %v", got)
		}
		if got := list(conversation.ListQuery{User: "v"}); len(got) != 1 {
			t.Errorf("of v = %v", got)
		}
		// A change brings it to the front.
		later(t, e, refs[3])
		if got := list(conversation.ListQuery{}); got[0] != "s03" {
			t.Errorf("list = %v", got)
		}
		// An entry that is behind is brought up to date, and one without a session goes.
		key := e.listKey(t, "u")
		if err := e.rdb.ZAdd(ctx, key, redis.Z{Score: 5, Member: "s03"}, redis.Z{Score: 6, Member: "ghost"}).Err(); err != nil {
			t.Fatal(err)
		}
		list(conversation.ListQuery{})
		if got := list(conversation.ListQuery{}); got[0] != "s03" || slices.Contains(got, "ghost") {
			t.Errorf("list = %v", got)
		}
		if err := e.rdb.ZScore(ctx, key, "ghost").Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("the ghost is still there: %v", err)
		}
		// A full list is rid of those that are gone before one more is refused.
		if err := e.Delete(ctx, refs[0]); err != nil {
			t.Fatal(err)
		}
		if err := e.rdb.ZAdd(ctx, key, redis.Z{Score: 6, Member: "ghost"}).Err(); err != nil {
			t.Fatal(err)
		}
		e.session(conversation.NewSession{User: "u"})
	})
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// later changes a session until its time has moved on.
func later(t *testing.T, e *env, ref conversation.Ref) {
	t.Helper()
	before := e.get(ref).Updated
	for now := before; !now.After(before); {
		s, err := e.Update(t.Context(), ref, conversation.Update{})
		if err != nil {
			t.Fatal(err)
		}
		now = s.Updated
	}
}

// listKey finds the key of a user's list by a session that is in it alone.
func (e *env) listKey(t *testing.T, _ string) string {
	t.Helper()
	for _, key := range e.keys() {
		if strings.Contains(key, ":u:") && e.rdb.ZCard(t.Context(), key).Val() > 1 {
			return key
		}
	}
	t.Fatal("there is no list")
	return ""
}

// Many sessions of one millisecond are paged through all the same.
func TestListOfOneMoment(t *testing.T) {
	t.Parallel()
	e := open(t, standIn, conversation.Config{MaxScan: 3})
	var want []string
	for i := range 9 {
		e.session(conversation.NewSession{ID: fmt.Sprintf("s%d", i), User: "u"})
	}
	s := e.get(conversation.Ref{Tenant: "acme", ID: "s8"})
	key := e.listKey(t, "u")
	at := float64(s.Updated.UnixMilli())
	for i := range 9 {
		if err := e.rdb.ZAdd(t.Context(), key, redis.Z{Score: at, Member: fmt.Sprintf("s%d", i)}).Err(); err != nil {
			t.Fatal(err)
		}
		want = append([]string{fmt.Sprintf("s%d", i)}, want...)
	}
	var got []string
	q := conversation.ListQuery{Tenant: "acme", User: "u", Limit: 2}
	for {
		page, err := e.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, th := range page.Threads {
			got = append(got, th.ID)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	slices.Sort(got)
	slices.Reverse(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	e := open(t, standIn, conversation.Config{MaxSystemBytes: 10, MaxSummaries: 2, MaxSummaryBytes: 100})
	ctx := t.Context()
	long := strings.Repeat("x", 600)
	many := map[string]string{}
	for i := range 17 {
		many[fmt.Sprint(i)] = ""
	}
	for name, tt := range map[string]struct {
		spec conversation.NewSession
		want error
	}{
		"tenant":   {conversation.NewSession{}, conversation.ErrInvalid},
		"id":       {conversation.NewSession{Tenant: "a", ID: "a:b"}, conversation.ErrInvalid},
		"user":     {conversation.NewSession{Tenant: "a", User: long}, conversation.ErrTooLarge},
		"title":    {conversation.NewSession{Tenant: "a", Title: long}, conversation.ErrTooLarge},
		"utf8":     {conversation.NewSession{Tenant: "a", Title: "\xff"}, conversation.ErrInvalid},
		"model":    {conversation.NewSession{Tenant: "a", Model: long}, conversation.ErrTooLarge},
		"system":   {conversation.NewSession{Tenant: "a", System: long}, conversation.ErrTooLarge},
		"metadata": {conversation.NewSession{Tenant: "a", Metadata: many}, conversation.ErrTooLarge},
		"key":      {conversation.NewSession{Tenant: "a", Metadata: map[string]string{long: ""}}, conversation.ErrTooLarge},
		"value":    {conversation.NewSession{Tenant: "a", Metadata: map[string]string{"": long}}, conversation.ErrTooLarge},
		"ttl":      {conversation.NewSession{Tenant: "a", TTL: -1}, conversation.ErrInvalid},
	} {
		_, err := e.Create(ctx, tt.spec)
		is(t, name, err, tt.want)
	}
	for name, q := range map[string]conversation.ListQuery{
		"tenant": {}, "user": {Tenant: "a", User: long}, "title": {Tenant: "a", Title: long},
		"limit": {Tenant: "a", Limit: -1}, "limit above": {Tenant: "a", Limit: 1001}, "cursor": {Tenant: "a", Cursor: "?"}, "cursor inside": {Tenant: "a", Cursor: "eDp5"},
	} {
		if _, err := e.List(ctx, q); !errors.Is(err, conversation.ErrInvalid) && !errors.Is(err, conversation.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ref := e.session(conversation.NewSession{})
	e.say(ref, "a", "")
	e.say(ref, "b", "t-a")
	e.say(ref, "c", "t-b")
	is(t, "summary of nothing", e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-x", Text: "x"}), conversation.ErrNoTurn)
	is(t, "summary without text", e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-a"}), conversation.ErrInvalid)
	is(t, "summary with tokens", e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-a", Text: "x", Tokens: -1}), conversation.ErrInvalid)
	is(t, "summary too long", e.PutSummary(ctx, ref, conversation.Summary{Turn: "t-a", Text: long}), conversation.ErrTooLarge)
	for _, id := range []string{"t-b", "t-a", "t-c"} {
		if err := e.PutSummary(ctx, ref, conversation.Summary{Turn: id, Text: "up to " + id}); err != nil {
			t.Fatal(err)
		}
	}
	want := []conversation.Summary{{Turn: "t-c", Text: "up to t-c", Depth: 3}, {Turn: "t-b", Text: "up to t-b", Depth: 2}}
	if _, p := e.path(ref, conversation.PathQuery{}); cmp.Diff(want, p.Summaries) != "" {
		t.Errorf("summaries = %+v", p.Summaries)
	}
	ids := make([]string, 257)
	_, err := e.Turns(ctx, ref, ids...)
	is(t, "Turns", err, conversation.ErrTooLarge)
}
