package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// ChatOptions are what a [Chat] begins with. Only Model is required.
type ChatOptions struct {
	Model string
	// Session is the session to go on with; one that is not there is made with the first turn.
	Session string
	// System is the system prompt of sessions that the chat makes, and of Session.
	System string
	// User owns the sessions that the chat makes and lists.
	User        string
	MaxTokens   int
	Temperature *float64
}

// Chat is a conversation that goes on turn by turn through the queue: each turn is a job with the new message
// alone. It answers the turn that its user has seen last, whoever else adds to the session. It is not safe for
// concurrent use.
type Chat struct {
	client *Client
	cfg    *Config
	o      ChatOptions

	sessions *Sessions // nil until it is needed
	warned   bool      // that it could not be had

	session string // "" until the first turn
	known   bool   // that the session is stored
	branch  string // "" is the active one
	parent  string // the turn to answer; "" is the branch's last
	last    *asked
	listed  []conversation.Thread
}

// asked is a message that may be sent again.
type asked struct{ text, parent string }

// NewChat returns a chat. Redis is connected to when something needs it.
func NewChat(client *Client, cfg *Config, o ChatOptions) *Chat {
	return &Chat{client: client, cfg: cfg, o: o, session: o.Session}
}

// Close closes the connections to Redis, if there are any.
func (c *Chat) Close() error {
	if c.sessions == nil {
		return nil
	}
	return c.sessions.Close()
}

// Session is the id of the session; "" before its first turn.
func (c *Chat) Session() string { return c.session }

// Branch is the session's branch; "" is the active one.
func (c *Chat) Branch() string { return c.branch }

// store opens the conversations when they are needed first.
func (c *Chat) store(ctx context.Context) (*Sessions, error) {
	if c.sessions == nil {
		s, err := OpenSessions(ctx, c.cfg)
		if err != nil {
			return nil, err
		}
		c.sessions = s
	}
	return c.sessions, nil
}

// stored is the store, for what needs a session that has been made.
func (c *Chat) stored(ctx context.Context) (*Sessions, error) {
	if c.session == "" {
		return nil, errors.New("there is no session yet: the first message makes one")
	}
	return c.store(ctx)
}

// Open looks at the session that the chat goes on with, and returns its last turn; nil if there is no such session yet. Without Redis
// the chat goes on all the same, unless there is a system prompt to be kept.
func (c *Chat) Open(ctx context.Context, w TurnWatcher) (*SessionPath, error) {
	if c.session == "" {
		return nil, nil //nolint:nilnil // documented: a chat need not go on with anything
	}
	path, err := c.Switch(ctx, c.session)
	switch {
	case err == nil:
		if c.o.System != "" && c.o.System != path.Session.System {
			err = c.SetSystem(ctx, c.o.System)
		}
		return path, err
	case errors.Is(err, conversation.ErrNotFound):
		w.note("session %s is not there yet: the first message makes it", c.session)
		return nil, nil //nolint:nilnil // as above
	case errors.Is(err, ErrCannotConnect) && c.o.System == "":
		c.warn(w, err)
		return nil, nil //nolint:nilnil // as above
	}
	return nil, err
}

// warn says once that the chat goes on without the store.
func (c *Chat) warn(w TurnWatcher, err error) {
	if !c.warned {
		c.warned = true
		w.note("%v; turns go on, since the worker keeps them, but commands about sessions do not work", err)
	}
}

// New leaves the session. The next message makes another one.
func (c *Chat) New() {
	c.session, c.known, c.branch, c.parent, c.last = "", false, "", "", nil
}

// Switch goes on with another session, by its id or by its number in the last list, and returns its last turn.
func (c *Chat) Switch(ctx context.Context, id string) (*SessionPath, error) {
	if n, err := strconv.Atoi(id); err == nil && n > 0 && n <= len(c.listed) {
		id = c.listed[n-1].ID
	}
	s, err := c.store(ctx)
	if err != nil {
		return nil, err
	}
	path, err := s.Path(ctx, id, "", "", 1)
	if err != nil {
		return nil, err
	}
	c.session, c.known = id, true
	c.at(path)
	return path, nil
}

// at goes on after a path.
func (c *Chat) at(path *SessionPath) {
	c.branch, c.parent, c.last = path.Branch, path.Leaf, nil
	if n := len(path.Turns); n > 0 {
		c.last = askedIn(path.Turns[n-1])
	}
}

// askedIn is what was asked in a turn; nil if that was not one message of text.
func askedIn(t conversation.Turn) *asked {
	if len(t.Messages) == 0 || len(t.Messages) > 2 || t.Messages[0].Role() != "user" {
		return nil
	}
	text, ok := stringContent(t.Messages[0].Body)
	if !ok {
		return nil
	}
	return &asked{text, cmp.Or(t.Parent, schemas.RootTurn)}
}

// ensure makes the session of a first message. The worker would make it as well, but with no title or system prompt.
func (c *Chat) ensure(ctx context.Context, text string, w TurnWatcher) error {
	if c.known {
		return nil
	}
	id := c.session
	if id == "" {
		fresh, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("new session: %w", err)
		}
		id = fresh.String()
	}
	s, err := c.store(ctx)
	if err == nil {
		_, err = s.Store.Create(ctx, conversation.NewSession{
			Tenant: s.Tenant, ID: id, User: c.o.User, Title: firstWords(text, 60), Model: c.o.Model, System: c.o.System,
		})
		err = s.explain(id, err)
	}
	switch {
	case err == nil, errors.Is(err, conversation.ErrExists): // somebody was faster
	case errors.Is(err, ErrCannotConnect) && c.o.System == "":
		c.warn(w, err)
	default:
		return fmt.Errorf("new session: %w", err)
	}
	c.session, c.known = id, true
	return nil
}

// message is the body of a turn: the new message alone.
func (c *Chat) message(text string) Prompt {
	return Prompt{
		Model: c.o.Model, Text: text, Class: schemas.Interactive, MaxTokens: c.o.MaxTokens,
		Temperature: c.o.Temperature, User: c.o.User, Stream: true,
	}
}
