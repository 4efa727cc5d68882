package workers_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// TestTuneHoldsForTheNextJob changes the bounds while a job runs.
func TestTuneHoldsForTheNextJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	tuned := make(chan struct{})
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit("first")
		if n == 1 {
			<-tuned
		}
		emit("last")
		return nil
	})
	cfg := workers.Config{Limits: limits}
	w := b.run(engine, cfg)
	l := b.listen(schemas.AllEvents)
	running := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)

	next := cfg.Tunables()
	next.Limits.MaxTokens = [2]int{1, 4}
	next.LogPrompts, next.StandardShare, next.MaxAttempts = true, -1, 1
	next.Capabilities.NoTools = true
	if err := w.Tune(next); err != nil {
		t.Fatal(err)
	}
	close(tuned)
	if r := b.result(running); r.Status != schemas.StatusCompleted {
		t.Errorf("the running job ended %s (%v), want completed under its own bounds", r.Status, r.Error)
	}
	if strings.Contains(w.log.String(), `"body"`) {
		t.Error("the running job's prompt is in the log, which was not allowed when it came")
	}
	if r := b.result(b.submit(schemas.Job{})); r.Error == nil || r.Error.Param != "max_tokens" || !strings.Contains(r.Error.Message, "want 1 to 4") {
		t.Errorf("error = %v, want the new bound of max_tokens", r.Error)
	}
	const tools = `{"messages":[{"role":"user","content":"hi"}],"max_tokens":4,"tools":[{}]}`
	if r := b.result(b.submit(schemas.Job{Body: json.RawMessage(tools)})); r.Error == nil || r.Error.Param != "tools" {
		t.Errorf("error = %v, want that tools are refused", r.Error)
	}
	waitFor(t, "the prompt in the log", func() bool { return strings.Contains(w.log.String(), `"body"`) })
}

func TestTuneBoundsTheEnginesSilence(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, _ func(...string) bool) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	w := b.run(engine, workers.Config{})
	if err := w.Tune(workers.Tunables{FirstTokenTimeout: 50 * time.Millisecond, MaxAttempts: 1}); err != nil {
		t.Fatal(err)
	}
	r := b.result(b.submit(schemas.Job{}))
	if r.Error == nil || r.Error.Code != schemas.CodeMaxAttempts || !strings.Contains(r.Error.Message, "1 of 1 attempts failed") {
		t.Errorf("error = %v, want that the one attempt stalled", r.Error)
	}
}

func TestTuneFreesReservedSlots(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	e := newTurnstile()
	w := b.run(e, workers.Config{Slots: 8, Reserved: workers.Reserved{FromBatch: 5}, DrainTimeout: -1})
	for range 8 {
		b.submit(schemas.Job{Class: schemas.Batch})
	}
	e.await(t, 3)
	b.pending(schemas.Batch, 5)
	if err := w.Tune(workers.Tunables{Reserved: workers.Reserved{FromBatch: -1}, DrainTimeout: -1}); err != nil {
		t.Fatal(err)
	}
	e.await(t, 8)
}

// TestTuneRefusesWhatNewRefuses, and changes nothing then.
func TestTuneRefusesWhatNewRefuses(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	w := b.run(says("ok"), workers.Config{Limits: limits})
	bad := workers.Tunables{BatchShare: 0.9, TokenTimeout: -1, Limits: workers.Limits{TopP: [2]float64{1, 0}}}
	err := w.Tune(bad)
	for _, want := range []string{"tune worker " + w.ID(), "BatchShare is 0.9; want at most 0.5", "TokenTimeout is -1ns; want above 0", "Limits.TopP is [1 0]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Tune = %v, want %q in it", err, want)
		}
	}
	const hot = `{"messages":[{"role":"user","content":"hi"}],"temperature":3}`
	if r := b.result(b.submit(schemas.Job{Body: json.RawMessage(hot)})); r.Error == nil || r.Error.Param != "temperature" {
		t.Errorf("error = %v, want the bounds from the start", r.Error)
	}
}
