package workers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// pullExpiry is how long an idle pull waits at the broker before it is made anew; pullHeartbeat is
// how often the broker shows that it still has it. A pull that was lost, by a change of leader for
// one, is noticed after two heartbeats.
const (
	pullExpiry    = 10 * time.Second
	pullHeartbeat = time.Second
	// pullBuffer is how many of the broker's messages a waiting pull has room for.
	pullBuffer = 64
)

// puller takes jobs off the queue: in bulk while there are some, and with one waiting pull for
// each class while there are none. The waiting pulls are withdrawn when the last slot goes that their class may
// take, so that a busy worker does not catch jobs that an idle one could start.
type puller struct {
	w         *Worker
	consumers map[schemas.Class]jetstream.Consumer
	start     func(schemas.Class, jetstream.Msg)
	credit    map[schemas.Class]float64
	wake      chan struct{} // a waiting pull brought more than it can handle

	mu      sync.Mutex
	changed *sync.Cond
	waiting map[schemas.Class]bool // of which classes a pull should be out
	live    map[schemas.Class]bool // and is, and has not been told to end
	stopped bool
	out     map[schemas.Class]jetstream.MessagesContext
	offered map[schemas.Class]int // started from waiting pulls and not accounted for
	behind  bool                  // a class is held back
}

func newPuller(w *Worker, consumers map[schemas.Class]jetstream.Consumer, start func(schemas.Class, jetstream.Msg)) *puller {
	p := &puller{
		w: w, consumers: consumers, start: start,
		credit:  make(map[schemas.Class]float64),
		wake:    make(chan struct{}, 1),
		waiting: make(map[schemas.Class]bool),
		live:    make(map[schemas.Class]bool),
		offered: make(map[schemas.Class]int),
		out:     make(map[schemas.Class]jetstream.MessagesContext),
	}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// run pulls until ctx ends. Every job that the broker handed out has been started or handed back when it returns.
func (p *puller) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, class := range schemas.Classes() {
		wg.Go(func() { p.wait(ctx, class) })
	}
	wg.Go(func() { p.renew(ctx) })
	defer wg.Wait()
	defer p.withdraw(true)
	for ctx.Err() == nil {
		open, changed := p.w.gate.state()
		if !open || p.w.slots.free() == 0 {
			p.withdraw(false)
			select {
			case <-ctx.Done():
			case <-changed:
			case <-p.w.slots.freed:
			case <-p.w.capacity.shifted:
			}
			continue
		}
		p.settleOffered()
		// A waiting pull that is still out may yet bring a job, and keeps a slot for it.
		n := p.w.slots.hold(p.outstanding(), p.most())
		if n > 0 && p.fetch(ctx, n) == n {
			continue
		}
		var freed <-chan struct{}
		if !p.ask() {
			freed = p.w.slots.freed // jobs of a class that is held back may be queued
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-p.wake:
		case <-freed:
		case <-p.w.capacity.shifted:
		}
	}
}

// outstanding counts the waiting pulls that are out.
func (p *puller) outstanding() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.out)
}

// ask puts the waiting pulls out of the classes whose jobs may start, withdraws the others, and
// reports whether that is none.
func (p *puller) ask() (all bool) {
	all = true
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, class := range schemas.Classes() {
		may := p.w.room(class) > 0
		p.set(class, may && !p.stopped)
		all = all && may
	}
	p.behind = !all
	p.changed.Broadcast()
	return all
}

// narrow withdraws the waiting pulls of classes whose jobs may not start any more, and reports
// whether there were any.
func (p *puller) narrow() (some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, class := range schemas.Classes() {
		if p.waiting[class] && p.w.room(class) == 0 {
			p.set(class, false)
			some = true
		}
	}
	return some
}

// withdraw takes back all waiting pulls.
func (p *puller) withdraw(stopped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = p.stopped || stopped
	for _, class := range schemas.Classes() {
		p.set(class, false)
	}
	p.changed.Broadcast()
}

// retire takes back the waiting pull of one class.
func (p *puller) retire(class schemas.Class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(class, false)
}

// end ends a waiting pull. While the connection is lost nothing is on its way to it, and if it were
// drained then it would be subscribed again with the connection, for good, and catch jobs that nobody reads.
func (p *puller) end(pull jetstream.MessagesContext) {
	if p.w.nc.IsConnected() {
		pull.Drain()
	} else {
		pull.Stop()
	}
}

// renew replaces the waiting pulls when the connection is lost. The broker keeps their requests until
// they expire: under the same inbox they would add up to those that are made on the next connection, and
// so many jobs at once would come to a worker that asked for one. It drops what no inbox is there for.
func (p *puller) renew(ctx context.Context) {
	lost := p.w.nc.StatusChanged(nats.RECONNECTING)
	defer p.w.nc.RemoveStatusListener(lost)
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-lost:
			if !open {
				return
			}
			p.mu.Lock()
			for _, pull := range p.out {
				pull.Stop()
			}
			p.mu.Unlock()
		}
	}
}

// set says whether a class should have a waiting pull. Jobs that are on their way while it is
// withdrawn still come, to be started or handed back.
func (p *puller) set(class schemas.Class, waiting bool) {
	p.waiting[class] = waiting
	p.live[class] = p.live[class] && waiting
	if pull := p.out[class]; pull != nil && !waiting {
		p.end(pull)
	}
}

// leave is how many slots jobs of a class leave free.
func (w *Worker) leave(class schemas.Class) int {
	limit, _ := w.slots.count()
	return w.tuned.Load().Reserved.leave(class, limit, w.cfg.Slots)
}

// room returns how many of the free slots jobs of a class may take, apart from those that it has
// earned. Batch fills the slack: without any it has room for one job on a worker that has none.
func (w *Worker) room(class schemas.Class) int {
	limit, used := w.slots.count()
	room := max(0, limit-used-w.leave(class))
	if class == schemas.Batch && w.capacity.pressed() {
		room = min(room, max(0, 1-used))
	}
	return room
}

// waits reports whether a class has a waiting pull, which is to stay.
func (p *puller) waits(class schemas.Class) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[class]
}

// most returns how many slots may be taken by jobs that have to be fetched. The others stay free for
// those that waiting pulls bring meanwhile.
func (p *puller) most() int {
	n := 0
	for _, class := range schemas.Classes() {
		if !p.waits(class) {
			n = max(n, int(p.credit[class]), p.w.room(class))
		}
	}
	return n
}

// fetch fills up to free held slots with jobs that are already queued, gives the others back, and
// returns how many it filled. A class comes after the more
// urgent ones and gets what they have not asked for, so it starts only if nothing of them is queued.
func (p *puller) fetch(ctx context.Context, free int) int {
	got := 0
	defer func() { p.w.slots.release(free - got) }()
	for _, share := range p.order(free) {
		want := min(share.n, free-got)
		if p.waits(share.class) {
			continue // nothing of it is queued: the waiting pull would have brought it
		}
		if !share.earned {
			want = min(want, p.w.room(share.class))
		}
		if want == 0 || ctx.Err() != nil {
			continue
		}
		batch, err := p.consumers[share.class].FetchNoWait(want)
		n := 0
		if err == nil {
			for msg := range batch.Messages() {
				n++
				p.w.slots.fill()
				p.start(share.class, msg)
			}
			err = batch.Error()
		}
		p.pullFault(ctx, share.class, err)
		p.account(share.class, n)
		got += n
	}
	return got
}

type share struct {
	class  schemas.Class
	n      int
	earned bool
}

// order says which classes to ask, in turn, and for how many jobs: first the classes that have
// earned a start by their share, then all of them by urgency.
func (p *puller) order(free int) []share {
	order := make([]share, 0, 5)
	for _, c := range []schemas.Class{schemas.Standard, schemas.Batch} {
		if n := int(p.credit[c]); n > 0 {
			order = append(order, share{c, n, true})
		}
	}
	for _, c := range schemas.Classes() {
		order = append(order, share{c, free, false})
	}
	return order
}

// account books n starts of a class: it pays for them, and the less urgent classes earn their share of them.
// A class earns at most one start ahead, so that a quiet one does not come back with a burst.
func (p *puller) account(class schemas.Class, n int) {
	if n == 0 {
		return
	}
	p.credit[class] = max(0, p.credit[class]-float64(n))
	earn := func(c schemas.Class, part float64) {
		p.credit[c] = min(max(1, float64(n)*part), p.credit[c]+float64(n)*part)
	}
	switch class {
	case schemas.Interactive:
		earn(schemas.Standard, p.w.tuned.Load().StandardShare)
		earn(schemas.Batch, p.w.tuned.Load().BatchShare)
	case schemas.Standard:
		earn(schemas.Batch, p.w.tuned.Load().BatchShare)
	}
}

// settleOffered accounts for the jobs that waiting pulls brought.
func (p *puller) settleOffered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, class := range schemas.Classes() {
		p.account(class, p.offered[class])
		p.offered[class] = 0
	}
}

// wait keeps one pull for one job at the broker while the worker is idle.
func (p *puller) wait(ctx context.Context, class schemas.Class) {
	for p.awaitIdle(class) {
		pull, err := p.pull(class)
		if err != nil {
			p.pullFault(ctx, class, err)
			continue
		}
		p.put(class, pull)
		for brought := false; ; {
			msg, err := pull.Next()
			if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
				if pull = p.again(ctx, class, brought); pull == nil {
					break
				}
				brought = false
				continue
			}
			if err != nil {
				p.end(pull) // the broker may still have the request: the next goes under an inbox of its own
				p.pullFault(ctx, class, err)
				continue
			}
			brought = true
			p.offer(ctx, class, msg)
		}
		p.mu.Lock()
		delete(p.out, class)
		p.live[class] = false
		p.mu.Unlock()
		p.nudge() // the slot that it kept can be fetched for
	}
}

// pull makes a pull that waits for one job. The client drops what its buffer has no room for, so that there is
// room for what the broker says besides: of a job that is dropped nobody knows until its lease ends.
func (p *puller) pull(class schemas.Class) (jetstream.MessagesContext, error) {
	return p.consumers[class].Messages(jetstream.StopAfter(1), jetstream.PullMaxMessages(pullBuffer),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
}

// put makes a pull that of its class.
func (p *puller) put(class schemas.Class, pull jetstream.MessagesContext) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out[class], p.live[class] = pull, p.waiting[class]
	if !p.waiting[class] {
		p.end(pull)
	}
}

// again returns a pull in place of one that has ended because it brought its job, while the class is to have one.
func (p *puller) again(ctx context.Context, class schemas.Class, brought bool) jetstream.MessagesContext {
	p.mu.Lock()
	wanted := brought && p.waiting[class]
	p.mu.Unlock()
	if !wanted {
		return nil
	}
	pull, err := p.pull(class)
	if err != nil {
		p.pullFault(ctx, class, err)
		return nil
	}
	p.put(class, pull)
	return pull
}

// awaitIdle blocks until a waiting pull of the class is wanted and reports false once the puller has stopped.
func (p *puller) awaitIdle(class schemas.Class) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.waiting[class] && !p.stopped {
		p.changed.Wait()
	}
	return !p.stopped
}

// offer starts a job that a waiting pull brought, or hands it back at once if the last slot has just gone.
func (p *puller) offer(ctx context.Context, class schemas.Class, msg jetstream.Msg) {
	open, _ := p.w.gate.state()
	if ctx.Err() != nil || !open || p.w.room(class) == 0 || !p.w.slots.try(p.w.leave(class)) {
		p.retire(class)
		p.w.fault(msg.Nak(), "hand back a job that came too late")
		p.nudge()
		return
	}
	p.start(class, msg)
	p.mu.Lock()
	p.offered[class]++
	behind := p.behind
	p.mu.Unlock()
	if behind {
		defer p.nudge() // a class that is held back may have earned a start
	}
	// The pull goes on with the next job by itself. But when there are many, they are better fetched in
	// bulk and in the order of their classes, and a worker without a free slot wants none.
	// The other classes' pulls stay out, as nothing of theirs is queued.
	meta, err := msg.Metadata()
	switch {
	case p.w.room(schemas.Interactive) == 0:
		p.withdraw(false)
	case err != nil || meta.NumPending > 0:
		p.retire(class)
	case !p.narrow():
		return
	}
	p.nudge()
}

// nudge has run look at the queue and the slots again.
func (p *puller) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// pullFault waits a little after a pull that failed, so that a broker in trouble is not hammered.
func (p *puller) pullFault(ctx context.Context, class schemas.Class, err error) {
	if err == nil || ctx.Err() != nil || errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) {
		return
	}
	p.w.log.Warn().Err(err).Str("class", string(class)).Msg("pull failed")
	select {
	case <-ctx.Done():
	case <-time.After(250 * time.Millisecond):
	}
}
