package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// ErrNotReceived is in the chain of an [Engine]'s error if the engine never got the request: the
// attempt is then retried without counting as a failure.
var ErrNotReceived = errors.New("the engine did not receive the request")

// generate opens an attempt and has the engine run it. nil means that the reply is complete.
func (w *Worker) generate(ctx context.Context, r *run, req *Request) error {
	r.prefilled.Store(true)
	if err := r.out.event(opening(r, w.cfg.ID)); err != nil {
		return err
	}
	r.opened = true
	metrics := w.metrics.class[r.class]
	start := time.Now()
	r.timings.Queue = ms(start.Sub(r.meta.Timestamp))
	metrics.queueWait.Observe(start.Sub(r.meta.Timestamp).Seconds())
	r.answer = newAnswer(r.job.Endpoint)
	r.touch()

	var first, last time.Time
	var failed error
	for delta, err := range w.engine.Generate(ctx, req) {
		if err != nil {
			failed = err
			break
		}
		now := time.Now()
		r.touch()
		r.answer.add(&delta)
		if delta.Usage != nil {
			r.usage = delta.Usage
		}
		if delta.Tokens > 0 {
			if first.IsZero() {
				first = now
				r.decoding.Store(true)
				metrics.ttft.Observe(now.Sub(start).Seconds())
			} else {
				metrics.interToken.Observe(now.Sub(last).Seconds() / float64(delta.Tokens))
			}
			last = now
		}
		if r.job.Stream && len(delta.Choices) > 0 {
			if failed = r.out.delta(delta.Choices); failed != nil {
				break
			}
		}
	}
	end := time.Now()
	if !first.IsZero() {
		r.timings.TTFT = ms(first.Sub(start))
	}
	r.timings.Generate, r.timings.Total = ms(end.Sub(start)), ms(end.Sub(r.meta.Timestamp))
	r.touch()
	return failed
}

// opening is the event that opens this attempt.
func opening(r *run, worker string) *schemas.Event {
	e := &schemas.Event{Kind: schemas.Started, Worker: worker, Source: r.source()}
	switch h := r.history; {
	case h.attempt == 0:
	case h.delivered:
		e.Kind, e.Reason = schemas.Restarted, fmt.Sprintf("attempt %d was interrupted", h.attempt)
	default:
		e.Kind, e.Reason = schemas.Resumed, fmt.Sprintf("attempt %d was interrupted before its first token", h.attempt)
	}
	return e
}

func ms(d time.Duration) float64 {
	return float64(max(0, d).Microseconds()) / 1000
}
