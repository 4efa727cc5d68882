package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// keepTimeout bounds what is done for a turn that did not finish.
	keepTimeout = time.Second
	// resultSlack is what a Result's envelope may add to what it is made of.
	resultSlack = 8 << 10
)

// errOtherReply hands back a job whose turn has been stored with another reply than this attempt's: the
// next attempt gives that one.
var errOtherReply = errors.New("the turn has been stored with another reply")

// errOutsized is why a reply that cannot be stored as a Result makes no turn.
var errOutsized = errors.New("the result is too large to store")

// settleTurn stores what became of the job's turn, or finds out that it cannot, before the Result says
// so. It may turn a completed job into a failed one, if the session has moved on from what it expects.
func (w *Worker) settleTurn(ctx context.Context, r *run, result *schemas.Result) error {
	if r.job.Session == nil || w.cfg.Conversations == nil {
		return nil
	}
	r.endRenewal()
	r.touch()
	if r.turn == nil {
		w.leaveTurn(ctx, r, result)
		return nil
	}
	view := r.turn.view
	result.Turn = &view
	if by := r.turn.by; by != "" {
		if result.ServedBy = by; by == result.Model {
			result.ServedBy = ""
		}
	}
	switch {
	case result.Status != schemas.StatusCompleted:
		w.keepTurn(ctx, r, result)
	case r.turn.summary:
		return w.storeSummary(ctx, r, result)
	case w.outsized(result):
		w.dropTurn(ctx, r, result, errOutsized)
	default:
		if err := w.unanswered(ctx, r); err != nil {
			return err
		}
		return w.commitTurn(ctx, r, result)
	}
	return nil
}

// announceTurn does what follows once the Result is out.
func (w *Worker) announceTurn(ctx context.Context, r *run, result *schemas.Result) {
	r.countTurn(result)
	if r.turn != nil && r.turn.want != "" && result.Turn.State == schemas.TurnStored {
		w.askForSummary(ctx, r)
	}
}

// commitTurn stores the turn of a reply that is complete.
func (w *Worker) commitTurn(ctx context.Context, r *run, result *schemas.Result) error {
	t, err := r.turn.finished(r.job, result)
	if err != nil {
		w.dropTurn(ctx, r, result, err)
		return nil
	}
	t.Moderation = r.verdict
	var at *conversation.Appended
	err = w.callStore(ctx, r, r.tuned.Sessions.CommitTimeout, func(ctx context.Context) (err error) {
		at, err = w.append(ctx, r.turn.ref, t)
		return err
	})
	switch {
	case err == nil:
		result.Turn.State, result.Turn.Rev, result.Turn.Head = schemas.TurnStored, at.Rev, at.Head == at.Turn
	case errors.Is(err, ErrLeaseLost), errors.Is(err, errOtherReply):
		return err
	case errors.Is(err, errStoreAway):
		l := &lateTurn{ref: r.turn.ref, turn: t}
		if err := w.sessions.reserve(l); err != nil {
			w.dropTurn(ctx, r, result, err)
			return nil
		}
		r.late = l
		result.Turn.State, result.Turn.Reason = schemas.TurnPending, "conversations cannot be reached; the turn is stored once they can"
	case errors.Is(err, conversation.ErrConflict):
		// The job asked for the session as it was, or for nothing.
		result.Status, result.Error = schemas.StatusFailed, conversation.WireError(err)
		w.dropTurn(ctx, r, result, err)
	default:
		w.dropTurn(ctx, r, result, err)
	}
	return nil
}

// append stores a turn. One that is there already must have the same reply.
func (w *Worker) append(ctx context.Context, ref conversation.Ref, t *conversation.NewTurn) (*conversation.Appended, error) {
	at, err := w.cfg.Conversations.Append(ctx, ref, *t)
	if err != nil || !at.Duplicate || t.Status != conversation.Finished {
		return at, err
	}
	stored, err := w.cfg.Conversations.Turns(ctx, ref, at.Turn)
	if err != nil {
		return nil, err
	}
	// Its messages may have gone since, to keep the session within its bounds.
	if have := stored[0].Messages; len(have) > 0 && !bytes.Equal(have[len(have)-1].Body, t.Messages[len(t.Messages)-1].Body) {
		return nil, errOtherReply
	}
	return at, nil
}

// keepTurn keeps what there is of a turn that did not finish, apart from history. It does not wait long for that.
func (w *Worker) keepTurn(ctx context.Context, r *run, result *schemas.Result) {
	t := r.turn.unfinished(r.job, result)
	if t == nil || r.turn.summary {
		w.dropTurn(ctx, r, result, result.Error)
		return
	}
	t.Moderation = r.verdict
	var at *conversation.Appended
	err := w.callStore(ctx, r, keepTimeout, func(ctx context.Context) (err error) {
		at, err = w.append(ctx, r.turn.ref, t)
		return err
	})
	if err != nil {
		w.dropTurn(ctx, r, result, err)
		return
	}
	result.Turn.State, result.Turn.Rev, result.Turn.Reason = schemas.TurnKept, at.Rev, string(result.Error.Code)
}

// dropTurn gives the turn's claim up and says why there is no turn.
func (w *Worker) dropTurn(ctx context.Context, r *run, result *schemas.Result, why error) {
	result.Turn.State, result.Turn.Reason = schemas.TurnDropped, reasonOf(why)
	if !r.turn.summary && !errors.Is(why, errStoreAway) {
		w.abort(ctx, r, r.turn.ref)
	}
}

// leaveTurn is for a job that ended before its conversation was read. An earlier attempt may have claimed the turn.
func (w *Worker) leaveTurn(ctx context.Context, r *run, result *schemas.Result) {
	if schemas.CheckToken(r.job.Session.ID) != nil {
		return // the job was refused for that
	}
	result.Turn = &schemas.Turn{Session: r.job.Session.ID}
	if t := r.history.turn; t != nil && t.Session == r.job.Session.ID {
		*result.Turn = *t
		w.abort(ctx, r, conversation.Ref{Tenant: r.job.Tenant, ID: t.Session})
	}
	result.Turn.State = schemas.TurnDropped
	if result.Error != nil {
		result.Turn.Reason = reasonOf(result.Error)
	}
}

// abort gives a claim up. One that is not given up ends by itself.
func (w *Worker) abort(ctx context.Context, r *run, ref conversation.Ref) {
	err := w.callStore(ctx, r, keepTimeout, func(ctx context.Context) error {
		return w.cfg.Conversations.Abort(ctx, ref, r.job.ID)
	})
	if err != nil {
		w.log.Debug().Err(err).Str("job", r.job.ID).Str("session", ref.ID).Msg("a turn's claim is left to expire")
	}
}

// callStore calls the store again and again while it is away, within a timeout; then it is [errStoreAway]. The
// lease is kept meanwhile.
func (w *Worker) callStore(ctx context.Context, r *run, timeout time.Duration, call func(context.Context) error) error {
	r.storing.Store(true)
	defer r.storeAnswered()
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	for wait := storeAgain / 10; ; wait = min(2*wait, storeAgain) {
		err := call(ctx)
		away := err != nil && (ctx.Err() != nil || storeIsAway(err))
		if !away {
			w.sessions.reached(nil)
			return err
		}
		w.sessions.reached(err)
		if lost := r.lapsed(); lost != nil {
			return lost
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errStoreAway, err)
		case <-time.After(wait):
		}
	}
}

// outsized reports whether a Result is larger than a message: it could not be stored after its turn had been.
func (w *Worker) outsized(result *schemas.Result) bool {
	size := len(result.Choices) + len(result.Text)
	most := int(w.nc.MaxPayload()) - resultSlack
	if most <= 0 || size < most/8 {
		return false
	}
	data, err := json.Marshal(result)
	return err == nil && len(data) > most
}

// reasonOf is an error as a turn's reason tells it.
func reasonOf(err error) string {
	if errors.Is(err, errStoreAway) {
		return errStoreAway.Error() // and not where they are
	}
	if e, ok := errors.AsType[*schemas.Error](err); ok {
		return string(e.Code)
	}
	return err.Error()
}
