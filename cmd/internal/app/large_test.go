package app_test

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

func large(n int) schemas.Job {
	return schemas.Job{Model: "phi3", Body: fmt.Appendf(nil, `{"prompt":%q,"max_tokens":8}`, strings.Repeat(" neighbour", n/10))}
}

// bodies returns the names of the objects that are stored.
func bodies(t *testing.T, c *app.Client) []string {
	t.Helper()
	store, err := c.JS.ObjectStore(t.Context(), schemas.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	list, err := store.List(t.Context())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		t.Fatal(err)
	}
	var names []string
	for _, info := range list {
		names = append(names, info.Name)
	}
	return names
}

func TestLargeJobFromEndToEnd(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t, "ai_model_services.phi3.max_model_len=2097152"), app.UpOptions{})
	c := dial(t, r.cfg)
	job := large(10 << 20)
	got, err := c.Do(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	sim, err := vllmsim.New(vllmsim.Config{Model: cmp.Or(r.cfg.Models["phi3"].ServedName, "phi3"), MaxModelLen: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	want, err := sim.Expected(job.Body, string(schemas.Completions))
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != schemas.StatusCompleted || got.Text != want[0].Text || got.Usage.CompletionTokens != 8 || got.Usage.PromptTokens < 1<<20 {
		t.Errorf("result = %s %q %+v %v, want %q", got.Status, got.Text, got.Usage, got.Error, want[0].Text)
	}
	_, err = c.Do(t.Context(), large(17<<20))
	if schemas.ErrorCode(err) != schemas.CodePayloadTooLarge || !strings.Contains(err.Error(), "want at most 16777216") {
		t.Errorf("17 MiB: %v, want payload_too_large with the bound", err)
	}
	for len(bodies(t, c)) > 0 { // the body goes just after the Result has come
		if t.Context().Err() != nil {
			t.Fatal("the body of a job that has ended stays")
		}
	}
}

func TestReplayOfALargeJob(t *testing.T) {
	t.Parallel()
	_, c := install(t)
	body := large(1 << 20).Body
	ref := schemas.RefTo(body)
	payload, err := (&schemas.Job{ID: "x", BodyRef: &ref}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	dead := &schemas.DeadLetter{
		ID: "x", Model: "phi3", Tenant: "default", Subject: schemas.JobSubject("phi3", schemas.Batch, "default"), Payload: string(payload),
		Reason: schemas.Errorf(schemas.CodeMaxAttempts, "it broke"), Attempts: []schemas.Attempt{},
	}
	if err := queue.PutDeadLetter(t.Context(), c.JS, dead); err != nil {
		t.Fatal(err)
	}
	letters, err := c.Dead(t.Context(), app.DeadChoice{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Replay(t.Context(), letters); err == nil || !strings.Contains(err.Error(), "its body is no longer stored") {
		t.Errorf("Replay without its body = %v", err)
	}
	if _, err := queue.PutBody(t.Context(), c.JS, "default", "x", large(600<<10).Body); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Replay(t.Context(), letters); err == nil || !strings.Contains(err.Error(), "is another job's") {
		t.Errorf("Replay with another body = %v", err)
	}
	if err := queue.DeleteBody(t.Context(), c.JS, "default", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.PutBody(t.Context(), c.JS, "default", "x", body); err != nil {
		t.Fatal(err)
	}
	out, err := c.Replay(t.Context(), letters)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := queue.GetBody(t.Context(), c.JS, "default", out[0].New, 16<<20); err != nil || string(got) != string(body) {
		t.Errorf("the new job's body: %d bytes, %v", len(got), err)
	}
	if n, err := c.PurgeDead(t.Context(), app.DeadChoice{Job: "x"}); err != nil || n != 1 {
		t.Errorf("PurgeDead = %d, %v", n, err)
	}
	if got := bodies(t, c); len(got) != 1 || got[0] != schemas.BodyName("default", out[0].New) {
		t.Errorf("bodies = %q after the purge, want the new job's alone", got)
	}
}
