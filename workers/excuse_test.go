package workers_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func TestLostLeaseOfALivingWorkerIsNoFailure(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine, aborted := hold("half")
	lease, _ := b.connect()
	b.run(engine, workers.Config{LeaseConn: lease})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	lease.Close() // nothing can be renewed any more, and the worker lives
	<-aborted
	b.run(says("whole"), workers.Config{MaxAttempts: 1}) // one failure would be one too many
	opened := l.until(schemas.Done)[0]
	if opened.Kind != schemas.Restarted || !opened.Excused || opened.Attempt < 2 {
		t.Errorf("the next attempt opens with %+v, want one that excuses the first", opened)
	}
	if r := b.result(job); r.Text != "whole" {
		t.Errorf("result = %+v", r)
	}
}

func TestWorkerThatLostItsLeasesTakesTheJobAgain(t *testing.T) {
	t.Parallel()
	b := newBrokerOnPort(t, queue.Config{Lease: 900 * time.Millisecond})
	aborted := make(chan struct{})
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n > 1 {
			emit("whole")
			return nil
		}
		emit("half")
		<-ctx.Done()
		close(aborted)
		return ctx.Err()
	})
	b.run(engine, workers.Config{MaxAttempts: 1})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	b.restart(2 * time.Second)
	<-aborted
	if r := b.result(job); r.Text != "whole" {
		t.Errorf("result = %+v", r)
	}
	var opened []schemas.Event
	waitFor(t, "the record", func() bool { // the listener may have been cut off for longer than the worker
		events, err := queue.ReadRecord(t.Context(), b.js, tenant, job.ID, 0)
		opened = slices.DeleteFunc(events, func(e schemas.Event) bool { return !e.Kind.Opens() })
		return err == nil && len(opened) > 1
	})
	for _, e := range opened[1:] {
		if !e.Excused {
			t.Errorf("%s of attempt %d does not excuse the one before", e.Kind, e.Attempt)
		}
	}
}

// ask puts a question about an attempt to a worker.
func (b *broker) ask(worker string, q any) (*nats.Msg, schemas.AttemptReply) {
	b.t.Helper()
	data, err := json.Marshal(q)
	if err != nil {
		b.t.Fatal(err)
	}
	msg, err := b.nc.Request(schemas.AttemptSubject(worker), data, 5*time.Second)
	if err != nil {
		b.t.Fatal(err)
	}
	var reply schemas.AttemptReply
	if len(msg.Data) > 0 {
		schematest.Validate(b.t, "attempt-reply", msg.Data)
		if err := json.Unmarshal(msg.Data, &reply); err != nil {
			b.t.Fatal(err)
		}
	}
	return msg, reply
}

func TestWorkerGivesUpWhatItIsAskedFor(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine, aborted := hold("half")
	s := b.run(engine, workers.Config{DrainTimeout: -1})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	for name, q := range map[string]schemas.AttemptQuery{
		"another job":     {ID: "other", Tenant: tenant, Attempt: 1},
		"another tenant":  {ID: job.ID, Tenant: "other", Attempt: 1},
		"another attempt": {ID: job.ID, Tenant: tenant, Attempt: 2},
	} {
		if _, reply := b.ask(s.ID(), q); reply.Excused || reply.Worker != s.ID() {
			t.Errorf("%s: %+v, want no excuse", name, reply)
		}
	}
	if msg, _ := b.ask(s.ID(), "?"); msg.Header.Get("Nats-Service-Error-Code") != "400" {
		t.Errorf("junk is answered with %v", msg.Header)
	}
	mine := schemas.AttemptQuery{ID: job.ID, Tenant: tenant, Attempt: 1}
	if _, reply := b.ask(s.ID(), mine); !reply.Excused {
		t.Error("an attempt that runs is not excused")
	}
	<-aborted
	waitFor(t, "the attempt to be left", func() bool { return s.Status().Busy == 0 })
	if _, reply := b.ask(s.ID(), mine); !reply.Excused {
		t.Error("an attempt that was left is not excused")
	}
}

func TestExcusesHaveABound(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		excused int
		answer  string
		fails   bool
	}{
		"excused":          {0, `{"worker":"ghost","excused":true}`, false},
		"often":            {49, `{"worker":"ghost","excused":true}`, false},
		"too often":        {50, `{"worker":"ghost","excused":true}`, true},
		"not excused":      {0, `{"worker":"ghost","excused":false}`, true},
		"answers nonsense": {0, `!`, true},
		"does not answer":  {0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
			job := b.lostAttempt(schemas.Job{}, "")
			for i := range tt.excused {
				e := schemas.Event{ID: job.ID, Seq: uint64(i + 3), Attempt: 1, Kind: schemas.Restarted, Worker: "ghost", Excused: true, TS: 1}
				if err := b.nc.Publish(schemas.EventSubject(tenant, schemas.NoClient, job.ID), e.Append(nil)); err != nil {
					t.Fatal(err)
				}
			}
			waitFor(t, "the record", func() bool {
				e, err := queue.LastEvent(t.Context(), b.js, tenant, job.ID)
				return err == nil && e.Seq == uint64(tt.excused+2)
			})
			ghost, _ := b.connect()
			if _, err := ghost.Subscribe(schemas.AttemptSubject("ghost"), func(m *nats.Msg) {
				schematest.Validate(t, "attempt-query", m.Data)
				if tt.answer != "" {
					_ = m.Respond([]byte(tt.answer))
				}
			}); err != nil {
				t.Fatal(err)
			}
			if err := ghost.Flush(); err != nil {
				t.Fatal(err)
			}
			b.run(says("whole"), workers.Config{MaxAttempts: 1})
			r := b.result(job)
			if !tt.fails && r.Text != "whole" {
				t.Errorf("result = %+v", r)
			}
			if tt.fails && (r.Error == nil || r.Error.Code != schemas.CodeMaxAttempts || !strings.Contains(r.Error.Message, "ghost was lost")) {
				t.Errorf("result = %+v, want max_attempts", r)
			}
		})
	}
}
