package loadtest

import (
	"context"
	"io"
	"sync"
	"time"
)

// Options are what [Run] may be given beside the workload.
type Options struct {
	// Log receives a [Record] for each request, as a line of JSON. Errors of writing end the run.
	Log io.Writer
	// Progress is told how it goes about once a second, never twice at the same time.
	Progress func(Progress)
}

// Progress is where a run is.
type Progress struct {
	Target, Stage               string
	Round, Rounds               int
	Window, Windows             int
	Elapsed                     time.Duration // of the window
	InFlight, Completed, Failed int
	Redelivered, Lost           int
	OutputTokens                int
	TTFT50, TTFT99              time.Duration
	E2EL50, E2EL99              time.Duration
}

// run is one run of a workload.
type run struct {
	w       Workload
	targets []Target
	opts    Options
	began   time.Time
	line    *timeline
	out     *Summary

	totals  map[string]*total
	windows int
	done    int
}

// total is what a target has come to so far.
type total struct {
	tally    *tally
	models   map[string]*tally
	duration time.Duration
	cpu      time.Duration
	machine  time.Duration
	peak     int
	maxRate  float64
}

// Run sends the workload to the targets, one or two, and returns what came of it. The error is that of a
// workload that cannot be run, of a log that cannot be written, or the cause with which ctx ended; what was measured
// until then is in the summary even so. That requests failed is no error: the summary counts them.
func Run(ctx context.Context, w Workload, targets []Target, o Options) (*Summary, error) {
	if err := w.Check(len(targets)); err != nil {
		return nil, err
	}
	w = w.withDefaults(len(targets))
	now := time.Now()
	r := &run{w: w, targets: targets, opts: o, began: now, line: newTimeline(now), totals: map[string]*total{}}
	r.windows = w.Rounds * len(w.Stages) * len(targets)
	r.out = &Summary{Format: Format, Started: now.UTC(), Workload: describe(w)}
	for _, t := range targets {
		r.totals[t.Name()] = &total{tally: newTally()}
		if len(w.Mix.Models) > 1 {
			r.totals[t.Name()].models = map[string]*tally{}
		}
		r.out.Targets = append(r.out.Targets, t.Name())
	}
	err := r.all(ctx)
	r.finish()
	return r.out, err
}

// all goes through the windows.
func (r *run) all(ctx context.Context) error {
	for _, t := range r.targets {
		if err := r.warmUp(ctx, t); err != nil {
			return err
		}
	}
	pair := 0
	for round := range r.w.Rounds {
		for stage := range r.w.Stages {
			order := []Target{r.targets[0]}
			if len(r.targets) == 2 {
				order = []Target{r.targets[pair%2], r.targets[1-pair%2]}
			}
			pair++
			if err := r.pair(ctx, stage, round, order); err != nil {
				return err
			}
		}
	}
	return nil
}

// pair measures a stage at every target.
func (r *run) pair(ctx context.Context, stage, round int, order []Target) error {
	var replies *replies
	if len(order) == 2 {
		replies = newReplies()
	}
	for i, t := range order {
		if replies != nil {
			replies.compare = i == 1
		}
		if err := r.window(ctx, t, stage, round, replies); err != nil {
			return err
		}
	}
	return nil
}

// warmUp sends what does not count, to every model at the same time: it opens connections and fills caches.
func (r *run) warmUp(ctx context.Context, t Target) error {
	const ofWarmUp = -1 // no stage has this number
	warm := r.w
	warm.OutputTokens = 8 // the length of the answers warms nothing
	for range r.w.Warmups {
		var warming sync.WaitGroup
		for i, m := range r.w.Mix.Models {
			a, err := warm.make(ofWarmUp, 0, i)
			if err != nil {
				warming.Wait()
				return err
			}
			a.request.Model, a.request.Due = m.Name, time.Now()
			warming.Go(func() {
				_ = r.do(ctx, t, &a.request, &Observation{}) // how it ends is told by the requests that count
			})
		}
		warming.Wait()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// do sends one request within its time.
func (r *run) do(ctx context.Context, t Target, q *Request, o *Observation) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.w.Timeout, errTimedOut)
	defer cancel()
	err := t.Do(ctx, q, o)
	o.End = time.Now()
	if o.Sent.IsZero() {
		o.Sent = o.End
	}
	// A reply in one piece counts nothing by itself, and an engine may not name its tokens.
	if err == nil && o.Usage != nil && o.Tokens > 0 && o.Tokens != o.Usage.CompletionTokens {
		o.Gap = true
	}
	return err
}

// finish sums up.
func (r *run) finish() {
	s := r.out
	s.Finished = time.Now().UTC()
	s.BucketSeconds, s.Timeline = r.line.width.Seconds(), r.line.buckets
	for _, name := range s.Targets {
		t := r.totals[name]
		b := t.tally.block(t.duration, true)
		b.Target, b.Peak, b.MaxOutputPerSecond = name, t.peak, t.maxRate
		b.cpu(t.cpu)
		b.OtherCores = others(t.machine, t.cpu, t.duration)
		b.GoodputBounds = r.out.Workload.Goodput
		s.Totals = append(s.Totals, b)
		for _, m := range r.w.Mix.Models {
			if x := t.models[m.Name]; x != nil {
				mb := x.block(t.duration, true)
				mb.Target, mb.Model = name, m.Name
				s.Models = append(s.Models, mb)
			}
		}
	}
	s.Differences = differences(s)
}
