package workers_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// collect returns a channel of every event published.
func (b *broker) collect() <-chan schemas.Event {
	b.t.Helper()
	events := make(chan schemas.Event, 1<<16)
	sub, err := b.nc.Subscribe(schemas.AllEvents, func(msg *nats.Msg) {
		var e schemas.Event
		if err := e.Decode(msg.Data); err != nil {
			b.t.Errorf("event: %v", err)
		}
		events <- e
	})
	if err == nil {
		err = b.nc.Flush()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := sub.Unsubscribe(); err != nil {
			b.t.Error(err)
		}
	})
	return events
}

// BenchmarkSubmitToFirstToken is the time from publishing a job to its first delta, through the
// queue, the worker and an engine that answers at once over HTTP.
func BenchmarkSubmitToFirstToken(b *testing.B) {
	br := newBroker(b, queue.Config{})
	_, engine := simulate(b, vllmsim.Config{})
	br.run(engine, workers.Config{})
	events := br.collect()
	body := json.RawMessage(chat("bench", 1))
	var first time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		br.submit(schemas.Job{Stream: true, Class: schemas.Interactive, Body: body})
		for e := range events {
			if e.Kind == schemas.DeltaKind {
				first += time.Since(start)
				break
			}
		}
		for e := range events {
			if e.Kind.Terminal() {
				break
			}
		}
	}
	b.ReportMetric(float64(first.Microseconds())/float64(b.N), "µs/first-token")
}

// BenchmarkTokens is the rate of tokens through engine, worker and broker to a subscriber, 64
// streams at a time.
func BenchmarkTokens(b *testing.B) {
	const streams, tokens = 64, 200
	br := newBroker(b, queue.Config{})
	_, engine := simulate(b, vllmsim.Config{})
	br.run(engine, workers.Config{})
	events := br.collect()
	body := json.RawMessage(chat("bench", tokens))
	b.ReportAllocs()
	for b.Loop() {
		for range streams {
			br.submit(schemas.Job{Stream: true, Body: body})
		}
		for ended := 0; ended < streams; {
			if e := <-events; e.Kind.Terminal() {
				ended++
			}
		}
	}
	b.ReportMetric(float64(b.N*streams*tokens)/b.Elapsed().Seconds(), "tokens/s")
}
