package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// A worker that does not answer for an attempt within a quarter of a lease, and these bounds, counts as
	// lost: the job waits meanwhile. It may take longer where the job would otherwise be given up.
	minExcuseWait, maxExcuseWait = 250 * time.Millisecond, time.Second
	lastExcuseWait               = 2 * time.Second
	// maxExcused bounds the attempts that a job may have excused.
	maxExcused = 50
	// maxForsaken bounds the attempts that a worker remembers.
	maxForsaken = 4096
)

// forsaken remembers the attempts that this worker opened and left because it had lost the lease: the
// broker, the network or the machine failed, and not the job.
type forsaken struct {
	mu       sync.Mutex
	attempts map[string]int // by run key
	order    []string
}

func (f *forsaken) add(r *run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.attempts == nil {
		f.attempts = make(map[string]int)
	}
	key := runKey(r.job.Tenant, r.job.ID)
	if _, known := f.attempts[key]; !known {
		f.order = append(f.order, key)
	}
	f.attempts[key] = r.attempt
	if len(f.order) > maxForsaken {
		delete(f.attempts, f.order[0])
		f.order = f.order[1:]
	}
}

func (f *forsaken) has(tenant, job string, attempt int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attempts[runKey(tenant, job)] == attempt
}

// closeAttempt decides about an attempt that the record leaves open. Its worker may be dead, which
// counts as a failure, since the job may be what killed it. Or it lives and has only lost the lease:
// then the attempt is excused, and the event that opens the next one says so.
func (w *Worker) closeAttempt(ctx context.Context, r *run) error {
	open := r.history.open
	if open == nil {
		return nil
	}
	if r.history.excused < maxExcused {
		excused, err := w.askFor(ctx, r, open)
		if err != nil {
			return err
		}
		if excused {
			r.excused = true
			return nil
		}
	}
	r.history.lose()
	return nil
}

// askFor asks the worker of an attempt whether it lives and has only lost the lease.
func (w *Worker) askFor(ctx context.Context, r *run, open *schemas.Attempt) (bool, error) {
	if open.Worker == w.cfg.ID {
		return w.forsaken.has(r.job.Tenant, r.job.ID, open.Attempt), nil
	}
	if schemas.CheckToken(open.Worker) != nil {
		return false, nil // whoever wrote that was no worker
	}
	data, err := json.Marshal(schemas.AttemptQuery{ID: r.job.ID, Tenant: r.job.Tenant, Attempt: open.Attempt})
	if err != nil {
		return false, err
	}
	patience := min(max(w.leases.term/4, minExcuseWait), maxExcuseWait)
	if len(r.history.failed)+1 >= r.tuned.MaxAttempts {
		patience = lastExcuseWait
	}
	wait, stop := context.WithTimeout(ctx, patience)
	defer stop()
	msg, err := w.nc.RequestWithContext(wait, schemas.AttemptSubject(open.Worker), data)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask worker %s for attempt %d: %w", open.Worker, open.Attempt, err)
	}
	var reply schemas.AttemptReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return false, nil // no worker's answer
	}
	return reply.Excused, nil
}

// onAttempt answers for an attempt of this worker. Whoever asks was given the job, so if it still
// runs here its lease has gone, and it is given up before the worker finds out by itself.
func (w *Worker) onAttempt(req micro.Request) {
	var q schemas.AttemptQuery
	if err := json.Unmarshal(req.Data(), &q); err != nil {
		w.fault(req.Error("400", "the request is not an attempt query", nil), "answer for an attempt")
		return
	}
	excused := w.forsaken.has(q.Tenant, q.ID, q.Attempt)
	if r := w.lookup(q.Tenant, q.ID); r != nil && r.attempt == q.Attempt {
		excused = true
		if !r.ending.Load() { // otherwise the Result decides
			r.lost.Store(true)
			r.cancel(fmt.Errorf("%w: another worker was given the job", ErrLeaseLost))
		}
	}
	reply, err := json.Marshal(schemas.AttemptReply{Worker: w.cfg.ID, Excused: excused})
	if err == nil {
		err = req.Respond(reply)
	}
	w.fault(err, "answer for an attempt")
}
