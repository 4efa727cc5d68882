package schemas

import "time"

// WorkerState is what a worker can do at the moment.
type WorkerState string

// The states of a worker.
const (
	// WorkerStarting is a worker whose engine has not been ready yet.
	WorkerStarting WorkerState = "starting"
	WorkerReady    WorkerState = "ready"
	// WorkerDegraded is a worker that is slow or full, or for the moment takes no jobs; see [WorkerInfo.Pulling].
	WorkerDegraded WorkerState = "degraded"
	WorkerDown     WorkerState = "down"
	WorkerDraining WorkerState = "draining"
)

// WorkerCause is why a worker is not simply ready.
type WorkerCause string

// The causes. With those after CauseQueue the worker still takes jobs.
const (
	// CauseStarting is an engine that has not been ready since the worker began.
	CauseStarting WorkerCause = "engine_starting"
	// CauseRestarting is an engine that is being started again.
	CauseRestarting WorkerCause = "engine_restarting"
	// CauseDoubt is an engine that failed a job and has not been looked at since.
	CauseDoubt WorkerCause = "engine_in_doubt"
	// CauseEngineDown is an engine that does not say that it is well.
	CauseEngineDown WorkerCause = "engine_down"
	// CauseHung is an engine that says so, and generates nothing.
	CauseHung WorkerCause = "engine_hung"
	// CauseBreakerOpen is an engine that failed too many attempts of late.
	CauseBreakerOpen WorkerCause = "breaker_open"
	// CauseBreakerHalfOpen is the same engine while it is tried out, without jobs.
	CauseBreakerHalfOpen WorkerCause = "breaker_half_open"
	// CauseLease is a broker that does not confirm leases.
	CauseLease WorkerCause = "leases_not_renewed"
	// CauseResults is a broker that does not store Results.
	CauseResults WorkerCause = "results_not_stored"
	// CauseQueue is a worker without a connection to the broker.
	CauseQueue WorkerCause = "queue_unreachable"
	// CauseSlow is an engine whose first tokens come later than the model's target.
	CauseSlow WorkerCause = "slow"
	// CauseSaturated is a worker whose slots have all been taken for a while, with more jobs queued.
	CauseSaturated WorkerCause = "saturated"
	// CausePressure is an engine that makes sequences wait, or is short of KV cache.
	CausePressure WorkerCause = "engine_pressure"
)

// WorkerCauses lists all causes, gravest first.
func WorkerCauses() []WorkerCause {
	return []WorkerCause{
		CauseQueue, CauseLease, CauseResults, CauseEngineDown, CauseHung, CauseBreakerOpen,
		CauseStarting, CauseRestarting, CauseDoubt, CauseBreakerHalfOpen, CausePressure, CauseSaturated, CauseSlow,
	}
}

// State returns the state of a worker that has no graver cause.
func (c WorkerCause) State() WorkerState {
	switch c {
	case CauseStarting:
		return WorkerStarting
	case CauseRestarting, CauseDoubt, CauseBreakerHalfOpen, CausePressure, CauseSaturated, CauseSlow:
		return WorkerDegraded
	default:
		return WorkerDown
	}
}

// StopsPulling reports whether a worker takes no jobs while c holds.
func (c WorkerCause) StopsPulling() bool {
	return c != CauseSlow && c != CauseSaturated && c != CausePressure
}

// WorkerInfo is a worker's entry in [WorkersBucket].
type WorkerInfo struct {
	ID    string      `json:"id"`
	Model string      `json:"model"`
	State WorkerState `json:"state"`
	// Since is when State began.
	Since time.Time `json:"since,omitzero"`
	// Pulling is set while the worker takes jobs: always when ready, sometimes when degraded.
	Pulling bool `json:"pulling,omitempty"`
	// Causes say why State is not ready, gravest first, and Reason says the same in words.
	Causes []WorkerCause `json:"causes,omitempty"`
	Reason string        `json:"reason,omitempty"`
	// Covering are the models whose jobs the worker takes as well, because they have no worker.
	Covering []string `json:"covering,omitempty"`
	Slots    int      `json:"slots"`
	Busy     int      `json:"busy"`
	Engine   string   `json:"engine"`
	Version  string   `json:"version,omitempty"`
	// Simulated is set when the engine is hxp's own simulator.
	Simulated bool      `json:"simulated,omitempty"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Updated   time.Time `json:"updated"`
}

// Live reports whether the worker takes jobs of its model.
func (w *WorkerInfo) Live() bool {
	return w.State == WorkerReady || w.State == WorkerDegraded && w.Pulling
}

// DrainReply is a worker's answer to a request on [DrainSubject]: it pulls nothing more, and ends
// when what it is running has ended.
type DrainReply struct {
	ID    string      `json:"id"`
	State WorkerState `json:"state"`
}

// AttemptQuery asks a worker for an attempt that it opened and did not end. Whoever asks has been
// given the job: a worker that still runs the attempt gives it up.
type AttemptQuery struct {
	ID      string `json:"id"`
	Tenant  string `json:"tenant"`
	Attempt int    `json:"attempt"`
}

// AttemptReply is a worker's answer to an AttemptQuery.
type AttemptReply struct {
	Worker string `json:"worker"`
	// Excused is set if the worker lost no more than the lease: the attempt has not failed.
	Excused bool `json:"excused"`
}
