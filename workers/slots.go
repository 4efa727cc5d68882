package workers

import "sync"

// slots counts the sequences in flight. A job takes one when it is pulled and, once its body has
// been read, as many more as it will generate; the count may then exceed the limit for a while,
// in which nothing is pulled.
type slots struct {
	mu       sync.Mutex
	limit    int
	used     int
	reserved int           // held while jobs for them are being fetched
	freed    chan struct{} // holds one signal after slots came free
}

func newSlots(limit int) *slots { return &slots{limit: limit, freed: make(chan struct{}, 1)} }

func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.limit-s.used-s.reserved)
}

func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// try takes one slot if there is one.
func (s *slots) try() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+s.reserved >= s.limit {
		return false
	}
	s.used++
	return true
}

// reserve holds all free slots but keep, and returns how many those are.
func (s *slots) reserve(keep int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := max(0, s.limit-s.used-s.reserved-keep)
	s.reserved += n
	return n
}

// fill takes one reserved slot.
func (s *slots) fill() {
	s.mu.Lock()
	s.reserved--
	s.used++
	s.mu.Unlock()
}

// release lets go of n reserved slots that were not filled.
func (s *slots) release(n int) {
	s.mu.Lock()
	s.reserved -= n
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
