package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// cancelled ranges a stream to its end and says how long that took after the cancel.
func cancelled(t *testing.T, s *producer.Stream) schemas.Event {
	t.Helper()
	began := time.Now()
	events, err := read(t, s)
	if err != nil || len(events) == 0 || events[len(events)-1].Kind != schemas.Cancelled {
		t.Fatalf("stream = %s, %v; want it cancelled", kinds(events), err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("the stream ended %v after the cancel; want it at once", d)
	}
	return events[len(events)-1]
}

func TestCancelAQueuedJob(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"stream", "client", "another process"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, small())
			c := r.client(producer.Config{CancelWait: 30 * time.Millisecond})
			job := chat()
			job.Metadata = map[string]string{"k": "v"}
			s := submit(t, c, job)
			id := s.Job().ID
			cancel := c.Cancel
			if by == "stream" {
				cancel = func(ctx context.Context, _, reason string) (schemas.Phase, error) { return s.Cancel(ctx, reason) }
			} else if by != "client" {
				cancel = r.client(producer.Config{CancelWait: 30 * time.Millisecond}).Cancel
			}
			phase, err := cancel(t.Context(), id, "changed my mind")
			if err != nil || phase != schemas.PhaseQueued {
				t.Fatalf("Cancel = %q, %v; want queued", phase, err)
			}
			last := cancelled(t, s)
			if last.Seq != 1 || last.Attempt != 1 || schemas.ErrorCode(last.Error) != schemas.CodeCancelled {
				t.Errorf("terminal event = %+v", last)
			}
			schematest.Validate(t, "event", last.Append(nil))
			res, err := s.Result(t.Context())
			if err != nil || res.Status != schemas.StatusCancelled || res.LastSeq != 1 || schemas.ErrorCode(res.Error) != schemas.CodeCancelled {
				t.Errorf("result = %+v, %v", res, err)
			}
			if by == "stream" || by == "client" {
				if res.Model != model || res.Metadata["k"] != "v" {
					t.Errorf("result = %+v; want the job's model and metadata", res)
				}
				data, err := json.Marshal(res)
				if err != nil {
					t.Fatal(err)
				}
				schematest.Validate(t, "result", data)
			}
			tomb, err := queue.GetTombstone(t.Context(), r.js, tenant, id)
			if err != nil || tomb.Reason != "changed my mind" {
				t.Errorf("tombstone = %+v, %v", tomb, err)
			}
			if phase, err := cancel(t.Context(), id, ""); err != nil || phase != schemas.PhaseEnded {
				t.Errorf("second Cancel = %q, %v; want ended", phase, err)
			}
		})
	}
}

func TestCancelAQueuedJobThatRanBefore(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(2, 1, schemas.Restarted, "")
	x.live(2, 2, schemas.DeltaKind, "a")
	x.live(2, 3, schemas.Interrupted, "")
	x.recorded(x.k.job.ID, 3)
	other := x.client(producer.Config{CancelWait: time.Millisecond})
	if phase, err := other.Cancel(t.Context(), x.k.job.ID, ""); err != nil || phase != schemas.PhaseQueued {
		t.Fatalf("Cancel = %q, %v; want queued", phase, err)
	}
	x.recorded(x.k.job.ID, 4)
	last, err := queue.LastEvent(t.Context(), x.js, tenant, x.k.job.ID)
	if err != nil || last.Seq != 4 || last.Attempt != 2 || last.Kind != schemas.Cancelled {
		t.Errorf("last event = %+v, %v; want 4 of attempt 2", last, err)
	}
	cancelled(t, x.s)
	// The event went where the job's events had gone: to whoever listens there without this SDK.
	stream, err := x.js.Stream(t.Context(), schemas.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetLastMsgForSubject(t.Context(), x.k.subject); err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), schemas.EventsOfJob(tenant, x.k.job.ID))
	if err != nil || msg.Subject != x.k.subject {
		t.Errorf("terminal event on %q, %v; want %q", msg.Subject, err, x.k.subject)
	}
}

func TestCancelWaitsForResult(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{})
	s := submit(t, c, chat())
	got := make(chan *schemas.Result, 1)
	go func() {
		res, err := s.Result(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- res
	}()
	if _, err := r.client(producer.Config{CancelWait: time.Millisecond}).Cancel(t.Context(), s.Job().ID, ""); err != nil {
		t.Fatal(err)
	}
	select {
	case res := <-got:
		if res.Status != schemas.StatusCancelled {
			t.Errorf("result = %+v", res)
		}
	case <-time.After(4 * time.Second):
		t.Error("Result did not notice the cancel")
	}
}

// answering is a worker that runs one job until it is cancelled.
func answering(phase schemas.Phase) func(*task) {
	return func(k *task) {
		stop := make(chan *schemas.Cancel, 1)
		sub, err := k.r.nc.Subscribe(schemas.CancelSubject(tenant, k.job.ID), func(m *nats.Msg) {
			schematest.Validate(k.r.t, "cancel", m.Data)
			var c schemas.Cancel
			if err := json.Unmarshal(m.Data, &c); err != nil {
				k.r.t.Error(err)
			}
			data, _ := json.Marshal(schemas.CancelReply{ID: k.job.ID, Phase: phase, Worker: "w1"})
			_ = m.Respond(data)
			stop <- &c
		})
		if err != nil {
			k.r.t.Error(err)
			return
		}
		defer func() { _ = sub.Unsubscribe() }()
		k.emit(schemas.Event{Kind: schemas.Started})
		k.delta("partial")
		<-stop
		k.end(schemas.StatusCancelled, schemas.Errorf(schemas.CodeCancelled, "cancelled in %s", phase))
	}
}

func TestCancelARunningJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(answering(schemas.PhaseDecode))
	s := submit(t, r.client(producer.Config{}), chat())
	x := &scene{rig: r}
	if _, err := x.next(t, s, 3); err != nil {
		t.Fatal(err)
	}
	phase, err := r.client(producer.Config{CancelWait: patience}).Cancel(t.Context(), s.Job().ID, "")
	if err != nil || phase != schemas.PhaseDecode {
		t.Fatalf("Cancel = %q, %v; want decode", phase, err)
	}
	if last := cancelled(t, s); last.Seq != 3 {
		t.Errorf("terminal event = %+v, want the worker's", last)
	}
	if res, err := s.Result(t.Context()); err != nil || res.Text != "partial" {
		t.Errorf("result = %+v, %v; want the worker's", res, err)
	}
}

func TestCancelLosesToAWorkerThatEnds(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{CancelWait: 3 * time.Second}) // time for the worker to write
	// The worker ends the job between the cancel's look for a Result and its own write.
	sub, err := x.nc.Subscribe(schemas.CancelSubject(tenant, "*"), func(*nats.Msg) { x.result(t, schemas.StatusCompleted, 1, 5) })
	if err == nil {
		err = x.nc.Flush() // the cancel comes over another connection
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if phase, err := x.s.Cancel(t.Context(), ""); err != nil || phase != schemas.PhaseEnded {
		t.Errorf("Cancel = %q, %v; want ended", phase, err)
	}
}

func TestCancelWithoutAnybodyIsImmediate(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{CancelWait: time.Hour}) // nobody listens, so nobody is waited for
	if phase, err := c.Cancel(t.Context(), "never-submitted", ""); err != nil || phase != schemas.PhaseQueued {
		t.Fatalf("Cancel = %q, %v; want queued", phase, err)
	}
	job := chat()
	job.ID = "never-submitted"
	s := submit(t, c, job)
	if !s.Duplicate() {
		t.Error("a cancelled id was queued")
	}
	cancelled(t, s)
}

func TestCancelErrors(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{CancelWait: patience})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("gone")
	listen := func(heard nats.MsgHandler) *nats.Subscription {
		sub, err := x.nc.Subscribe(schemas.CancelSubject(tenant, "*"), heard)
		if err == nil {
			err = x.nc.Flush() // the cancel comes over another connection
		}
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	sub := listen(func(*nats.Msg) { cancel(why) })
	if _, err := x.s.Cancel(ctx, ""); !errors.Is(err, why) {
		t.Errorf("Cancel = %v, want %v", err, why)
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	sub = listen(func(m *nats.Msg) { _ = m.Respond([]byte("what?")) })
	if _, err := x.s.Cancel(t.Context(), ""); err == nil {
		t.Error("an answer that is no CancelReply was taken for one")
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	drop := func(stream string, want string) {
		if err := x.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		c := x.client(producer.Config{CancelWait: time.Millisecond})
		if phase, err := c.Cancel(t.Context(), "j", ""); err == nil {
			t.Errorf("Cancel without %s = %q, want an error", want, phase)
		}
	}
	drop(schemas.EventsStream, "a record")
	drop("KV_"+schemas.CancelsBucket, "tombstones")
	drop(schemas.ResultsStream, "results")
}

func TestCancelOnARecordOfJunk(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{CancelWait: time.Millisecond})
	if err := x.nc.Publish(x.side, []byte("junk")); err != nil {
		t.Fatal(err)
	}
	x.until("junk is recorded", func() bool {
		_, err := queue.LastEvent(t.Context(), x.js, tenant, x.k.job.ID)
		return errors.Is(err, queue.ErrBadRecord)
	})
	if phase, err := x.s.Cancel(t.Context(), ""); err == nil {
		t.Errorf("Cancel = %q; want an error, for the last seq is not known", phase)
	}
}

func TestCancelSeenButNeverResolved(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	// A cancel that nobody acts on: the submitter looks for a Result for a while, once.
	for range 3 {
		if err := x.nc.Publish(schemas.CancelSubject(tenant, x.k.job.ID), nil); err != nil {
			t.Fatal(err)
		}
	}
	x.live(1, 1, schemas.Started, "")
	x.live(1, 2, schemas.Done, "")
	x.expect(t, x.s, "0 accepted, 1 started, 2 done")
	if err := x.c.Close(); err != nil { // waits for the one that looks
		t.Fatal(err)
	}
}

func TestWorkerSettlesACancelledJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	s := submit(t, r.client(producer.Config{}), chat())
	// Another process does not know where in the queue the job lies, and leaves it there.
	if _, err := r.client(producer.Config{CancelWait: time.Millisecond}).Cancel(t.Context(), s.Job().ID, ""); err != nil {
		t.Fatal(err)
	}
	settled := make(chan struct{})
	r.work(func(k *task) { // as a worker does: the Result is there, so there is nothing to run
		defer close(settled)
		if _, err := queue.GetResult(k.ctx, k.r.js, tenant, k.job.ID); err != nil {
			t.Errorf("the worker finds no result: %v", err)
		}
		_ = k.msg.Ack()
	})
	<-settled
	stream, err := r.js.Stream(t.Context(), schemas.JobsStream(model))
	if err != nil {
		t.Fatal(err)
	}
	r.until("the queue is empty", func() bool {
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(schemas.JobsOfModel(model)))
		return err == nil && info.State.Msgs == 0
	})
}
