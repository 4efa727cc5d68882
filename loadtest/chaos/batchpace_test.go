//go:build chaos && linux

package chaos_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/schemas"
)

// TestBatchPace compares lines per second with those of the engine called directly, with the same concurrency, where the
// engine takes no time at all.
func TestBatchPace(t *testing.T) {
	n := size(4000, 20_000)
	const concurrency = 128 // the slots of both workers
	b := newBed(t, 1, 2*time.Second, "queue.results_max_bytes=1GiB", "queue.events_max_bytes=256MiB")
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	e := &engine{url: "http://" + address}
	e.program = program{t: t, dir: b.dir, name: "instant", args: func() []string {
		return []string{hxpBinary, "sim", model, "--listen", address, "--ttft", "0s", "--itl", "0s"}
	}}
	e.run()
	e.ready()
	in := b.lines("pace", n)
	bodies := make(chan string)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
	defer client.CloseIdleConnections()
	var asking sync.WaitGroup
	for range concurrency {
		asking.Go(func() {
			for body := range bodies {
				r, err := client.Post(e.url+"/v1/chat/completions", "application/json", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					continue
				}
				_, _ = io.Copy(io.Discard, r.Body)
				r.Body.Close()
				if r.StatusCode != http.StatusOK {
					t.Errorf("the engine answered %s", r.Status)
				}
			}
		})
	}
	data, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for line := range strings.Lines(string(data)) {
		var x struct{ Body json.RawMessage }
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		bodies <- string(x.Body)
	}
	close(bodies)
	asking.Wait()
	direct := float64(n) / time.Since(began).Seconds()

	b.worker("w1", e, concurrency/2)
	b.worker("w2", e, concurrency/2)
	began = time.Now()
	b.command("run", "run", "-i", in, "-o", b.dir+"/pace-out.jsonl", "--tenant", tenant)
	batch := float64(n) / time.Since(began).Seconds()
	fmt.Printf("batch pace: lines=%d concurrency=%d direct=%.0f/s batch=%.0f/s ratio=%.2f\n", n, concurrency, direct, batch, batch/direct)
}

// TestBatchYields prints the time to the first token of interactive jobs, alone and beside a batch.
func TestBatchYields(t *testing.T) {
	jobs := size(150, 1000)
	b, _, _ := newBatchBed(t, 20*time.Millisecond)
	firsts := make(map[string]chan time.Time)
	var mu sync.Mutex
	sub, err := b.nc.Subscribe(schemas.EventsOfClient(tenant, "pace"), func(m *nats.Msg) {
		var e schemas.Event
		if e.Decode(m.Data) != nil || e.Kind != schemas.DeltaKind {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if first := firsts[e.ID]; first != nil {
			delete(firsts, e.ID)
			first <- time.Now()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	ask := func(round string) (times []time.Duration) {
		for i := range jobs {
			id := fmt.Sprintf("pace-%s-%d", round, i)
			first := make(chan time.Time, 1)
			mu.Lock()
			firsts[id] = first
			mu.Unlock()
			job := schemas.Job{
				ID: id, Model: model, Class: schemas.Interactive, Tenant: tenant, Stream: true, ReplyTo: schemas.EventSubject(tenant, "pace", id),
				Body: []byte(`{"messages":[{"role":"user","content":"Hello"}],"max_tokens":4,"stream":true}`),
			}
			data, err := job.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Now()
			if _, err := b.js.Publish(t.Context(), schemas.JobSubject(model, schemas.Interactive, tenant), data); err != nil {
				t.Fatal(err)
			}
			select {
			case now := <-first:
				times = append(times, now.Sub(at))
			case <-time.After(time.Minute):
				t.Fatalf("job %s has no token", id)
			}
		}
		return times
	}
	idle := ask("idle")
	id := b.command("submit", "submit", b.lines("yields", size(8000, 60_000)), "--tenant", "offline")
	eventually(t, time.Minute, "the batch is under way", func() bool {
		var state schemas.BatchState
		err := json.Unmarshal([]byte(b.command("show", "show", id, "-o", "json", "--tenant", "offline")), &state)
		return err == nil && state.RequestCounts.Completed > 200
	})
	busy := ask("busy")
	ms := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	fmt.Printf("batch yields: jobs=%d idle p50=%s p99=%s beside a batch p50=%s p99=%s ratio of p99=%.2f\n", jobs,
		ms(percentile(idle, 0.5)), ms(percentile(idle, 0.99)), ms(percentile(busy, 0.5)), ms(percentile(busy, 0.99)),
		float64(percentile(busy, 0.99))/float64(percentile(idle, 0.99)))
}
