package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// engineStats asks a simulated engine for its own counters.
func engineStats(t *testing.T, url string) vllmsim.Stats {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/sim/stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s vllmsim.Stats
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestE2ECancelReachesTheEngine cancels jobs in prefill, in decode and in the queue, and looks at
// the engine's own list of aborts for the outcome and the time that it took.
func TestE2ECancelReachesTheEngine(t *testing.T) {
	t.Parallel()
	const jobs = 100
	for _, phase := range []schemas.Phase{schemas.PhasePrefill, schemas.PhaseDecode} {
		t.Run(string(phase), func(t *testing.T) {
			t.Parallel()
			ttft := "1h"
			if phase == schemas.PhaseDecode {
				ttft = "1ms"
			}
			c := start(t, "--models", "mixtral", "--sim-ttft", ttft, "--sim-itl", "10ms", "--log-level", "error")
			client := c.producer(t, time.Minute)
			var mu sync.Mutex
			cancelled := make(map[string]time.Time) // by engine request id
			// The engine is to have all of them before the first is cancelled.
			running := sync.OnceFunc(func() {
				for engineStats(t, c.Engines["mixtral"]).Running < jobs && t.Context().Err() == nil {
					continue
				}
			})
			var all sync.WaitGroup
			for i := range jobs {
				all.Go(func() {
					id := fmt.Sprintf("cancel-%s-%d_", phase, i)
					asked, err := cancelOne(t.Context(), client, id, phase, running)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					cancelled["chatcmpl-"+id] = asked
					mu.Unlock()
				})
			}
			all.Wait()
			var took []time.Duration
			// A server learns of a closed connection a moment after it was closed.
			stats := engineStats(t, c.Engines["mixtral"])
			for stop := time.Now().Add(10 * time.Second); stats.Aborted < jobs && time.Now().Before(stop); {
				stats = engineStats(t, c.Engines["mixtral"])
			}
			for _, a := range stats.Aborts {
				id, _, _ := strings.Cut(a.ID, "_") // what follows names a later attempt
				if asked, ok := cancelled[id+"_"]; ok {
					took = append(took, a.At.Sub(asked))
				}
			}
			slices.Sort(took)
			if len(took) != jobs || stats.Aborted != jobs || stats.Running != 0 {
				t.Fatalf("%d of %d cancels show as aborts; the engine counts %d aborted, %d running", len(took), jobs, stats.Aborted, stats.Running)
			}
			t.Logf("cancel to abort, %s: jobs=%d p50=%.2fms p99=%.2fms", phase, jobs, millis(took[jobs/2]), millis(took[jobs*99/100]))
		})
	}
	t.Run("queued", func(t *testing.T) {
		t.Parallel()
		c := start(t, "--models", "mixtral", "--sim-ttft", "1h", "--set", "worker.slots=4", "--log-level", "error")
		client := c.producer(t, 0)
		for i := range 4 {
			if _, err := client.Submit(t.Context(), cancelJob(fmt.Sprintf("busy-%d", i))); err != nil {
				t.Fatal(err)
			}
		}
		for engineStats(t, c.Engines["mixtral"]).Running < 4 {
			if err := t.Context().Err(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			if _, err := cancelOne(t.Context(), client, fmt.Sprintf("queued-%d", i), schemas.PhaseQueued, func() {}); err != nil {
				t.Error(err)
			}
		}
		if s := engineStats(t, c.Engines["mixtral"]); s.Requests != 4 || s.Aborted != 0 {
			t.Errorf("the engine saw %d requests and %d aborts, want 4 and 0", s.Requests, s.Aborted)
		}
		t.Logf("cancel while queued: jobs=20 requests_at_engine=0")
		for i := range 4 {
			if _, err := client.Cancel(t.Context(), fmt.Sprintf("busy-%d", i), ""); err != nil {
				t.Error(err)
			}
		}
	})
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// producer is a client that waits so long for a worker's answer to a cancel.
func (c *cluster) producer(t *testing.T, cancelWait time.Duration) *producer.Client {
	t.Helper()
	nc, err := nats.Connect(c.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client, err := producer.New(nc, producer.Config{Tenant: "e2e", SubmitTimeout: 30 * time.Second, CancelWait: cancelWait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func cancelJob(id string) schemas.Job {
	return schemas.Job{ID: id, Model: "mixtral", Class: schemas.Interactive,
		Body: []byte(`{"messages":[{"role":"user","content":"Go on."}],"max_tokens":4000,"ignore_eos":true,"stream":true}`)}
}

// cancelOne submits a job, cancels it when it has come to a phase and ready has returned, and says
// when the cancel was asked for. The job has ended as cancelled when it returns.
func cancelOne(ctx context.Context, client *producer.Client, id string, phase schemas.Phase, ready func()) (asked time.Time, err error) {
	s, err := client.Submit(ctx, cancelJob(id))
	if err != nil {
		return asked, err
	}
	defer s.Close()
	var seen []string
	for e, err := range s.Events(ctx) {
		if err != nil {
			return asked, err
		}
		seen = append(seen, string(e.Kind))
		reached := map[schemas.Phase]schemas.Kind{schemas.PhaseQueued: schemas.Accepted, schemas.PhasePrefill: schemas.Started, schemas.PhaseDecode: schemas.DeltaKind}[phase]
		if asked.IsZero() && e.Kind == reached {
			ready()
			asked = time.Now()
			got, err := client.Cancel(ctx, id, "test")
			if err != nil {
				return asked, err
			}
			// On a machine under load the job may have ended by the time that the answer comes.
			if got != phase && (got != schemas.PhaseEnded || phase == schemas.PhaseQueued) {
				return asked, fmt.Errorf("job %s was cancelled in %s, want %s", id, got, phase)
			}
		}
		if e.Kind.Terminal() && e.Kind != schemas.Cancelled {
			return asked, fmt.Errorf("job %s ended %s: %v", id, e.Kind, e.Error)
		}
	}
	if len(seen) == 0 || seen[len(seen)-1] != string(schemas.Cancelled) {
		return asked, fmt.Errorf("job %s: events %s, want cancelled at the end", id, strings.Join(seen, " "))
	}
	return asked, nil
}
