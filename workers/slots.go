package workers

import "sync"

// slots counts the sequences in flight. A job takes one when it is pulled and, once its body has
// been read, as many more as it will generate; the count may then exceed the limit for a while,
// in which nothing is pulled.
type slots struct {
	mu    sync.Mutex
	limit int
	used  int
	freed chan struct{} // holds one signal after a give
}

func newSlots(limit int) *slots { return &slots{limit: limit, freed: make(chan struct{}, 1)} }

func (s *slots) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.limit-s.used)
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
	if s.used >= s.limit {
		return false
	}
	s.used++
	return true
}

// reserve takes all free slots but keep, and returns how many those are.
func (s *slots) reserve(keep int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := max(0, s.limit-s.used-keep)
	s.used += n
	return n
}

// take takes n slots whether they are free or not.
func (s *slots) take(n int) {
	s.mu.Lock()
	s.used += n
	s.mu.Unlock()
}

func (s *slots) give(n int) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	s.used -= n
	s.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
}
