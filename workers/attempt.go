package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// ErrNotReceived is in the chain of an [Engine]'s error if the engine never got the request: the
// attempt is then retried without counting as a failure.
var ErrNotReceived = errors.New("the engine did not receive the request")

// reply opens an attempt and has the engine give the reply, or the rest of it. nil means that it is
// complete.
func (w *Worker) reply(ctx context.Context, r *run, b *body) error {
	if b.stored != nil {
		return w.replay(ctx, r, b)
	}
	r.note = sentences(b.note, r.said)
	whole := &Request{ID: r.job.ID, Attempt: r.attempt, Endpoint: r.job.Endpoint, Body: b.raw, Class: r.class}
	switch h := &r.history; {
	case h.attempt == 0:
		return w.generate(ctx, r, &schemas.Event{Kind: schemas.Started}, whole, nil)
	case !h.delivered:
		why := fmt.Sprintf("attempt %d was interrupted before its first token", h.attempt)
		return w.generate(ctx, r, &schemas.Event{Kind: schemas.Resumed, Reason: why}, whole, nil)
	}
	c, why, err := w.resume(ctx, r, b)
	if err != nil {
		return err
	}
	if c != nil && c.finish == "" {
		var rest *Request
		if rest, why, err = c.request(r, b, r.limits().MaxModelLen); err != nil {
			return err
		}
		if rest != nil {
			err = w.generate(ctx, r, c.opening(r, b), rest, c)
			if !errors.Is(err, errDiverged) {
				return err
			}
			why = err.Error()
		}
	}
	if c != nil && c.finish != "" {
		return w.complete(ctx, r, c, b)
	}
	why = fmt.Sprintf("attempt %d was interrupted: %s", r.history.attempt, why)
	return w.generate(ctx, r, &schemas.Event{Kind: schemas.Restarted, Reason: why}, whole, nil)
}

// begin publishes the event that opens the attempt, and starts its answer from what was sent before.
func (w *Worker) begin(r *run, opening *schemas.Event, c *continuation) error {
	r.prefilled.Store(true)
	opening.Worker, opening.Source, opening.Excused = w.cfg.ID, r.source(), r.excused
	opening.Reason = sentences(opening.Reason, r.note)
	opening.Turn = r.place()
	r.mark(opening)
	if err := r.out.event(opening); err != nil {
		return err
	}
	r.opened = true
	r.answer = newAnswer(r.job.Endpoint)
	if c == nil {
		return nil
	}
	for _, e := range r.history.deltas {
		parts, err := openai.ParseChoices(e.Choices, nil)
		if err != nil {
			return fmt.Errorf("event %d of job %s: %w", e.Seq, r.job.ID, err)
		}
		r.answer.add(&Delta{Parts: parts})
	}
	r.answer.tokens = len(c.kept)
	if r.history.prompt != nil {
		r.answer.prompt = r.history.prompt.Tokens
	}
	return nil
}

// generate has the engine run a request: the whole of the reply, or the rest of it after c.
func (w *Worker) generate(ctx context.Context, r *run, opening *schemas.Event, req *Request, c *continuation) error {
	if err := w.begin(r, opening, c); err != nil {
		return err
	}
	r.watch(ctx)
	metrics := r.metrics.class[r.class]
	start := time.Now()
	r.timings.Queue = ms(start.Sub(r.meta.Timestamp))
	metrics.queueWait.Observe(start.Sub(r.meta.Timestamp).Seconds())
	r.touch()

	var first, last time.Time
	var failed error
	probe := w.capacity.latency.begin(start)
	defer probe.end()
	for delta, err := range w.ask(ctx, r, req) {
		if err != nil {
			failed = err
			break
		}
		now := time.Now()
		r.touch()
		if delta.Tokens > 0 {
			if first.IsZero() {
				first = now
				r.decoding.Store(true)
				metrics.ttft.Observe(now.Sub(start).Seconds())
				probe.first(now)
				if r.class != schemas.Batch { // those may wait, for company as well
					w.pace.add(now, now.Sub(start))
				}
			} else {
				metrics.interToken.Observe(now.Sub(last).Seconds() / float64(delta.Tokens))
				probe.next(now.Sub(last), delta.Tokens, 1+r.extra)
			}
			last = now
			w.lastToken.Store(int64(now.Sub(w.started)))
		}
		if failed = r.deliver(&delta, c); failed != nil {
			break
		}
	}
	failed = r.screened(ctx, failed)
	if c != nil {
		r.usage = r.answer.usage() // the engine takes the kept tokens for part of the prompt
	}
	end := time.Now()
	if !first.IsZero() {
		r.timings.TTFT = ms(first.Sub(start))
	}
	r.timings.Generate, r.timings.Total = ms(end.Sub(start)), ms(end.Sub(r.meta.Timestamp))
	r.touch()
	return failed
}

// deliver takes a delta in, and sends it on unless it has to be looked at first.
func (r *run) deliver(d *Delta, c *continuation) error {
	if c != nil {
		if err := c.translate(r.job.Endpoint, d); err != nil {
			return err
		}
	}
	if d.Usage != nil {
		r.usage = d.Usage
	}
	if len(d.PromptTokens) > 0 {
		r.out.mark(promptMark(d.PromptTokens))
	}
	if r.screen != nil {
		return r.screen.take(d)
	}
	return r.emit(d)
}

// emit takes a delta into the answer and sends it on.
func (r *run) emit(d *Delta) error {
	r.answer.add(d)
	if !r.job.Stream || len(d.Choices) == 0 {
		return nil
	}
	return r.out.delta(d.Choices)
}

// complete ends a reply of which nothing was left to generate when it was interrupted.
func (w *Worker) complete(ctx context.Context, r *run, c *continuation, b *body) error {
	if err := w.begin(r, c.opening(r, b), c); err != nil {
		return err
	}
	r.watch(ctx)
	r.usage = r.answer.usage()
	if r.history.finish != "" {
		return r.screened(ctx, nil) // the last choice was sent
	}
	d, err := c.end(r.job.Endpoint)
	if err != nil {
		return err
	}
	return r.screened(ctx, r.deliver(d, nil))
}

// sentences joins the two that are not empty.
func sentences(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}

func ms(d time.Duration) float64 {
	return float64(max(0, d).Microseconds()) / 1000
}
