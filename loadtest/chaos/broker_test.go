//go:build chaos && linux

package chaos_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// flow submits tasks at a steady pace, whatever the broker does, each until it is acknowledged. The
// channel yields those that were, and the longest that one had to wait for it.
func (b *bed) flow(list []*task, pace time.Duration) <-chan flowed {
	done := make(chan flowed, 1)
	go func() {
		var mu sync.Mutex
		var out flowed
		var all sync.WaitGroup
		for _, task := range list {
			all.Go(func() {
				began := time.Now()
				if err := b.submit(b.t.Context(), &task.job, time.Minute); err != nil {
					b.t.Logf("not acknowledged: %v", err)
					return
				}
				mu.Lock()
				out.acked = append(out.acked, task)
				out.slowest = max(out.slowest, time.Since(began))
				mu.Unlock()
			})
			if !pause(b.t.Context(), pace) {
				break
			}
		}
		all.Wait()
		done <- out
	}()
	return done
}

type flowed struct {
	acked   []*task
	slowest time.Duration
}

// answered waits until so many results are stored.
func (b *bed) answered(n int, within time.Duration) {
	soon(b.t.Context(), within, func() bool {
		ctx, stop := context.WithTimeout(b.t.Context(), 2*time.Second)
		defer stop()
		s, err := b.js.Stream(ctx, schemas.ResultsStream)
		return err == nil && s.CachedInfo().State.Msgs >= uint64(n) || !pause(ctx, 100*time.Millisecond)
	})
}

// judgeAnswers holds what the death of a broker leaves standing: every acknowledged job has exactly one
// result, and the right one. Events that were on their way to it are lost with it, since no token waits for
// an acknowledgement; they are told apart. What is recorded is in order and not doubled.
func (r *report) judgeAnswers(b *bed, w *watch, acked []*task) {
	b.t.Helper()
	r.jobs = len(acked)
	record := b.record()
	gaps, whole := 0, 0
	for _, task := range acked {
		var rd reader
		for _, e := range record[task.job.ID] {
			if err := rd.read(e); err != nil {
				break // it keeps what is not recorded
			}
		}
		gaps += rd.lost
		if rd.lost == 0 && rd.end == schemas.Done && string(rd.text) == task.want.Text {
			whole++
		}
		r.restarted += rd.restarted
		r.resumed += rd.resumed
		r.repeated += rd.repeated
		r.after += rd.after
		if rd.duplicated+rd.reordered > 0 {
			r.duplicated += rd.duplicated
			r.reordered += rd.reordered
			r.fault("record: job %s: duplicated=%d reordered=%d: %s", task.job.ID, rd.duplicated, rd.reordered, brief(record[task.job.ID]))
		}
	}
	r.judgeResults(b, acked)
	r.recovery, _ = w.times()
	r.broken = true
	r.note("resumed=%d unrecorded_events=%d whole_records=%d repeated=%d after_end=%d", r.resumed, gaps, whole, r.repeated, r.after)
}

// TestBrokerKilled kills the only broker and starts it again on its store.
func TestBrokerKilled(t *testing.T) {
	const scenario = "broker-killed"
	b := newBed(t, 1, 2*time.Second)
	e1, e2 := b.engine("e1", 10*time.Millisecond), b.engine("e2", 10*time.Millisecond)
	b.worker("w1", e1, 64)
	b.worker("w2", e2, 64)
	w := b.watch()
	list := tasks(t, scenario, size(180, 2000), 60)
	done := b.flow(list, 60*time.Millisecond)
	rng := random(scenario)
	for range size(2, 12) {
		pause(t.Context(), 3*time.Second+time.Duration(rng.IntN(1000))*time.Millisecond)
		at := time.Now()
		b.brokers[0].kill()
		w.strikeAll(at)
		pause(t.Context(), time.Duration(rng.IntN(1000))*time.Millisecond)
		b.brokers[0].start()
	}
	out := <-done
	b.answered(len(out.acked), time.Minute)
	r := &report{scenario: scenario}
	r.judgeAnswers(b, w, out.acked)
	r.note("submitted=%d slowest_ack=%s kills=%d", len(list), out.slowest.Round(time.Millisecond), size(2, 12))
	r.close(b)
}

// TestLeadersKilled kills, of three brokers, the one that leads the jobs stream and then the one that
// leads its consumer.
func TestLeadersKilled(t *testing.T) {
	const scenario = "leaders-killed"
	b := newBed(t, 3, 4*time.Second)
	e1 := b.engine("e1", 10*time.Millisecond)
	b.worker("w1", e1, 64)
	b.worker("w2", e1, 64)
	w := b.watch()
	list := tasks(t, scenario, size(150, 1500), 60)
	done := b.flow(list, 100*time.Millisecond)
	pause(t.Context(), 3*time.Second)
	kill := func(what string, leader func(context.Context, jetstream.Stream) (string, error)) {
		t.Helper()
		var name string
		eventually(t, 30*time.Second, "ask for the leader of the "+what, func() bool {
			ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
			defer stop()
			s, err := b.js.Stream(ctx, schemas.JobsStream(model))
			if err != nil {
				return false
			}
			name, err = leader(ctx, s)
			return err == nil && name != ""
		})
		for _, s := range b.brokers {
			if s.name != name {
				continue
			}
			at := time.Now()
			s.kill()
			w.strikeAll(at)
			pause(t.Context(), 3*time.Second)
			s.start()
			pause(t.Context(), 3*time.Second)
			return
		}
		t.Fatalf("the leader of the %s is %q, which is none of the brokers", what, name)
	}
	for range size(1, 5) {
		kill("stream", func(_ context.Context, s jetstream.Stream) (string, error) { return s.CachedInfo().Cluster.Leader, nil })
		kill("consumer", func(ctx context.Context, s jetstream.Stream) (string, error) {
			c, err := s.Consumer(ctx, schemas.ClassConsumer(schemas.Standard))
			if err != nil {
				return "", err
			}
			return c.CachedInfo().Cluster.Leader, nil
		})
	}
	out := <-done
	b.answered(len(out.acked), 90*time.Second)
	r := &report{scenario: scenario}
	r.judgeAnswers(b, w, out.acked)
	r.note("submitted=%d slowest_ack=%s kills=%d", len(list), out.slowest.Round(time.Millisecond), size(2, 10))
	r.close(b)
}
