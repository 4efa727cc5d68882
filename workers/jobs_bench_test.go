package workers_test

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// BenchmarkJobs is the rate of short jobs through the queue, on file, a worker and an engine that
// answers at once: each is submitted and acknowledged, run, and has its Result stored.
func BenchmarkJobs(b *testing.B) {
	for _, class := range []schemas.Class{schemas.Standard, schemas.Batch} {
		b.Run(string(class), func(b *testing.B) {
			br := newBroker(b, queue.Config{})
			br.run(says("done"), workers.Config{})
			done := make(chan struct{}, 1<<16)
			sub, err := br.nc.Subscribe(schemas.AllEvents, func(msg *nats.Msg) {
				var e schemas.Event
				if err := e.Decode(msg.Data); err != nil {
					b.Error(err)
				}
				if e.Kind.Terminal() {
					done <- struct{}{}
				}
			})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = sub.Unsubscribe() })
			body := json.RawMessage(`{"prompt":"Say done.","max_tokens":4}`)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			inFlight := make(chan struct{}, 1024)
			const submitters = 64
			for s := range submitters {
				wg.Go(func() {
					for i := s; i < b.N; i += submitters {
						inFlight <- struct{}{}
						br.submit(schemas.Job{Class: class, Endpoint: schemas.Completions, Body: body})
					}
				})
			}
			for range b.N {
				<-done
				<-inFlight
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}
