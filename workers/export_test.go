package workers

import (
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// What tests of the parts without I/O reach for.

var (
	NewHealth = newHealth
	ReasonOf  = words
)

func (h *health) Hold(keeper string, cause schemas.WorkerCause, detail string, now time.Time) {
	h.hold(keeper, Complaint{cause, detail}, now)
}

func (h *health) Release(keeper string, now time.Time)    { h.release(keeper, now) }
func (h *health) Drain(now time.Time)                     { h.drain(now) }
func (h *health) Open() bool                              { return h.open() }
func (h *health) State() (schemas.WorkerState, time.Time) { return h.state, h.since }
func (h *health) Pulling() bool                           { return h.pulling() }
func (h *health) Complaints() []Complaint                 { return h.complaints() }

type Pace = pace

func (p *pace) Add(at time.Time, took time.Duration) { p.add(at, took) }
func (p *pace) P90(now time.Time) time.Duration      { return p.p90(now) }

type Stillness = stillness

func (s *stillness) Observe(l Load, now time.Time) time.Duration { return s.observe(l, now) }

// BoundLate bounds the turns that a worker keeps until they can be stored, and says how often it looks whether their
// Results are still there. Before Run.
func (w *Worker) BoundLate(n int64, proof time.Duration) {
	w.sessions.maxLate, w.sessions.proof = n, proof
}
