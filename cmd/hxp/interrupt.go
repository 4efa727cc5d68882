package main

import "sync"

// interrupts is who a Ctrl-C is for: the program, unless something in it takes it.
type interrupts struct {
	mu   sync.Mutex
	take func() bool
}

// offer has every interrupt offered to take first, until stop is called.
func (i *interrupts) offer(take func() bool) (stop func()) {
	i.set(take)
	return func() { i.set(nil) }
}

func (i *interrupts) set(take func() bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.take = take
}

// taken offers an interrupt, and reports whether it was taken.
func (i *interrupts) taken() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.take != nil && i.take()
}

// stopper is a Ctrl-C at a terminal while no line is edited: the first one ends what is being done, if
// anything is, and the next one the program.
type stopper struct {
	mu      sync.Mutex
	stop    func()
	pressed bool
}

// begin begins something that stop ends.
func (s *stopper) begin(stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop, s.pressed = stop, false
}

// end ends it.
func (s *stopper) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop, s.pressed = nil, false
}

// press takes a Ctrl-C, but for the second in a row.
func (s *stopper) press() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pressed {
		return false
	}
	s.pressed = true
	if s.stop != nil {
		s.stop()
	}
	return true
}
