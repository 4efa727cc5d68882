package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/conversation"
)

// Sessions are the conversations of one tenant, for the command line.
type Sessions struct {
	Store  *conversation.Store
	Tenant string
	close  func() error
}

// OpenSessions opens the configured tenant's conversations.
func OpenSessions(ctx context.Context, cfg *Config) (*Sessions, error) {
	store, closeStore, err := OpenConversations(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	return &Sessions{Store: store, Tenant: cfg.Tenant, close: closeStore}, nil
}

// Close closes the connections to Redis.
func (s *Sessions) Close() error { return s.close() }

// Ref names a session of the tenant.
func (s *Sessions) Ref(id string) conversation.Ref {
	return conversation.Ref{Tenant: s.Tenant, ID: id}
}

// explain adds to an error what helps.
func (s *Sessions) explain(id string, err error) error {
	switch {
	case errors.Is(err, conversation.ErrUnavailable):
		return fmt.Errorf("%w to Redis: %w", ErrCannotConnect, err)
	case errors.Is(err, conversation.ErrNotFound):
		return fmt.Errorf("%w: tenant %s has no such session, or its time is over: hxp session ls shows those that are there", err, s.Tenant)
	case errors.Is(err, conversation.ErrNoTurn), errors.Is(err, conversation.ErrNoBranch):
		return fmt.Errorf("%w: hxp session tree %s shows those that are there", err, id)
	case errors.Is(err, conversation.ErrUnfinished):
		return fmt.Errorf("%w, so nothing can follow it", err)
	}
	return err
}

// Get returns a session without its turns.
func (s *Sessions) Get(ctx context.Context, id string) (*conversation.Session, error) {
	out, err := s.Store.Get(ctx, s.Ref(id))
	return out, s.explain(id, err)
}

// mostSessions is how many sessions a list has at most.
const mostSessions = 10_000

// List returns a user's sessions, newest change first, of which a title, if one is given, has to be a part in any case.
// 0 is no limit but the most that a user has.
func (s *Sessions) List(ctx context.Context, user, title string, limit int) ([]conversation.Thread, error) {
	if limit < 0 || limit > mostSessions {
		return nil, fmt.Errorf("%w: --limit is %d; want 1 to %d, or 0 for all", ErrUsage, limit, mostSessions)
	}
	if limit == 0 {
		limit = mostSessions
	}
	var out []conversation.Thread
	for cursor := ""; ; {
		page, err := s.Store.List(ctx, conversation.ListQuery{Tenant: s.Tenant, User: user, Title: title, Limit: min(1000, limit-len(out)), Cursor: cursor})
		if err != nil {
			return nil, s.explain("", err)
		}
		out = append(out, page.Threads...)
		if cursor = page.Cursor; cursor == "" || len(out) >= limit {
			return out, nil
		}
	}
}

// Rename gives a session another title.
func (s *Sessions) Rename(ctx context.Context, id, title string) (*conversation.Session, error) {
	out, err := s.Store.Update(ctx, s.Ref(id), conversation.Update{Title: &title})
	return out, s.explain(id, err)
}

// Fork copies the path to a turn, "" for the last one, into a session of its own.
func (s *Sessions) Fork(ctx context.Context, id, turn, title string) (*conversation.Session, error) {
	out, err := s.Store.Fork(ctx, s.Ref(id), turn, conversation.NewSession{Title: title})
	return out, s.explain(id, err)
}

// Removed is one session that was asked to go.
type Removed struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"`
}

// Remove deletes sessions for good.
func (s *Sessions) Remove(ctx context.Context, ids []string) ([]Removed, error) {
	out := make([]Removed, 0, len(ids))
	var failed []error
	for _, id := range ids {
		x := Removed{ID: id}
		if err := s.explain(id, s.Store.Delete(ctx, s.Ref(id))); err != nil {
			x.Error = err.Error()
			failed = append(failed, err)
		}
		out = append(out, x)
	}
	return out, partly(len(ids), failed)
}

// Branch is a named turn of a session.
type Branch struct {
	Name string `json:"name"`
	// Turn is the branch's last.
	Turn string `json:"turn"`
	// Active is set for the branch that a turn is added to by default.
	Active bool `json:"active"`
	// Text is the beginning of what the turn says.
	Text string `json:"text,omitempty"`
}

// Branches lists a session's branches by name.
func (s *Sessions) Branches(ctx context.Context, id string) ([]Branch, error) {
	session, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	out := branches(session)
	ids := make([]string, len(out))
	for i, b := range out {
		ids[i] = b.Turn
	}
	turns, err := s.Store.Turns(ctx, s.Ref(id), ids...)
	if err != nil {
		return nil, s.explain(id, err)
	}
	for i := range out {
		for _, t := range turns {
			if t.ID == out[i].Turn && len(t.Messages) > 0 {
				out[i].Text = firstWords(messageText(t.Messages[0].Body), 60)
			}
		}
	}
	return out, nil
}

// BranchChange is what to do with a branch.
type BranchChange struct {
	Name string
	// Turn is the turn that the branch is to end with. Of a new branch it is the active one's last by default; another stays where it is.
	Turn string
	// Activate makes it the branch that a turn is added to by default; Remove takes the name away, while the turns stay.
	Activate, Remove bool
}

// Branch makes, moves, activates or removes a branch.
func (s *Sessions) Branch(ctx context.Context, id string, b BranchChange) error {
	if b.Remove {
		_, err := s.Store.DeleteBranch(ctx, s.Ref(id), b.Name)
		return s.explain(id, err)
	}
	if b.Turn == "" {
		session, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		if _, there := session.Heads[b.Name]; !there {
			b.Turn = session.Head
		}
		if b.Turn == "" && session.Head == "" {
			return fmt.Errorf("session %s has no turn that a branch could end with", id)
		}
	}
	_, err := s.Store.SetHead(ctx, s.Ref(id), conversation.Head{Branch: b.Name, Turn: b.Turn, Activate: b.Activate})
	return s.explain(id, err)
}
