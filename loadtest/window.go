package loadtest

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// window is one stage at one target.
type window struct {
	r       *run
	t       Target
	s       Stage
	stage   int
	round   int
	rec     *recorder
	replies *replies

	sending sync.WaitGroup
	failed  context.CancelCauseFunc
}

// window measures a stage at a target. It returns when everything that it has sent has ended.
func (r *run) window(ctx context.Context, t Target, stage, round int, replies *replies) error {
	s := r.w.Stages[stage]
	total := r.totals[t.Name()]
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r.line.target = t.Name()
	w := &window{r: r, t: t, s: s, stage: stage, round: round, replies: replies, failed: fail}
	cpu, machine, began := cpuTime(), machineTime(), time.Now()
	w.rec = &recorder{
		began: began, goodput: r.w.Goodput, line: r.line, all: newTally(), models: total.models,
		log:    &requestLog{w: r.opts.Log, began: r.began, target: t.Name(), stage: s.Name, round: round},
		steady: [2]time.Duration{s.Duration / 4, s.Duration},
	}
	stop := w.report(began)
	if s.closed() {
		w.closedLoop(ctx, began)
	} else {
		w.openLoop(ctx, began)
	}
	sent := time.Since(began)
	w.sending.Wait()
	took := time.Since(began)
	stop()
	r.done++
	cpu, machine = cpuTime()-cpu, machineTime()-machine
	w.sum(total, sent, took, cpu, machine)
	if w.rec.logErr != nil {
		return w.rec.logErr
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// sum makes the window's block, and adds it to its target's.
func (w *window) sum(total *total, sent, took, cpu, machine time.Duration) {
	c := w.rec
	b := c.all.block(took, false)
	b.Target, b.Stage, b.Round, b.Peak = w.t.Name(), w.s.Name, w.round, c.peak
	b.StageIndex, b.OfferedRate, b.Concurrency = w.stage, (w.s.Rate+w.s.EndRate)/2, w.s.Concurrency
	b.SentSeconds = sent.Seconds()
	for _, n := range c.tokens {
		b.MaxOutputPerSecond = max(b.MaxOutputPerSecond, math.Round(n))
	}
	if span := (c.steady[1] - c.steady[0]).Seconds(); span > 0 {
		b.SteadyOutputThroughput, b.SteadyRequestThroughput = c.output/span, c.requests/span
	}
	b.cpu(cpu)
	b.OtherCores = others(machine, cpu, took)
	w.r.out.Windows = append(w.r.out.Windows, b)
	total.tally.merge(c.all)
	total.duration += took
	total.cpu += cpu
	total.machine += machine
	total.peak = max(total.peak, c.peak)
	total.maxRate = max(total.maxRate, b.MaxOutputPerSecond)
}

// report tells how it goes until the returned stop is called.
func (w *window) report(began time.Time) (stop func()) {
	if w.r.opts.Progress == nil {
		return func() {}
	}
	done := make(chan struct{})
	var reporting sync.WaitGroup
	tell := func() {
		p := w.rec.snapshot()
		p.Target, p.Stage, p.Round, p.Rounds = w.t.Name(), w.s.Name, w.round, w.r.w.Rounds
		p.Window, p.Windows, p.Elapsed = w.r.done, w.r.windows, time.Since(began)
		w.r.opts.Progress(p)
	}
	reporting.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				tell()
			}
		}
	})
	return func() { close(done); reporting.Wait(); tell() }
}

// openLoop sends requests when they are due, whatever becomes of those before.
func (w *window) openLoop(ctx context.Context, began time.Time) {
	slots := make(chan struct{}, w.r.w.MaxInFlight)
	timer := time.NewTimer(0)
	defer timer.Stop()
	n := 0
	for at := range w.s.arrivals(w.r.w.chance(w.stage, w.round, ofArrivals, 0)) {
		// Made before it is due: what it costs to make a prompt is nobody's latency.
		a, err := w.r.w.make(w.stage, w.round, n)
		if err != nil {
			w.failed(err)
			return
		}
		n++
		due := began.Add(at)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		w.sending.Go(func() {
			defer func() { <-slots }()
			w.converse(ctx, a, due)
		})
	}
}

// closedLoop has clients ask one request after another.
func (w *window) closedLoop(ctx context.Context, began time.Time) {
	limit := int64(math.MaxInt64)
	if w.s.Requests > 0 {
		limit = int64(w.s.Requests)
	}
	var next atomic.Int64
	for range w.s.Concurrency {
		w.sending.Go(func() {
			for ctx.Err() == nil && (w.s.Duration == 0 || time.Since(began) < w.s.Duration) {
				n := next.Add(1) - 1
				if n >= limit {
					return
				}
				a, err := w.r.w.make(w.stage, w.round, int(n))
				if err != nil {
					w.failed(err)
					return
				}
				w.converse(ctx, a, time.Now())
			}
		})
	}
	w.sending.Wait()
}

// converse sends the requests of a conversation, each when the reply before it is there.
func (w *window) converse(ctx context.Context, a *asked, due time.Time) {
	o := observations.Get().(*Observation)
	defer observations.Put(o)
	for {
		o.reset()
		o.keep = a.more()
		a.request.Due = due
		w.rec.start(due)
		err := w.r.do(ctx, w.t, &a.request, o)
		e := &ending{r: &a.request, o: o, err: err, code: FailureCode(err)}
		if w.replies != nil && err == nil {
			e.different = w.replies.differs(a.request.N, a.request.Turn, o.Reply())
		}
		w.rec.end(e)
		if err != nil {
			return
		}
		ok, err := a.next(string(o.text))
		if err != nil {
			w.failed(err)
		}
		if err != nil || !ok {
			return
		}
		due = time.Now()
	}
}

var observations = sync.Pool{New: func() any { return &Observation{} }}

// maxReplies bounds how many replies of a pair are remembered; those after them are not compared.
const maxReplies = 4 << 20

// replies are those of one target, to compare with the other's.
type replies struct {
	compare bool

	mu   sync.Mutex
	seen map[uint64]uint64
}

func newReplies() *replies { return &replies{seen: map[uint64]uint64{}} }

// differs notes the first reply to a request, and reports whether the second is another. Requests that only one
// target was sent, or answered, are not compared.
func (p *replies) differs(n, turn int, reply uint64) bool {
	key := uint64(n)<<16 | uint64(turn&0xffff)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.compare {
		if len(p.seen) < maxReplies {
			p.seen[key] = reply
		}
		return false
	}
	first, ok := p.seen[key]
	return ok && first != reply
}
