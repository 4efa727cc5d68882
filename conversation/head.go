package conversation

import (
	"context"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Head is a change of a branch.
type Head struct {
	// Branch is a name of up to 64 letters, digits, hyphens and underscores. A new one makes a branch.
	Branch string
	// Turn becomes the branch's last: a finished turn, or "" to leave the branch where it is.
	Turn string
	// Activate makes the branch the one that jobs answer by default.
	Activate bool
	// ExpectRev refuses the change if the conversation has moved on.
	ExpectRev *int64
}

// SetHead makes, moves or activates a branch, and returns the session's revision. What is so already stays, whatever is expected.
func (s *Store) SetHead(ctx context.Context, ref Ref, h Head) (rev int64, err error) {
	if err := checkBranch(h.Branch); err != nil {
		return 0, fmt.Errorf("set head: %w", err)
	}
	return s.head(ctx, ref, h, false)
}

// DeleteBranch removes a branch's name; its turns stay. The active branch cannot be removed.
func (s *Store) DeleteBranch(ctx context.Context, ref Ref, branch string) (rev int64, err error) {
	return s.head(ctx, ref, Head{Branch: branch}, true)
}

func (s *Store) head(ctx context.Context, ref Ref, h Head, remove bool) (int64, error) {
	r, err := s.run(ctx, "head", ref, h.Branch, h.Turn, flag(h.Activate), revision(h.ExpectRev), millis(time.Now()), s.cfg.MaxBranches, flag(remove))
	if err != nil {
		return 0, err
	}
	rev := r.int()
	return rev, r.err
}

func checkBranch(name string) error {
	if err := schemas.CheckToken(name); err != nil {
		return invalid("branch %w", err)
	}
	return nil
}
