package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// bury stores a dead letter as a worker would.
func bury(t *testing.T, js jetstream.JetStream, id string, code schemas.Code, payload string) {
	t.Helper()
	err := queue.PutDeadLetter(t.Context(), js, &schemas.DeadLetter{
		ID: id, Model: "phi3", Tenant: "default", Subject: schemas.JobSubject("phi3", schemas.Batch, "default"),
		Reason: schemas.Errorf(code, "the engine\nwent away"), Attempts: []schemas.Attempt{{Attempt: 1}, {Attempt: 2}}, Payload: payload,
		Time: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(c.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestDead(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3")
	js := c.jetStream(t)
	if s := c.hxp(t, "dead", "ls", "-o", "json").must(t, exitOK); s.out != "[]\n" {
		t.Errorf("no dead letters are written %q, want []", s.out)
	}
	bury(t, js, "one", schemas.CodeMaxAttempts, `{"id":"one","deadline":"2020-01-01T00:00:00Z","reply_to":"_INBOX.gone","body":{"prompt":"Hello","max_tokens":4}}`)
	bury(t, js, "two", schemas.CodeEngineUnavailable, `{"id":"two","body":{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4}}`)
	bury(t, js, "three", schemas.CodeInvalidRequest, `no job at all`)
	bury(t, js, "four", schemas.CodeMaxAttempts, ``)
	golden(t, "dead_ls.golden", c.hxp(t, "dead", "ls", "--all-tenants").must(t, exitOK).out)
	golden(t, "dead_show.golden", c.hxp(t, "dead", "show", "1").must(t, exitOK).out)
	c.hxp(t, "dead", "show", "99").must(t, exitFailed)
	c.hxp(t, "dead", "show", "one").must(t, exitUsage)
	if s := c.hxp(t, "dead", "ls", "--tenant", "acme", "-o", "ndjson").must(t, exitOK); s.out != "" {
		t.Errorf("another tenant sees %q", s.out)
	}
	if s := c.hxp(t, "dead", "ls", "--code", "max_attempts", "--limit", "1", "-o", "ndjson").must(t, exitOK); strings.Count(s.out, "\n") != 1 {
		t.Errorf("filtered list = %q, want one line", s.out)
	}

	c.hxp(t, "dead", "replay").must(t, exitUsage)
	c.hxp(t, "dead", "purge").must(t, exitUsage)
	c.hxp(t, "dead", "replay", "--all", "--model", "phi3").must(t, exitUsage)
	s := c.hxp(t, "dead", "replay", "--all", "-o", "json").must(t, exitPartly)
	first := decode[[]app.Replayed](t, s.out)
	if len(first) != 4 || first[0].New == "" || first[1].New == "" || first[2].Error == "" || first[3].Error == "" {
		t.Fatalf("replayed %+v, want the first two", first)
	}
	s = c.hxp(t, "submit", "phi3", "x", "--id", first[0].New, "--wait", "-o", "json").must(t, exitOK)
	if r := decode[schemas.Result](t, s.out); r.Class != schemas.Batch || r.Endpoint != schemas.Completions || r.Usage.CompletionTokens != 4 {
		t.Errorf("result of the replay = %+v", r)
	}
	again := decode[[]app.Replayed](t, c.hxp(t, "dead", "replay", "1", "-o", "json").must(t, exitOK).out)
	if again[0].New != first[0].New || !again[0].Again {
		t.Errorf("replayed again as %+v, want the same job %s", again[0], first[0].New)
	}
	s = c.hxp(t, "dead", "replay", "--job", "one").must(t, exitOK)
	if !strings.Contains(s.out, first[0].New+" (replayed before)") {
		t.Errorf("stdout = %q", s.out)
	}
	s = c.hxp(t, "dead", "replay", "3").must(t, exitFailed)
	if !strings.Contains(s.out, "not replayed") || !strings.Contains(s.stderr, "its payload is no job") {
		t.Errorf("stdout %q, stderr %q", s.out, s.stderr)
	}

	if s := c.hxp(t, "dead", "purge", "--code", "max_attempts").must(t, exitOK); s.out != "2 removed\n" {
		t.Errorf("purge wrote %q, want 2 removed", s.out)
	}
	if s := c.hxp(t, "dead", "purge", "--all", "-o", "ndjson").must(t, exitOK); s.out != "{\"purged\":2}\n" {
		t.Errorf("purge wrote %q, want the other 2", s.out)
	}
	c.hxp(t, "dead", "purge", "1").must(t, exitFailed)
}

func TestQueueAndWorkers(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3,hermes")
	golden(t, "queue_ls.golden", c.hxp(t, "queue", "ls").must(t, exitOK).out)
	if stats := decode[[]queue.ModelStats](t, c.hxp(t, "queue", "ls", "-o", "json").must(t, exitOK).out); len(stats) != 2 || stats[0].Model != "hermes" {
		t.Errorf("stats = %+v", stats)
	}
	s := c.hxp(t, "queue", "apply", "--set", "queue.max_jobs=777", "--set", "queue.max_bytes=1MiB", "--set", "queue.events_max_bytes=1MiB", "--set", "queue.results_max_bytes=1MiB",
		"--set", "ai_model_services.mixtral.port=1").must(t, exitOK)
	if ok, _ := regexp.MatchString(`HXP_JOBS_phi3 +max_msgs +100000 +777`, s.out); !ok {
		t.Errorf("apply wrote %q, want the new cap", s.out)
	}
	s = c.hxp(t, "queue", "apply", "--set", "queue.max_jobs=777", "--set", "queue.max_bytes=1MiB", "--set", "queue.events_max_bytes=1MiB", "--set", "queue.results_max_bytes=1MiB").must(t, exitOK)
	if s.out != "" || !strings.Contains(s.stderr, "as configured") {
		t.Errorf("the second apply wrote %q, %q", s.out, s.stderr)
	}
	s = c.hxp(t, "queue", "apply", "--set", "queue.storage=memory", "-o", "json").must(t, exitFailed)
	if !strings.Contains(s.stderr, "cannot be changed in place") {
		t.Errorf("stderr = %q", s.stderr)
	}

	all := decode[[]schemas.WorkerInfo](t, c.hxp(t, "workers", "ls", "-o", "json").must(t, exitOK).out)
	if len(all) != 2 || all[0].Model != "hermes" || !all[0].Simulated || all[0].ID != c.Workers["hermes"] {
		t.Errorf("workers = %+v", all)
	}
	if s := c.hxp(t, "workers", "ls").must(t, exitOK); !strings.Contains(s.out, c.Workers["phi3"]) || !strings.Contains(s.out, "(simulated)") {
		t.Errorf("workers ls wrote %q", s.out)
	}
	if err := queue.Announce(t.Context(), c.jetStream(t), &schemas.WorkerInfo{
		ID: "far", Model: "phi3", State: schemas.WorkerDegraded, Pulling: true, Reason: "slow today", Covering: []string{"hermes"}, Started: time.Now(), Updated: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
	if s := c.hxp(t, "workers", "ls").must(t, exitOK); !strings.Contains(s.out, "phi3 (for hermes)") || !strings.Contains(s.out, "degraded: slow today") {
		t.Errorf("workers ls wrote %q", s.out)
	}
	s = c.hxp(t, "workers", "drain", c.Workers["phi3"]).must(t, exitOK)
	if s.out != c.Workers["phi3"]+" is draining\n" {
		t.Errorf("drain wrote %q", s.out)
	}
	c.hxp(t, "workers", "drain", "nobody").must(t, exitFailed)
	c.hxp(t, "workers", "drain", "no.body").must(t, exitUsage)
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(c.stderr.String(), c.Workers["phi3"]+" has drained on request"); {
		if time.Now().After(deadline) {
			t.Fatalf("up did not say that the worker has drained:\n%s", c.stderr)
		}
		c.hxp(t, "workers", "ls").must(t, exitOK)
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	c := start(t)
	s := c.hxp(t, "doctor").must(t, exitOK)
	if ok, _ := regexp.MatchString(`(?m)^ok       phi3: \d+ of 256 slots busy, jobs waiting: 0$`, s.out); !ok {
		t.Errorf("doctor wrote %q", s.out)
	}
	s = c.hxp(t, "doctor", "-o", "json", "--set", "ai_model_services.falcon.port=11410").must(t, exitOK)
	findings := decode[[]app.Finding](t, s.out)
	if !slices.ContainsFunc(findings, func(f app.Finding) bool {
		return f.Level == app.Warning && f.What == "configured, and without a queue: HXP_JOBS_falcon"
	}) {
		t.Errorf("findings = %+v, want that falcon has no queue", findings)
	}
	s = command(t.Context(), "", "doctor", "--server", "nats://127.0.0.1:1").must(t, exitFailed)
	if !strings.HasPrefix(s.out, "problem  the queue at nats://127.0.0.1:1 cannot be used\n         why: cannot connect") {
		t.Errorf("doctor wrote %q", s.out)
	}
}
