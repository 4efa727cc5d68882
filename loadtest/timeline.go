package loadtest

import (
	"sync"
	"time"
)

// maxBuckets bounds the time line; over it, two buckets become one.
const maxBuckets = 1200

// Bucket is a stretch of the run's time line.
type Bucket struct {
	// At is where it begins, in seconds from the start of the run.
	At float64 `json:"at"`
	// Target is whose requests were due in it; "" if none were, or both's.
	Target string `json:"target,omitempty"`
	// Sent counts by when requests were due, everything else by when they ended.
	Sent         int     `json:"sent,omitempty"`
	Completed    int     `json:"completed,omitempty"`
	Failed       int     `json:"failed,omitempty"`
	Redelivered  int     `json:"redelivered,omitempty"`
	OutputTokens int     `json:"output_tokens,omitempty"`
	MaxTTFT      float64 `json:"max_ttft_ms,omitempty"`
	SumTTFT      float64 `json:"sum_ttft_ms,omitempty"`
}

// timeline is what happened when, over the whole run. Its methods are called under the recorder's lock, and windows do not overlap.
type timeline struct {
	began  time.Time
	target string

	mu      sync.Mutex
	width   time.Duration
	buckets []Bucket
}

func newTimeline(began time.Time) *timeline { return &timeline{began: began, width: time.Second} }

// at returns the bucket of a moment.
func (l *timeline) at(t time.Time) *Bucket {
	since := max(0, t.Sub(l.began))
	for since >= maxBuckets*l.width {
		l.fold()
	}
	i := int(since / l.width)
	for len(l.buckets) <= i {
		l.buckets = append(l.buckets, Bucket{At: (time.Duration(len(l.buckets)) * l.width).Seconds()})
	}
	return &l.buckets[i]
}

// fold makes the buckets twice as wide.
func (l *timeline) fold() {
	l.width *= 2
	n := 0
	for i := 0; i < len(l.buckets); i += 2 {
		b := l.buckets[i]
		if i+1 < len(l.buckets) {
			c := l.buckets[i+1]
			if b.Target == "" {
				b.Target = c.Target
			} else if c.Target != "" && c.Target != b.Target {
				b.Target = ""
			}
			b.Sent += c.Sent
			b.Completed += c.Completed
			b.Failed += c.Failed
			b.Redelivered += c.Redelivered
			b.OutputTokens += c.OutputTokens
			b.MaxTTFT = max(b.MaxTTFT, c.MaxTTFT)
			b.SumTTFT += c.SumTTFT
		}
		b.At = (time.Duration(n) * l.width).Seconds()
		l.buckets[n] = b
		n++
	}
	l.buckets = l.buckets[:n]
}

func (l *timeline) start(due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.at(due)
	b.Sent++
	b.Target = l.target
}

func (l *timeline) end(e *ending, t latencies) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.at(e.o.End)
	if b.Target == "" {
		b.Target = l.target
	}
	if e.o.Attempts > 1 {
		b.Redelivered++
	}
	if e.code != "" {
		b.Failed++
		return
	}
	b.Completed++
	b.OutputTokens += e.o.OutputTokens()
	if t.first {
		ms := millis(t.ttft)
		b.SumTTFT += ms
		b.MaxTTFT = max(b.MaxTTFT, ms)
	}
}
