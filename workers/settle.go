package workers

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/schemas"
)

// handle runs one delivery from beginning to end. It owns the slot that was taken for it.
func (w *Worker) handle(jobs, drain context.Context, class schemas.Class, msg jetstream.Msg) {
	r := &run{w: w, tuned: w.tuned.Load(), msg: msg, class: class, jobs: jobs, drain: drain, received: time.Now(), ended: make(chan struct{})}
	r.address(msg.Subject())
	defer func() { w.slots.give(r.held()) }()
	meta, err := msg.Metadata()
	if err != nil {
		// Not a JetStream delivery: there is nothing to settle.
		w.log.Error().Err(err).Str("subject", msg.Subject()).Msg("message without delivery metadata")
		return
	}
	r.meta, r.attempt = meta, int(meta.NumDelivered)
	ctx, cancel := context.WithCancelCause(jobs)
	r.cancel = cancel
	defer cancel(nil)

	gauge := r.metrics.class[class].inFlight
	gauge.Inc()
	defer gauge.Dec()
	if meta.NumDelivered > 1 {
		r.metrics.class[class].redeliveries.Inc()
	}
	w.leases.add(r)
	err = w.perform(ctx, r)
	r.endRenewal()
	w.sessions.release(r.late)
	w.leases.remove(r)
	w.settle(r, err)
	if r.job != nil {
		w.unregister(r)
	}
	if r.last {
		<-w.lastChance
	}
	close(r.ended)
}

// settle decides the fate of a message. Nothing else acknowledges one that was started.
func (w *Worker) settle(r *run, err error) {
	var fate string
	var sent error
	delay := time.Duration(0)
	switch {
	case err == nil: // answered: the Result is stored
		fate, sent = "acked", r.msg.Ack()
	case errors.Is(err, ErrDiscard):
		fate, sent = "terminated", r.msg.TermWithReason(firstLine(err.Error()))
	case errors.Is(err, ErrLeaseLost): // another worker's by now; whatever we say would be about its delivery
		fate = "abandoned"
		if r.opened {
			w.forsaken.add(r)
		}
	case errors.Is(err, ErrStopping):
		fate, sent = "handed_back", r.msg.Nak() // another worker takes it at once; not a failure
	case errors.Is(err, errDeclined): // it waits for its own model, or for another that can stand in
		r.metrics.class[r.class].outcome("deferred")
		w.fault(r.msg.NakWithDelay(w.cfg.MaxRetryDelay), "defer a job")
		return
	case errors.Is(err, errLastChance):
		r.metrics.class[r.class].outcome("deferred")
		w.fault(r.msg.NakWithDelay(w.cfg.RetryDelay), "defer a job")
		return
	case errors.Is(err, errStoreAway):
		r.metrics.class[r.class].outcome("deferred")
		w.fault(r.msg.NakWithDelay(w.storeDelay(r)), "defer a job")
		return
	default:
		delay = w.backoff(r)
		fate, sent = "retried", r.msg.NakWithDelay(delay)
	}
	w.fault(sent, "settle a job")
	if err != nil {
		w.logRetry(r, err, fate, delay)
	}
}

// backoff is the wait before the next attempt: doubled by each failed one, or by each delivery that
// did not come to an attempt's end.
func (w *Worker) backoff(r *run) time.Duration {
	tries := int(r.meta.NumDelivered)
	if f := r.history.failed; len(f) > 0 && f[len(f)-1].Attempt == r.attempt {
		tries = len(f)
	}
	d := w.cfg.RetryDelay
	for range tries - 1 {
		if d *= 2; d >= w.cfg.MaxRetryDelay {
			return w.cfg.MaxRetryDelay
		}
	}
	return d
}

func (w *Worker) logRetry(r *run, err error, fate string, delay time.Duration) {
	if !errors.Is(err, ErrDiscard) { // that one has been counted as failed
		r.metrics.class[r.class].outcome(fate)
	}
	e := w.log.Warn().Str("outcome", fate).Int("attempt", r.attempt).Str("subject", r.msg.Subject())
	if r.job != nil {
		e = e.Str("job", r.job.ID).Str("tenant", r.job.Tenant)
	}
	if delay > 0 {
		e = e.Dur("retry_in", delay)
	}
	w.blame(e, err)
	e.Msg("job not answered")
}

// blame adds an error to a log line. What is wrong with a request may quote it, so of that only the
// code and the field are logged unless prompts may be.
func (w *Worker) blame(e *zerolog.Event, err error) {
	reason, ok := errors.AsType[*schemas.Error](err)
	if !ok {
		e.Err(err)
		return
	}
	e.Str("code", string(reason.Code))
	if reason.Param != "" {
		e.Str("param", reason.Param)
	}
	switch reason.Code {
	case schemas.CodeInvalidRequest, schemas.CodeContextLengthExceeded, schemas.CodeContentBlocked:
		if !w.tuned.Load().LogPrompts {
			return
		}
	}
	e.Err(err)
}

func firstLine(s string) string {
	const most = 200
	for i, c := range s {
		if c == '\n' || c == '\r' || i >= most {
			return s[:i]
		}
	}
	return s
}
