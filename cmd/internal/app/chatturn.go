package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// TurnWatcher is told what happens to a turn. Its fields may be nil.
type TurnWatcher struct {
	// Text receives the reply as it arrives.
	Text func(string) error
	// Void says that the text so far does not count, and why.
	Void func(why string)
	// Note receives what else a person should know, at times from another goroutine than Text and Void.
	Note func(text string)
}

func (w TurnWatcher) note(format string, args ...any) {
	if w.Note != nil {
		w.Note(fmt.Sprintf(format, args...))
	}
}

// Say sends a message and returns how its job ended. If ctx ends first, the job is cancelled on the cluster; the error is then an
// [AbandonedError], and the Result there is, if there is one.
func (c *Chat) Say(ctx context.Context, text string, w TurnWatcher) (*schemas.Result, error) {
	if err := c.ensure(ctx, text, w); err != nil {
		return nil, err
	}
	return c.ask(ctx, asked{text, c.parent}, w)
}

// Regenerate sends the last message again. The reply is a branch beside the one before, in whose place the branch goes on.
func (c *Chat) Regenerate(ctx context.Context, w TurnWatcher) (*schemas.Result, error) {
	if c.last == nil {
		return nil, errors.New("there is no message of text that could be sent again")
	}
	return c.instead(ctx, *c.last, w)
}

// Edit sends another text in place of the last message. What was said before is kept beside it.
func (c *Chat) Edit(ctx context.Context, text string, w TurnWatcher) (*schemas.Result, error) {
	if c.last == nil {
		return nil, errors.New("there is no message of text that could be edited")
	}
	return c.instead(ctx, asked{text, c.last.parent}, w)
}

// instead sends a message with an earlier parent and moves the branch to its turn.
func (c *Chat) instead(ctx context.Context, m asked, w TurnWatcher) (*schemas.Result, error) {
	r, err := c.ask(ctx, m, w)
	if r == nil || r.Turn == nil || r.Turn.ID == "" || r.Turn.Head {
		return r, err
	}
	switch r.Turn.State {
	case schemas.TurnPending:
		w.note("the branch ends with the earlier reply until this one is stored")
		return r, err
	case schemas.TurnStored:
	default:
		return r, err
	}
	s, moved := c.store(ctx)
	if moved == nil {
		moved = s.Branch(ctx, c.session, BranchChange{Name: r.Turn.Branch, Turn: r.Turn.ID})
	}
	if moved != nil {
		w.note("this chat goes on after the new reply, but branch %s still ends with the earlier one: %v", r.Turn.Branch, moved)
		return r, err
	}
	r.Turn.Head = true
	return r, err
}

// ask runs one turn and remembers where it has led.
func (c *Chat) ask(ctx context.Context, m asked, w TurnWatcher) (*schemas.Result, error) {
	job, err := c.message(m.text).Job()
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("new job: %w", err)
	}
	job.ID = id.String()
	job.Session = &schemas.Session{ID: c.session, Parent: m.parent, Branch: c.branch}
	c.last = &m
	r, err := c.client.converse(ctx, job, w)
	if r == nil || r.Turn == nil {
		return r, err
	}
	if t := r.Turn; t.ID != "" {
		if c.last.parent = t.Parent; t.Parent == "" {
			c.last.parent = schemas.RootTurn
		}
		if t.Branch != "" {
			c.branch = t.Branch
		}
		if t.State == schemas.TurnStored || t.State == schemas.TurnPending {
			c.parent = t.ID
		}
	}
	return r, err
}

// converse submits a job and follows it to its end, whatever becomes of connections meanwhile.
func (c *Client) converse(ctx context.Context, job schemas.Job, w TurnWatcher) (*schemas.Result, error) {
	r, err := c.attend(ctx, job, w)
	if err == nil || ctx.Err() == nil {
		return r, c.Explain(err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelWithin)
	defer cancel()
	phase, err := c.Cancel(last, job.ID, "the submitter went away")
	if err != nil {
		return nil, fmt.Errorf("%w; job %s could not be cancelled and may go on: %w", context.Cause(ctx), job.ID, c.Explain(err))
	}
	r, err = c.Wait(last, job.ID)
	if err != nil {
		r = nil // the cancel is on its way, which is what counts
	}
	return r, &AbandonedError{Job: job.ID, Phase: phase, Err: context.Cause(ctx)}
}

// attend submits a job, again while the queue does not answer, and passes its events on.
func (c *Client) attend(ctx context.Context, job schemas.Job, w TurnWatcher) (*schemas.Result, error) {
	defer c.watchConnection(w)()
	s, err := c.Submit(ctx, job)
	for told := false; errors.Is(err, producer.ErrTimeout) && ctx.Err() == nil; told = true {
		if !told {
			w.note("the queue does not answer; trying on")
		}
		s, err = c.Submit(ctx, job)
	}
	if err != nil {
		return nil, err
	}
	defer func() { s.Close() }()
	f := follower{w: w}
	for {
		err := f.read(ctx, s)
		if !errors.Is(err, producer.ErrConflict) {
			if err != nil {
				return nil, err
			}
			return s.Result(ctx)
		}
		f.void("a worker that had been replaced had sent some of it")
		again, err := c.Follow(ctx, job.ID, 0)
		if err != nil {
			return nil, err
		}
		s.Close()
		s = again
	}
}

// watchConnection says when the connection is lost and found again, neither of which harms a stream, until stop is called.
func (c *Client) watchConnection(w TurnWatcher) (stop func()) {
	changes := c.NC.StatusChanged(nats.RECONNECTING, nats.CONNECTED)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for status := range changes {
			if status == nats.CONNECTED {
				w.note("connected again")
			} else {
				w.note("the connection to the queue is lost; waiting for it")
			}
		}
	}()
	return func() {
		c.NC.RemoveStatusListener(changes)
		<-done
	}
}

// follower passes a job's events on to a person.
type follower struct {
	w TurnWatcher
	// texted is whether there is text that counts, waiting whether it was said that the attempt had ended.
	texted, waiting bool
}

func (f *follower) void(why string) {
	if f.texted && f.w.Void != nil {
		f.w.Void(why)
	}
	f.texted = false
}

func (f *follower) read(ctx context.Context, s *producer.Stream) error {
	for e, err := range s.Events(ctx) {
		if err != nil {
			return err
		}
		if e.Kind.Opens() && e.ServedBy != "" {
			f.w.note("model %s answers", e.ServedBy)
		}
		switch e.Kind {
		case schemas.DeltaKind:
			err = f.delta(&e)
		case schemas.Interrupted:
			f.interrupted(&e)
		case schemas.Resumed:
			if f.waiting {
				f.w.note("another attempt goes on where it ended")
			}
			f.waiting = false
		case schemas.Restarted:
			f.void(e.Reason)
			f.waiting = false
		case schemas.Done:
			if !f.texted {
				err = f.whole(ctx, s)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) interrupted(e *schemas.Event) {
	why := "the worker stopped"
	if e.Error != nil {
		why = e.Error.Error()
	}
	f.w.note("interrupted: %s; waiting for another attempt", why)
	f.waiting = true
}

func (f *follower) delta(e *schemas.Event) error {
	parts, err := openai.ParseChoices(e.Choices, nil)
	if err != nil {
		return fmt.Errorf("job %s: event %d: %w", e.ID, e.Seq, err)
	}
	for _, p := range parts {
		if p.Index != 0 || len(p.Text) == 0 {
			continue
		}
		f.texted = true
		if f.w.Text != nil {
			if err := f.w.Text(string(p.Text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// whole passes the text of a job on that sent none piece by piece.
func (f *follower) whole(ctx context.Context, s *producer.Stream) error {
	r, err := s.Result(ctx)
	if err != nil || r.Text == "" || f.w.Text == nil {
		return err
	}
	return f.w.Text(r.Text)
}
