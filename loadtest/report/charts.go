package report

import (
	"fmt"

	"github.com/hxp-enterprise/hxp/loadtest"
)

// charts are the drawings that the figures of a run are good for.
func charts(s *loadtest.Summary) []Drawing {
	var out []Drawing
	for _, c := range []chart{byRate(s), byConcurrency(s), cdf(s, loadtest.TTFT, "time to first token"), cdf(s, loadtest.ITL, "inter-token latency"),
		cdf(s, loadtest.E2EL, "end-to-end latency"), line(s, "requests that ended, each second", func(b *loadtest.Bucket, width float64) float64 { return float64(b.Completed+b.Failed) / width }),
		line(s, "longest time to first token, ms", func(b *loadtest.Bucket, _ float64) float64 { return b.MaxTTFT })} {
		if d := c.draw(); !d.Empty {
			out = append(out, d)
		}
	}
	return out
}

// byRate is latency against rate, over the stages of open loops.
func byRate(s *loadtest.Summary) chart {
	c := chart{title: "Latency against rate", x: "requests per second", y: "time to first token, ms"}
	for _, target := range s.Targets {
		for _, q := range []struct {
			name string
			of   func(loadtest.Distribution) float64
			tail string
		}{{"p50", func(d loadtest.Distribution) float64 { return d.P50 }, ""}, {"p99", func(d loadtest.Distribution) float64 { return d.P99 }, " tail"}} {
			l := series{name: target + " " + q.name, class: target + q.tail, dots: true}
			for i, stage := range s.Workload.Stages {
				if stage.Concurrency > 0 {
					continue
				}
				v := s.Spread(target, i, func(b *loadtest.Block) (float64, bool) {
					d, ok := b.Metrics[loadtest.TTFT]
					return q.of(d), ok
				})
				if v.Rounds > 0 {
					l.points = append(l.points, point{(stage.Rate + stage.EndRate) / 2, v.Median})
				}
			}
			c.series = append(c.series, l)
		}
	}
	return c
}

// byConcurrency is throughput against concurrency, over the stages of closed loops.
func byConcurrency(s *loadtest.Summary) chart {
	c := chart{title: "Throughput against concurrency", x: "clients", y: "output tokens per second", logX: true}
	for _, target := range s.Targets {
		l := series{name: target, class: target, dots: true}
		for i, stage := range s.Workload.Stages {
			if stage.Concurrency == 0 {
				continue
			}
			if v := s.Spread(target, i, func(b *loadtest.Block) (float64, bool) { return b.OutputThroughput, b.Completed > 0 }); v.Rounds > 0 {
				l.points = append(l.points, point{float64(stage.Concurrency), v.Median})
			}
		}
		c.series = append(c.series, l)
	}
	return c
}

// cdf is the distribution of a metric over the whole run.
func cdf(s *loadtest.Summary, metric, name string) chart {
	c := chart{title: "Distribution of the " + name, x: "ms", y: "percent of all", logX: true}
	quantiles := loadtest.Quantiles()
	for _, total := range s.Totals {
		l := series{name: total.Target, class: total.Target}
		for i, v := range total.Metrics[metric].CDF {
			if i < len(quantiles) {
				l.points = append(l.points, point{v, quantiles[i]})
			}
		}
		c.series = append(c.series, l)
	}
	return c
}

// line is the run's time line, with faults marked.
func line(s *loadtest.Summary, name string, of func(*loadtest.Bucket, float64) float64) chart {
	c := chart{title: "Time line: " + name, x: "seconds from the start", y: name}
	for _, target := range s.Targets {
		l := series{name: target, class: target}
		for i := range s.Timeline {
			b := &s.Timeline[i]
			v := 0.0
			if b.Target == target || b.Target == "" && b.Completed+b.Failed > 0 {
				v = of(b, s.BucketSeconds)
			}
			l.points = append(l.points, point{b.At, v})
		}
		c.series = append(c.series, l)
	}
	for i := range s.Timeline {
		b := &s.Timeline[i]
		if b.Redelivered > 0 {
			c.marks = append(c.marks, mark{b.At, "redelivered", fmt.Sprintf("%g s: %d redelivered", b.At, b.Redelivered)})
		}
		if b.Failed > 0 {
			c.marks = append(c.marks, mark{b.At, "failed", fmt.Sprintf("%g s: %d failed", b.At, b.Failed)})
		}
	}
	return c
}
