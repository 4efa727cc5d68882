package workers_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// hold is an engine that emits words and then waits to be aborted.
func hold(words ...string) (*script, chan struct{}) {
	aborted := make(chan struct{}, 16)
	return newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit(words...)
		<-ctx.Done()
		aborted <- struct{}{}
		return ctx.Err()
	}), aborted
}

func (b *broker) cancel(job schemas.Job) *schemas.CancelReply {
	b.t.Helper()
	msg, err := b.nc.Request(schemas.CancelSubject(tenant, job.ID), []byte(`{}`), 5*time.Second)
	if err != nil {
		b.t.Fatalf("cancel: %v", err)
	}
	var reply schemas.CancelReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		b.t.Fatalf("reply %q: %v", msg.Data, err)
	}
	schematest.Validate(b.t, "cancel-reply", msg.Data)
	return &reply
}

func TestCancelInPrefillAndInDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phase schemas.Phase
		words []string
	}{{schemas.PhasePrefill, nil}, {schemas.PhaseDecode, []string{"on and on"}}} {
		t.Run(string(c.phase), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			engine, aborted := hold(c.words...)
			s := b.run(engine, workers.Config{})
			l := b.listen(schemas.AllEvents)
			job := b.submit(schemas.Job{Stream: true})
			waitFor(t, "the engine to have the job", func() bool { return len(engine.seen()) == 1 })
			if c.phase == schemas.PhaseDecode {
				l.until(schemas.DeltaKind)
			}
			if reply := b.cancel(job); reply.Phase != c.phase || reply.Worker != s.ID() || reply.ID != job.ID {
				t.Errorf("reply = %+v, want phase %s", reply, c.phase)
			}
			<-aborted
			for e := l.next(); e.Kind != schemas.Cancelled; e = l.next() {
				if e.Kind.Terminal() {
					t.Fatalf("ended %s", e.Kind)
				}
			}
			r := b.result(job)
			if r.Status != schemas.StatusCancelled || r.Error.Code != schemas.CodeCancelled || r.Text != strings.Join(c.words, "") {
				t.Errorf("result = %s %v %q", r.Status, r.Error, r.Text)
			}
			b.settled(0)
			metrics := scrape(t, s)
			for _, want := range []string{
				`hxp_cancels_total{model="phi3",phase="` + string(c.phase) + `"} 1`,
				`hxp_cancel_to_abort_seconds_count{model="phi3",phase="` + string(c.phase) + `"} 1`,
				`hxp_jobs_total{class="standard",model="phi3",outcome="cancelled"} 1`,
			} {
				if !strings.Contains(metrics, want) {
					t.Errorf("metrics lack %s", want)
				}
			}
		})
	}
}

func TestCancelWithoutReplyAddress(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine, aborted := hold("x")
	b.run(engine, workers.Config{})
	job := b.submit(schemas.Job{})
	waitFor(t, "the engine to have the job", func() bool { return len(engine.seen()) == 1 })
	if err := b.nc.Publish(schemas.CancelSubject(tenant, job.ID), nil); err != nil {
		t.Fatal(err)
	}
	<-aborted
	if r := b.result(job); r.Status != schemas.StatusCancelled {
		t.Errorf("status = %s, want cancelled", r.Status)
	}
}

func TestCancelWhileQueuedNeverReachesTheEngine(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	job := b.submit(schemas.Job{Stream: true})
	tombstone := &schemas.Cancel{ID: job.ID, Tenant: tenant, Requested: time.Now().UTC()}
	if err := queue.PutTombstone(t.Context(), b.js, tombstone); err != nil {
		t.Fatal(err)
	}
	engine := says("never")
	s := b.run(engine, workers.Config{})
	if r := b.result(job); r.Status != schemas.StatusCancelled {
		t.Errorf("status = %s, want cancelled", r.Status)
	}
	b.settled(0)
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want 0", n)
	}
	if m := scrape(t, s); !strings.Contains(m, `hxp_cancels_total{model="phi3",phase="queued"} 1`) {
		t.Errorf("the cancel was not counted as queued:\n%s", m)
	}
}

func TestCancelOfAnotherTenantsJobDoesNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	release := make(chan struct{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		emit("safe")
		return nil
	})
	b.run(engine, workers.Config{})
	job := b.submit(schemas.Job{})
	waitFor(t, "the engine to have the job", func() bool { return len(engine.seen()) == 1 })
	for _, subject := range []string{schemas.CancelSubject("other", job.ID), "hxp.v1.cancel.x", schemas.CancelSubject(tenant, "unknown")} {
		if err := b.nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	close(release)
	if r := b.result(job); r.Text != "safe" {
		t.Errorf("result = %s %q, want it untouched", r.Status, r.Text)
	}
}
