package producer

import (
	"cmp"
	"math"
	"slices"

	"github.com/hxp-enterprise/hxp/schemas"
)

// sequence is the place of a reader in a job's stream, and the rules by which an event is next, late or early.
// Live events and recorded ones are judged by the same rules.
type sequence struct {
	last    uint64 // Seq of the last event delivered
	attempt int    // its attempt; 0 while unknown
	// admitted is an attempt whose record was seen to have no opening event: it ended before it began.
	admitted int
	// hole is the end of a row of missing Seqs that belong to nobody: see [Stream.bridge].
	hole uint64
	// final is the attempt whose Result completed the job; 0 while unknown. What newer attempts said is void.
	final int
	ended bool
}

type verdict int

const (
	next verdict = iota
	// stale events say what the Result says, in a place that was passed.
	stale
	// early events have others missing before them.
	early
	// unopened events belong to a newer attempt whose opening event is missing. Only that tells whether they follow what was delivered.
	unopened
	// conflicting events open an attempt before the last event delivered.
	conflicting
)

// judge places an event that arrange has kept: none is of an older attempt, or behind last in the same one.
func (q *sequence) judge(e *schemas.Event) verdict {
	switch {
	case e.Attempt == q.attempt && e.Seq <= q.last+1:
		return next
	case e.Attempt == q.attempt:
		return early
	case e.Kind == schemas.Restarted:
		return next // even before last, or after a gap: it voids what was delivered, and what was not
	case e.Seq > max(q.last, q.hole)+1:
		return early
	case e.Kind.Opens():
		if e.Seq <= q.last {
			return conflicting
		}
		return next
	case q.attempt == 0:
		return next
	case e.Attempt != q.admitted:
		return unopened
	case e.Kind.Terminal() && e.Kind != schemas.Done && e.Seq <= q.last:
		return stale
	case e.Kind == schemas.DeltaKind || e.Kind == schemas.UsageKind || e.Seq <= q.last:
		return conflicting
	default:
		return next
	}
}

func (q *sequence) advance(e *schemas.Event) {
	q.last, q.attempt, q.ended = e.Seq, e.Attempt, e.Kind.Terminal()
}

// arrange puts events from any source into the order in which to judge them. It leaves out what a
// newer attempt among them replaced: with the whole record at hand, the late events of a fenced
// worker are recognised before they are delivered.
func (q *sequence) arrange(events []schemas.Event) []schemas.Event {
	events = slices.DeleteFunc(events, func(e schemas.Event) bool { return q.void(&e) })
	if len(events) > 1 {
		slices.SortStableFunc(events, func(a, b schemas.Event) int {
			return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Seq, b.Seq), terminalFirst(&a, &b))
		})
	}
	// From the newest attempt to the oldest: kept events are moved to the end of the slice.
	floor, group := uint64(math.MaxUint64), uint64(math.MaxUint64)
	kept := len(events)
	for i := len(events) - 1; i >= 0; i-- {
		e := &events[i]
		if i+1 < len(events) && e.Attempt != events[i+1].Attempt {
			floor = min(floor, group)
		}
		group = e.Seq
		repeated := i > 0 && events[i-1].Attempt == e.Attempt && events[i-1].Seq == e.Seq
		if repeated || q.old(e) || e.Seq >= floor {
			continue
		}
		kept--
		if kept != i {
			events[kept] = *e
		}
	}
	return events[kept:]
}

// old reports whether an event was seen, or belongs to an attempt that was replaced before it. A reader
// that began in the middle does not know its attempt; there only an event that opens one can be news.
func (q *sequence) old(e *schemas.Event) bool {
	switch {
	case e.Attempt == q.attempt:
		return e.Seq <= q.last
	case q.attempt == 0:
		return e.Seq <= q.last && !e.Kind.Opens()
	default:
		return e.Attempt < q.attempt
	}
}

// void reports whether an event belongs to an attempt that lost to an older one: a worker that had been
// replaced without knowing stored the Result first. Whoever then ends the stream may be a newer attempt.
func (q *sequence) void(e *schemas.Event) bool {
	return q.final > 0 && e.Attempt > q.final && !e.Kind.Terminal()
}

// terminalFirst orders events of the same attempt and seq. There are two when a queued job was
// cancelled while a worker that could not be reached went on: the one that the Result agrees with counts.
func terminalFirst(a, b *schemas.Event) int {
	switch {
	case a.Kind.Terminal() == b.Kind.Terminal():
		return 0
	case a.Kind.Terminal():
		return -1
	default:
		return 1
	}
}
