package producer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// closeWait bounds how long Close waits for messages that are under way.
const closeWait = time.Second

// Client submits the jobs of one tenant and follows their streams. It is safe for concurrent use.
type Client struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	cfg Config

	// ctx ends with the client, and with it the goroutines that look for the Results of cancelled jobs.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	starting sync.Mutex // held while the subscriptions are made
	started  bool       // guarded by starting

	mu       sync.Mutex
	closed   bool
	subs     []*nats.Subscription
	streams  map[string][]*Stream // open streams by job id
	watching map[string]bool      // cancelled jobs whose Result is being looked for
}

// New returns a client of the connection. It does no I/O: the connection may still be connecting.
// The connection stays its owner's; Close does not close it.
func New(nc *nats.Conn, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	js, err := cfg.jetStream(nc)
	if err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{
		nc: nc, js: js, cfg: cfg, ctx: ctx, cancel: cancel,
		streams: map[string][]*Stream{}, watching: map[string]bool{},
	}, nil
}

// Tenant returns the tenant that owns the client's jobs.
func (c *Client) Tenant() string { return c.cfg.Tenant }

// Name returns the client's token in the subject of its events.
func (c *Client) Name() string { return c.cfg.Name }

// start subscribes to the client's events and to its tenant's cancels, once, and waits until the
// server knows of both: no event of a job published afterwards can be missed for want of a subscription.
func (c *Client) start(ctx context.Context) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	if c.started {
		return nil
	}
	if err := c.subscribe(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SubmitTimeout)
	defer cancel()
	for {
		err := c.nc.FlushWithContext(ctx)
		if err == nil {
			break
		}
		// A connection that is lost while it is flushed reports that it is closed, and comes back.
		if c.nc.IsClosed() || !pause(ctx, 20*time.Millisecond, nil) {
			return fmt.Errorf("subscribe to the events of client %s: %w", c.cfg.Name, err)
		}
	}
	c.started = true
	return nil
}

func (c *Client) subscribe() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	for _, s := range []struct {
		subject string
		handler nats.MsgHandler
	}{
		{schemas.EventsOfClient(c.cfg.Tenant, c.cfg.Name), c.onEvent},
		{schemas.CancelSubject(c.cfg.Tenant, "*"), c.onCancel},
	} {
		if slices.ContainsFunc(c.subs, func(sub *nats.Subscription) bool { return sub.Subject == s.subject }) {
			continue // an earlier start got this far
		}
		sub, err := c.nc.Subscribe(s.subject, s.handler)
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", s.subject, err)
		}
		c.subs = append(c.subs, sub)
	}
	return nil
}

// open registers a stream, and with private gives it a subscription to its job's events, whoever
// submitted it. A stream may be opened a second time to get one.
func (c *Client) open(s *Stream, private bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if private {
		subject := schemas.EventsOfJob(c.cfg.Tenant, s.job.ID)
		sub, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
			if e, ok := c.decode(m); ok {
				s.receive(e, len(m.Data))
			}
		})
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		s.sub = sub
	}
	// The slices in c.streams are replaced, never changed: onEvent reads them without the lock.
	if streams := c.streams[s.job.ID]; !slices.Contains(streams, s) {
		c.streams[s.job.ID] = append(slices.Clone(streams), s)
	}
	return nil
}

// forget ends the live events of a stream.
func (c *Client) forget(s *Stream) {
	c.mu.Lock()
	sub := s.sub
	s.sub = nil
	rest := slices.DeleteFunc(slices.Clone(c.streams[s.job.ID]), func(o *Stream) bool { return o == s })
	if len(rest) == 0 {
		delete(c.streams, s.job.ID)
	} else {
		c.streams[s.job.ID] = rest
	}
	c.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // fails only if the connection is closed, which unsubscribes as well
	}
}

func (c *Client) onEvent(m *nats.Msg) {
	c.mu.Lock()
	streams := c.streams[lastToken(m.Subject)]
	c.mu.Unlock()
	if len(streams) == 0 {
		return
	}
	e, ok := c.decode(m)
	if !ok {
		return
	}
	for _, s := range streams {
		if s.shared {
			s.receive(e, len(m.Data))
		}
	}
}

// decode reads a live event. What is not one counts as lost: the record decides.
func (c *Client) decode(m *nats.Msg) (schemas.Event, bool) {
	id := lastToken(m.Subject)
	e := schemas.Event{ID: id}
	if err := e.Decode(m.Data); err != nil || e.ID != id || e.Seq == 0 || e.Attempt < 1 {
		c.cfg.Logger.Warn().Err(err).Str("subject", m.Subject).Int("bytes", len(m.Data)).Uint64("seq", e.Seq).
			Int("attempt", e.Attempt).Msg("message on an events subject is not an event")
		return e, false
	}
	return e, true
}

// onCancel sees the tenant's cancels. Whoever cancels a queued job ends it by writing its Result and
// does not know where the job's submitter listens; the submitter looks for the Result by itself.
func (c *Client) onCancel(m *nats.Msg) {
	id := lastToken(m.Subject)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.watching[id] || len(c.streams[id]) == 0 {
		return
	}
	c.watching[id] = true
	c.tasks.Go(func() { c.awaitCancelled(id) })
}

// awaitCancelled looks for the Result of a cancelled job until it is there, the job's streams are
// closed, or IdleCheck has come round anyway.
func (c *Client) awaitCancelled(id string) {
	ctx, stop := context.WithTimeout(c.ctx, max(c.cfg.IdleCheck, 4*c.cfg.CancelWait))
	defer stop()
	defer func() {
		c.mu.Lock()
		delete(c.watching, id)
		c.mu.Unlock()
	}()
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		_, err := queue.GetResult(ctx, c.js, c.cfg.Tenant, id)
		c.mu.Lock()
		streams := c.streams[id]
		c.mu.Unlock()
		if err == nil {
			for _, s := range streams {
				s.over()
			}
			return
		}
		if len(streams) == 0 || !pause(ctx, delay, nil) {
			return
		}
	}
}

// Close ends the client's open streams with [ErrClosed], after what has arrived until then, and ends
// its subscriptions. Jobs go on: see [Client.Cancel]. The connection stays open.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	subs := c.subs
	var streams []*Stream
	for _, s := range c.streams {
		streams = append(streams, s...)
	}
	c.mu.Unlock()
	for _, sub := range subs {
		c.drain(sub)
	}
	for _, s := range streams {
		s.Close()
	}
	c.cancel()
	c.tasks.Wait()
	return nil
}

// drain ends a subscription after what the server has sent to it, if there is a server.
func (c *Client) drain(sub *nats.Subscription) {
	done := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(done) })
	if c.nc.Status() != nats.CONNECTED || sub.Drain() != nil {
		_ = sub.Unsubscribe()
		return
	}
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		_ = sub.Unsubscribe()
	}
}

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// pause waits for d. It reports false if ctx or done ended the wait.
func pause(ctx context.Context, d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-done:
		return false
	}
}
