package loadtest

import (
	"context"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// Arrivals shows when the requests of a stage are due.
func Arrivals(s Stage, seed uint64) iter.Seq[time.Duration] {
	return s.withDefaults().arrivals(rand.New(rand.NewPCG(seed, 0)))
}

// Pick shows the choice by weight.
func Pick(list []Weighted, r *rand.Rand) string { return pick(list, r) }

// Choices notes a chunk.
func (o *Observation) Choices(parts []openai.Choice, at time.Time) { o.choices(parts, at) }

// Times shows the latencies of an observation: ttft, tpot, e2el and lag, -1 for what is not known.
func (o *Observation) Times(due time.Time) (ttft, tpot, e2el, lag time.Duration) {
	l := o.latencies(due)
	ttft, tpot = -1, -1
	if l.first {
		ttft = l.ttft
	}
	if l.perToken {
		tpot = l.tpot
	}
	return ttft, tpot, l.e2el, l.lag
}

// Lines reads lines as datasets do.
func Lines(in io.Reader) (n int, err error) {
	err = lines(in, func([]byte) error { n++; return nil })
	return n, err
}

// Timeline makes a time line of endings at the moments.
func Timeline(began time.Time, at ...time.Time) (width time.Duration, buckets []Bucket) {
	l := newTimeline(began)
	l.target = Direct
	for i, t := range at {
		if i%2 == 1 {
			l.target = Queue
		}
		l.start(t)
		o := &Observation{End: t, Attempts: 1 + i%2}
		o.choices([]openai.Choice{{Text: []byte("x")}}, t)
		l.end(&ending{r: &Request{}, o: o}, o.latencies(began))
	}
	l.end(&ending{r: &Request{}, o: &Observation{End: began}, code: "timeout"}, latencies{})
	return l.width, l.buckets
}

// Busy reads how long all cores have computed, and Others how many of them were others'.
func Busy(stat string) time.Duration { return busy(stat) }

// Others is how many cores other processes used.
func Others(machine, own, took time.Duration) float64 { return others(machine, own, took) }

// Broken is the failure of a stream that ended with err.
func Broken(ctx context.Context, err error) error {
	return (&watch{o: &Observation{}}).broken(ctx, err)
}

// SeeAfterEnd tells whether an event after the last one is noticed.
func SeeAfterEnd(e *schemas.Event) bool {
	w := watch{o: &Observation{}, over: true}
	return w.see(e, time.Now()) == nil && w.o.Doubled
}

// Body makes the body of the n-th request of a dataset.
func Body(d Dataset, n int) ([]byte, error) {
	w := Workload{Dataset: d, Mix: Mix{Models: []Weighted{{Name: "phi3"}}}}.withDefaults(1)
	a, err := w.make(0, 0, n)
	if err != nil {
		return nil, err
	}
	return (&a.request).DirectBody("phi3"), nil
}
