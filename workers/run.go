package workers

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// run is one delivery of a job while this worker holds it.
type run struct {
	w        *Worker
	tuned    *Tunables // as they were when the delivery came
	msg      jetstream.Msg
	meta     *jetstream.MsgMetadata
	class    schemas.Class
	model    string      // of the job; another than the worker's if it is covered
	cover    *cover      // set then
	metrics  *jobMetrics // of that model
	job      *schemas.Job
	ref      *schemas.BodyRef // of a body that lies in the object store
	attempt  int
	received time.Time
	cancel   context.CancelCauseFunc
	jobs     context.Context // ends when the worker has drained for as long as it may
	drain    context.Context // ends when the worker begins to drain
	ended    chan struct{}   // closed when the run has been settled

	progress  atomic.Int64 // when the engine last got on, as time since received
	decoding  atomic.Bool  // the first token has come
	prefilled atomic.Bool  // the engine has the request
	ending    atomic.Bool  // the attempt is over and its end is being stored
	lost      atomic.Bool  // the lease has gone; nothing may be said any more
	storing   atomic.Bool  // the conversation is read or written, and the engine not asked
	aborted   atomic.Int64 // when a cancel was asked for, as time since received; 0 if none was

	out     *stream // where its events go
	history history // what earlier attempts left in the record
	answer  *answer // the text so far
	timings schemas.Timings
	usage   *schemas.Usage
	turn    *turn           // its part in a conversation
	late    *lateTurn       // the turn that is still to be stored once it has ended
	verdict json.RawMessage // what moderation says of it, kept with the turn
	note    string          // what was changed of the request
	extra   int             // slots taken beyond the first
	last    bool            // it holds the worker's lastChance
	opened  bool            // its opening event is out
	excused bool            // the attempt before was left by a worker that lives
	over    bool            // it has its Result already
	vacated bool            // its slots are free
	refused bool            // what is wrong is the session's, whichever model runs the job
	buried  bool            // there is a dead letter, which may be replayed

	policy   ModerationPolicy // nil if nothing is checked
	checking atomic.Bool      // the worker waits for moderation, and not for the engine
	judged   *verdict         // what verdict says
	said     string           // what moderation has changed of the request
	cleared  bool             // moderation has no objection to the request as it came
	asked    string           // what the reply is about, for its check
	lag      int              // by how many runes the text may be behind its tokens
	screen   *screen          // nil if the reply is not checked
}

// touch notes that the engine got on.
func (r *run) touch() { r.progress.Store(int64(time.Since(r.received))) }

// silence returns for how long the engine has been silent and for how long it may be.
func (r *run) silence(now time.Time) (silent, bound time.Duration) {
	bound = r.tuned.FirstTokenTimeout
	if r.checking.Load() {
		return 0, bound
	}
	if r.decoding.Load() {
		bound = r.tuned.TokenTimeout
	}
	if r.storing.Load() {
		return 0, bound
	}
	return now.Sub(r.received) - time.Duration(r.progress.Load()), bound
}

// phase says how far the job has come.
func (r *run) phase() schemas.Phase {
	switch {
	case r.decoding.Load():
		return schemas.PhaseDecode
	case r.prefilled.Load():
		return schemas.PhasePrefill
	default:
		return schemas.PhaseQueued
	}
}

func runKey(tenant, job string) string { return tenant + "." + job }

// register makes the run known under its job's id, for cancels. If another run of the same job is
// here already, it is returned instead.
func (w *Worker) register(r *run) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := runKey(r.job.Tenant, r.job.ID)
	if other := w.running[key]; other != nil {
		return other
	}
	w.running[key] = r
	return nil
}

func (w *Worker) unregister(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := runKey(r.job.Tenant, r.job.ID)
	if w.running[key] == r {
		delete(w.running, key)
	}
}

func (w *Worker) lookup(tenant, job string) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[runKey(tenant, job)]
}
