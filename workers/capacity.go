package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// capacity decides how many slots there are: the lowest of its bounds.
type capacity struct {
	w       *Worker
	metrics *capacityMetrics
	latency latency
	// shifted holds one signal after the limit or the pressure has changed.
	shifted chan struct{}

	// Of run alone.
	waiting waitingBound
	kv      kvBound
	target  targetBound
	failing bool // the last look at the load brought none
	said    time.Time
	unsaid  int // changes of the limit that are not in the log
	from    int // the limit before them
	why     string

	mu       sync.Mutex
	pressure bool
	words    string // what presses the engine; "" for nothing
	kvTokens int    // 0 if it is not known
}

// logEvery bounds the log: changes of the limit that come faster are put into one line.
const logEvery = 5 * time.Second

func newCapacity(w *Worker) *capacity {
	n := w.cfg.Slots
	c := &capacity{
		w: w, metrics: w.metrics.capacity, shifted: make(chan struct{}, 1),
		waiting: waitingBound{limit: n, step: 1}, kv: kvBound{limit: n}, target: targetBound{limit: n},
	}
	c.latency.aim(w.cfg.TargetLatency, w.cfg.TargetInterToken)
	c.latency.reset(time.Now())
	c.publish(n)
	return c
}

// run looks at the engine's load and moves the limit until ctx ends.
func (c *capacity) run(ctx context.Context) {
	tick := time.NewTicker(c.w.cfg.LoadInterval)
	defer tick.Stop()
	for {
		load, ok := c.look(ctx)
		if ctx.Err() != nil {
			return
		}
		c.decide(load, ok, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look asks the engine for its load, and says so when it begins or ceases to have none.
func (c *capacity) look(ctx context.Context) (Load, bool) {
	ctx, stop := context.WithTimeout(ctx, max(time.Second, 2*c.w.cfg.LoadInterval))
	defer stop()
	load, err := c.w.engine.Load(ctx)
	switch {
	case err == nil:
		if c.failing {
			c.w.log.Info().Msg("engine reports its load again")
		}
		c.failing = false
		c.metrics.observe(load)
		return load, true
	case errors.Is(ctx.Err(), context.Canceled):
	case errors.Is(err, ErrUnsupported):
		c.mu.Lock()
		c.words = ""
		c.mu.Unlock()
		if !c.failing {
			c.w.log.Info().Err(err).Msg("engine reports no load; slots are bounded by configuration and latency")
		}
		c.failing = true
	default:
		c.metrics.failures.Inc()
		if !c.failing {
			c.w.log.Warn().Err(err).Msg("load of the engine is not known; slots stay as they are")
		}
		c.failing = true
	}
	return Load{}, false
}

// decide moves the bounds by what is known of the engine, and the limit with them.
func (c *capacity) decide(load Load, known bool, now time.Time) {
	slots := c.w.cfg.Slots
	limit, used := c.w.slots.count()
	if c.latency.aimed.Load() {
		c.target.next(slots, used, &c.latency, now)
	} else {
		c.target = targetBound{limit: slots} // a target that was taken away bounds no longer
	}
	pressure, words := c.target.strain >= strained, ""
	if known {
		c.waiting.next(slots, used, load)
		c.kv.next(slots, used, load)
		switch {
		case c.waiting.standing > 0:
			words = fmt.Sprintf("%d sequences wait in the engine", load.Waiting)
		case load.KVCache >= kvLow:
			words = fmt.Sprintf("the engine's KV cache is %.0f%% full", 100*load.KVCache)
		}
	}
	if !known {
		words = c.pressing() // a look that fails changes nothing
	}
	pressure = pressure || words != ""
	next := min(slots, c.waiting.limit, c.kv.limit, c.target.limit)
	c.mu.Lock()
	shifted := next != limit || pressure != c.pressure
	c.pressure = pressure
	if known {
		c.words = words
		c.kvTokens = load.KVTokens
	}
	c.mu.Unlock()
	if next != limit {
		c.w.slots.setLimit(next)
		if c.unsaid == 0 {
			c.from = limit
		}
		c.unsaid++
		c.why = c.reason(limit, next)
		c.metrics.changes[c.why].Inc()
	}
	c.publish(next)
	if shifted {
		c.nudge()
	}
	c.say(next, used, load, known, now)
}

// nudge has the puller look at what it may take.
func (c *capacity) nudge() {
	select {
	case c.shifted <- struct{}{}:
	default:
	}
}

// reason says why the limit changed.
func (c *capacity) reason(before, limit int) string {
	switch {
	case limit > before:
		return reasonRecovery
	case limit == c.target.limit:
		return reasonLatency
	case limit == c.kv.limit:
		return c.kv.reason
	}
	return reasonWaiting
}

// publish shows the limit and its bounds.
func (c *capacity) publish(limit int) {
	c.w.metrics.slots.Set(float64(limit))
	c.metrics.bounds[boundConfigured].Set(float64(c.w.cfg.Slots))
	c.metrics.bounds[reasonWaiting].Set(float64(c.waiting.limit))
	c.metrics.bounds[reasonKV].Set(float64(c.kv.limit))
	c.metrics.bounds[reasonLatency].Set(float64(c.target.limit))
}

// say logs the changes of the limit since the last line, if that is long enough ago.
func (c *capacity) say(limit, used int, load Load, known bool, now time.Time) {
	if c.unsaid == 0 || now.Sub(c.said) < logEvery {
		return
	}
	e := c.w.log.Info().Int("slots", limit).Int("before", c.from).Int("changes", c.unsaid).Str("reason", c.why).Int("busy", used)
	if known {
		e = e.Int("engine_running", load.Running).Int("engine_waiting", load.Waiting)
		if load.KVCache >= 0 {
			e = e.Float64("engine_kv_cache", load.KVCache)
		}
	}
	if c.target.strain > 0 {
		e = e.Float64("latency_of_target", c.target.strain)
	}
	e.Msg("slot limit changed")
	c.said, c.unsaid = now, 0
}

// pressed reports whether the engine has no slack for batch jobs.
func (c *capacity) pressed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pressure
}

// pressing returns what presses the engine in words, or "".
func (c *capacity) pressing() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.words
}

// pool returns how many tokens the engine's KV cache holds; 0 if that is not known.
func (c *capacity) pool() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kvTokens
}
