package workers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Cover is another model whose jobs a worker takes as well, while that model has no worker.
type Cover struct {
	// Model is the other model. Its queue must be set up by the time it is to be covered.
	Model string
	// After is for how long no worker of Model may have been live. Defaults to 30 s.
	After time.Duration
}

func (c Cover) withDefaults() Cover {
	c.After = cmp.Or(c.After, 30*time.Second)
	return c
}

func validateCovers(covers []Cover, model string) error {
	var errs []error
	seen := map[string]bool{model: true}
	for i, c := range covers {
		if err := schemas.CheckToken(c.Model); err != nil {
			errs = append(errs, fmt.Errorf("Covers[%d].Model %w", i, err))
		}
		if seen[c.Model] {
			errs = append(errs, fmt.Errorf("Covers[%d].Model is %q; want each model once, and not the worker's own", i, c.Model))
		}
		seen[c.Model] = true
		if c.After <= 0 {
			errs = append(errs, fmt.Errorf("Covers[%d].After is %s; want above 0", i, c.After))
		}
	}
	return errors.Join(errs...)
}

const (
	// coverLook is the most time between two looks at the registry.
	coverLook = time.Second
	// coverPull is the time between two questions for a covered model's jobs when there were none.
	coverPull = 100 * time.Millisecond
)

// errDeclined hands back a job of a covered model that this one cannot run: its own may.
var errDeclined = errors.New("the model that stands in cannot run it")

// cover takes the jobs of a model that has no worker. It belongs to one goroutine.
type cover struct {
	w       *Worker
	model   string
	after   time.Duration
	active  atomic.Bool
	metrics *jobMetrics
	gauge   prometheus.Gauge
	jobs    prometheus.Counter

	lastLive  time.Time // when a worker of the model was there, or may have been
	consumers map[schemas.Class]jetstream.Consumer
	refused   string // why it was not begun, if that has been said
}

func newCover(w *Worker, c Cover) (*cover, error) {
	v := vectors{reg: w.cfg.Registry}
	active := v.gauge("hxp_fallback_active", "1 while the worker's model serves another's jobs.", "model", "served_by")
	jobs := v.counter("hxp_fallback_jobs_total", "Deliveries of a model's jobs to workers of another.", "model", "served_by")
	metrics, err := newJobMetrics(w.cfg.Registry, c.Model)
	if err != nil || v.err != nil {
		return nil, errors.Join(err, v.err)
	}
	return &cover{
		w: w, model: c.Model, after: c.After, metrics: metrics,
		gauge: active.WithLabelValues(c.Model, w.model), jobs: jobs.WithLabelValues(c.Model, w.model),
	}, nil
}

// run covers the model, as long as it has to be, until ctx ends. Every job that the broker handed out
// has been started or handed back when it returns.
func (c *cover) run(ctx context.Context, own *puller, start func(schemas.Class, jetstream.Msg)) {
	c.lastLive = time.Now() // what was before is not known
	defer c.set(false)
	look := min(coverLook, c.w.cfg.Heartbeat)
	var looked time.Time
	for ctx.Err() == nil {
		if time.Since(looked) >= look {
			looked = time.Now()
			c.look(ctx)
		}
		wait := look
		if c.active.Load() {
			if c.pull(ctx, own, start) {
				continue
			}
			wait = min(look, coverPull)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// look asks the registry whether the model has a live worker: one that takes jobs. A registry that
// does not answer counts as if it had.
func (c *cover) look(ctx context.Context) {
	ask, stop := context.WithTimeout(ctx, healthTimeout)
	defer stop()
	all, err := queue.Workers(ask, c.w.js)
	live := err != nil
	for _, info := range all {
		live = live || info.Model == c.model && info.Live()
	}
	if ctx.Err() != nil {
		return
	}
	c.w.fault(err, "look for workers of "+c.model)
	if live {
		c.lastLive = time.Now()
	}
	absent := time.Since(c.lastLive) >= c.after
	if absent && !c.active.Load() {
		absent = c.prepare(ask)
	}
	c.set(absent)
}

// prepare finds the model's queue, and reports whether its jobs can be taken.
func (c *cover) prepare(ctx context.Context) bool {
	consumers, err := queue.Consumers(ctx, c.w.js, c.model)
	if err == nil {
		for class, consumer := range consumers {
			if lease := consumer.CachedInfo().Config.AckWait; lease < c.w.leases.term {
				err = fmt.Errorf("the lease of its %s jobs is %s, and leases are renewed here as for %s", class, lease, c.w.leases.term)
			}
		}
	}
	if err == nil {
		c.consumers, c.refused = consumers, ""
		return true
	}
	if c.refused != err.Error() {
		c.refused = err.Error()
		c.w.log.Warn().Err(err).Str("covers", c.model).Msg("a model without workers cannot be covered")
	}
	return false
}

func (c *cover) set(active bool) {
	if c.active.Swap(active) == active {
		return
	}
	c.gauge.Set(oneIf(active))
	c.w.gate.touch()
	if active {
		c.w.log.Warn().Str("covers", c.model).Dur("after", c.after).Msg("a model has no worker; its jobs are taken here")
	} else {
		c.w.log.Info().Str("covers", c.model).Msg("a model's jobs are not taken here any more")
	}
}

// pull takes jobs of the model into slots that the worker's own do not want, and reports whether
// there may be more: the own queue is empty, and an eighth of the slots is kept for what comes.
func (c *cover) pull(ctx context.Context, own *puller, start func(schemas.Class, jetstream.Msg)) bool {
	got := 0
	for _, class := range schemas.Classes() {
		open, _ := c.w.gate.state()
		limit, _ := c.w.slots.count()
		n := min(c.w.slots.free(), c.w.room(class)) - limit/8
		if ctx.Err() != nil || !open || !own.idle() {
			return false
		}
		if n <= 0 {
			continue // a less urgent class has no more room
		}
		batch, err := c.consumers[class].FetchNoWait(n)
		if err == nil {
			for msg := range batch.Messages() {
				if !c.w.slots.try(0) {
					c.w.fault(msg.Nak(), "hand back a job that came too late")
					continue
				}
				got++
				c.jobs.Inc()
				start(class, msg)
			}
			err = batch.Error()
		}
		own.pullFault(ctx, class, err)
	}
	return got > 0
}

// idle reports whether the puller found its queue empty, and has slots and an open gate. Batch jobs
// may be queued, if they wait for slack.
func (p *puller) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[schemas.Interactive] && p.live[schemas.Standard] && (p.live[schemas.Batch] || p.w.room(schemas.Batch) == 0)
}

// address notes whose job a message is, and where it is counted: under the model that was asked for,
// whichever answers.
func (r *run) address(subject string) {
	r.model, r.metrics = r.w.model, r.w.metrics.jobMetrics
	model, _, _, err := schemas.ParseJobSubject(subject)
	for _, c := range r.w.covers {
		if err == nil && c.model == model {
			r.cover, r.model, r.metrics = c, c.model, c.metrics
		}
	}
}

// servedBy is the model that runs the job in place of its own, or "".
func (r *run) servedBy() string {
	if r.cover == nil {
		return ""
	}
	return r.w.model
}

// mark says on an opening event that another model answers, and why.
func (r *run) mark(opening *schemas.Event) {
	if r.cover == nil {
		return
	}
	opening.ServedBy = r.w.model
	why := fmt.Sprintf("no worker of %s was there for %s: %s answers", r.model, r.cover.after, r.w.model)
	opening.Reason = sentences(opening.Reason, why)
}

// declines reports whether an error is one of this model's, or of its limits, and not of a covered job.
func (r *run) declines(reason *schemas.Error) bool {
	switch reason.Code {
	case schemas.CodeInvalidRequest, schemas.CodeContextLengthExceeded, schemas.CodePayloadTooLarge:
		return r.cover != nil && !r.decoding.Load() && !r.refused
	default:
		return false
	}
}

// decline hands a covered job back that this model or its engine refuses, for a window that is too
// short or a setting out of bounds: nothing of that holds for the job's own model. It is said once,
// and recorded, so that the deliveries until then do not count as lost.
func (w *Worker) decline(r *run, reason *schemas.Error) error {
	err := fmt.Errorf("%w: %w", errDeclined, reason)
	if !r.opened && r.history.declined[w.model] {
		return err
	}
	if !r.opened {
		if said := w.openOnly(r); said != nil {
			return said
		}
	}
	return w.handBack(r, err, schemas.Errorf(schemas.CodeEngineUnavailable, "%s cannot answer for %s, for which the job waits: %s", w.model, r.model, reason.Message))
}
