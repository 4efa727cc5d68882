package batch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// resultsAtOnce is how many Results are asked for in one request.
	resultsAtOnce = 512
	// rereadAfter is when a Result is asked for again that was announced and is not to be read yet: a
	// replica may be a moment behind.
	rereadAfter = 20 * time.Millisecond
	// rereads is how often that is done before it is left to the sweep.
	rereads = 5
)

// pending is a line whose job has been handed to the queue, or is about to be.
type pending struct {
	w     *work
	x     *item
	key   queue.JobKey
	asked time.Time // when its Result was last asked for, or it was tracked
	tries int
}

// outcome is a line with its Result.
type outcome struct {
	p *pending
	r *schemas.Result
}

// tracker learns of the ends of very many jobs. It listens to the terminal events of all of them on one
// subscription, and reads the Results of those that it has heard of in bulk. An event may be lost, so
// that every few seconds it asks for the Results of all the others too.
type tracker struct {
	js      jetstream.JetStream
	subject string
	sweep   time.Duration
	ends    chan []outcome
	fault   func(error) // told what went wrong, and nil when it goes well again
	wake    chan struct{}

	mu    sync.Mutex
	open  map[string]*pending
	ended []*pending
}

func newTracker(js jetstream.JetStream, subject string, sweep time.Duration, fault func(error)) *tracker {
	return &tracker{
		js: js, subject: subject, sweep: sweep, fault: fault,
		ends: make(chan []outcome), wake: make(chan struct{}, 1), open: make(map[string]*pending),
	}
}

// track is called before a job is handed to the queue, so that no event can be missed.
func (t *tracker) track(p *pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.asked = time.Now()
	t.open[p.x.job] = p
}

// drop forgets a job. It reports whether its end was not known yet.
func (t *tracker) drop(job string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, open := t.open[job]
	delete(t.open, job)
	return open
}

// of returns the jobs of a batch that have not ended.
func (t *tracker) of(w *work) []*pending {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*pending
	for _, p := range t.open {
		if p.w == w {
			out = append(out, p)
		}
	}
	return out
}

// hint says that a job has probably ended.
func (t *tracker) hint(job string) {
	t.mu.Lock()
	p := t.open[job]
	if p != nil {
		p.tries = 0
		t.ended = append(t.ended, p)
	}
	t.mu.Unlock()
	if p != nil {
		t.nudge()
	}
}

func (t *tracker) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// hear looks at one event. What is no event, or of no job here, is somebody else's.
func (t *tracker) hear(m *nats.Msg) {
	var e schemas.Event
	if err := e.Decode(m.Data); err == nil && e.Kind.Terminal() {
		t.hint(e.ID)
	}
}

// subscribeWithin bounds the wait for the server to know of a subscription. Without it events may be
// missed, which the sweep makes good.
const subscribeWithin = 5 * time.Second

// subscribe listens to the terminal events, and returns how to stop.
func (t *tracker) subscribe(ctx context.Context) (unsubscribe func(), err error) {
	nc := t.js.Conn()
	sub, err := nc.Subscribe(t.subject, t.hear)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", t.subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, subscribeWithin)
	defer cancel()
	_ = nc.FlushWithContext(ctx)
	return func() { _ = sub.Unsubscribe() }, nil // fails only if the connection is closed, which unsubscribes as well
}

// run tracks until ctx ends.
func (t *tracker) run(ctx context.Context) {
	tick := time.NewTicker(t.sweep / 4)
	defer tick.Stop()
	reread := time.NewTimer(rereadAfter)
	defer reread.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-reread.C:
		case <-tick.C:
			t.overdue()
		}
		for {
			batch := t.take()
			if len(batch) == 0 {
				break
			}
			if again := t.read(ctx, batch); again {
				reread.Reset(rereadAfter)
				break
			}
		}
	}
}

// overdue adds the jobs to those that have ended whose Results nobody has asked for in a while.
func (t *tracker) overdue() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		if time.Since(p.asked) >= t.sweep {
			p.tries = rereads // once is enough
			t.ended = append(t.ended, p)
		}
	}
}

func (t *tracker) take() []*pending {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.ended), resultsAtOnce)
	out := t.ended[:n:n]
	t.ended = t.ended[n:]
	if len(t.ended) == 0 {
		t.ended = nil
	}
	return out
}

// read asks for the Results of some jobs and passes on those that are there. It reports whether some are
// to be asked for again soon.
func (t *tracker) read(ctx context.Context, batch []*pending) (again bool) {
	keys, by := make([]queue.JobKey, 0, len(batch)), make(map[queue.JobKey]*pending, len(batch))
	for _, p := range batch {
		if _, twice := by[p.key]; !twice {
			keys, by[p.key] = append(keys, p.key), p
		}
	}
	var found []outcome
	err := queue.Results(ctx, t.js, keys, func(k queue.JobKey, r *schemas.Result) {
		found = append(found, outcome{by[k], r})
		delete(by, k)
	})
	if ctx.Err() != nil {
		return false
	}
	t.fault(err)
	t.mu.Lock()
	live := found[:0]
	for _, o := range found {
		if t.open[o.p.x.job] == o.p {
			delete(t.open, o.p.x.job)
			live = append(live, o)
		}
	}
	for _, p := range by {
		p.asked = time.Now()
		if p.tries++; t.open[p.x.job] == p && (err != nil || p.tries < rereads) {
			t.ended, again = append(t.ended, p), true
		}
	}
	t.mu.Unlock()
	if len(live) > 0 {
		select {
		case t.ends <- live:
		case <-ctx.Done():
		}
	}
	return again
}
