//go:build chaos && linux

package chaos_test

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/schemas"
)

// watch is a plain subscription to every event of the tenant, in the order in which they come.
type watch struct {
	t *testing.T

	mu   sync.Mutex
	jobs map[string]*seen
	hits []*hit
	// twice counts jobs that were hit a second time before they could say that they had recovered.
	twice int
	ended chan string // ids of jobs whose terminal event has come
}

// seen is what has come of one job.
type seen struct {
	events  []schemas.Event
	attempt int
	worker  string
	tokens  bool // some have come
	ended   bool
	at      time.Time // of the newest event that counts
	hit     *hit      // not yet recovered from
}

// hit is a fault that struck a job.
type hit struct {
	at      time.Time
	again   time.Time // when the newest fault after it came
	attempt int
	took    time.Duration // until the next attempt's first event; 0 while there is none
	noticed time.Duration // until the attempt's own worker said that it was interrupted
	any     bool          // any event ends it, of whichever attempt
}

func (b *bed) watch() *watch {
	b.t.Helper()
	w := &watch{t: b.t, jobs: map[string]*seen{}, ended: make(chan string, 1<<16)}
	sub, err := b.nc.Subscribe(schemas.EventSubject(tenant, "*", "*"), w.receive)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = b.nc.Flush()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return w
}

func (w *watch) receive(msg *nats.Msg) {
	now := time.Now()
	var e schemas.Event
	if err := json.Unmarshal(msg.Data, &e); err != nil {
		w.t.Errorf("%s: not an event: %v: %.200s", msg.Subject, err, msg.Data)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.job(e.ID)
	s.events = append(s.events, e)
	if e.Attempt < s.attempt {
		return
	}
	s.attempt, s.at = e.Attempt, now
	if h := s.hit; h != nil {
		switch {
		case h.any || e.Attempt > h.attempt:
			// An attempt that was never heard of was on a worker that has been killed since: from then on it counts.
			if e.Attempt > h.attempt+1 && h.again.After(h.at) {
				h.at = h.again
				w.twice++
			}
			h.took, s.hit = now.Sub(h.at), nil
		case e.Kind == schemas.Interrupted && h.noticed == 0:
			h.noticed = now.Sub(h.at)
		}
	}
	if e.Kind.Opens() {
		s.worker = e.Worker
	}
	s.tokens = s.tokens || e.Kind == schemas.DeltaKind
	if e.Kind.Terminal() && !s.ended {
		s.ended = true
		if h := s.hit; h != nil && h.attempt == e.Attempt {
			// It had ended before the fault: its last words were on their way.
			s.hit = nil
			w.forget(h)
		}
		w.ended <- e.ID
	}
}

func (w *watch) forget(h *hit) {
	for i, other := range w.hits {
		if other == h {
			w.hits = append(w.hits[:i], w.hits[i+1:]...)
			return
		}
	}
}

func (w *watch) job(id string) *seen {
	s := w.jobs[id]
	if s == nil {
		s = &seen{}
		w.jobs[id] = s
	}
	return s
}

// strike notes that a fault has hit every job that runs on a worker, and returns how many.
func (w *watch) strike(worker string, at time.Time) int { return w.mark(worker, at, false) }

// strikeAll is strike for what hits the broker: a job has recovered with its next event, of whichever attempt.
func (w *watch) strikeAll(at time.Time) int { return w.mark("", at, true) }

func (w *watch) mark(worker string, at time.Time, anyEvent bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.jobs {
		if s.hit != nil {
			s.hit.again = at
		}
		if s.ended || s.attempt == 0 || s.hit != nil || worker != "" && s.worker != worker {
			continue
		}
		s.hit = &hit{at: at, attempt: s.attempt, any: anyEvent}
		w.hits = append(w.hits, s.hit)
		n++
	}
	return n
}

// count tells how many jobs fulfil a condition.
func (w *watch) count(is func(*seen) bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.jobs {
		if is(s) {
			n++
		}
	}
	return n
}

// finished reports whether a job has ended.
func (w *watch) finished(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.jobs[id]
	return s != nil && s.ended
}

// on is the condition that a job runs on a worker and has sent tokens.
func on(worker string) func(*seen) bool {
	return func(s *seen) bool { return s.worker == worker && s.tokens && !s.ended }
}

// times returns how long the jobs that were hit took to recover, and how long those whose own worker
// noticed took to notice.
func (w *watch) times() (recovery, noticed []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hits {
		if h.took > 0 {
			recovery = append(recovery, h.took)
		}
		if h.noticed > 0 {
			noticed = append(noticed, h.noticed)
		}
	}
	return recovery, noticed
}

// events returns what has come, by job.
func (w *watch) events() map[string][]schemas.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string][]schemas.Event, len(w.jobs))
	for id, s := range w.jobs {
		all[id] = slices.Clip(s.events)
	}
	return all
}
