package main

import "sync"

// interrupts is who a Ctrl-C is for: the program, unless something in it has asked for the next one.
type interrupts struct {
	mu   sync.Mutex
	next func()
}

// take has f called at the next interrupt, in place of the program's end, until stop is called. One after that
// is the program's again.
func (i *interrupts) take(f func()) (stop func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.next = f
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.next = nil
	}
}

// taken reports whether somebody has asked for an interrupt, and tells them.
func (i *interrupts) taken() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	f := i.next
	if i.next = nil; f == nil {
		return false
	}
	f()
	return true
}
