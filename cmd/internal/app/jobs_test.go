package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestChoosingDeadLetters(t *testing.T) {
	t.Parallel()
	_, c := install(t)
	for _, l := range []schemas.DeadLetter{
		{ID: "a", Model: "phi3", Tenant: "default", Reason: schemas.Errorf(schemas.CodeMaxAttempts, "x")},
		{ID: "b", Model: "phi3", Tenant: "default", Reason: schemas.Errorf(schemas.CodeInternal, "x")},
		{ID: "c", Model: "other", Tenant: "default", Reason: schemas.Errorf(schemas.CodeMaxAttempts, "x")},
		{ID: "d", Model: "phi3", Tenant: "acme"},
	} {
		if err := queue.PutDeadLetter(t.Context(), c.JS, &l); err != nil {
			t.Fatal(err)
		}
	}
	of := func(f queue.DeadFilter) app.DeadChoice { return app.DeadChoice{DeadFilter: f} }
	for _, tc := range []struct {
		choice app.DeadChoice
		want   string
		narrow bool
	}{
		{app.DeadChoice{}, "abcd", false},
		{of(queue.DeadFilter{Tenant: "default"}), "abc", false},
		{of(queue.DeadFilter{Model: "phi3", Limit: 2}), "ab", true},
		{app.DeadChoice{Code: schemas.CodeMaxAttempts}, "ac", true},
		{app.DeadChoice{Job: "b"}, "b", true},
		{app.DeadChoice{Stored: []uint64{4, 1}}, "da", true},
		{app.DeadChoice{Stored: []uint64{4, 1}, Job: "a"}, "a", true},
	} {
		letters, err := c.Dead(t.Context(), tc.choice)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, l := range letters {
			got += l.ID
		}
		if got != tc.want || tc.choice.Narrow() != tc.narrow {
			t.Errorf("%+v chooses %s (narrow %t), want %s (%t)", tc.choice, got, tc.choice.Narrow(), tc.want, tc.narrow)
		}
	}
	for _, tc := range []struct {
		choice app.DeadChoice
		want   uint64
	}{{app.DeadChoice{Job: "a"}, 1}, {app.DeadChoice{Stored: []uint64{4}}, 1}, {of(queue.DeadFilter{Model: "other"}), 1}, {app.DeadChoice{}, 1}} {
		if n, err := c.PurgeDead(t.Context(), tc.choice); err != nil || n != tc.want {
			t.Errorf("purging %+v removed %d, %v; want %d", tc.choice, n, err, tc.want)
		}
	}
	_, err := c.Dead(t.Context(), app.DeadChoice{Stored: []uint64{1}})
	wantError(t, err, queue.ErrNotFound)
	_, err = c.PurgeDead(t.Context(), app.DeadChoice{Stored: []uint64{1}})
	wantError(t, err, queue.ErrNotFound)
	_, err = c.Dead(t.Context(), of(queue.DeadFilter{Model: "a.b"}))
	wantError(t, err, nil, "a.b")
}

func TestCancelAllAndStats(t *testing.T) {
	t.Parallel()
	_, c := install(t)
	submit(t, c, 3)
	stats, err := c.QueueStats(t.Context())
	if err != nil || len(stats) != 1 || stats[0].Jobs != 3 {
		t.Errorf("stats = %+v, %v; want 3 jobs of phi3", stats, err)
	}
	out, err := c.CancelAll(t.Context(), []string{"x", "a.b"}, "test")
	if _, ok := errors.AsType[*app.PartlyError](err); !ok || out[0].Phase != schemas.PhaseQueued || out[1].Error == "" {
		t.Errorf("cancelled %+v, %v", out, err)
	}
	if _, err := c.CancelAll(t.Context(), []string{"x"}, "test"); err != nil {
		t.Error(err)
	}
	result, state, err := c.Look(t.Context(), "x")
	if err != nil || state != nil || result.Status != schemas.StatusCancelled {
		t.Errorf("result %+v, state %+v, %v", result, state, err)
	}
	if _, _, err := c.Look(t.Context(), "y"); err == nil {
		t.Error("an unknown job has a state")
	}
	if _, err := c.Drain(t.Context(), "nobody"); err == nil {
		t.Error("a worker that is not there drains")
	}
	_, err = c.Drain(t.Context(), "a.b")
	wantError(t, err, app.ErrUsage)
}

func TestGenerateForNobody(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{Timing: app.Timing{ITL: 20 * time.Millisecond}})
	c := dial(t, r.cfg)
	job, err := app.Prompt{Model: "phi3", Text: "Hello", MaxTokens: 500, Stream: true}.Job()
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancelCause(t.Context())
	_, err = c.Generate(ctx, job, app.Watcher{Text: func(string) error { interrupt(app.ErrInterrupted); return nil }})
	gone, ok := errors.AsType[*app.AbandonedError](err)
	if !ok || gone.Phase != schemas.PhaseDecode || !errors.Is(err, app.ErrInterrupted) {
		t.Fatalf("error = %v, want that the job was cancelled in decode", err)
	}
	if got, want := gone.Error(), "interrupted; job "+gone.Job+" was cancelled (decode)"; got != want {
		t.Errorf("error = %q, want %q", got, want)
	}
	gone.Phase = schemas.PhaseEnded
	wantError(t, gone, nil, "had ended already")
	result, err := c.Watch(t.Context(), gone.Job, 0, app.Watcher{Text: func(string) error { return nil }})
	if err != nil || result.Status != schemas.StatusCancelled {
		t.Errorf("result = %+v, %v; want cancelled", result, err)
	}
	// A worker that is asked about a running job says how far it has come.
	s, err := c.Submit(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for e, err := range s.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == schemas.DeltaKind {
			break
		}
	}
	if _, state, err := c.Look(t.Context(), s.Job().ID); err != nil || state.State != "running" || state.Attempt != 1 {
		t.Errorf("state = %+v, %v", state, err)
	}
}

// TestDoctorWithoutPermission names what it may not see.
func TestDoctorWithoutPermission(t *testing.T) {
	t.Parallel()
	for deny, what := range map[string]string{
		"$JS.API.CONSUMER.INFO.HXP_JOBS_phi3.>": "cannot look at the queue of phi3",
		"$JS.API.STREAM.INFO.HXP_EVENTS":        "cannot look at stream HXP_EVENTS",
		"$JS.API.STREAM.INFO.KV_hxp_workers":    "cannot look at bucket hxp_workers",
		"$JS.API.DIRECT.GET.KV_hxp_workers.>":   "cannot read the worker registry",
		"$JS.API.STREAM.NAMES":                  "cannot list the queues",
	} {
		t.Run(deny, func(t *testing.T) {
			t.Parallel()
			url := broker(t, server.Options{JetStream: true, Users: []*server.User{
				{Username: "all", Password: "pw"},
				{Username: "some", Password: "pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{deny, "$JS.API.DIRECT.GET.KV_hxp_workers"}}}},
			}})
			as := func(user string) *app.Config {
				cfg := quick(t, "nats.url="+url)
				cfg.NATS.User, cfg.NATS.Password = user, "pw"
				return cfg
			}
			c := dial(t, as("all"))
			if _, err := queue.Ensure(t.Context(), c.JS, []string{"phi3"}, as("all").Queue.Config()); err != nil {
				t.Fatal(err)
			}
			some := dial(t, as("some"))
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			findings := app.Diagnose(ctx, as("some"), some.Connection, nil)
			find(t, findings, app.Problem, what, "permission")
		})
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	_, c := install(t)
	letter := &queue.StoredDeadLetter{Stored: 7, DeadLetter: schemas.DeadLetter{
		ID: "x", Subject: schemas.JobSubject("phi3", schemas.Batch, "default"), Payload: `{"id":"x","deadline":"2020-01-01T00:00:00Z","body":{"prompt":"x"}}`,
	}}
	first, err := c.Replay(t.Context(), []*queue.StoredDeadLetter{letter})
	if err != nil || first[0].New == "" || first[0].Again {
		t.Fatalf("replayed %+v, %v", first, err)
	}
	again, err := c.Replay(t.Context(), []*queue.StoredDeadLetter{letter})
	if err != nil || again[0].New != first[0].New || !again[0].Again {
		t.Errorf("replayed again as %+v, %v; want the same job", again, err)
	}
	if stats, err := queue.Stats(t.Context(), c.JS, "phi3"); err != nil || stats.Jobs != 1 {
		t.Errorf("%d jobs are queued (%v), want 1", stats.Jobs, err)
	}
	letter.Stored++
	if other, err := c.Replay(t.Context(), []*queue.StoredDeadLetter{letter}); err != nil || other[0].New == first[0].New {
		t.Errorf("another letter of the same job is replayed as %+v, %v; want a job of its own", other, err)
	}
}

func TestUpOutlivesADrainedWorker(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t, "worker.drain_timeout=0s", "worker.batch_share=0", "worker.coalesce=0s"), app.UpOptions{})
	c := dial(t, r.cfg)
	awaitWorker(t, c, r.Workers["phi3"])
	if _, err := c.Drain(t.Context(), r.Workers["phi3"]); err != nil {
		t.Fatal(err)
	}
	for want := "worker " + r.Workers["phi3"] + " has drained on request\n"; !strings.Contains(r.stderr.String(), want); {
		if t.Context().Err() != nil {
			t.Fatalf("stderr without %q:\n%s", want, r.stderr)
		}
	}
	if err := r.stop(); err != nil {
		t.Errorf("Up ended with %v", err)
	}
}
