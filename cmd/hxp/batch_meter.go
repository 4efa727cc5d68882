package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hxp-enterprise/hxp/producer/batch"
)

const (
	// meterEvery is how often progress is shown on a terminal, and meterLog how often elsewhere.
	meterEvery = 500 * time.Millisecond
	meterLog   = 10 * time.Second
	barWidth   = 24
)

// meter shows progress on stderr until stop is called: a bar that moves on a terminal, and a line now and
// then elsewhere.
func (c *cli) meter(look func() (batch.Progress, bool)) (stop func()) {
	every, bar := meterLog, terminal(c.out.progress)
	if bar {
		every = meterEvery
	}
	done := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		m := meter{began: time.Now()}
		for {
			select {
			case <-done:
				if bar {
					c.out.say("\r\x1b[K")
				}
				return
			case <-tick.C:
			}
			p, ok := look()
			if !ok {
				continue
			}
			if bar {
				c.out.say("\r\x1b[K%s", m.line(p, time.Now(), true))
			} else {
				c.out.say("%s\n", m.line(p, time.Now(), false))
			}
		}
	})
	return func() { close(done); showing.Wait() }
}

// meter turns progress into speed.
type meter struct {
	began time.Time
	first *batch.Progress
}

// line is the progress in one line.
func (m *meter) line(p batch.Progress, now time.Time, bar bool) string {
	if m.first == nil {
		m.first, m.began = &p, now
	}
	var b strings.Builder
	if bar && p.Total > 0 {
		full := int(min(p.Done(), p.Total) * barWidth / p.Total)
		fmt.Fprintf(&b, "[%s%s] ", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full))
	}
	fmt.Fprintf(&b, "%d", p.Done())
	if p.Total > 0 {
		fmt.Fprintf(&b, "/%d", p.Total)
	}
	fmt.Fprintf(&b, " lines, %d failed, %d in flight", p.Failed, p.InFlight)
	took := now.Sub(m.began).Seconds()
	if lines := float64(p.Done() - m.first.Done()); took > 0 && lines > 0 {
		fmt.Fprintf(&b, ", %.0f lines/s, %.0f tok/s", lines/took, float64(p.CompletionTokens-m.first.CompletionTokens)/took)
		if left := float64(p.Total - p.Done()); left > 0 {
			fmt.Fprintf(&b, ", ETA %s", time.Duration(left*took/lines*float64(time.Second)).Round(time.Second))
		}
	}
	if p.Fault != "" {
		fmt.Fprintf(&b, "; waiting: %s", short(p.Fault))
	}
	return b.String()
}
