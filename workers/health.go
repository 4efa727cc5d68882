package workers

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Complaint is one cause for which a worker is not simply ready, in words.
type Complaint struct {
	Cause  schemas.WorkerCause `json:"cause"`
	Detail string              `json:"detail"`
}

// Status is a worker's health: the body of /readyz.
type Status struct {
	State schemas.WorkerState `json:"state"`
	// Since is when State began.
	Since time.Time `json:"since"`
	// Pulling says whether the worker takes jobs.
	Pulling bool `json:"pulling"`
	// Causes say why State is not ready, gravest first. None stands for a drain.
	Causes []Complaint `json:"causes"`
	Engine string      `json:"engine"`
	// Slots is how many there are, Busy how many of them are in use.
	Slots    int      `json:"slots"`
	Busy     int      `json:"busy"`
	Covering []string `json:"covering,omitempty"`
}

// health is what the keepers of the gate complain of, and the state that follows from it. A keeper
// has one complaint at a time. It is not safe for concurrent use, and knows no time but what it is told.
type health struct {
	held     map[string]Complaint
	draining bool
	state    schemas.WorkerState
	since    time.Time
}

func newHealth(now time.Time) *health {
	h := &health{held: make(map[string]Complaint)}
	h.settle(now)
	return h
}

// hold notes a keeper's complaint, in place of the one that it had. Doubt does not take the place of
// what is known.
func (h *health) hold(keeper string, c Complaint, now time.Time) {
	if had, ok := h.held[keeper]; ok && c.Cause == schemas.CauseDoubt && had.Cause != c.Cause {
		return
	}
	h.held[keeper] = c
	h.settle(now)
}

// release forgets a keeper's complaint.
func (h *health) release(keeper string, now time.Time) {
	delete(h.held, keeper)
	h.settle(now)
}

// drain is for good.
func (h *health) drain(now time.Time) {
	h.draining = true
	h.settle(now)
}

// settle finds the state: draining whatever else there is, otherwise that of the gravest cause.
func (h *health) settle(now time.Time) {
	state := schemas.WorkerReady
	if all := h.complaints(); len(all) > 0 {
		state = all[0].Cause.State()
	}
	if h.draining {
		state = schemas.WorkerDraining
	}
	if state != h.state {
		h.state, h.since = state, now
	}
}

// pulling reports whether jobs are taken: no complaint stops that.
func (h *health) pulling() bool {
	return h.open() && h.held[keeperQueue] == (Complaint{}) && !h.draining
}

// open reports whether the worker may pull. Without a connection it may: its pulls are made anew when
// there is one, and withdrawing them meanwhile would take until they expire.
func (h *health) open() bool {
	for keeper, c := range h.held {
		if c.Cause.StopsPulling() && keeper != keeperQueue {
			return false
		}
	}
	return true
}

// complaints returns all there are, gravest first.
func (h *health) complaints() []Complaint {
	rank := schemas.WorkerCauses()
	return slices.SortedFunc(maps.Values(h.held), func(a, b Complaint) int {
		return cmp.Compare(slices.Index(rank, a.Cause), slices.Index(rank, b.Cause))
	})
}

// words joins the details of complaints.
func words(all []Complaint) string {
	details := make([]string, len(all))
	for i, c := range all {
		details[i] = c.Detail
	}
	return strings.Join(details, "; ")
}
