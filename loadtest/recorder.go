package loadtest

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The metrics, by their names in the summary.
const (
	TTFT      = "ttft"
	TPOT      = "tpot"
	ITL       = "itl"
	E2EL      = "e2el"
	End       = "end"
	Lag       = "lag"
	Accept    = "accept"
	QueueWait = "queue_wait"
	Delivery  = "delivery"
)

// Metrics lists every metric, in the order of the report.
func Metrics() []string {
	return []string{TTFT, TPOT, ITL, E2EL, End, Lag, Accept, QueueWait, Delivery}
}

// longest is the largest latency that is told apart; longer ones count as that.
const longest = time.Hour

// histograms are the distributions of every metric, in microseconds. One that nothing was recorded in takes no memory.
type histograms map[string]*hdrhistogram.Histogram

func (h histograms) add(metric string, d time.Duration) {
	x := h[metric]
	if x == nil {
		x = hdrhistogram.New(1, longest.Microseconds(), 3)
		h[metric] = x
	}
	// A clock of another machine, or one that was set back, may make a delivery negative.
	_ = x.RecordValue(min(max(d, 0), longest).Microseconds()) // it is within the bounds
}

func (h histograms) merge(other histograms) {
	for metric, from := range other {
		if h[metric] == nil {
			h[metric] = hdrhistogram.New(1, longest.Microseconds(), 3)
		}
		h[metric].Merge(from)
	}
}

// counts are what is counted of a window, a model or a whole run.
type counts struct {
	completed, failed, good int
	inputTokens             int
	outputTokens            int
	chunks                  int
	requested               int
	redelivered             int
	lost, doubled, gaps     int
	different               int
	failures                map[string]int
}

// tally is counts and distributions together.
type tally struct {
	counts
	latencies histograms
}

func newTally() *tally {
	return &tally{counts: counts{failures: map[string]int{}}, latencies: histograms{}}
}

func (t *tally) merge(o *tally) {
	t.completed += o.completed
	t.failed += o.failed
	t.good += o.good
	t.inputTokens += o.inputTokens
	t.outputTokens += o.outputTokens
	t.chunks += o.chunks
	t.requested += o.requested
	t.redelivered += o.redelivered
	t.lost += o.lost
	t.doubled += o.doubled
	t.gaps += o.gaps
	t.different += o.different
	for code, n := range o.failures {
		t.failures[code] += n
	}
	t.latencies.merge(o.latencies)
}

// ending is a request that has ended.
type ending struct {
	r         *Request
	o         *Observation
	err       error
	code      string // of err
	different bool   // the reply is another than that of the other target
}

// add counts a request.
func (t *tally) add(e *ending, l latencies, goodput map[string]time.Duration) {
	o := e.o
	t.requested++
	if o.Attempts > 1 {
		t.redelivered++
	}
	for _, f := range []struct {
		is bool
		n  *int
	}{{o.Lost, &t.lost}, {o.Doubled, &t.doubled}, {o.Gap, &t.gaps}, {e.different, &t.different}} {
		if f.is {
			*f.n++
		}
	}
	t.latencies.add(Lag, l.lag)
	if e.code != "" {
		t.failed++
		t.failures[e.code]++
		return
	}
	t.completed++
	if o.Usage != nil {
		t.inputTokens += o.Usage.PromptTokens
	}
	t.outputTokens += o.OutputTokens()
	t.chunks += o.outputs
	t.latencies.add(E2EL, l.e2el)
	t.latencies.add(End, l.end)
	if l.first {
		t.latencies.add(TTFT, l.ttft)
	}
	if l.perToken {
		t.latencies.add(TPOT, l.tpot)
	}
	for i := 1; i < len(o.Outputs); i++ {
		t.latencies.add(ITL, o.Outputs[i].Sub(o.Outputs[i-1]))
	}
	if !o.Accepted.IsZero() {
		t.latencies.add(Accept, l.accept)
		t.latencies.add(QueueWait, o.QueueWait)
	}
	for _, d := range o.Deliveries {
		t.latencies.add(Delivery, d)
	}
	if meets(l, goodput) {
		t.good++
	}
}

// meets reports whether a request is within every bound. A metric that it does not have does not hold it up.
func meets(l latencies, goodput map[string]time.Duration) bool {
	for name, bound := range goodput {
		switch {
		case name == TTFT && l.first && l.ttft > bound,
			name == TPOT && l.perToken && l.tpot > bound,
			name == E2EL && l.e2el > bound:
			return false
		}
	}
	return true
}

// recorder counts the requests of one window as they end.
type recorder struct {
	began   time.Time
	goodput map[string]time.Duration
	line    *timeline
	log     *requestLog
	// steady is the part of the window in which its load is full and does not end yet; none if it is empty.
	steady [2]time.Duration

	mu       sync.Mutex
	all      *tally
	models   map[string]*tally // of the whole run of the target; nil for a single model
	inFlight int
	peak     int
	tokens   []float64 // by second of the window
	requests float64   // that ended within steady
	output   float64   // tokens within steady
	logErr   error
}

// start notes that a request is sent.
func (c *recorder) start(due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight++
	c.peak = max(c.peak, c.inFlight)
	c.line.start(due)
}

// end counts a request, and passes it on to the time line and the log.
func (c *recorder) end(e *ending) {
	l := e.o.latencies(e.r.Due)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	c.all.add(e, l, c.goodput)
	if c.models != nil {
		if c.models[e.r.Model] == nil {
			c.models[e.r.Model] = newTally()
		}
		c.models[e.r.Model].add(e, l, c.goodput)
	}
	if e.code == "" {
		c.spread(e.o)
	}
	c.line.end(e, l)
	if err := c.log.write(e, l); err != nil && c.logErr == nil {
		c.logErr = err
	}
}

// spread counts a reply's tokens where they came: those of a chunk are not told apart, so each has its share.
func (c *recorder) spread(o *Observation) {
	within := func(t time.Duration) bool { return t >= c.steady[0] && t < c.steady[1] }
	at := o.Outputs
	if len(at) == 0 {
		at = append(at, o.End)
	}
	each := float64(o.OutputTokens()) / float64(len(at))
	for _, t := range at {
		since := t.Sub(c.began)
		second := max(0, int(since/time.Second))
		for len(c.tokens) <= second {
			c.tokens = append(c.tokens, 0)
		}
		c.tokens[second] += each
		if within(since) {
			c.output += each
		}
	}
	if within(o.End.Sub(c.began)) {
		c.requests++
	}
}

// snapshot is what progress shows.
func (c *recorder) snapshot() (p Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.InFlight, p.Completed, p.Failed, p.OutputTokens = c.inFlight, c.all.completed, c.all.failed, c.all.outputTokens
	p.Redelivered, p.Lost = c.all.redelivered, c.all.lost
	if h := c.all.latencies[TTFT]; h != nil {
		p.TTFT50, p.TTFT99 = micro(h.ValueAtQuantile(50)), micro(h.ValueAtQuantile(99))
	}
	if h := c.all.latencies[E2EL]; h != nil {
		p.E2EL50, p.E2EL99 = micro(h.ValueAtQuantile(50)), micro(h.ValueAtQuantile(99))
	}
	return p
}

func micro(v int64) time.Duration { return time.Duration(v) * time.Microsecond }
