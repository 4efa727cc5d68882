package workers

import (
	"sync"

	"github.com/hxp-enterprise/hxp/schemas"
)

// slots counts the sequences in flight. A job takes one when it is pulled and, once its body has
// been read, as many more as it will generate; the count may then exceed the limit for a while,
// in which nothing is pulled. It may also after the limit was lowered.
type slots struct {
	mu    sync.Mutex
	limit int
	used  int
	held  int           // while jobs for them are being fetched
	freed chan struct{} // holds one signal after slots came free
}

func newSlots(limit int) *slots { return &slots{limit: limit, freed: make(chan struct{}, 1)} }

func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.limit-s.used-s.held)
}

// count returns how many slots there are and how many are in use.
func (s *slots) count() (limit, used int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limit, s.used
}

// setLimit changes how many slots there are. What is in use stays so.
func (s *slots) setLimit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
}

// try takes one slot if then some others are left free. What is held for jobs that are being fetched is not.
func (s *slots) try(leave int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+s.held+leave >= s.limit {
		return false
	}
	s.used++
	return true
}

// hold keeps free slots, but for some and at most so many, for jobs that are being fetched, and returns how many those are.
func (s *slots) hold(but, most int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(most, max(0, s.limit-s.used-s.held-but))
	s.held += n
	return n
}

// fill takes one slot that is held.
func (s *slots) fill() {
	s.mu.Lock()
	s.held--
	s.used++
	s.mu.Unlock()
}

// release lets go of n held slots that were not filled.
func (s *slots) release(n int) {
	s.mu.Lock()
	s.held -= n
	s.mu.Unlock()
}

// take takes n slots whether they are free or not.
func (s *slots) take(n int) {
	s.mu.Lock()
	s.used += n
	s.mu.Unlock()
}

func (s *slots) give(n int) {
	s.mu.Lock()
	s.used -= n
	s.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// Reserved are slots that jobs of a class leave free for more urgent ones: such a job starts only
// while more than these are free. When the limit of slots falls they become fewer in proportion, and one slot is
// always left to every class. What a class has earned by its share of all starts needs none of them.
type Reserved struct {
	// FromStandard is how many slots standard jobs, and therefore batch jobs, leave free. Defaults to none.
	FromStandard int
	// FromBatch is how many slots batch jobs leave free. Defaults to an eighth of Slots, at least one if
	// there are two; negative for none.
	FromBatch int
}

func (r Reserved) withDefaults(slots int) Reserved {
	if r.FromBatch == 0 {
		r.FromBatch = min(max(1, slots/8), slots-1)
	}
	r.FromStandard = max(0, r.FromStandard)
	r.FromBatch = max(0, r.FromBatch, r.FromStandard)
	return r
}

// leave is how many of limit slots, where slots are configured, a class leaves free.
func (r Reserved) leave(class schemas.Class, limit, slots int) int {
	n := 0
	switch class {
	case schemas.Standard:
		n = r.FromStandard
	case schemas.Batch:
		n = r.FromBatch
	}
	return min((n*limit+slots-1)/slots, max(0, limit-1))
}
