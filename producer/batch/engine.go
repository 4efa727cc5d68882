package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// submitters is how many lines are handed to the queue at once.
const submitters = 16

// engineConfig tunes an engine. Its zero value is ready for use.
type engineConfig struct {
	// subject is where the terminal events of all its jobs arrive.
	subject string
	// inFlight bounds the lines in the queue or running, over all models; 0 leaves it to the workers' slots.
	inFlight int
	// sweep is after how much silence the Result of a job is asked for.
	sweep time.Duration
	// weight is a tenant's share.
	weight func(tenant string) float64
	// burst is how many tokens a tenant that comes back may be ahead.
	burst float64
}

// engine runs lines of batches through the queue: it keeps as many of each model there as its workers need,
// takes those of the tenants in turn, and records each line's end. One goroutine owns all state; feeders,
// submitters and the tracker talk to it over channels.
type engine struct {
	js      jetstream.JetStream
	cfg     engineConfig
	shares  *shares
	budget  *budget
	tracker *tracker

	joins   chan *work
	orders  chan func(context.Context)
	windows chan *window
	submit  chan *pending
	sent    chan submission
	changed chan struct{}

	works       map[*work]bool
	outstanding map[string]int // by model
	total       int
	blocked     map[string]time.Time // models whose queue was full a moment ago
	helpers     sync.WaitGroup
	over        chan struct{}

	mu       sync.Mutex
	troubles map[string]error // what keeps the engine from working, by what it was doing
}

// submission is what became of handing a line to the queue.
type submission struct {
	p   *pending
	err error
}

// stopRequest has a batch admit no more lines. What has not been admitted is recorded as unanswered;
// with abort, what is running is cancelled, and otherwise finishes.
type stopRequest struct {
	w     *work
	why   *stopping
	abort bool
}

func newEngine(js jetstream.JetStream, cfg engineConfig) *engine {
	cfg.sweep = cmp.Or(cfg.sweep, 5*time.Second)
	cfg.burst = cmp.Or(cfg.burst, 1<<16)
	e := &engine{
		js: js, cfg: cfg, shares: newShares(cfg.weight, cfg.burst),
		joins: make(chan *work), orders: make(chan func(context.Context)), windows: make(chan *window),
		submit: make(chan *pending, submitters), sent: make(chan submission, submitters), changed: make(chan struct{}, 1),
		works: make(map[*work]bool), outstanding: make(map[string]int), blocked: make(map[string]time.Time),
		over: make(chan struct{}), troubles: make(map[string]error),
	}
	e.budget = newBudget(js, e.note("look at the workers"))
	e.tracker = newTracker(js, cfg.subject, cfg.sweep, e.note("read results"))
	return e
}

// note returns where a part of the engine says what keeps it from working, or that nothing does.
func (e *engine) note(what string) func(error) {
	return func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if err == nil {
			delete(e.troubles, what)
		} else {
			e.troubles[what] = fmt.Errorf("%s: %w", what, err)
		}
	}
}

// look returns how far a batch has come, and what holds it up.
func (e *engine) look(w *work) Progress {
	p := w.progress.get()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, err := range e.troubles {
		p.Fault = cmp.Or(p.Fault, err.Error())
	}
	return p
}

// add has the engine run a batch. It reports false if the engine has ended.
func (e *engine) add(ctx context.Context, w *work) bool {
	w.tag = tag(w.batch)
	w.ready, w.want, w.done = make(map[string][]*item), make(chan struct{}, 1), make(chan struct{})
	select {
	case e.joins <- w:
		return true
	case <-e.over:
	case <-ctx.Done():
	}
	return false
}

// halt asks for a batch to be stopped.
func (e *engine) halt(ctx context.Context, r stopRequest) {
	e.order(ctx, r.w, func(ctx context.Context) { e.halting(ctx, r) })
}

// prioritize orders a batch anew among those of its tenant.
func (e *engine) prioritize(ctx context.Context, w *work, priority int) {
	e.order(ctx, w, func(context.Context) {
		w.priority = priority
		e.shares.sort(w.tenant)
	})
}

// order has the loop do something about a batch, unless the batch is over.
func (e *engine) order(ctx context.Context, w *work, do func(context.Context)) {
	select {
	case e.orders <- do:
	case <-w.done:
	case <-e.over:
	case <-ctx.Done():
	}
}

// run works until ctx ends, and then until everything that was recorded has been written. Lines that are in the queue stay there.
func (e *engine) run(ctx context.Context) error {
	defer close(e.over)
	unsubscribe, err := e.tracker.subscribe(ctx)
	if err != nil {
		return err
	}
	defer unsubscribe()
	inner, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	parts.Go(func() { e.tracker.run(inner) })
	parts.Go(func() { e.budget.run(inner, e.nudge) })
	for range submitters {
		parts.Go(func() { e.hand(inner) })
	}
	e.loop(inner)
	stop()
	for w := range e.works {
		e.close(ctx, w, context.Cause(ctx))
	}
	e.helpers.Wait()
	return nil
}

func (e *engine) nudge() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *engine) loop(ctx context.Context) {
	tick := time.NewTicker(againAfter)
	defer tick.Stop()
	for {
		e.admit()
		select {
		case <-ctx.Done():
			return
		case w := <-e.joins:
			e.join(ctx, w)
		case do := <-e.orders:
			do(ctx)
		case win := <-e.windows:
			e.take(win)
			e.settle(ctx, win.w)
		case s := <-e.sent:
			e.handed(s)
			e.settle(ctx, s.p.w)
		case ends := <-e.tracker.ends:
			e.finish(ctx, ends)
		case <-e.changed:
		case <-tick.C:
		}
	}
}

func (e *engine) join(ctx context.Context, w *work) {
	e.works[w] = true
	e.shares.join(w)
	// A batch that ends leaves its feeder alone, so it has a context of its own.
	feeding, stop := context.WithCancel(ctx)
	w.stop = stop
	f := &feeder{js: e.js, w: w, out: e.windows, fault: func(err error) { setFault(w, err) }}
	e.ask(w)
	e.helpers.Go(func() { f.run(feeding) })
}

// room reports whether another line of a model may be admitted.
func (e *engine) room(model string) bool {
	if e.cfg.inFlight > 0 {
		if e.total >= e.cfg.inFlight || e.budget.room(model) == 0 {
			return false
		}
	} else if e.outstanding[model] >= e.budget.room(model) {
		return false
	}
	until, full := e.blocked[model]
	if full && time.Now().After(until) {
		delete(e.blocked, model)
		full = false
	}
	return !full
}

// admit hands as many lines to the queue as there is room for.
func (e *engine) admit() {
	for len(e.submit) < cap(e.submit) {
		w, x := e.shares.next(e.room)
		if w == nil {
			return
		}
		p := &pending{w: w, x: x, key: queue.JobKey{Tenant: w.tenant, ID: x.job}}
		e.count(w, x, 1)
		e.tracker.track(p)
		e.submit <- p // has room: nobody else sends
		e.ask(w)
	}
}

// ask asks for the next window when half of one is left.
func (e *engine) ask(w *work) {
	if !w.ended && !w.asked && w.low() {
		w.asked = true
		w.want <- struct{}{} // has room: the feeder takes one for each window
	}
}

func (e *engine) count(w *work, x *item, n int) {
	w.outstanding += n
	e.outstanding[x.model] += n
	e.total += n
	w.progress.update(func(p *Progress) { p.InFlight = int64(w.outstanding) })
}

// hand hands lines to the queue until ctx ends.
func (e *engine) hand(ctx context.Context) {
	for {
		var p *pending
		select {
		case p = <-e.submit:
		case <-ctx.Done():
			return
		}
		job := schemas.Job{
			ID: p.x.job, Model: p.x.model, Class: schemas.Batch, Endpoint: p.x.endpoint, Body: p.x.body,
			Metadata: map[string]string{"batch": p.w.batch, "custom_id": p.x.customID},
		}
		job.Deadline = p.w.deadline
		_, err := p.w.client.Enqueue(ctx, job)
		select {
		case e.sent <- submission{p, err}:
		case <-ctx.Done():
			return
		}
	}
}

// handed notes what became of handing a line to the queue.
func (e *engine) handed(s submission) {
	p := s.p
	if s.err == nil {
		p.x.body = nil // it is the queue's
		setFault(p.w, nil)
		return
	}
	if !e.tracker.drop(p.x.job) {
		return // it has been answered all the same
	}
	e.count(p.w, p.x, -1)
	e.shares.settle(p.w.tenant, p.x, 0)
	if lasting(s.err) {
		e.record(p.w, p.x.line, rejected(p.w.tag, p.w.round, p.x.line, p.x.customID, p.x.job, schemas.AsError(s.err)))
		return
	}
	setFault(p.w, s.err)
	e.blocked[p.x.model] = time.Now().Add(againAfter)
	if p.w.stopping != nil {
		e.leave(p.w, p.x)
		return
	}
	p.w.queue([]*item{p.x}, true)
}

// lasting reports whether a refusal would be the same again.
func lasting(err error) bool {
	e, ok := errors.AsType[*schemas.Error](err)
	return ok && !e.Retryable
}

// take takes over a window.
func (e *engine) take(win *window) {
	w := win.w
	if w.closing {
		return
	}
	w.ended, w.asked = win.ended, false
	if win.err != nil {
		w.err, w.ended = cmp.Or(w.err, win.err), true
	}
	for _, f := range win.faults {
		e.record(w, f.Line, refusal(w.tag, w.round, f))
	}
	for _, o := range win.stored {
		w.progress.update(func(p *Progress) { p.Reused++ })
		e.answer(o)
	}
	w.queue(win.items, false)
	if w.stopping != nil {
		e.leaveAll(w)
	}
	e.ask(w)
}

// leave records a line that will not be answered.
func (e *engine) leave(w *work, x *item) {
	e.record(w, x.line, unanswered(w.tag, w.round, x.line, x.customID, w.stopping.code, w.stopping.why))
}

func (e *engine) leaveAll(w *work) {
	for _, x := range w.drain() {
		e.leave(w, x)
	}
}

// answer records the Result of a line.
func (e *engine) answer(o outcome) {
	w, x := o.p.w, o.p.x
	r := answered(w.tag, w.round, x.line, x.customID, o.r)
	if w.stopping != nil && o.r.Status == schemas.StatusCancelled {
		r = unanswered(w.tag, w.round, x.line, x.customID, w.stopping.code, w.stopping.why)
	}
	w.expired = w.expired || o.r.Status == schemas.StatusExpired
	e.record(w, x.line, r)
}

// record writes the record of a line. What cannot be written ends the batch.
func (e *engine) record(w *work, line int64, r *record) {
	if w.err == nil {
		w.err = w.record(line, r)
	}
}

// finish records lines whose jobs have ended.
func (e *engine) finish(ctx context.Context, ends []outcome) {
	touched := make(map[*work]bool)
	for _, o := range ends {
		w := o.p.w
		e.count(w, o.p.x, -1)
		tokens := int64(0)
		if o.r.Usage != nil {
			tokens = int64(o.r.Usage.TotalTokens)
		}
		e.shares.settle(w.tenant, o.p.x, tokens)
		if w.closing {
			continue // its sink takes no more
		}
		setFault(w, nil)
		e.answer(o)
		touched[w] = true
	}
	for w := range touched {
		e.settle(ctx, w)
	}
}

// settle closes a batch that is over.
func (e *engine) settle(ctx context.Context, w *work) {
	if w.closing {
		return
	}
	if w.err != nil || w.ended && w.waiting == 0 && w.outstanding == 0 {
		e.close(ctx, w, w.err)
	}
}

// close ends a batch, once: its lines that are in the queue are forgotten, and what was recorded is written.
func (e *engine) close(ctx context.Context, w *work, err error) {
	if w.closing {
		return
	}
	w.closing, w.err = true, cmp.Or(w.err, err)
	w.stop()
	for _, p := range e.tracker.of(w) {
		if e.tracker.drop(p.x.job) {
			e.count(w, p.x, -1)
			e.shares.settle(w.tenant, p.x, 0)
		}
	}
	w.drain()
	e.shares.leave(w)
	delete(e.works, w)
	e.helpers.Go(func() {
		w.err = errors.Join(w.err, w.sink.close(context.WithoutCancel(ctx)))
		close(w.done)
	})
}

// halting stops a batch.
func (e *engine) halting(ctx context.Context, r stopRequest) {
	w := r.w
	if w.closing {
		return
	}
	if w.stopping == nil {
		w.stopping = r.why
		e.leaveAll(w)
		e.ask(w)
	}
	if r.abort {
		running := e.tracker.of(w)
		e.helpers.Go(func() { e.abort(ctx, w.client, running, r.why.why) })
	}
	e.settle(ctx, w)
}

// abort cancels jobs. One that cannot be cancelled ends by itself, or at its deadline.
func (e *engine) abort(ctx context.Context, client *producer.Client, running []*pending, why string) {
	jobs := make(chan *pending)
	var cancelling sync.WaitGroup
	for range submitters {
		cancelling.Go(func() {
			for p := range jobs {
				if _, err := client.Cancel(ctx, p.x.job, why); err == nil {
					e.tracker.hint(p.x.job)
				}
			}
		})
	}
	for _, p := range running {
		jobs <- p
	}
	close(jobs)
	cancelling.Wait()
}

// setFault shows what keeps a batch from going on, or that nothing does.
func setFault(w *work, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	w.progress.update(func(p *Progress) { p.Fault = text })
}
