package conversation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Tree is every turn of a session that is not forgotten.
type Tree struct {
	Session *Session
	// Turns are in the order of their sequence numbers, so a parent comes before its children.
	Turns     []Turn
	Summaries []Summary
}

// Children returns the turns with this parent, oldest first. The roots are the children of "", and
// so are turns whose parent is forgotten.
func (t *Tree) Children(parent string) []Turn {
	known := make(map[string]bool, len(t.Turns))
	for _, turn := range t.Turns {
		known[turn.ID] = true
	}
	var out []Turn
	for _, turn := range t.Turns {
		if turn.Parent == parent || parent == "" && !known[turn.Parent] {
			out = append(out, turn)
		}
	}
	return out
}

// pageTurns and pageBytes bound one read of a tree, so that a large one holds nobody up.
const (
	pageTurns = 128
	pageBytes = 1 << 20
)

// treeTries is how often a tree is read again that was changed in the middle.
const treeTries = 5

// Tree reads a session's turns page by page, without messages unless bodies is set. Turns that are
// stored meanwhile may be in it or not.
func (s *Store) Tree(ctx context.Context, ref Ref, bodies bool) (*Tree, error) {
	for range treeTries {
		tree, whole, err := s.tree(ctx, ref, bodies)
		if err != nil || whole {
			return tree, err
		}
	}
	return nil, fmt.Errorf("tree of session %s: %w: it changed %d times while it was read", ref.ID, ErrUnavailable, treeTries)
}

// tree reads it once. Places of turns shift when an unfinished one is replaced: then it is not whole.
func (s *Store) tree(ctx context.Context, ref Ref, bodies bool) (tree *Tree, whole bool, err error) {
	tree = &Tree{}
	var at, relinked int64
	for first := true; ; first = false {
		r, err := s.run(ctx, "page", ref, at, pageTurns, pageBytes, flag(bodies))
		if err != nil {
			return nil, false, err
		}
		next, moved, turns := r.int(), r.int(), r.turns()
		if tree.Session, err = r.session(ref); err != nil {
			return nil, false, err
		}
		tree.Summaries = nil
		for turn, text := range r.fields() {
			inner := reply{values: []any{[]any{turn, "0", text}}}
			tree.Summaries = append(tree.Summaries, inner.summaries()...)
			if inner.err != nil {
				r.err = inner.err
			}
		}
		if r.err != nil {
			return nil, false, fmt.Errorf("tree of session %s: %w", ref.ID, r.err)
		}
		if !first && moved != relinked {
			return nil, false, nil
		}
		at, relinked = next, moved
		tree.Turns = append(tree.Turns, turns...)
		if len(turns) == 0 {
			break
		}
	}
	// Those that were forgotten meanwhile are the first.
	tree.Turns = tree.Turns[max(0, len(tree.Turns)-int(at)+tree.Session.Forgotten):]
	slices.SortFunc(tree.Turns, func(a, b Turn) int { return cmp.Compare(a.Seq, b.Seq) })
	slices.SortFunc(tree.Summaries, func(a, b Summary) int { return cmp.Compare(a.Turn, b.Turn) })
	if !bodies {
		for i := range tree.Turns {
			tree.Turns[i].Dropped = i < tree.Session.Dropped
		}
	}
	return tree, true, nil
}
