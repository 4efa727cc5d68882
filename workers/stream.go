package workers

import (
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/schemas"
)

// coalesceBytes bounds the choices that wait for one event.
const coalesceBytes = 64 << 10

// stream publishes the events of one attempt: plain publishes, numbered without a gap. The first
// delta goes out at once; later ones wait a few milliseconds for company if they come that fast.
type stream struct {
	nc       *nats.Conn
	job      string
	subject  string
	inbox    string // a second address, or ""
	coalesce time.Duration
	lapsed   func() error // says that the lease has gone

	mu      sync.Mutex
	seq     uint64
	attempt int
	prompt  *schemas.Prompt // to go with the next delta
	pending []byte          // choice objects, comma-separated, that wait
	buf     []byte          // the encoded event, reused
	last    time.Time
	timer   *time.Timer
	armed   bool
	err     error // the first publish that failed
}

// lapsed returns ErrLeaseLost if the job may be another worker's by now: a process that was frozen
// finds out here, before it says another word.
func (r *run) lapsed() error {
	if silent, lapsed := r.w.leases.lapsed(); lapsed || r.lost.Load() {
		return fmt.Errorf("%w: nothing renewed for %s", ErrLeaseLost, silent.Round(time.Millisecond))
	}
	return nil
}

// open resolves where the events of r's job go.
func (w *Worker) open(r *run) error {
	subject, inbox, err := schemas.ReplySubject(r.job.ReplyTo, r.job.Tenant, r.job.ID)
	if err != nil {
		return err
	}
	r.out = &stream{nc: w.nc, job: r.job.ID, subject: subject, inbox: inbox, coalesce: r.tuned.Coalesce, lapsed: r.lapsed, attempt: r.attempt}
	return nil
}

// resume sets the number of the last event and the attempt of the next ones.
func (s *stream) resume(seq uint64, attempt int) {
	s.mu.Lock()
	s.seq, s.attempt = seq, attempt
	s.mu.Unlock()
}

// next is the seq of the event after those published and waiting.
func (s *stream) next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) > 0 {
		return s.seq + 2
	}
	return s.seq + 1
}

// event publishes e after whatever waits, under the next seq.
func (s *stream) event(e *schemas.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
	s.publish(e)
	return s.err
}

// delta publishes choice objects, or lets them wait for company.
func (s *stream) delta(choices []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) > 0 {
		s.pending = append(s.pending, ',')
	}
	s.pending = append(s.pending, choices...)
	since := time.Since(s.last)
	switch {
	case since >= s.coalesce || len(s.pending) >= coalesceBytes:
		s.flush()
	case !s.armed:
		s.armed = true
		if s.timer == nil {
			s.timer = time.AfterFunc(s.coalesce-since, s.tick)
		} else {
			s.timer.Reset(s.coalesce - since)
		}
	}
	return s.err
}

// mark has the next delta identify the prompt's tokens.
func (s *stream) mark(p *schemas.Prompt) {
	s.mu.Lock()
	s.prompt = p
	s.mu.Unlock()
}

func (s *stream) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	s.flush()
}

// drop forgets what waits: the attempt has lost the right to speak.
func (s *stream) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = s.pending[:0]
}

func (s *stream) flush() {
	if len(s.pending) == 0 {
		return
	}
	choices := append(append([]byte{'['}, s.pending...), ']')
	s.pending = s.pending[:0]
	s.last = time.Now()
	s.publish(&schemas.Event{Kind: schemas.DeltaKind, Choices: choices, Prompt: s.prompt})
	s.prompt = nil
}

func (s *stream) publish(e *schemas.Event) {
	if s.err == nil {
		s.err = s.lapsed()
	}
	if s.err != nil {
		return
	}
	s.seq++
	e.ID, e.Seq, e.Attempt, e.TS = s.job, s.seq, s.attempt, time.Now().UnixMicro()
	s.buf = e.Append(s.buf[:0])
	err := s.nc.Publish(s.subject, s.buf)
	if err == nil && s.inbox != "" {
		err = s.nc.Publish(s.inbox, s.buf)
	}
	if err != nil {
		s.err = fmt.Errorf("publish event %d: %w", e.Seq, err)
	}
}
