package producer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

const mostBody = 16 << 20

func largeJob(id, fill string, n int) schemas.Job {
	return schemas.Job{ID: id, Model: model, Body: fmt.Appendf(nil, `{"prompt":%q,"stream":true}`, strings.Repeat(fill, n))}
}

// bodies returns how many messages the object store holds.
func (r *rig) bodies() uint64 {
	r.t.Helper()
	stream, err := r.js.Stream(context.WithoutCancel(r.t.Context()), "OBJ_"+schemas.BodiesBucket)
	if err != nil {
		r.t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func (r *rig) body(id string) []byte {
	r.t.Helper()
	body, _, err := queue.GetBody(r.t.Context(), r.js, tenant, id, mostBody)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		r.t.Fatal(err)
	}
	return body
}

func TestLargeBodyTravelsByReference(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	job := largeJob("", "x", 10<<20)
	s := submit(t, r.client(producer.Config{}), job)
	stream, err := r.js.Stream(t.Context(), schemas.JobsStream(model))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "job", msg.Data)
	got, err := schemas.DecodeJob(msg.Subject, msg.Data, "none")
	if err != nil {
		t.Fatal(err)
	}
	want, ref := s.Job(), schemas.RefTo(job.Body)
	if !bytes.Equal(want.Body, job.Body) {
		t.Error("Stream.Job has lost its body")
	}
	want.Body, want.BodyRef = nil, &ref
	if diff := cmp.Diff(&want, got); diff != "" || !got.Stream || got.Endpoint != schemas.Completions {
		t.Errorf("stored job (-want +got):\n%s", diff)
	}
	if !bytes.Equal(r.body(want.ID), job.Body) {
		t.Error("the stored body is not the one that was submitted")
	}
	inline := submit(t, r.client(producer.Config{}), largeJob("", "x", 512<<10-100))
	if r.body(inline.Job().ID) != nil {
		t.Error("a body of less than InlineBytes was uploaded")
	}
}

func TestBodyAboveTheBoundIsRefusedByName(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	job := largeJob("", "x", 17<<20)
	_, err := r.client(producer.Config{}).Submit(t.Context(), job)
	e := schemas.AsError(err)
	if want := fmt.Sprintf("body is %d bytes; want at most 16777216", len(job.Body)); e == nil || e.Code != schemas.CodePayloadTooLarge || e.Param != "body" || e.Message != want {
		t.Errorf("Submit = %+v, want payload_too_large: %s", e, want)
	}
	ref := schemas.RefTo(job.Body)
	_, err = r.client(producer.Config{}).Submit(t.Context(), schemas.Job{Model: model, BodyRef: &ref})
	if e := schemas.AsError(err); e == nil || e.Code != schemas.CodeInvalidRequest || e.Param != "body_ref" {
		t.Errorf("Submit of a reference = %v, want invalid_request of body_ref", err)
	}
	if n := r.bodies(); n != 0 {
		t.Errorf("the object store holds %d messages", n)
	}
	_, err = producer.New(r.connect(), producer.Config{InlineBytes: -1, MaxBodyBytes: -2})
	if err == nil || !strings.Contains(err.Error(), "InlineBytes is -1") || !strings.Contains(err.Error(), "MaxBodyBytes is -2") {
		t.Errorf("New = %v", err)
	}
}

func TestBodyOfARefusedJobIsRemoved(t *testing.T) {
	t.Parallel()
	cfg := small()
	cfg.MaxJobs = 1
	r := newRig(t, cfg)
	c := r.client(producer.Config{})
	submit(t, c, chat()) // fills the queue
	unknown := largeJob("", "x", 1<<20)
	unknown.Model = "nosuch"
	for want, job := range map[schemas.Code]schemas.Job{schemas.CodeQueueFull: largeJob("", "x", 1<<20), schemas.CodeModelNotFound: unknown} {
		if _, err := c.Submit(t.Context(), job); schemas.ErrorCode(err) != want {
			t.Errorf("Submit = %v, want %s", err, want)
		}
		if n := r.bodies(); n != 0 {
			t.Errorf("%s: the object store holds %d messages after the refusal", want, n)
		}
	}
}

func TestFullObjectStoreRefusesTheJob(t *testing.T) {
	t.Parallel()
	cfg := small()
	cfg.MaxBodiesBytes = 1 << 20
	r := newRig(t, cfg)
	if _, err := r.client(producer.Config{}).Submit(t.Context(), largeJob("", "x", 2<<20)); schemas.ErrorCode(err) != schemas.CodeQueueFull {
		t.Errorf("Submit = %v, want queue_full", err)
	}
	if n := queued(t, r.js); n != 0 {
		t.Errorf("%d jobs are queued without their body", n)
	}
}

func TestSubmitWithoutAnObjectStore(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	if err := r.js.DeleteStream(t.Context(), "OBJ_"+schemas.BodiesBucket); err != nil {
		t.Fatal(err)
	}
	c := r.client(producer.Config{CancelWait: time.Millisecond})
	if _, err := c.Submit(t.Context(), largeJob("", "x", 1<<20)); !errors.Is(err, producer.ErrNotSetUp) {
		t.Errorf("Submit = %v, want ErrNotSetUp", err)
	}
	job := largeJob("", "x", 1<<20)
	job.Model = "nosuch"
	if _, err := c.Submit(t.Context(), job); schemas.ErrorCode(err) != schemas.CodeModelNotFound {
		t.Errorf("Submit to a model that is not there = %v, want model_not_found", err)
	}
	if phase, err := c.Cancel(t.Context(), "somebodys", ""); err != nil || phase != schemas.PhaseQueued {
		t.Errorf("Cancel = %q, %v; want it done all the same", phase, err)
	}
}

func TestDuplicateKeepsTheFirstBody(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{})
	first := largeJob("given", "x", 1<<20)
	submit(t, c, first)
	for _, job := range []schemas.Job{first, largeJob("given", "y", 2<<20), largeJob("given", "z", 10)} {
		if s := submit(t, c, job); !s.Duplicate() {
			t.Error("a second submission is no duplicate")
		}
		if !bytes.Equal(r.body("given"), first.Body) {
			t.Fatal("the body of the queued job has changed")
		}
	}
	if n := queued(t, r.js); n != 1 {
		t.Errorf("%d jobs are queued, want 1", n)
	}
}

func TestDuplicateOfAJobThatEndsMeanwhileLeavesNoBody(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{})
	first := largeJob("given", "x", 15<<20)
	submit(t, c, first)
	if err := queue.DeleteBody(t.Context(), r.js, tenant, "given"); err != nil {
		t.Fatal(err)
	}
	// The Result comes with the first chunk of the second upload: too late to be found before it.
	var once sync.Once
	sub, err := r.nc.Subscribe("$O."+schemas.BodiesBucket+".C.>", func(*nats.Msg) {
		once.Do(func() {
			result := &schemas.Result{
				ID: "given", Model: model, Class: schemas.Standard, Tenant: tenant, Status: schemas.StatusFailed,
				Error: schemas.Errorf(schemas.CodeInternal, "x"), LastSeq: 1,
			}
			if err := queue.PutResult(context.Background(), r.js, result); err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	r.flush()
	if s := submit(t, c, first); !s.Duplicate() {
		t.Error("a submission after the end is no duplicate")
	}
	if n := r.bodies(); n != 0 {
		t.Errorf("the object store holds %d messages after a duplicate of a job that has ended", n)
	}
}

func TestCancelOfAQueuedJobDeletesItsBody(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"submitter", "another"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, small())
			c := r.client(producer.Config{CancelWait: time.Millisecond})
			s := submit(t, c, largeJob("", "x", 1<<20))
			if by == "another" {
				c = r.client(producer.Config{CancelWait: time.Millisecond})
			}
			if phase, err := c.Cancel(t.Context(), s.Job().ID, ""); err != nil || phase != schemas.PhaseQueued {
				t.Fatalf("Cancel = %q, %v; want queued", phase, err)
			}
			if n := r.bodies(); n != 0 {
				t.Errorf("the object store holds %d messages after the cancel", n)
			}
		})
	}
}

// A job whose publish is not answered may be stored, so that its body has to stay.
func TestBodyOfAnUnansweredSubmissionStays(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	if err := r.js.DeleteStream(t.Context(), schemas.JobsStream(model)); err != nil {
		t.Fatal(err)
	}
	_, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: schemas.JobsStream(model), Subjects: []string{schemas.JobsOfModel(model)}, NoAck: true, Storage: jetstream.MemoryStorage,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := r.client(producer.Config{SubmitTimeout: 50 * time.Millisecond, AttemptTimeout: 50 * time.Millisecond})
	job := largeJob("given", "x", 600<<10)
	if _, err := c.Submit(t.Context(), job); !errors.Is(err, producer.ErrTimeout) {
		t.Fatalf("Submit = %v, want ErrTimeout", err)
	}
	if !bytes.Equal(r.body("given"), job.Body) {
		t.Error("the body of a job that may be stored has gone")
	}
}
