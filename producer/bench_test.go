package producer_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// BenchmarkSubmitToFirstEvent is a job's way through the queue to a worker and its first event's way back.
func BenchmarkSubmitToFirstEvent(b *testing.B) {
	r := newRig(b, small())
	r.work(say())
	c := r.client(producer.Config{})
	job := chat()
	last := ""
	b.ReportAllocs()
	for b.Loop() {
		s, err := c.Submit(b.Context(), job)
		if err != nil {
			b.Fatal(err)
		}
		last = s.Job().ID
		for e, err := range s.Events(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
			if e.Kind == schemas.Started {
				break
			}
		}
		s.Close()
	}
	// The worker is still busy with the last one.
	if _, err := c.Wait(b.Context(), last); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkEvents64Streams is the rate at which one client reads 64 streams at once, publishing included.
func BenchmarkEvents64Streams(b *testing.B) {
	const streams, each = 64, 500
	r := newRig(b, small())
	c := r.client(producer.Config{})
	b.ReportAllocs()
	for b.Loop() {
		var readers sync.WaitGroup
		var open []*producer.Stream
		for range streams {
			s, err := c.Submit(b.Context(), chat())
			if err != nil {
				b.Fatal(err)
			}
			open = append(open, s)
			readers.Go(func() {
				n := uint64(0)
				for e, err := range s.Events(b.Context()) {
					if err != nil {
						b.Error(err)
					}
					n = e.Seq
				}
				if n != each {
					b.Errorf("the stream ended at %d, want %d", n, each)
				}
			})
		}
		for seq := uint64(1); seq <= each; seq++ { // as an engine does: one event of every stream per step
			for _, s := range open {
				job := s.Job()
				e := delta(fmt.Sprint(" word", seq))
				e.ID, e.Seq, e.Attempt = job.ID, seq, 1
				if seq == each {
					e = schemas.Event{ID: job.ID, Seq: seq, Attempt: 1, Kind: schemas.Done}
				}
				r.publish(job.ReplyTo, e)
			}
		}
		readers.Wait()
	}
	b.ReportMetric(float64(b.N*streams*each)/b.Elapsed().Seconds(), "events/s")
}
