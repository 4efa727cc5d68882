package producer

import (
	"sync"

	"github.com/hxp-enterprise/hxp/schemas"
)

// inbox holds the live events of one stream between the subscription's callback, which must never
// wait, and the stream's reader. It is bounded: what does not fit is dropped, and marks the inbox so
// that the reader goes to the record.
type inbox struct {
	wake     chan struct{} // holds one token when there is something to look at
	limit    int           // of events
	maxBytes int           // of their size

	mu     sync.Mutex
	events []schemas.Event
	bytes  int
	check  bool // look at the record and the Result, once events is empty
}

func newInbox(limit, maxBytes int) *inbox {
	return &inbox{wake: make(chan struct{}, 1), limit: limit, maxBytes: maxBytes}
}

// push takes an event that came as a message of so many bytes.
func (b *inbox) push(e schemas.Event, size int) {
	b.mu.Lock()
	if len(b.events) < b.limit && size <= b.maxBytes-b.bytes {
		b.events = append(b.events, e)
		b.bytes += size
	} else {
		b.check = true
	}
	// A terminal event that the reader cannot use, because it is behind what was delivered, still
	// says that there is a Result.
	b.check = b.check || e.Kind.Terminal()
	b.mu.Unlock()
	b.signal()
}

// demand makes the reader look at the record and the Result.
func (b *inbox) demand() {
	b.mu.Lock()
	b.check = true
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take returns what has arrived since the last take, or, if that is nothing, whether a check is due.
func (b *inbox) take() (events []schemas.Event, check bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, b.events, b.bytes = b.events, nil, 0
	if len(events) == 0 {
		check, b.check = b.check, false
	}
	return events, check
}
