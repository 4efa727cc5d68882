package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// models looks at each model that has a queue.
func (d *doctor) models(ctx context.Context) {
	names, err := queue.Models(ctx, d.c.JS)
	if err != nil {
		d.cannot("list the queues", err)
		return
	}
	for _, m := range names {
		stats, err := queue.Stats(ctx, d.c.JS, m)
		if err != nil {
			d.cannot("look at the queue of "+m, err)
			continue
		}
		before := len(d.findings)
		d.serving(m, stats)
		d.caps(m, stats)
		d.tenants(ctx, m, stats)
		if len(d.findings) == before {
			busy, slots := d.load(m)
			d.add(Fine, fmt.Sprintf("%s: %d of %d slots busy, jobs waiting: %d", m, busy, slots, waiting(stats)), "", "")
		}
	}
}

func waiting(s queue.ModelStats) (n uint64) {
	for _, c := range s.Classes {
		n += c.Pending
	}
	return n
}

// load sums up the workers of a model that are ready.
func (d *doctor) load(model string) (busy, slots int) {
	for _, w := range d.workers {
		if w.Model == model && w.Live() {
			busy, slots = busy+w.Busy, slots+w.Slots
		}
	}
	return busy, slots
}

// serving says why the jobs of a model wait.
func (d *doctor) serving(model string, s queue.ModelStats) {
	paused := d.paused(model, s)
	var ready int
	var mine []schemas.WorkerInfo
	versions := map[string]bool{}
	for _, w := range d.workers {
		if w.Model != model {
			continue
		}
		mine = append(mine, w)
		if w.Live() {
			ready++
			versions[w.Version] = true
		}
	}
	pending := waiting(s)
	level := Warning
	if pending > 0 {
		level = Problem
	}
	jobs := fmt.Sprintf("jobs waiting: %d", pending)
	if len(mine) == 0 {
		d.add(level, fmt.Sprintf("%s: no worker; %s", model, jobs),
			fmt.Sprintf("none has announced itself within %s", d.cfg.Queue.WorkerTTL), fmt.Sprintf("hxp worker --model %s --engine URL", model))
		return
	}
	for _, w := range mine {
		if w.State != schemas.WorkerReady {
			l := Warning
			if ready == 0 {
				l = level
			}
			d.add(l, fmt.Sprintf("%s: worker %s on %s is %s; %s", model, w.ID, w.Host, w.State, jobs), reason(w), remedy(w))
		}
	}
	if len(versions) > 1 {
		d.add(Warning, model+": its engines have different versions", strings.Join(keys(versions), ", ")+": the same request may be answered differently", "bring them to one version")
	}
	busy, slots := d.load(model)
	oldest := d.oldest(s)
	switch {
	case ready == 0 || pending == 0 || paused || oldest < settles:
	case busy < slots:
		d.add(Problem, fmt.Sprintf("%s: %s, the oldest for %s, while %d of %d slots are free", model, jobs, oldest.Round(time.Second), slots-busy, slots),
			"the workers are ready and do not get them: their permissions or connections, or jobs held for a retry at the consumer's max_ack_pending",
			fmt.Sprintf("look at the workers' logs and at hxp queue ls; nats consumer report %s", schemas.JobsStream(model)))
	default:
		d.add(Warning, fmt.Sprintf("%s: %s, the oldest for %s: all %d slots are busy", model, jobs, oldest.Round(time.Second), slots),
			"more is asked for than the engines give", "start another worker beside another engine, or raise slots if the engine has room")
	}
}

func reason(w schemas.WorkerInfo) string {
	if w.Reason != "" {
		return w.Reason
	}
	return "it gives no reason"
}

func remedy(w schemas.WorkerInfo) string {
	if w.State == schemas.WorkerDegraded && w.Pulling {
		return "it takes jobs all the same; start another worker if that goes on"
	}
	if w.State == schemas.WorkerDraining {
		return "it was asked to finish and end; start another if that was not meant"
	}
	return fmt.Sprintf("is the engine at %s running? curl %s/v1/models", w.Engine, w.Engine)
}

// paused says which classes are not delivered.
func (d *doctor) paused(model string, s queue.ModelStats) bool {
	any := false
	for _, c := range s.Classes {
		if c.Paused {
			any = true
			d.add(Problem, fmt.Sprintf("%s: class %s is paused for another %s; jobs waiting: %d", model, c.Class, c.PauseRemaining.Round(time.Second), c.Pending),
				"somebody has paused its consumer", fmt.Sprintf("nats consumer resume %s %s", schemas.JobsStream(model), schemas.ClassConsumer(c.Class)))
		}
	}
	return any
}

// oldest is for how long the oldest job that no worker has had has been waiting.
func (d *doctor) oldest(s queue.ModelStats) time.Duration {
	var age time.Duration
	for _, c := range s.Classes {
		if !c.Oldest.IsZero() {
			age = max(age, d.now().Sub(c.Oldest))
		}
	}
	return age
}

// caps says how near the queue is to refusing jobs, or that jobs are held for a retry.
func (d *doctor) caps(model string, s queue.ModelStats) {
	for _, c := range []struct {
		what       string
		have, most string
		share      float64
		setting    string
	}{
		{"jobs", fmt.Sprint(s.Jobs), fmt.Sprint(s.MaxJobs), share(s.Jobs, s.MaxJobs), "queue.max_jobs"},
		{"bytes", Bytes(s.Bytes).String(), Bytes(s.MaxBytes).String(), share(s.Bytes, s.MaxBytes), "queue.max_bytes"},
	} {
		d.full(c.share, fmt.Sprintf("%s: the queue holds %s of %s %s", model, c.have, c.most, c.what), c.setting)
	}
	var redelivered int
	for _, c := range s.Classes {
		redelivered += c.Redelivered
	}
	if redelivered > 0 {
		d.add(Warning, fmt.Sprintf("%s: jobs being tried again: %d", model, redelivered),
			"an earlier attempt failed, or its worker went away", "hxp dead ls shows those that were given up; the workers' logs say why")
	}
}

// full notes a cap that is nearly, or quite, reached.
func (d *doctor) full(share float64, what, setting string) {
	switch {
	case share >= 1:
		d.add(Problem, what, "new ones are refused as queue_full", "start more workers, or raise "+setting+" and run hxp queue apply")
	case share >= nearly:
		d.add(Warning, what, "when it is full, new ones are refused as queue_full", "start more workers, or raise "+setting+" and run hxp queue apply")
	}
}

func share[T ~uint64 | ~int64](have T, most int64) float64 {
	if most <= 0 {
		return 0
	}
	return float64(have) / float64(most)
}

// tenants says which tenants are near their own cap.
func (d *doctor) tenants(ctx context.Context, model string, s queue.ModelStats) {
	if s.MaxJobsPerTenant <= 0 || float64(s.Jobs) < nearly*float64(s.MaxJobsPerTenant) {
		return
	}
	stream, err := d.c.JS.Stream(ctx, schemas.JobsStream(model))
	if err != nil {
		d.cannot("look at the queue of "+model, err)
		return
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(schemas.JobsOfModel(model)))
	if err != nil {
		d.cannot("look at the tenants of "+model, err)
		return
	}
	for subject, n := range info.State.Subjects {
		if _, class, tenant, err := schemas.ParseJobSubject(subject); err == nil {
			d.full(share(n, s.MaxJobsPerTenant), fmt.Sprintf("%s: tenant %s has %d of %d %s jobs queued", model, tenant, n, s.MaxJobsPerTenant, class), "queue.max_jobs_per_tenant")
		}
	}
}

func keys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
