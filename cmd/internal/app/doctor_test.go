package app_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func diagnose(t *testing.T, cfg *app.Config) []app.Finding {
	t.Helper()
	conn, err := app.Connect(t.Context(), cfg, "doctor", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return app.Diagnose(t.Context(), cfg, conn, nil)
}

// find wants a finding whose What begins, and whose Do contains, the given text.
func find(t *testing.T, findings []app.Finding, level app.Level, what, do string) {
	t.Helper()
	var all strings.Builder
	for _, f := range findings {
		if f.Level == level && strings.HasPrefix(f.What, what) && strings.Contains(f.Do, do) {
			if level != app.Fine && (f.Why == "" || f.Do == "") {
				t.Errorf("finding %+v says not why, or not what to do", f)
			}
			return
		}
		fmt.Fprintf(&all, "\n%+v", f)
	}
	t.Errorf("no %s %q with %q among%s", level, what, do, all.String())
}

// install declares the queue on a bare server, without any worker.
func install(t *testing.T, flags ...string) (*app.Config, *app.Client) {
	t.Helper()
	cfg := quick(t, append([]string{"nats.url=" + broker(t, server.Options{JetStream: true})}, flags...)...)
	c := dial(t, cfg)
	if _, err := queue.Ensure(t.Context(), c.JS, cfg.ModelNames(), cfg.Queue.Config()); err != nil {
		t.Fatal(err)
	}
	return cfg, c
}

// submit stores jobs that nobody runs.
func submit(t *testing.T, c *app.Client, n int) {
	t.Helper()
	for range n {
		s, err := c.Submit(t.Context(), schemas.Job{Model: "phi3", Body: []byte(`{"prompt":"` + strings.Repeat("x", 1000) + `"}`)})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

func announce(t *testing.T, c *app.Client, w schemas.WorkerInfo) {
	t.Helper()
	if err := queue.Announce(t.Context(), c.JS, &w); err != nil {
		t.Fatal(err)
	}
}

func TestDoctorOnABareServer(t *testing.T) {
	t.Parallel()
	cfg := quick(t, "nats.url="+broker(t, server.Options{JetStream: true}))
	findings := diagnose(t, cfg)
	find(t, findings, app.Fine, "NATS ", "")
	find(t, findings, app.Problem, "missing in the queue: HXP_JOBS_phi3, HXP_EVENTS, HXP_RESULTS, HXP_DEAD, hxp_workers, hxp_cancels, hxp_locks, hxp_bodies", "hxp queue apply")
	cfg = quick(t, "nats.url="+broker(t, server.Options{}))
	findings = diagnose(t, cfg)
	find(t, findings, app.Problem, "JetStream is not available", "jetstream {}")
	if app.Healthy(findings) {
		t.Error("a server without JetStream passes for healthy")
	}
	findings = app.Diagnose(t.Context(), cfg, nil, fmt.Errorf("%w: nobody there", app.ErrCannotConnect))
	if len(findings) != 1 || findings[0].Why != "cannot connect: nobody there" {
		t.Errorf("findings = %+v", findings)
	}
}

func TestDoctorWithoutWorkers(t *testing.T) {
	t.Parallel()
	cfg, c := install(t, "queue.max_jobs=10", "queue.max_jobs_per_tenant=9")
	find(t, diagnose(t, cfg), app.Warning, "phi3: no worker; jobs waiting: 0", "hxp worker --model phi3")
	submit(t, c, 8)
	findings := diagnose(t, cfg)
	find(t, findings, app.Problem, "phi3: no worker; jobs waiting: 8", "hxp worker --model phi3")
	find(t, findings, app.Warning, "phi3: the queue holds 8 of 10 jobs", "queue.max_jobs")
	find(t, findings, app.Warning, "phi3: tenant default has 8 of 9 standard jobs queued", "queue.max_jobs_per_tenant")
	submit(t, c, 1)
	find(t, diagnose(t, cfg), app.Problem, "phi3: tenant default has 9 of 9 standard jobs queued", "queue.max_jobs_per_tenant")

	if _, err := c.JS.PauseConsumer(t.Context(), schemas.JobsStream("phi3"), schemas.ClassConsumer(schemas.Standard), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	find(t, diagnose(t, cfg), app.Problem, "phi3: class standard is paused for another", "nats consumer resume HXP_JOBS_phi3 standard")
}

func TestDoctorOnWorkers(t *testing.T) {
	t.Parallel()
	cfg, c := install(t)
	now := time.Now()
	announce(t, c, schemas.WorkerInfo{ID: "a", Model: "phi3", Host: "h", State: schemas.WorkerReady, Slots: 4, Busy: 1, Version: "0.20", Updated: now})
	announce(t, c, schemas.WorkerInfo{ID: "b", Model: "phi3", Host: "h", State: schemas.WorkerReady, Slots: 4, Busy: 2, Version: "0.21", Updated: now.Add(-time.Minute)})
	announce(t, c, schemas.WorkerInfo{ID: "c", Model: "phi3", Host: "h", State: schemas.WorkerDraining, Slots: 4, Updated: now.Add(time.Minute)})
	announce(t, c, schemas.WorkerInfo{ID: "d", Model: "phi3", Host: "h", State: schemas.WorkerDown, Reason: "connection refused", Engine: "http://e", Updated: now})
	announce(t, c, schemas.WorkerInfo{ID: "e", Model: "phi3", Host: "h", State: schemas.WorkerDegraded, Pulling: true, Reason: "slow today", Slots: 4, Version: "0.21", Updated: now})
	findings := diagnose(t, cfg)
	find(t, findings, app.Warning, "phi3: worker e on h is degraded; jobs waiting: 0", "takes jobs all the same")
	find(t, findings, app.Warning, "phi3: worker c on h is draining; jobs waiting: 0", "start another")
	find(t, findings, app.Warning, "phi3: worker d on h is down; jobs waiting: 0", "curl http://e/v1/models")
	find(t, findings, app.Warning, "phi3: its engines have different versions", "one version")
	find(t, findings, app.Warning, "the clock of the machine of worker b is 1m0s behind the server's", "NTP")
	find(t, findings, app.Warning, "the clock of the machine of worker c is 1m0s ahead of the server's", "NTP")
	if !app.Healthy(findings) {
		t.Error("warnings alone count as a problem")
	}
}

// TestDoctorOnJobsThatWait looks at jobs that are older than it takes to hand one out.
func TestDoctorOnJobsThatWait(t *testing.T) {
	t.Parallel()
	cfg, c := install(t)
	submit(t, c, 2)
	later := time.Now().Add(time.Hour)
	for _, tc := range []struct {
		busy     int
		level    app.Level
		what, do string
	}{
		{1, app.Problem, "phi3: jobs waiting: 2, the oldest for 1h0m", "nats consumer report HXP_JOBS_phi3"},
		{4, app.Warning, "phi3: jobs waiting: 2, the oldest for 1h0m", "another worker"},
	} {
		announce(t, c, schemas.WorkerInfo{ID: "a", Model: "phi3", State: schemas.WorkerReady, Slots: 4, Busy: tc.busy, Updated: time.Now()})
		findings := app.DiagnoseAt(t.Context(), cfg, c.Connection, func() time.Time { return later })
		find(t, findings, tc.level, tc.what, tc.do)
		find(t, findings, app.Warning, "the clock of this machine is ", "NTP")
	}
}

func TestDoctorOnRetriesAndDeadLetters(t *testing.T) {
	t.Parallel()
	cfg, c := install(t)
	submit(t, c, 1)
	consumers, err := queue.Consumers(t.Context(), c.JS, "phi3")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		batch, err := consumers[schemas.Standard].Fetch(1)
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if meta, err := m.Metadata(); err == nil && meta.NumDelivered == 1 {
				if err := m.Nak(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for i, code := range []schemas.Code{schemas.CodeMaxAttempts, schemas.CodeMaxAttempts, ""} {
		l := &schemas.DeadLetter{ID: fmt.Sprint(i), Model: "phi3", Tenant: "default", Time: time.Now()}
		if code != "" {
			l.Reason = schemas.Errorf(code, "x")
		}
		if err := queue.PutDeadLetter(t.Context(), c.JS, l); err != nil {
			t.Fatal(err)
		}
	}
	findings := diagnose(t, cfg)
	find(t, findings, app.Warning, "phi3: jobs being tried again: 1", "hxp dead ls")
	find(t, findings, app.Warning, "jobs given up within the last hour: 3", "hxp dead replay")
	for _, f := range findings {
		if strings.HasPrefix(f.What, "jobs given up") && f.Why != "phi3 internal (1), phi3 max_attempts (2)" {
			t.Errorf("why = %q", f.Why)
		}
	}
	later := app.DiagnoseAt(t.Context(), cfg, c.Connection, func() time.Time { return time.Now().Add(48 * time.Hour) })
	for _, f := range later {
		if strings.Contains(f.What, "given up") {
			t.Errorf("old dead letters are reported: %+v", f)
		}
	}
	if _, err := c.JS.PublishMsg(t.Context(), message(schemas.DeadSubject("phi3", "default"), "no letter")); err != nil {
		t.Fatal(err)
	}
	find(t, diagnose(t, cfg), app.Problem, "cannot read the dead letters", "permission")
}

func TestDoctorOnFullStreams(t *testing.T) {
	t.Parallel()
	cfg, c := install(t)
	for i := range 10 {
		for _, subject := range []string{schemas.ResultSubject("default", fmt.Sprint("j", i)), schemas.EventSubject("default", "c", fmt.Sprint("j", i))} {
			if err := c.NC.PublishMsg(message(subject, strings.Repeat("x", 100_000))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	awaitMessages(t, c, schemas.ResultsStream, 10)
	findings := diagnose(t, cfg)
	find(t, findings, app.Warning, "HXP_RESULTS holds ", "queue.results_max_bytes")
	find(t, findings, app.Warning, "HXP_EVENTS holds ", "queue.events_max_bytes")
	if err := c.NC.PublishMsg(message(schemas.ResultSubject("default", "last"), strings.Repeat("x", 45_000))); err != nil {
		t.Fatal(err)
	}
	awaitMessages(t, c, schemas.ResultsStream, 11)
	find(t, diagnose(t, cfg), app.Problem, "HXP_RESULTS holds ", "queue.results_max_bytes")
}

func awaitMessages(t *testing.T, c *app.Client, stream string, n uint64) {
	t.Helper()
	for t.Context().Err() == nil {
		s, err := c.JS.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if s.CachedInfo().State.Msgs >= n {
			return
		}
	}
}

// TestDoctorThatCannotLook says what it could not look at.
func TestDoctorThatCannotLook(t *testing.T) {
	t.Parallel()
	cfg, c := install(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	find(t, app.Diagnose(over, cfg, c.Connection, nil), app.Problem, "JetStream is not available", "jetstream {}")
	for _, name := range []string{schemas.EventsStream, schemas.ResultsStream, schemas.DeadStream} {
		if err := c.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.JS.DeleteKeyValue(t.Context(), schemas.WorkersBucket); err != nil {
		t.Fatal(err)
	}
	findings := app.DiagnoseParts(t.Context(), cfg, c.Connection)
	find(t, findings, app.Problem, "cannot ask the server for the time", "permission")
	find(t, findings, app.Problem, "cannot look at the dead letters", "permission")
	find(t, findings, app.Problem, "cannot look at stream HXP_RESULTS", "permission")
	c.NC.Close()
	findings = app.DiagnoseParts(t.Context(), cfg, c.Connection)
	find(t, findings, app.Problem, "cannot list the queues", "permission")
	find(t, app.Diagnose(t.Context(), cfg, c.Connection, nil), app.Problem, "the server does not answer", "log")
}

func TestServerVersions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		version string
		want    bool
	}{{"2.10.29", true}, {"2.11.0", false}, {"v2.9.0-beta.1", true}, {"2.15.2", false}, {"3", false}, {"mine", false}} {
		if got := app.Older(tc.version, "2.11.0"); got != tc.want {
			t.Errorf("%s before 2.11.0: %t, want %t", tc.version, got, tc.want)
		}
	}
}

func message(subject, data string) *nats.Msg { return &nats.Msg{Subject: subject, Data: []byte(data)} }
