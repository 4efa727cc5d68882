package workers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// errTurnPending hands back a job that goes on from a turn which a Result promises and the store has not got yet.
var errTurnPending = errors.New("the turn before is still to be stored")

// followsPending is [errTurnPending] if the job that has just begun its turn, or could not, answers one that is still
// to be stored: the one that it names, or the one that will be the head in place of the one there is.
func (w *Worker) followsPending(ctx context.Context, r *run, ref conversation.Ref, claim conversation.BeginTurn, begun *conversation.Begun, err error) error {
	switch {
	case errors.Is(err, conversation.ErrNoTurn):
		if !w.mayCome(r) {
			return nil
		}
		t, err := w.promised(ctx, ref, claim.Parent)
		if err == nil && t.ID != "" {
			err = fmt.Errorf("turn %s: %w", t.ID, errTurnPending)
		}
		return err
	case err != nil, begun.Committed, claim.Parent != "", len(begun.Beside) == 0, !w.mayCome(r):
		return nil //nolint:nilerr // the caller has it
	}
	for _, id := range begun.Beside {
		t, err := w.promised(ctx, ref, id)
		if err != nil {
			return err
		}
		if t.ID == "" || t.Parent != begun.Parent || t.Branch != begun.Branch {
			continue
		}
		// Its claim may have run out while the store was away, and the next look has to find it.
		again := conversation.BeginTurn{Job: strings.TrimPrefix(id, conversation.TurnID("")), Parent: begun.Leaf(), Branch: begun.Branch}
		if _, err := w.cfg.Conversations.Begin(ctx, ref, again); err != nil {
			return err
		}
		return fmt.Errorf("turn %s: %w", id, errTurnPending)
	}
	return nil
}

// mayCome reports whether a turn that is still to be stored is worth waiting for: for as long as a turn counts as in
// flight, once the store and the job are there. One that has not come by then has been lost.
func (w *Worker) mayCome(r *run) bool {
	since := w.sessions.reachable()
	if r.meta.Timestamp.After(since) {
		since = r.meta.Timestamp
	}
	return time.Since(since) < w.cfg.Conversations.PendingTTL()
}

// promised is a turn as its Result tells of it, if that says that it is still to be stored; otherwise it has no id. A
// Result that cannot be read may say so.
func (w *Worker) promised(ctx context.Context, ref conversation.Ref, id string) (schemas.Turn, error) {
	job, ok := strings.CutPrefix(id, conversation.TurnID(""))
	if !ok || schemas.CheckToken(job) != nil {
		return schemas.Turn{}, nil //nolint:nilerr // no job has such an id
	}
	result, err := queue.GetResult(ctx, w.js, ref.Tenant, job)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return schemas.Turn{}, nil
	case err != nil:
		return schemas.Turn{}, fmt.Errorf("%w, as far as is known: %w", errTurnPending, err)
	}
	if t := result.Turn; t != nil && t.State == schemas.TurnPending && t.Session == ref.ID && t.ID == id {
		return *t, nil
	}
	return schemas.Turn{}, nil
}
