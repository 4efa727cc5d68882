package workers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Sessions tunes what becomes of jobs with a session. The zero value is ready for use.
type Sessions struct {
	// Strategy is what to do with a history that does not fit, unless the job says. Defaults to token_budget.
	Strategy schemas.WindowStrategy
	// LastN is how many turns last_n keeps. Defaults to 20.
	LastN int
	// Keep is the part of the room that history has once some of it was left out. Defaults to 0.75.
	Keep float64
	// Margin is how many tokens are kept free beside the reply's.
	Margin int
	// SummaryTokens is the room that a summary has. Defaults to 512.
	SummaryTokens int
	// ReplyTokens is the room of a reply whose request sets no max_tokens. Defaults to the smaller of 1024
	// and a quarter of the window.
	ReplyTokens int
	// Serialize refuses a turn while another of its session is in flight, as if every job asked for it.
	Serialize bool
	// CommitTimeout is how long the end of a job waits for its turn to be stored. Beyond it the job
	// ends, and the turn is stored later. Defaults to 2 s.
	CommitTimeout time.Duration
}

func (s Sessions) withDefaults() Sessions {
	s.Strategy = cmp.Or(s.Strategy, schemas.WindowTokenBudget)
	s.LastN = cmp.Or(s.LastN, 20)
	s.Keep = cmp.Or(s.Keep, 0.75)
	s.SummaryTokens = cmp.Or(s.SummaryTokens, 512)
	s.CommitTimeout = cmp.Or(s.CommitTimeout, 2*time.Second)
	return s
}

func (s Sessions) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(s.Strategy.Valid(), "Sessions.Strategy is %.32q; want token_budget, last_n, summarize or error", s.Strategy)
	check(s.LastN > 0, "Sessions.LastN is %d; want at least 1", s.LastN)
	check(s.Keep > 0 && s.Keep <= 1, "Sessions.Keep is %g; want above 0 and at most 1", s.Keep)
	check(s.Margin >= 0, "Sessions.Margin is %d; want at least 0", s.Margin)
	check(s.SummaryTokens > 0, "Sessions.SummaryTokens is %d; want at least 1", s.SummaryTokens)
	check(s.ReplyTokens >= 0, "Sessions.ReplyTokens is %d; want at least 0", s.ReplyTokens)
	check(s.CommitTimeout > 0, "Sessions.CommitTimeout is %s; want above 0", s.CommitTimeout)
	return errors.Join(errs...)
}

// turn is a run's part in a conversation, once that has been read.
type turn struct {
	ref conversation.Ref
	// view is what the events and the Result say of it.
	view schemas.Turn
	// fresh are the new messages as they came, with their tokens.
	fresh []conversation.Message
	// by is the model whose reply was stored before, if it was.
	by string
	// want is the turn up to which a summary is wanted, "" if none is.
	want string
	// summary makes the run the writer of a summary of the path up to view.ID, and not of a turn.
	summary bool
	// stop ends the renewal of the turn's claim and waits for it.
	stop func()
}

// checkSession refuses a session that this worker cannot serve, before anything is read.
func (w *Worker) checkSession(r *run) error {
	s := r.job.Session
	switch {
	case s == nil:
		return nil
	case r.tuned.Capabilities.NoConversation:
		return schemas.Errorf(schemas.CodeInvalidRequest, "session %q: model %s keeps no conversations", s.ID, r.job.Model).WithParam("session")
	case w.cfg.Conversations == nil:
		return schemas.Errorf(schemas.CodeInvalidRequest, "session %q: this worker keeps no conversations", s.ID).WithParam("session")
	}
	return nil
}

// converse puts the history of the job's session in front of its messages, or what is to be
// summarized in their place. [errStoreAway] if that cannot be read now.
func (w *Worker) converse(ctx context.Context, r *run, b *body) error {
	s := r.job.Session
	switch {
	case s == nil, b.stored != nil:
		return nil
	case r.job.Endpoint != schemas.ChatCompletions:
		r.refused = true
		return schemas.Errorf(schemas.CodeInvalidRequest, "endpoint is %s; a session takes %s", r.job.Endpoint, schemas.ChatCompletions).WithParam("endpoint")
	case b.sequences != 1:
		r.refused = true
		return schemas.Errorf(schemas.CodeInvalidRequest, "n is %d; a session takes one reply", b.sequences).WithParam("n")
	}
	ref := conversation.Ref{Tenant: r.job.Tenant, ID: s.ID}
	if s.Summarize != "" {
		return w.summarize(ctx, r, b, ref)
	}
	fresh, err := w.newMessages(b)
	if err != nil {
		return err
	}
	r.storing.Store(true)
	defer r.storeAnswered()
	begun, err := w.beginTurn(ctx, r, b, ref)
	if err != nil {
		return w.sessionFault(ctx, r, err)
	}
	r.turn = &turn{ref: ref, fresh: fresh, view: schemas.Turn{Session: s.ID, ID: begun.Turn, Parent: begun.Parent, Branch: begun.Branch, Rev: begun.Rev}}
	if begun.Committed {
		stored, err := w.storedTurn(ctx, r, ref)
		if err != nil {
			return w.sessionFault(ctx, r, err)
		}
		if b.stored = stored; stored != nil {
			return nil
		}
		// Its messages have gone since, to keep the session within its bounds.
	}
	r.turn.stop = w.renewTurn(ctx, r, begun)
	return w.showHistory(ctx, r, b, begun)
}

// newMessages are the job's own, as they came, or as moderation has left them.
func (w *Worker) newMessages(b *body) ([]conversation.Message, error) {
	var bodies []json.RawMessage
	if err := json.Unmarshal(b.given, &bodies); err != nil { // checkMessages has looked at it
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "messages: %v", err).WithParam("messages")
	}
	fresh := make([]conversation.Message, len(bodies))
	for i, m := range bodies {
		fresh[i].Body = m
	}
	if err := w.cfg.Conversations.CheckMessages(fresh); err != nil {
		return nil, conversation.WireError(err).WithParam("messages")
	}
	return fresh, nil
}

// beginTurn claims the turn. A session that is not there is made, unless the job counts on what it holds.
func (w *Worker) beginTurn(ctx context.Context, r *run, b *body, ref conversation.Ref) (*conversation.Begun, error) {
	s := r.job.Session
	claim := conversation.BeginTurn{
		Job: r.job.ID, Parent: s.Parent, Branch: s.Branch, ExpectRev: s.ExpectRev, Serialize: s.Serialize || r.tuned.Sessions.Serialize,
	}
	if t := r.history.turn; t != nil && t.Session == s.ID {
		// Readers have been told what is answered. The head may have moved since.
		claim.Parent, claim.Branch = cmp.Or(t.Parent, conversation.Root), t.Branch
	}
	begun, err := w.cfg.Conversations.Begin(ctx, ref, claim)
	if waits := w.followsPending(ctx, r, ref, claim, begun, err); waits != nil {
		return nil, waits
	}
	fresh := (claim.Parent == "" || claim.Parent == conversation.Root) && (claim.Branch == "" || claim.Branch == conversation.DefaultBranch) &&
		(claim.ExpectRev == nil || *claim.ExpectRev == 0)
	if !errors.Is(err, conversation.ErrNotFound) || !fresh {
		return begun, err
	}
	user, err := b.user()
	if err != nil {
		return nil, err
	}
	_, err = w.cfg.Conversations.Create(ctx, conversation.NewSession{Tenant: ref.Tenant, ID: ref.ID, User: user, Model: r.model})
	if err != nil && !errors.Is(err, conversation.ErrExists) {
		return nil, err
	}
	return w.cfg.Conversations.Begin(ctx, ref, claim)
}

// storeAnswered lets the silence of the engine count again.
func (r *run) storeAnswered() {
	r.touch()
	r.storing.Store(false)
}

// user is the request's own word for who asks: the owner of a session that is made for it.
func (b *body) user() (string, error) {
	var user string
	raw, ok := b.fields["user"]
	if ok && json.Unmarshal(raw, &user) != nil {
		return "", schemas.Errorf(schemas.CodeInvalidRequest, "user is %s; want a string", clip(raw)).WithParam("user")
	}
	return user, nil
}

// renewTurn keeps the claim on the turn alive for as long as the run lasts, so that a turn which takes
// long still counts as in flight. What is returned ends that.
func (w *Worker) renewTurn(ctx context.Context, r *run, begun *conversation.Begun) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	ref, claim := r.turn.ref, conversation.BeginTurn{Job: r.job.ID, Parent: begun.Leaf(), Branch: begun.Branch}
	renewing.Go(func() {
		tick := time.NewTicker(w.cfg.Conversations.PendingTTL() / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := w.cfg.Conversations.Begin(ctx, ref, claim); err != nil && ctx.Err() == nil {
				w.log.Debug().Err(err).Str("job", claim.Job).Str("session", ref.ID).Msg("a turn's claim could not be renewed")
			}
		}
	})
	return func() { cancel(); renewing.Wait() }
}

// endRenewal stops keeping the turn's claim alive.
func (r *run) endRenewal() {
	if r.turn != nil && r.turn.stop != nil {
		r.turn.stop()
		r.turn.stop = nil
	}
}

// place is the job's place in its conversation as an opening event tells it.
func (r *run) place() *schemas.Turn {
	if r.turn == nil {
		return nil
	}
	view := r.turn.view
	return &view
}
