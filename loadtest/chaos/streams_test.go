//go:build chaos && linux

package chaos_test

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// drive submits tasks, so many at a time, and returns when each has ended or the patience is over.
// It reports how many the queue acknowledged.
func (b *bed) drive(w *watch, list []*task, atOnce int, patience time.Duration) int {
	b.t.Helper()
	deadline := time.After(patience)
	acked, ended := 0, 0
	mine := map[string]bool{}
	for _, task := range list {
		mine[task.job.ID] = true
	}
	for ended < len(list) {
		for acked < len(list) && acked-ended < atOnce {
			if err := b.submit(b.t.Context(), &list[acked].job, 30*time.Second); err != nil {
				b.t.Fatal(err)
			}
			acked++
		}
		select {
		case id := <-w.ended:
			if mine[id] {
				ended++
			}
		case <-deadline:
			return acked
		case <-b.t.Context().Done():
			return acked
		}
	}
	return acked
}

// TestStreams kills one of three workers every two seconds.
func TestStreams(t *testing.T) {
	const scenario = "streams"
	lease := size(2*time.Second, 4*time.Second)
	tokens := size(100, 200)
	b := newBed(t, 1, lease)
	var workers []*worker
	for i := range 3 {
		workers = append(workers, b.worker(fmt.Sprintf("w%d", i+1), b.engine(fmt.Sprintf("e%d", i+1), 20*time.Millisecond), 64))
	}
	w := b.watch()

	killing, stop := context.WithCancel(t.Context())
	kills := make(chan int)
	go func() {
		rng := random(scenario)
		n := 0
		// Not in step with the leases: every other kill would meet the jobs of the one before.
		for pause(killing, 1600*time.Millisecond+time.Duration(rng.IntN(800))*time.Millisecond) {
			victim := workers[rng.IntN(len(workers))]
			at := time.Now()
			victim.kill()
			w.strike(victim.id(), at)
			victim.start()
			n++
		}
		kills <- n
	}()
	r := &report{scenario: scenario, bound: lease + time.Second}
	// The long form goes on for its part of the time, and for 1,000 streams at least.
	list := tasks(t, scenario, size(150, 1000), tokens)
	began := time.Now()
	r.jobs = b.drive(w, list, size(45, 90), size(2*time.Minute, 10*time.Minute))
	for round := 1; *long && time.Since(began) < *duration*2/5; round++ {
		more := tasks(t, fmt.Sprintf("%s%d", scenario, round), 250, tokens)
		r.jobs += b.drive(w, more, 90, 5*time.Minute)
		list = append(list, more...)
	}
	stop()
	n := <-kills

	r.judgeAll(b, w, list)
	r.note("kills=%d twice=%d resumed=%d", n, w.twice, r.resumed)
	r.close(b)
	if len(r.recovery) == 0 {
		t.Error("no job was hit: nothing was shown")
	}
}
