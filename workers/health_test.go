package workers_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

var dawn = time.Date(2026, 1, 2, 6, 0, 0, 0, time.UTC)

func TestHealthFollowsTheGravestCause(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return dawn.Add(time.Duration(s) * time.Second) }
	h := workers.NewHealth(at(0))
	pulling := func(step string, want bool) {
		t.Helper()
		if got := h.Pulling(); got != want {
			t.Errorf("%s: pulling %v, want %v", step, got, want)
		}
	}
	check := func(step string, state schemas.WorkerState, since int, open bool, causes ...schemas.WorkerCause) {
		t.Helper()
		got, from := h.State()
		if got != state || !from.Equal(at(since)) || h.Open() != open {
			t.Errorf("%s: %s since %s, open %v; want %s since %s, open %v", step, got, from, h.Open(), state, at(since), open)
		}
		var have []schemas.WorkerCause
		for _, c := range h.Complaints() {
			have = append(have, c.Cause)
		}
		if diff := cmp.Diff(causes, have); diff != "" {
			t.Errorf("%s: causes (-want +got):\n%s", step, diff)
		}
	}
	check("at first", schemas.WorkerReady, 0, true)
	h.Hold("engine", schemas.CauseStarting, "loading", at(1))
	check("starting", schemas.WorkerStarting, 1, false, schemas.CauseStarting)
	h.Release("engine", at(2))
	check("ready", schemas.WorkerReady, 2, true)
	h.Hold("slow", schemas.CauseSlow, "slow", at(3))
	check("slow", schemas.WorkerDegraded, 3, true, schemas.CauseSlow)
	h.Hold("saturated", schemas.CauseSaturated, "full", at(4))
	check("the same state for another cause", schemas.WorkerDegraded, 3, true, schemas.CauseSaturated, schemas.CauseSlow)
	h.Hold("engine", schemas.CauseDoubt, "a job failed", at(5))
	check("in doubt", schemas.WorkerDegraded, 3, false, schemas.CauseDoubt, schemas.CauseSaturated, schemas.CauseSlow)
	if got, want := workers.ReasonOf(h.Complaints()), "a job failed; full; slow"; got != want {
		t.Errorf("reason = %q, want %q", got, want)
	}
	h.Hold("engine", schemas.CauseHung, "no token", at(6))
	check("hung", schemas.WorkerDown, 6, false, schemas.CauseHung, schemas.CauseSaturated, schemas.CauseSlow)
	h.Hold("engine", schemas.CauseDoubt, "another job failed", at(7))
	check("doubt about what is known", schemas.WorkerDown, 6, false, schemas.CauseHung, schemas.CauseSaturated, schemas.CauseSlow)
	h.Hold("engine", schemas.CauseRestarting, "restarting", at(8))
	h.Release("saturated", at(8))
	check("restarting", schemas.WorkerDegraded, 8, false, schemas.CauseRestarting, schemas.CauseSlow)
	h.Hold("queue", schemas.CauseQueue, "gone", at(9))
	check("cut off", schemas.WorkerDown, 9, false, schemas.CauseQueue, schemas.CauseRestarting, schemas.CauseSlow)
	h.Release("engine", at(9))
	check("cut off, with a good engine", schemas.WorkerDown, 9, true, schemas.CauseQueue, schemas.CauseSlow)
	pulling("cut off", false)
	h.Release("queue", at(9))
	pulling("connected", true)
	h.Hold("queue", schemas.CauseQueue, "gone", at(9))
	h.Hold("engine", schemas.CauseRestarting, "restarting", at(9))
	h.Drain(at(10))
	check("draining", schemas.WorkerDraining, 10, false, schemas.CauseQueue, schemas.CauseRestarting, schemas.CauseSlow)
	for _, keeper := range []string{"engine", "queue", "slow", "never held"} {
		h.Release(keeper, at(11))
	}
	check("well, and still draining", schemas.WorkerDraining, 10, true)
	pulling("draining", false)
}

func TestPaceIsThatOfTheLastMinute(t *testing.T) {
	t.Parallel()
	var p workers.Pace
	for i := range 9 {
		p.Add(dawn, time.Duration(i+1)*time.Millisecond)
	}
	if got := p.P90(dawn); got != 0 {
		t.Errorf("of nine: %s, want none", got)
	}
	p.Add(dawn, 10*time.Millisecond)
	if got := p.P90(dawn); got != 9*time.Millisecond {
		t.Errorf("of 1 to 10 ms: %s, want 9ms", got)
	}
	if got := p.P90(dawn.Add(2 * time.Minute)); got != 0 {
		t.Errorf("two minutes later: %s, want none", got)
	}
	for range 1000 {
		p.Add(dawn.Add(time.Minute), time.Second)
	}
	if got := p.P90(dawn.Add(time.Minute)); got != time.Second {
		t.Errorf("after a thousand slow ones: %s, want 1s", got)
	}
}

func TestStillnessNeedsSequences(t *testing.T) {
	t.Parallel()
	var s workers.Stillness
	for i, step := range []struct {
		load workers.Load
		want time.Duration
	}{
		{workers.Load{Running: 1, GeneratedTokens: 5}, 0},
		{workers.Load{Running: 1, GeneratedTokens: 5}, time.Second},
		{workers.Load{Waiting: 3, GeneratedTokens: 5}, 2 * time.Second},
		{workers.Load{Waiting: 3, GeneratedTokens: 5, PromptTokens: 9}, 0},
		{workers.Load{Running: 1, GeneratedTokens: 5, PromptTokens: 9}, time.Second},
		{workers.Load{GeneratedTokens: 5, PromptTokens: 9}, 0},
		{workers.Load{Running: 1, GeneratedTokens: 5, PromptTokens: 9}, time.Second},
		{workers.Load{Running: 1, GeneratedTokens: 2}, 0},
	} {
		if got := s.Observe(step.load, dawn.Add(time.Duration(i)*time.Second)); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}
