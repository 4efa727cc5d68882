package batch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Client leaves batches of one tenant to the cluster, and looks after them. It is safe for concurrent use.
type Client struct {
	js     jetstream.JetStream
	tenant string
}

// NewClient returns a client of a tenant. It does no I/O.
func NewClient(js jetstream.JetStream, tenant string) (*Client, error) {
	if err := schemas.CheckToken(tenant); err != nil {
		return nil, fmt.Errorf("batch: tenant %w", err)
	}
	return &Client{js, tenant}, nil
}

// Submission is what is said of a batch when it is submitted. Its zero value is ready for use.
type Submission struct {
	// Endpoint is the one that all lines are for. By default the first line's.
	Endpoint schemas.Endpoint
	// Window is how long the batch may take. Defaults to 24 h.
	Window time.Duration
	// Priority orders the batches of the tenant, higher first, from -100 to 100.
	Priority int
	// Metadata is kept with the batch.
	Metadata map[string]string
}

// Submit stores an input and has the cluster work on it. The batch is safe once Submit has returned, whoever dies.
func (c *Client) Submit(ctx context.Context, input io.Reader, s Submission) (*schemas.BatchState, error) {
	id, err := NewID()
	if err != nil {
		return nil, err
	}
	window, now := cmp.Or(s.Window, 24*time.Hour), time.Now()
	b := &schemas.BatchState{
		ID: id, Object: "batch", Tenant: c.tenant, Endpoint: s.Endpoint, Status: schemas.BatchValidating,
		CompletionWindow: window.String(), CreatedAt: now.Unix(), ExpiresAt: now.Add(window).Unix(),
		Priority: s.Priority, Metadata: s.Metadata,
	}
	if err := b.Validate(); err != nil {
		return nil, err
	}
	if b.Input, err = queue.PutBatchInput(ctx, c.js, c.tenant, id, input); err != nil {
		return nil, err
	}
	if _, err := queue.PutBatch(ctx, c.js, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// Get returns a batch, or [ErrUnknownBatch].
func (c *Client) Get(ctx context.Context, id string) (*schemas.BatchState, error) {
	b, err := get(ctx, c.js, c.tenant, id)
	if err != nil {
		return nil, err
	}
	return &b.BatchState, nil
}

// List returns the tenant's batches, newest first. States that are none are named in an error, and the others returned.
func (c *Client) List(ctx context.Context) ([]*schemas.BatchState, error) {
	stored, _, err := queue.Batches(ctx, c.js, c.tenant, 0)
	if err != nil && !errors.Is(err, queue.ErrBadBatch) {
		return nil, err
	}
	var out []*schemas.BatchState
	for _, b := range stored {
		// One that changes while the list is read comes a second time.
		out = slices.DeleteFunc(out, func(o *schemas.BatchState) bool { return o.ID == b.ID })
		out = append(out, &b.BatchState)
	}
	slices.SortFunc(out, func(a, b *schemas.BatchState) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	return out, err
}

// Cancel stops a batch: no more lines are begun, and those that are running finish or, with abort, are cancelled. The rest fails
// as batch_cancelled. What was answered stays. A batch that is being cancelled may be cancelled again with abort.
func (c *Client) Cancel(ctx context.Context, id string, abort bool) (*schemas.BatchState, error) {
	return c.change(ctx, id, func(b *schemas.BatchState) error {
		b.Abort = b.Abort || abort
		if b.Status == schemas.BatchCancelling {
			return nil
		}
		return b.Move(schemas.BatchCancelling, time.Now())
	})
}

// RetryFailed tries the lines of a batch again that have failed, once it is over. They have its window again.
func (c *Client) RetryFailed(ctx context.Context, id string) (*schemas.BatchState, error) {
	return c.change(ctx, id, func(b *schemas.BatchState) error {
		if b.Round >= maxRounds {
			return schemas.Errorf(schemas.CodeInvalidRequest, "batch %s has been retried %d times; want at most %d", id, b.Round, maxRounds)
		}
		return b.Retry(time.Now())
	})
}

// SetPriority orders a batch anew among those of its tenant.
func (c *Client) SetPriority(ctx context.Context, id string, priority int) (*schemas.BatchState, error) {
	return c.change(ctx, id, func(b *schemas.BatchState) error {
		b.Priority = priority
		return b.Validate()
	})
}

func (c *Client) change(ctx context.Context, id string, f func(*schemas.BatchState) error) (*schemas.BatchState, error) {
	b, err := change(ctx, c.js, c.tenant, id, f)
	if err != nil {
		return nil, err
	}
	return &b.BatchState, nil
}

// watchEvery is how often a batch is looked at that is watched.
const watchEvery = 250 * time.Millisecond

// Watch calls see with each state of a batch until it is over, and returns the last. A broker that does not answer for a
// while is no reason to stop.
func (c *Client) Watch(ctx context.Context, id string, see func(*schemas.BatchState)) (*schemas.BatchState, error) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var seen uint64
	for {
		b, err := get(ctx, c.js, c.tenant, id)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, ErrUnknownBatch), err != nil && schemas.ErrorCode(err) != "":
			return nil, err
		case err == nil && b.Revision != seen:
			seen = b.Revision
			see(&b.BatchState)
			if b.Status.Terminal() {
				return &b.BatchState, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Output yields the records of the lines of a batch that were answered, each a line with its end, in the order in which
// they were done. It may be asked for at any time, and yields what there is by then.
func (c *Client) Output(ctx context.Context, id string) iter.Seq2[[]byte, error] {
	return c.records(ctx, id, false)
}

// Errors yields the records of the lines that have failed, likewise. Failures that have been tried again are not among them.
func (c *Client) Errors(ctx context.Context, id string) iter.Seq2[[]byte, error] {
	return c.records(ctx, id, true)
}

func (c *Client) records(ctx context.Context, id string, failed bool) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		b, err := get(ctx, c.js, c.tenant, id)
		if err != nil {
			yield(nil, err)
			return
		}
		for part, err := range queue.BatchParts(ctx, c.js, c.tenant, id, 0) {
			if err != nil {
				yield(nil, err)
				return
			}
			if part.Failed != failed {
				continue
			}
			for line := range bytes.Lines(part.Data) {
				if m, ok := parseRecord(line); ok && m.failed && m.round < b.Round {
					continue
				}
				if !yield(line, nil) {
					return
				}
			}
		}
	}
}
