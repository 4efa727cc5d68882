package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Client is what the client commands work with: a connection and one tenant's producer on it.
type Client struct {
	*Connection
	*producer.Client
	maxBody int
}

// NewClient connects and makes a producer for a tenant. fail, which may be nil, hears of what the server forbids.
func NewClient(ctx context.Context, cfg *Config, tenant, name string, fail func(error)) (*Client, error) {
	conn, err := Connect(ctx, cfg, name, fail)
	if err != nil {
		return nil, err
	}
	p, err := producer.New(conn.NC, producer.Config{Tenant: tenant, SubmitTimeout: cfg.NATS.Timeout, MaxBodyBytes: int(cfg.Queue.MaxBodyBytes)})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Client{conn, p, int(cfg.Queue.MaxBodyBytes)}, nil
}

// Close closes the producer and the connection.
func (c *Client) Close() {
	_ = c.Client.Close() // ends subscriptions, which the connection's end does as well
	c.Connection.Close()
}

// Prompt is a generation as the command line asks for it.
type Prompt struct {
	Model, System, Text string
	// Raw sends Text to the completions endpoint as it is, without the model's chat template.
	Raw         bool
	Class       schemas.Class
	MaxTokens   int
	Temperature *float64
	// User is the end user, as OpenAI's requests name them. A session that the job makes is theirs.
	User   string
	Stream bool
}

// Job returns the job of a prompt.
func (p Prompt) Job() (schemas.Job, error) {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	body := struct {
		Messages    []message `json:"messages,omitempty"`
		Prompt      string    `json:"prompt,omitempty"`
		MaxTokens   int       `json:"max_tokens,omitempty"`
		Temperature *float64  `json:"temperature,omitempty"`
		User        string    `json:"user,omitempty"`
	}{MaxTokens: p.MaxTokens, Temperature: p.Temperature, User: p.User}
	job := schemas.Job{Model: p.Model, Class: p.Class, Stream: p.Stream, Endpoint: schemas.ChatCompletions}
	switch {
	case p.Text == "":
		return job, fmt.Errorf("%w: the prompt is empty", ErrUsage)
	case p.Raw && p.System != "":
		return job, fmt.Errorf("%w: --system does not go with --raw, which sends the prompt as it is", ErrUsage)
	case p.Raw:
		job.Endpoint, body.Prompt = schemas.Completions, p.Text
	default:
		if p.System != "" {
			body.Messages = append(body.Messages, message{"system", p.System})
		}
		body.Messages = append(body.Messages, message{"user", p.Text})
	}
	data, err := json.Marshal(body)
	job.Body = data
	return job, err
}

// Watcher is told what happens to a job while it is followed. Its fields may be nil.
type Watcher struct {
	// Text receives the text as it arrives.
	Text func(string) error
	// Restarted says that the text so far is void.
	Restarted func(why string)
}

// cancelWithin bounds the cancelling of a job whose submitter has been interrupted.
const cancelWithin = 3 * time.Second

// AbandonedError says that a job was cancelled because nobody waits for it any more.
type AbandonedError struct {
	Job string
	// Phase is how far the job had come.
	Phase schemas.Phase
	// Err is why the wait ended.
	Err error
}

func (e *AbandonedError) Error() string {
	if e.Phase == schemas.PhaseEnded {
		return fmt.Sprintf("%v; job %s had ended already", e.Err, e.Job)
	}
	return fmt.Sprintf("%v; job %s was cancelled (%s)", e.Err, e.Job, e.Phase)
}

// Unwrap returns why the wait ended.
func (e *AbandonedError) Unwrap() error { return e.Err }

// Generate submits a job and follows it to its end. If ctx ends first the job is cancelled on the
// cluster, so that no GPU works for nobody; the error is then an [AbandonedError].
func (c *Client) Generate(ctx context.Context, job schemas.Job, w Watcher) (*schemas.Result, error) {
	s, err := c.Submit(ctx, job)
	if err != nil {
		return nil, c.Explain(err)
	}
	defer s.Close()
	r, err := c.read(ctx, s, w)
	if err == nil || ctx.Err() == nil {
		return r, c.Explain(err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelWithin)
	defer cancel()
	phase, err := s.Cancel(last, "the submitter went away")
	if err != nil {
		return nil, errors.Join(context.Cause(ctx), c.Explain(err))
	}
	return nil, &AbandonedError{Job: s.Job().ID, Phase: phase, Err: context.Cause(ctx)}
}

// Watch follows a job that was submitted before, after the event with a Seq, to its end.
func (c *Client) Watch(ctx context.Context, job string, after uint64, w Watcher) (*schemas.Result, error) {
	s, err := c.Follow(ctx, job, after)
	if err != nil {
		return nil, c.Explain(err)
	}
	defer s.Close()
	r, err := c.read(ctx, s, w)
	return r, c.Explain(err)
}

// read passes a stream's text on and returns the job's Result.
func (c *Client) read(ctx context.Context, s *producer.Stream, w Watcher) (*schemas.Result, error) {
	for again := w.Text != nil; again; {
		again = false
		for text, err := range s.Text(ctx) {
			switch {
			case errors.Is(err, producer.ErrRestarted):
				again = true
				if w.Restarted != nil {
					w.Restarted(err.Error())
				}
			case err != nil && ended(err):
			case err != nil:
				return nil, err
			default:
				if err := w.Text(text); err != nil {
					return nil, err
				}
			}
		}
	}
	return s.Result(ctx)
}

// ended reports whether err is how the job ended, which its Result tells as well.
func ended(err error) bool {
	_, ok := errors.AsType[*schemas.Error](err)
	return ok
}
