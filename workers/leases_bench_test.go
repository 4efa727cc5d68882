//go:build unix

package workers_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// routed is how many messages the broker has taken from clients.
func (b *broker) routed() int64 {
	b.t.Helper()
	v, err := b.srv.Varz(&server.VarzOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return v.InMsgs
}

// BenchmarkThousandLeases holds 1,000 jobs in flight, each on an engine that gets on every two seconds,
// for one lease term of the default length. The processor time is that of everything: worker,
// broker and the engine's own timers; idle is the same without a job.
func BenchmarkThousandLeases(b *testing.B) {
	const jobs, term = 1000, 4 * time.Second
	br := newBroker(b, queue.Config{Lease: term})
	engine := crawl(2 * time.Second)
	lease, _ := br.connect()
	_, js := br.connect()
	br.runOn(js, engine, workers.Config{Slots: jobs + 3, LeaseConn: lease, DrainTimeout: -1}).ready(b)

	used, from := cpu(b), time.Now()
	<-time.After(time.Second)
	idle := rate(cpu(b)-used, time.Since(from))
	for range jobs {
		br.submit(schemas.Job{})
	}
	br.held(engine, jobs)
	before := br.moved()

	renewed, routed := lease.Stats().OutMsgs, br.routed()
	used, from = cpu(b), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		<-time.After(term)
	}
	held := time.Since(from)
	used = cpu(b) - used
	if got := br.moved(); got[0] != jobs || got != before {
		b.Errorf("in flight and delivered again: %v; want %v, as at first", got, before)
	}
	b.ReportMetric(rate(used, held), "cpu-ms/s")
	b.ReportMetric(idle, "idle-cpu-ms/s")
	b.ReportMetric(float64(lease.Stats().OutMsgs-renewed)/held.Seconds(), "renewals/s")
	b.ReportMetric(float64(br.routed()-routed)/held.Seconds(), "msgs/s")
}

func rate(used, during time.Duration) float64 {
	return float64(used.Microseconds()) / 1000 / during.Seconds()
}
