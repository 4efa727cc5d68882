package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// lookedAt is how many jobs' results and tombstones are asked for at once.
	lookedAt = 512
	// anew is how often a whole backlog is read again: for a Result that was written after the look and
	// without a tombstone, or that a lagging replica did not show.
	anew = 10 * time.Minute
	// spare is how many more jobs than are queued may be remembered before the backlog is read again.
	spare = 1024
)

// tracked is a queued job that was looked at.
type tracked struct {
	stored uint64 // its place in the queue; 0 when it has left
	due    int64  // when to do something about it, in Unix nanoseconds; 0 is never
	key    uint64 // hash of tenant and id
}

// backlog is what the janitor knows of a model's queue. Jobs are remembered in the order of the queue
// and searched from end to end, which a million takes a few milliseconds and is needed only when
// something is due or cancelled.
type backlog struct {
	j       *Janitor
	model   string
	grace   time.Duration // what a worker is given to end a job first
	cursor  uint64        // the next place to look at
	horizon uint64        // what had been stored at the last look: the rest is too new
	jobs    []tracked
	soonest int64 // the first due time; 0 if there is none
	began   time.Time

	expired prometheus.Counter
	removed prometheus.Counter
}

// sweep looks after the queue of every model, and of the others if one fails.
func (j *Janitor) sweep(ctx context.Context) error {
	models, err := queue.Models(ctx, j.js)
	if err != nil {
		return err
	}
	for model := range j.backlogs {
		if !slices.Contains(models, model) {
			delete(j.backlogs, model)
		}
	}
	// Room counts once there is some: the warning is not to come again with every job that leaves.
	j.full = j.full && j.tracked() > j.cfg.MaxTracked*9/10
	// Before the queues: whatever is cancelled from now on is either found with its job or here next time.
	names, next, err := queue.Tombstones(ctx, j.js, j.tombstones)
	if err != nil {
		return err
	}
	cancelled := make(map[uint64]bool, len(names))
	for _, k := range names {
		cancelled[j.key(k)] = true
	}
	var errs []error
	for _, model := range models {
		if err := j.backlog(model).sweep(ctx, cancelled); err != nil {
			errs = append(errs, fmt.Errorf("model %s: %w", model, err))
		}
	}
	if len(errs) == 0 {
		j.tombstones = next // otherwise a model may not have heard of them
	}
	return errors.Join(errs...)
}

func (j *Janitor) backlog(model string) *backlog {
	b := j.backlogs[model]
	if b == nil {
		b = &backlog{j: j, model: model, expired: j.expired.WithLabelValues(model), removed: j.removed.WithLabelValues(model)}
		j.backlogs[model] = b
	}
	return b
}

func (j *Janitor) key(k queue.JobKey) uint64 { return maphash.Comparable(j.seed, k) }

func (j *Janitor) tracked() int {
	n := 0
	for _, b := range j.backlogs {
		n += len(b.jobs)
	}
	return n
}

func (b *backlog) sweep(ctx context.Context, cancelled map[uint64]bool) error {
	if b.grace == 0 {
		lease, err := queue.Lease(ctx, b.j.js, b.model)
		if err != nil {
			return err
		}
		b.grace = 2 * lease
	}
	extent, err := queue.Extent(ctx, b.j.js, b.model)
	if err != nil {
		return err
	}
	b.forget(extent)
	if len(cancelled) > 0 {
		b.hasten(cancelled)
	}
	if extent.Jobs > 0 {
		err = b.read(ctx)
	} else {
		b.cursor = extent.Last + 1
	}
	b.horizon = extent.Last
	return errors.Join(err, b.settle(ctx))
}

// forget drops the jobs that have left, and begins anew when too many may have.
func (b *backlog) forget(e queue.Span) {
	switch {
	case e.Last+1 < b.cursor: // the stream was made anew, and counts from one again
		b.jobs, b.cursor, b.horizon = nil, 0, 0
	case e.Jobs == 0:
		b.jobs = nil
	case uint64(len(b.jobs)) > 2*e.Jobs+spare, len(b.jobs) > 0 && time.Since(b.began) > anew:
		b.jobs, b.cursor = nil, e.First
	default:
		n, _ := slices.BinarySearchFunc(b.jobs, e.First, func(t tracked, first uint64) int {
			if t.stored < first {
				return -1
			}
			return 1
		})
		b.jobs = slices.Delete(b.jobs, 0, n)
	}
	if len(b.jobs) == 0 {
		b.jobs, b.soonest, b.began = nil, 0, time.Now()
	}
}

// hasten makes cancelled jobs due once their workers have had their time.
func (b *backlog) hasten(cancelled map[uint64]bool) {
	for i := range b.jobs {
		if cancelled[b.jobs[i].key] {
			b.wake(&b.jobs[i], time.Now().Add(b.grace))
		}
	}
}

// wake makes a job due at a time, unless it is due sooner.
func (b *backlog) wake(t *tracked, at time.Time) {
	due := at.UnixNano()
	if t.due == 0 || due < t.due {
		t.due = due
	}
	if b.soonest == 0 || t.due < b.soonest {
		b.soonest = t.due
	}
}

// glimpse is what is taken from a queued job's message.
type glimpse struct {
	stored   uint64
	name     queue.JobKey // zero if it is no job
	deadline time.Time
}

// read looks at the jobs that have been queued for an Interval and were not looked at yet.
func (b *backlog) read(ctx context.Context) error {
	if b.j.full {
		return nil
	}
	seen := make([]glimpse, 0, lookedAt)
	for q, err := range queue.Backlog(ctx, b.j.js, b.model, b.cursor, b.horizon) {
		if err != nil {
			return err
		}
		if seen = append(seen, glance(b.model, q)); len(seen) < lookedAt {
			continue
		}
		if err := b.track(ctx, seen); err != nil || b.j.full {
			return err
		}
		seen = seen[:0]
	}
	if err := b.track(ctx, seen); err != nil || b.j.full {
		return err
	}
	b.cursor = max(b.cursor, b.horizon+1)
	return nil
}

// track remembers jobs, as far as there is room.
func (b *backlog) track(ctx context.Context, seen []glimpse) error {
	if free := b.j.cfg.MaxTracked - b.j.tracked(); len(seen) > free {
		b.j.full, seen = true, seen[:free]
		b.j.log.Warn().Int("jobs", b.j.cfg.MaxTracked).Str("model", b.model).
			Msg("the janitor remembers as many queued jobs as it may; it looks at the others when some have left")
	}
	var names []queue.JobKey
	for _, g := range seen {
		if g.name.ID != "" {
			names = append(names, g.name)
		}
	}
	over, err := queue.Over(ctx, b.j.js, names)
	if err != nil {
		return err
	}
	for _, g := range seen {
		b.cursor = g.stored + 1
		if g.name.ID == "" {
			continue // a worker makes a dead letter of what is no job
		}
		t := tracked{stored: g.stored, key: b.j.key(g.name)}
		if over[g.name] {
			b.wake(&t, time.Now().Add(b.grace))
		}
		if !g.deadline.IsZero() {
			b.wake(&t, g.deadline.Add(b.grace))
		}
		b.jobs = append(b.jobs, t)
	}
	return nil
}

// glance takes a job's name and deadline from its message, without reading the request in it.
func glance(model string, q *queue.QueuedJob) glimpse {
	g := glimpse{stored: q.Stored}
	var view struct {
		ID       string    `json:"id"`
		Deadline time.Time `json:"deadline"`
	}
	_, _, tenant, err := schemas.ParseJobSubject(q.Subject)
	if err != nil || json.Unmarshal(q.Data, &view) != nil {
		return g
	}
	if view.ID == "" {
		view.ID = queuedID(model, q)
	}
	if schemas.CheckToken(view.ID) == nil {
		g.name, g.deadline = queue.JobKey{Tenant: tenant, ID: view.ID}, view.Deadline
	}
	return g
}

// queuedID names a queued job that brings no id as the worker that gets it will.
func queuedID(model string, q *queue.QueuedJob) string {
	return fallbackIDOf(q.Subject, q.Header, &jetstream.MsgMetadata{
		Stream: schemas.JobsStream(model), Sequence: jetstream.SequencePair{Stream: q.Stored}, Timestamp: q.Time,
	})
}
