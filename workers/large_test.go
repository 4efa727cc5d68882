package workers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func largeBody(n int) json.RawMessage {
	return fmt.Appendf(nil, `{"messages":[{"role":"user","content":%q}],"max_tokens":8,"stream":true}`, strings.Repeat(" neighbour", n/10))
}

// submitLarge stores a body and publishes a job that refers to it and says nothing more.
func (b *broker) submitLarge(job schemas.Job, body json.RawMessage) schemas.Job {
	b.t.Helper()
	if job.ID == "" {
		job.ID = uuid.Must(uuid.NewV7()).String()
	}
	if _, err := queue.PutBody(b.t.Context(), b.js, tenant, job.ID, body); err != nil {
		b.t.Fatal(err)
	}
	return b.refer(job, schemas.RefTo(body))
}

func (b *broker) refer(job schemas.Job, ref schemas.BodyRef) schemas.Job {
	b.t.Helper()
	job.BodyRef = &ref
	data, err := job.Append(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.publish(schemas.JobSubject(model, schemas.Standard, tenant), job.ID, data)
	return job
}

// emptied waits until the object store holds nothing. The body goes after the Result has come.
func (b *broker) emptied() {
	b.t.Helper()
	waitFor(b.t, "the object store to be empty", func() bool { return b.bodies() == 0 })
}

func (b *broker) bodies() uint64 {
	b.t.Helper()
	s, err := b.js.Stream(b.t.Context(), "OBJ_"+schemas.BodiesBucket)
	if err != nil {
		b.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestLargeBodyReachesTheEngineAndGoes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("fine")
	b.run(engine, workers.Config{})
	l := b.listen(schemas.AllEvents)
	body := largeBody(10 << 20)
	job := b.submitLarge(schemas.Job{}, body)
	if got := kinds(l.end(1)); got != "started delta usage done" {
		t.Errorf("kinds = %q: stream was asked for in the body", got)
	}
	if r := b.result(job); r.Status != schemas.StatusCompleted || r.Text != "fine" || r.Endpoint != schemas.ChatCompletions {
		t.Errorf("result = %s %q at %q", r.Status, r.Text, r.Endpoint)
	}
	if req := engine.seen()[0]; !bytes.HasPrefix(req.Body, body[:len(body)-1]) || req.Endpoint != schemas.ChatCompletions {
		t.Errorf("the engine got %d bytes at %q, want the %d that were stored", len(req.Body), req.Endpoint, len(body))
	}
	b.emptied()
	b.settled(0)
}

func TestLargeBodyRunsOnTheSimulatedEngine(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine := simulate(t, vllmsim.Config{MaxModelLen: 16 << 20})
	b.run(engine, workers.Config{})
	for i, size := range []int{2 << 20, 60 << 10} {
		attempts := i + 1
		if attempts == 2 {
			if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 3}); err != nil {
				t.Fatal(err)
			}
		}
		body := largeBody(size)
		job := b.submitLarge(schemas.Job{}, body)
		r := b.result(job)
		want, err := sim.Expected(body, string(schemas.ChatCompletions))
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != schemas.StatusCompleted || r.Text != want[0].Text || r.Attempts < attempts {
			t.Errorf("result = %s %q (%v) after %d attempts, want %q after %d or more: a delivery may be handed back unbegun", r.Status, r.Text, r.Error, r.Attempts, want[0].Text, attempts)
		}
		b.emptied()
	}
}

func TestLargePromptMustFitTheWindow(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine := simulate(t, vllmsim.Config{})
	b.run(engine, workers.Config{})
	job := b.submitLarge(schemas.Job{}, largeBody(2<<20))
	if r := b.result(job); r.Error == nil || r.Error.Code != schemas.CodeContextLengthExceeded || r.Attempts != 1 {
		t.Errorf("result = %s %v after %d attempts, want context_length_exceeded at once", r.Status, r.Error, r.Attempts)
	}
	b.emptied()
}

func TestRetryFindsTheBodyAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n < 3 {
			return unavailable("not yet")
		}
		emit("at last")
		return nil
	})
	b.run(engine, workers.Config{})
	body := largeBody(1 << 20)
	job := b.submitLarge(schemas.Job{}, body)
	if r := b.result(job); r.Text != "at last" || r.Attempts != 3 {
		t.Errorf("result = %q after %d attempts: %v", r.Text, r.Attempts, r.Error)
	}
	for i, req := range engine.seen() {
		if !bytes.HasPrefix(req.Body, body[:len(body)-1]) {
			t.Errorf("attempt %d has another body", i+1)
		}
	}
	b.emptied()
}

func TestBodyGoesHoweverTheJobEnds(t *testing.T) {
	t.Parallel()
	for want, c := range map[schemas.Status]struct {
		engine func() *script
		job    schemas.Job
		body   json.RawMessage
		during func(b *broker, engine *script, job schemas.Job)
	}{
		schemas.StatusFailed: {engine: func() *script {
			return newScript(func(context.Context, int, *workers.Request, func(...string) bool) error {
				return schemas.Errorf(schemas.CodeInvalidRequest, "the engine does not like it")
			})
		}},
		schemas.StatusExpired: {engine: func() *script { return says("late") }, job: schemas.Job{Deadline: time.Now().Add(-time.Second)}},
		schemas.StatusCancelled: {
			engine: func() *script { e, _ := hold("on and on"); return e },
			during: func(b *broker, engine *script, job schemas.Job) {
				waitFor(b.t, "the engine to have the job", func() bool { return len(engine.seen()) == 1 })
				b.cancel(job)
			},
		},
	} {
		t.Run(string(want), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{})
			engine := c.engine()
			b.run(engine, workers.Config{})
			job := b.submitLarge(c.job, largeBody(1<<20))
			if c.during != nil {
				c.during(b, engine, job)
			}
			if r := b.result(job); r.Status != want {
				t.Errorf("status = %s (%v), want %s", r.Status, r.Error, want)
			}
			b.emptied()
		})
	}
}

func TestDeadLetterKeepsItsBody(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(newScript(func(context.Context, int, *workers.Request, func(...string) bool) error { return unavailable("never") }),
		workers.Config{MaxAttempts: 2})
	body := largeBody(1 << 20)
	job := b.submitLarge(schemas.Job{}, body)
	if r := b.result(job); r.Error.Code != schemas.CodeMaxAttempts {
		t.Fatalf("result = %v", r.Error)
	}
	b.settled(0)
	d := b.deadLetters(1)[0]
	ref := schemas.RefTo(body)
	if !strings.Contains(d.Payload, ref.Digest) {
		t.Errorf("the dead letter's payload does not refer to the body: %s", d.Payload)
	}
	got, stored, err := queue.GetBody(t.Context(), b.js, tenant, job.ID, 16<<20)
	if err != nil || stored != ref || !bytes.Equal(got, body) {
		t.Errorf("the body of a dead letter: %d bytes, %v", len(got), err)
	}
	// The same job again finds its Result, and leaves the dead letter what is its own.
	b.publish(schemas.JobSubject(model, schemas.Standard, tenant), "again", []byte(d.Payload))
	b.settled(0)
	if b.bodies() == 0 {
		t.Error("a duplicate has taken the dead letter's body along")
	}
}

func TestResultAlreadyThereTakesTheBodyAlong(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("never")
	job := b.submitLarge(schemas.Job{}, largeBody(1<<20))
	err := queue.PutResult(t.Context(), b.js, &schemas.Result{
		ID: job.ID, Model: model, Class: schemas.Standard, Tenant: tenant, Status: schemas.StatusCompleted, Finished: time.Now(), LastSeq: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.run(engine, workers.Config{})
	b.settled(0)
	b.emptied()
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests", n)
	}
}

func TestBadReferencesFailByName(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("secret")
	b.run(engine, workers.Config{MaxBodyBytes: 1 << 20})
	secret := largeBody(600 << 10)
	put := func(tenant, id string, body []byte) schemas.BodyRef {
		t.Helper()
		if _, err := queue.PutBody(t.Context(), b.js, tenant, id, body); err != nil {
			t.Fatal(err)
		}
		return schemas.RefTo(body)
	}
	ref := put("umbrella", "theirs", secret)
	put(tenant, "other", largeBody(500<<10))
	big := put(tenant, "big", largeBody(2<<20))
	lies := big
	lies.Size = 100
	put(tenant, "lies", largeBody(2<<20))
	for _, c := range []struct {
		id    string
		ref   schemas.BodyRef
		code  schemas.Code
		param string
		want  string
	}{
		{"theirs", ref, schemas.CodeInvalidRequest, "body_ref", "is not stored under this job's tenant and id"},
		{"missing", ref, schemas.CodeInvalidRequest, "body_ref", "is not stored"},
		{"other", ref, schemas.CodeInvalidRequest, "body_ref", "stored under this job's id are"},
		{"big", big, schemas.CodePayloadTooLarge, "body_ref", fmt.Sprintf("body_ref.size is %d bytes; want at most 1048576", big.Size)},
		{"lies", lies, schemas.CodePayloadTooLarge, "body_ref", fmt.Sprintf("the stored body is %d bytes; want at most 1048576", big.Size)},
		{"list", put(tenant, "list", []byte(`["`+strings.Repeat("x", 600<<10)+`"]`)), schemas.CodeInvalidRequest, "body", "body is not a JSON object"},
	} {
		job := b.refer(schemas.Job{ID: c.id}, c.ref)
		r := b.result(job)
		if r.Status != schemas.StatusFailed || r.Error == nil || r.Error.Code != c.code || r.Error.Param != c.param || r.Error.Retryable || !strings.Contains(r.Error.Message, c.want) {
			t.Errorf("%s: result = %s %+v, want %s of %s: %s", c.id, r.Status, r.Error, c.code, c.param, c.want)
		}
	}
	b.settled(0)
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests", n)
	}
	if _, _, err := queue.GetBody(t.Context(), b.js, "umbrella", "theirs", 16<<20); err != nil {
		t.Errorf("the other tenant's body: %v", err)
	}
}

func TestDamagedBodyFailsTheJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	job := b.submitLarge(schemas.Job{}, largeBody(1<<20))
	s, err := b.js.Stream(t.Context(), "OBJ_"+schemas.BodiesBucket)
	if err == nil {
		err = s.DeleteMsg(t.Context(), 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.run(says("never"), workers.Config{})
	if r := b.result(job); r.Error == nil || r.Error.Code != schemas.CodeInvalidRequest || r.Error.Param != "body_ref" || !strings.Contains(r.Error.Message, "damaged") {
		t.Errorf("result = %+v, want invalid_request of body_ref", r.Error)
	}
	b.emptied()
}

func TestObjectStoreInTroubleIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	answers := func(on bool) {
		t.Helper()
		s, err := b.js.Stream(t.Context(), "OBJ_"+schemas.BodiesBucket)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.AllowDirect = on
		if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	answers(false)
	s := b.run(says("fine"), workers.Config{})
	job := b.submitLarge(schemas.Job{}, largeBody(1<<20))
	waitFor(t, "a retry", func() bool { return strings.Contains(s.log.String(), "retried") })
	answers(true)
	if r := b.result(job); r.Status != schemas.StatusCompleted || r.Text != "fine" {
		t.Errorf("result = %s %q %v", r.Status, r.Text, r.Error)
	}
	b.emptied()
}

func TestBodyThatCannotBeDeletedIsLeft(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("fine")
		return b.js.DeleteStream(t.Context(), "OBJ_"+schemas.BodiesBucket)
	})
	s := b.run(engine, workers.Config{})
	job := b.submitLarge(schemas.Job{}, largeBody(1<<20))
	if r := b.result(job); r.Status != schemas.StatusCompleted {
		t.Errorf("result = %s %v", r.Status, r.Error)
	}
	b.settled(0)
	if !strings.Contains(s.log.String(), "is left in the object store") {
		t.Error("nothing is said of the body that is left")
	}
}
