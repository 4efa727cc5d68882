package workers

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/schemas"
)

// onCancel aborts a job in flight and tells the asker how far it had come. Cancels of jobs that are
// not here are somebody else's, or find their tombstone when they are pulled.
func (w *Worker) onCancel(msg *nats.Msg) {
	tenant, job, ok := strings.Cut(strings.TrimPrefix(msg.Subject, strings.TrimSuffix(schemas.AllCancels, ">")), ".")
	if !ok {
		return
	}
	r := w.lookup(tenant, job)
	if r == nil {
		return
	}
	phase := r.phase()
	if r.ending.Load() {
		phase = schemas.PhaseEnded
	} else {
		r.aborted.CompareAndSwap(0, int64(time.Since(r.received)))
		r.cancel(errCancelled)
	}
	if msg.Reply == "" {
		return
	}
	reply, err := json.Marshal(schemas.CancelReply{ID: job, Phase: phase, Worker: w.cfg.ID})
	if err == nil {
		err = msg.Respond(reply)
	}
	w.fault(err, "answer a cancel")
}

// observeCancel counts a cancelled job and, if the engine had it, the time from the cancel's arrival to its abort.
func (w *Worker) observeCancel(r *run, phase schemas.Phase) {
	c := r.metrics.cancels[phase]
	c.total.Inc()
	if asked := r.aborted.Load(); asked > 0 && phase != schemas.PhaseQueued {
		c.abort.Observe((time.Since(r.received) - time.Duration(asked)).Seconds())
	}
}
