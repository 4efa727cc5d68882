package conversation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Fork copies the path to a turn into a new session and returns that. leaf is "" for the active
// head. What into leaves empty is taken from the old session, but for its id. Of a path whose older turns were
// dropped, the rest is copied, and what stands for them: a turn without messages, with their summary if there is one.
func (s *Store) Fork(ctx context.Context, ref Ref, leaf string, into NewSession) (*Session, error) {
	into.Tenant = cmp.Or(into.Tenant, ref.Tenant)
	path, err := s.wholePath(ctx, ref, leaf)
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	from := path.Session
	into.User = cmp.Or(into.User, from.User)
	into.Title = cmp.Or(into.Title, from.Title)
	into.Model = cmp.Or(into.Model, from.Model)
	into.System = cmp.Or(into.System, from.System)
	into.TTL = cmp.Or(into.TTL, from.TTL)
	if into.Metadata == nil {
		into.Metadata = from.Metadata
	}
	with := contents{branch: DefaultBranch, turns: path.Turns}
	if len(path.Turns) == 0 && path.Leaf != "" {
		return nil, fmt.Errorf("fork session %s: %w: %.128q has lost its messages", ref.ID, ErrNoTurn, path.Leaf)
	}
	if n := len(path.Turns); n > 0 {
		if last := path.Turns[n-1]; last.Status != Finished {
			return nil, fmt.Errorf("fork session %s: %w: %.128q", ref.ID, ErrUnfinished, last.ID)
		}
		with.heads = map[string]string{DefaultBranch: path.Leaf}
		with.turns, with.summaries = carry(path)
	}
	return s.create(ctx, into, with)
}

// carry returns the turns and summaries of a path for a session of their own.
func carry(path *Path) ([]Turn, []Summary) {
	turns, first := path.Turns, path.Turns[0]
	var kept []Summary
	if first.Parent == "" {
		return turns, path.Summaries
	}
	stand := Turn{
		ID: first.Parent, Status: Finished, Dropped: true,
		Tokens: first.PathTokens - first.Tokens, lost: first.PathMessages - len(first.Messages),
	}
	for _, sum := range path.Summaries { // newest first
		if sum.Depth < first.Depth {
			sum.Turn = stand.ID
			kept = append(kept, sum)
			break
		}
		kept = append(kept, sum)
	}
	return slices.Insert(slices.Clone(turns), 0, stand), kept
}

// wholePath reads all of a path that has messages, page by page. A path never changes but at its
// beginning, so the pages fit.
func (s *Store) wholePath(ctx context.Context, ref Ref, leaf string) (*Path, error) {
	budget := PathQuery{Leaf: leaf, MaxBytes: max(pageBytes, s.cfg.MaxTurnBytes), MaxTurns: pageTurns}
	path, err := s.Path(ctx, ref, budget)
	if err != nil {
		return nil, err
	}
	for older := path; path.Stop == StopBudget; {
		if len(older.Turns) == 0 { // a store with other bounds has written it
			return nil, fmt.Errorf("path of session %s: %w", ref.ID, tooLarge("bytes of a turn", budget.MaxBytes+1, budget.MaxBytes))
		}
		budget.Leaf = path.Turns[0].Parent
		if older, err = s.Path(ctx, ref, budget); err != nil {
			return nil, err
		}
		path.Turns = slices.Insert(path.Turns, 0, older.Turns...)
		path.Stop = older.Stop
		for _, sum := range older.Summaries {
			if !slices.ContainsFunc(path.Summaries, func(have Summary) bool { return have.Turn == sum.Turn }) {
				path.Summaries = append(path.Summaries, sum)
			}
		}
	}
	return path, nil
}
