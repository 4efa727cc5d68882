package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// lookWithin bounds looking for what became of a job, and cancelling it.
const lookWithin = 5 * time.Second

// QueueTarget sends requests as jobs through hxp.
type QueueTarget struct {
	conns []*nats.Conn
	cfg   producer.Config

	mu      sync.Mutex
	clients map[string]*producer.Client // by tenant
	next    int
}

// NewQueue returns the target that submits jobs over the connections, which stay their owner's: a client for each
// tenant, which take them in turn. cfg is that of every client; its Tenant is not looked at. Close it.
func NewQueue(cfg producer.Config, conns ...*nats.Conn) (*QueueTarget, error) {
	if len(conns) == 0 {
		return nil, errors.New("queue target: no connection is given; want at least one")
	}
	return &QueueTarget{conns: conns, cfg: cfg, clients: map[string]*producer.Client{}}, nil
}

// Name returns [Queue].
func (*QueueTarget) Name() string { return Queue }

// Close closes the clients. Jobs that are still under way go on.
func (t *QueueTarget) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, c := range t.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (t *QueueTarget) client(tenant string) (*producer.Client, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.clients[tenant]; ok {
		return c, nil
	}
	cfg := t.cfg
	cfg.Tenant = tenant
	c, err := producer.New(t.conns[t.next%len(t.conns)], cfg)
	if err != nil {
		return nil, err
	}
	t.next++
	t.clients[tenant] = c
	return c, nil
}

// Do implements [Target]. A job that is not waited for any longer is cancelled, so that it loads nobody.
func (t *QueueTarget) Do(ctx context.Context, r *Request, o *Observation) error {
	c, err := t.client(r.Tenant)
	if err != nil {
		return &FailureError{string(schemas.CodeInvalidRequest), err}
	}
	o.Sent = time.Now()
	s, err := c.Submit(ctx, schemas.Job{Model: r.Model, Class: r.Class, Endpoint: r.Endpoint, Body: json.RawMessage(r.Body), Stream: r.Stream})
	if err != nil {
		return refused(ctx, err)
	}
	defer s.Close()
	o.Accepted, o.Job = time.Now(), s.Job().ID
	w := watch{o: o}
	if err := w.read(ctx, s); err != nil {
		whatBecame(ctx, c, s, o)
		return err
	}
	if !r.Stream {
		result, err := s.Result(ctx)
		if err != nil {
			return failed(ctx, string(schemas.CodeInternal), err)
		}
		o.write([]byte(result.Text))
	}
	return nil
}

// refused is the failure of a job that was not accepted.
func refused(ctx context.Context, err error) error {
	code := string(schemas.ErrorCode(err))
	switch {
	case code != "":
		return &FailureError{code, err}
	case ctx.Err() == nil && errors.Is(err, producer.ErrTimeout):
		return &FailureError{codeTimeout, err}
	default:
		return failed(ctx, codeConnection, err)
	}
}

// whatBecame looks for the job of a request that was given up, and cancels it if it has not ended.
func whatBecame(ctx context.Context, c *producer.Client, s *producer.Stream, o *Observation) {
	interrupted := ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTimedOut)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWithin)
	defer cancel()
	status, err := c.Status(ctx, o.Job)
	if err == nil && status.Result != nil {
		return
	}
	o.Lost = !interrupted // neither an end nor a Result within the time that the request was given
	if _, err := s.Cancel(ctx, "the load test does not wait for it any longer"); err != nil {
		return // the broker is gone, or the job has just ended: both are told by the failure
	}
}

// watch checks the events of one job.
type watch struct {
	o     *Observation
	last  uint64
	over  bool
	parts []openai.Choice
}

// read reads a stream to its end.
func (w *watch) read(ctx context.Context, s *producer.Stream) error {
	var failure *schemas.Error
	for e, err := range s.Events(ctx) {
		if err != nil {
			return w.broken(ctx, err)
		}
		now := time.Now()
		if err := w.see(&e, now); err != nil {
			return err
		}
		if e.Kind.Terminal() {
			w.over = true
			if e.Kind != schemas.Done {
				failure = e.Error
				if failure == nil {
					failure = schemas.Errorf(schemas.CodeInternal, "the job ended as %s without saying why", e.Kind)
				}
			}
		}
	}
	switch {
	case failure != nil:
		return &FailureError{string(failure.Code), failure}
	case !w.over:
		return &FailureError{codeTruncated, errors.New("the stream ends without a terminal event")}
	default:
		return nil
	}
}

// broken is the failure of a stream that could not be read to its end.
func (w *watch) broken(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, producer.ErrGap):
		w.o.Gap = true
		return &FailureError{codeGap, err}
	case errors.Is(err, producer.ErrConflict):
		return &FailureError{codeConflict, err}
	default:
		return failed(ctx, codeConnection, err)
	}
}

// see checks an event's place and notes what it says.
func (w *watch) see(e *schemas.Event, now time.Time) error {
	o := w.o
	if w.over {
		o.Doubled = true
		return nil
	}
	// An attempt may open, and a job end, ahead of places that an attempt before took without being seen.
	if e.Kind != schemas.Accepted && !e.Kind.Opens() && !e.Kind.Terminal() && e.Seq != w.last+1 {
		o.Gap = true
	}
	w.last = e.Seq
	o.Attempts = max(o.Attempts, e.Attempt)
	switch e.Kind {
	case schemas.Accepted:
		return nil
	case schemas.Restarted:
		o.void()
	case schemas.DeltaKind:
		var err error
		if w.parts, err = openai.ParseChoices(e.Choices, w.parts[:0]); err != nil {
			return &FailureError{codeMalformed, fmt.Errorf("event %d: %w", e.Seq, err)}
		}
		o.choices(w.parts, now)
	}
	if e.Usage != nil {
		o.Usage = e.Usage
	}
	if e.Timings != nil {
		o.QueueWait = time.Duration(e.Timings.Queue * 1e6)
	}
	if e.Kind == schemas.DeltaKind || e.Kind.Opens() {
		o.Deliveries = append(o.Deliveries, now.Sub(e.Time()))
	}
	return nil
}
