package app

import (
	"context"
	"errors"
	"io"

	"github.com/hxp-enterprise/hxp/conversation"
)

// List lists the user's sessions, newest change first.
func (c *Chat) List(ctx context.Context, title string, limit int) ([]conversation.Thread, error) {
	s, err := c.store(ctx)
	if err != nil {
		return nil, err
	}
	c.listed, err = s.List(ctx, c.o.User, title, limit)
	return c.listed, err
}

// Branches lists the session's branches.
func (c *Chat) Branches(ctx context.Context) ([]Branch, error) {
	s, err := c.stored(ctx)
	if err != nil {
		return nil, err
	}
	return s.Branches(ctx, c.session)
}

// UseBranch goes on with a branch of the session and makes it the active one. A new one begins after the last turn seen.
func (c *Chat) UseBranch(ctx context.Context, name string) (path *SessionPath, made bool, err error) {
	s, err := c.stored(ctx)
	if err != nil {
		return nil, false, err
	}
	session, err := s.Get(ctx, c.session)
	if err != nil {
		return nil, false, err
	}
	change := BranchChange{Name: name, Activate: true}
	_, there := session.Heads[name]
	if !there {
		change.Turn = c.parent
	}
	if err := s.Branch(ctx, c.session, change); err != nil {
		return nil, false, err
	}
	if path, err = s.Path(ctx, c.session, name, "", 1); err != nil {
		return nil, false, err
	}
	c.at(path)
	return path, !there, nil
}

// System is the system prompt of the session, or of the next one.
func (c *Chat) System(ctx context.Context) (string, error) {
	if c.session == "" {
		return c.o.System, nil
	}
	s, err := c.store(ctx)
	if err != nil {
		return "", err
	}
	session, err := s.Get(ctx, c.session)
	if err != nil {
		return "", err
	}
	return session.System, nil
}

// SetSystem gives the session, and those that the chat makes later, another system prompt.
func (c *Chat) SetSystem(ctx context.Context, text string) error {
	if c.session != "" {
		s, err := c.store(ctx)
		if err != nil {
			return err
		}
		if _, err := s.Store.Update(ctx, s.Ref(c.session), conversation.Update{System: &text}); err != nil {
			return s.explain(c.session, err)
		}
	}
	c.o.System = text
	return nil
}

// Rename gives the session another title.
func (c *Chat) Rename(ctx context.Context, title string) error {
	s, err := c.stored(ctx)
	if err != nil {
		return err
	}
	_, err = s.Rename(ctx, c.session, title)
	return err
}

// Path is what was said on the branch: the last turns, or all if last is 0.
func (c *Chat) Path(ctx context.Context, last int) (*SessionPath, error) {
	s, err := c.stored(ctx)
	if err != nil {
		return nil, err
	}
	return s.Path(ctx, c.session, c.branch, c.parent, last)
}

// Tree is the whole session.
func (c *Chat) Tree(ctx context.Context) (*SessionTree, error) {
	s, err := c.stored(ctx)
	if err != nil {
		return nil, err
	}
	return s.Tree(ctx, c.session)
}

// Stats is the session with its counts.
func (c *Chat) Stats(ctx context.Context) (*conversation.Session, error) {
	s, err := c.stored(ctx)
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, c.session)
}

// Save exports the session: all of it as [FormJSON], the path to the last turn seen as [FormShareGPT].
func (c *Chat) Save(ctx context.Context, form string) (data []byte, lost int, err error) {
	s, err := c.stored(ctx)
	if err != nil {
		return nil, 0, err
	}
	turn := ""
	if form == FormShareGPT {
		turn = c.parent
	}
	return s.Export(ctx, c.session, form, turn)
}

// Load makes a session of an export and goes on with it.
func (c *Chat) Load(ctx context.Context, r io.Reader) (*SessionPath, error) {
	s, err := c.store(ctx)
	if err != nil {
		return nil, err
	}
	made, err := s.Import(ctx, r, conversation.NewSession{User: c.o.User})
	if len(made) == 0 {
		return nil, err
	}
	path, switched := c.Switch(ctx, made[0].ID)
	return path, errors.Join(err, switched)
}
