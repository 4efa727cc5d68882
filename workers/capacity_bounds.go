package workers

import (
	"math"
	"time"
)

// boundConfigured is the bound that does not move.
const boundConfigured = "configured"

// Why the limit changed. All but the last two are names of bounds as well.
const (
	reasonWaiting     = "waiting"
	reasonKV          = "kv_cache"
	reasonLatency     = "latency"
	reasonPreemptions = "preemptions"
	reasonRecovery    = "recovery"
)

const (
	// queueSlack is how many sequences may wait in the engine: they keep it fed until one more is pulled.
	queueSlack = 2
	// Above kvHigh a bound falls, above kvLow the engine has no slack. Sequences grow while they run, so
	// there is room left for those that do.
	kvHigh, kvLow = 0.9, 0.8
	// kvCalm is how many looks in a row the cache has to be below kvLow before its bound rises.
	kvCalm = 4
)

// grown raises a bound by step, to at most twice of what is in use: what was not tried proves nothing.
func grown(limit, step, used, slots int) int {
	return max(limit, min(limit+max(1, step), 2*used+1, slots))
}

// waitingBound keeps the engine's own queue near zero. Only a standing queue counts: the least of two
// looks, as CoDel has it (Nichols and Jacobson, 2012), because a burst that is gone at the next look
// was no load.
type waitingBound struct {
	limit    int
	step     int // doubles with every look that finds nothing waiting
	before   int
	standing int
}

func (b *waitingBound) next(slots, used int, l Load) {
	b.standing = min(l.Waiting, b.before)
	b.before = l.Waiting
	switch {
	case b.standing > queueSlack:
		// What waits may be others': then it is by what is ours that the queue can be shortened.
		b.step = 1
		b.limit = min(b.limit, max(1, min(l.Running, used-l.Waiting)+queueSlack))
	case l.Waiting > 0:
		b.step = 1 // the engine is full, and not overfull
	default:
		b.limit = grown(b.limit, b.step, used, slots)
		b.step = min(2*b.step, max(1, slots/8))
	}
}

// kvBound keeps the engine from preempting sequences for want of KV cache.
type kvBound struct {
	limit       int
	calm        int
	reason      string // for which it fell last
	preemptions uint64
	seen        bool
}

func (b *kvBound) next(slots, used int, l Load) {
	preempted := b.seen && l.Preemptions > b.preemptions // it counts from 0 when the engine was restarted
	b.preemptions, b.seen = l.Preemptions, true
	if !preempted && l.KVCache < kvLow {
		if b.calm++; b.calm > kvCalm {
			b.limit = grown(b.limit, slots/64, used, slots)
		}
		return
	}
	b.calm = 0
	switch {
	case used > b.limit: // the last step has yet to have its effect
	case preempted:
		b.limit, b.reason = max(1, used*4/5), reasonPreemptions
	case l.KVCache >= kvHigh:
		b.limit, b.reason = max(1, used*9/10), reasonKV
	}
}

const (
	// From strained on, as a part of the target, the engine has no slack and the bound does not rise.
	strained = 0.9
	// enough samples make a measurement, or whatever came within patience.
	enough   = 8
	patience = 2 * time.Second
	// floorShare is the part of the slots below which slowness is not taken for load.
	floorShare = 8
)

// targetBound keeps the engine's latency at its target.
//
// The adaptive limiter of failsafe-go (v0.9.8) was looked at for this. It compares latency with a
// moving average of itself and has no place for a target: an engine that stays twice as slow becomes
// its new baseline after some ten updates. It moves by the decimal logarithm of the limit once a
// second, which takes a minute from 64 to 16, and its latency is that of a whole execution, which for
// a reply is mostly its length. So this is a controller of our own, in proportion to
// how far the engine is from its target, and stable by two rules: only jobs that began since the last
// step down are measured, and there is no further step while more is in flight than allowed.
type targetBound struct {
	limit  int
	strain float64 // the last measurement, as a part of the target; 0 if there is none
	at     time.Time
}

func (b *targetBound) next(slots, used int, l *latency, now time.Time) {
	strain, n, since := l.strain(now)
	if n == 0 || n < enough && now.Sub(since) < patience {
		if now.Sub(b.at) > patience {
			b.strain = 0
		}
		return
	}
	b.strain, b.at = strain, now
	floor := max(1, slots/floorShare)
	switch {
	case strain > 1 && used > b.limit: // the last step has yet to have its effect
	case strain > 1:
		b.limit = min(b.limit, max(floor, int(float64(used)*min(0.95, max(0.5, 1/strain)))))
		l.restart(now)
		return
	case strain < strained:
		step := float64(b.limit) * min(0.125, (1/strain-1)/2)
		b.limit = grown(b.limit, int(math.Ceil(step)), used, slots)
	}
	l.reset(now)
}
