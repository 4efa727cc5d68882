package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func unavailable(format string, args ...any) error {
	return schemas.Errorf(schemas.CodeEngineUnavailable, format, args...)
}

func TestFailedAttemptIsRetriedAndSaid(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n == 1 {
			emit("lost ")
			return unavailable("died in mid-stream")
		}
		emit("found")
		return nil
	})
	b.run(engine, workers.Config{Coalesce: -1})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	events := l.end(1)
	if got, want := kinds(events), "started delta interrupted restarted delta usage done"; got != want {
		t.Fatalf("kinds = %q, want %q", got, want)
	}
	if e := events[2]; e.Handback || e.Error == nil || e.Error.Code != schemas.CodeEngineUnavailable || e.Attempt != 1 {
		t.Errorf("interrupted = %+v", e)
	}
	if e := events[3]; e.Attempt != 2 || e.Reason == "" {
		t.Errorf("restarted = %+v", e)
	}
	if got := textOf(t, events); got != "found" {
		t.Errorf("text = %q, want found", got)
	}
	if r := b.result(job); r.Attempts != 2 || r.Text != "found" {
		t.Errorf("result = %d attempts, %q", r.Attempts, r.Text)
	}
}

func TestInterruptedBeforeTheFirstTokenResumes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n == 1 {
			return unavailable("not today")
		}
		emit("x")
		return nil
	}), workers.Config{})
	l := b.listen(schemas.AllEvents)
	b.submit(schemas.Job{Stream: true})
	if got, want := kinds(l.end(1)), "started interrupted resumed delta usage done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
}

func TestOutOfAttemptsLeavesADeadLetter(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, _ func(...string) bool) error {
		return unavailable("boom %d", n)
	})
	b.run(engine, workers.Config{ID: "w1", MaxAttempts: 3})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	events := l.end(1)
	last := events[len(events)-1]
	if last.Kind != schemas.Failed || last.Error.Code != schemas.CodeMaxAttempts || !strings.Contains(last.Error.Message, "boom 3") {
		t.Errorf("terminal event = %s %v", last.Kind, last.Error)
	}
	b.settled(0)
	if n := len(engine.seen()); n != 3 {
		t.Errorf("the engine saw %d requests, want 3", n)
	}
	d := b.deadLetters(1)[0]
	if d.ID != job.ID || d.Reason.Code != schemas.CodeMaxAttempts || len(d.Attempts) != 3 {
		t.Fatalf("dead letter = %+v", d)
	}
	for i, a := range d.Attempts {
		if want := fmt.Sprintf("boom %d", i+1); a.Attempt != i+1 || a.Worker != "w1" || a.Error.Message != want {
			t.Errorf("attempt %d = %+v %v, want %q on w1", i+1, a, a.Error, want)
		}
	}
	var replay schemas.Job
	if err := json.Unmarshal([]byte(d.Payload), &replay); err != nil || replay.ID != job.ID {
		t.Errorf("payload = %q (%v), want the job as published", d.Payload, err)
	}
}

func TestPermanentErrorFailsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(context.Context, int, *workers.Request, func(...string) bool) error {
		return schemas.Errorf(schemas.CodeInvalidRequest, "logit_bias: no such token").WithParam("logit_bias")
	})
	b.run(engine, workers.Config{})
	r := b.result(b.submit(schemas.Job{}))
	if r.Status != schemas.StatusFailed || r.Error.Param != "logit_bias" {
		t.Errorf("result = %s %v", r.Status, r.Error)
	}
	b.settled(0)
	b.deadLetters(0)
}

func TestOnInterruptFail(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("half")
		return unavailable("gone")
	})
	b.run(engine, workers.Config{})
	r := b.result(b.submit(schemas.Job{Stream: true, OnInterrupt: schemas.FailOnInterrupt}))
	if r.Status != schemas.StatusFailed || r.Text != "half" || len(engine.seen()) != 1 {
		t.Errorf("result = %s %q after %d requests, want failed, half, 1", r.Status, r.Text, len(engine.seen()))
	}
}

func TestOnInterruptFailAfterALostWorker(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true, OnInterrupt: schemas.FailOnInterrupt}, "half an ans")
	engine := says("never")
	b.run(engine, workers.Config{})
	r := b.result(job)
	if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeEngineUnavailable || r.Error.Retryable || len(engine.seen()) != 0 {
		t.Errorf("result = %s %v, %d requests", r.Status, r.Error, len(engine.seen()))
	}
}

// pullOne takes the one job of a class off the queue, as a worker does.
func (b *broker) pullOne(class schemas.Class) jetstream.Msg {
	b.t.Helper()
	consumers, err := queue.Consumers(b.t.Context(), b.js, model)
	if err != nil {
		b.t.Fatal(err)
	}
	msg, err := consumers[class].Next()
	if err != nil {
		b.t.Fatalf("pull: %v", err)
	}
	return msg
}

// lostAttempt submits a job and plays a worker that takes it, sends some text and is never heard of again.
func (b *broker) lostAttempt(job schemas.Job, text string) schemas.Job {
	b.t.Helper()
	job = b.submit(job)
	b.pullOne(job.Class)
	subject := schemas.EventSubject(tenant, schemas.NoClient, job.ID)
	for i, e := range []schemas.Event{
		{Kind: schemas.Started, Worker: "ghost"},
		{Kind: schemas.DeltaKind, Choices: json.RawMessage("[" + choice(job.Endpoint, text, "") + "]")},
	} {
		e.ID, e.Seq, e.Attempt, e.TS = job.ID, uint64(i+1), 1, time.Now().UnixMicro()
		if err := b.nc.Publish(subject, e.Append(nil)); err != nil {
			b.t.Fatal(err)
		}
	}
	waitFor(b.t, "the record", func() bool {
		e, err := queue.LastEvent(b.t.Context(), b.js, tenant, job.ID)
		return err == nil && e.Seq == 2
	})
	return job
}

func TestLostWorkersJobIsTakenOver(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	job := b.lostAttempt(schemas.Job{Stream: true}, "half an ans")
	s := b.run(says("whole"), workers.Config{MaxAttempts: 2})
	events := l.end(1)
	if got, want := kinds(events), "started delta restarted delta usage done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
	if r := b.result(job); r.Text != "whole" || r.Attempts != 2 || r.Worker != s.ID() {
		t.Errorf("result = %q, %d attempts, %s", r.Text, r.Attempts, r.Worker)
	}
}

func TestLostWorkersCountAsFailures(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	b.lostAttempt(schemas.Job{}, "")
	engine := says("never")
	b.run(engine, workers.Config{MaxAttempts: 1})
	d := b.deadLetters(1)[0]
	if len(d.Attempts) != 1 || d.Attempts[0].Worker != "ghost" || !strings.Contains(d.Attempts[0].Error.Message, "ghost was lost") {
		t.Errorf("attempts = %+v", d.Attempts)
	}
	b.settled(0)
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want 0", n)
	}
}

func TestResultAlreadyThereIsAnnouncedAndSettled(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	job := b.lostAttempt(schemas.Job{Stream: true}, "all of it")
	// The ghost stored the Result and was lost before it could say so.
	if err := queue.PutResult(t.Context(), b.js, &schemas.Result{
		ID: job.ID, Model: model, Class: job.Class, Tenant: tenant, Endpoint: job.Endpoint,
		Status: schemas.StatusCompleted, Text: "all of it", Attempts: 1, Finished: time.Now().UTC(), LastSeq: 3,
	}); err != nil {
		t.Fatal(err)
	}
	engine := says("never")
	b.run(engine, workers.Config{})
	if got, want := kinds(l.end(1)), "started delta done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
	b.settled(0)
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want 0", n)
	}
}

func TestStalledEngineIsAbortedAndRetried(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	engine := newScript(func(ctx context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		emit("tick")
		if n > 1 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	})
	s := b.run(engine, workers.Config{TokenTimeout: 200 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	events := l.end(1)
	if got, want := kinds(events), "started delta interrupted restarted delta usage done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
	if msg := events[2].Error.Message; !strings.Contains(msg, "no progress") || !strings.Contains(msg, "the bound is 200ms") {
		t.Errorf("reason = %q", msg)
	}
	if r := b.result(job); r.Text != "tick" || r.Worker != s.ID() {
		t.Errorf("result = %+v", r)
	}
}

func TestSlowButLivingEngineKeepsItsLease(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 150 * time.Millisecond})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		for range 10 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(60 * time.Millisecond):
			}
			emit("t")
		}
		return nil
	})
	b.run(engine, workers.Config{})
	if r := b.result(b.submit(schemas.Job{})); r.Attempts != 1 || r.Text != "tttttttttt" {
		t.Errorf("result = %q in %d attempts, want one attempt over four leases", r.Text, r.Attempts)
	}
}

func TestMalformedJobsAreDeadLettered(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	s := b.run(says("fine"), workers.Config{})
	l := b.listen(schemas.AllEvents)
	subject := schemas.JobSubject(model, schemas.Standard, tenant)
	for _, c := range []struct{ name, payload, param, want string }{
		{"not JSON", `{"body":`, "", "not valid JSON"},
		{"wrong type", `{"id":"abc","body":{},"stream":"yes"}`, "stream", "stream"},
		{"no body", `{"id":"abd"}`, "body", "body is missing"},
		{"foreign reply", `{"id":"abe","body":{"prompt":"x"},"reply_to":"hxp.v1.events.other.me"}`, "reply_to", "reply_to"},
		{"foreign tenant", `{"id":"abf","body":{"prompt":"x"},"tenant":"other"}`, "tenant", "contradicts"},
		{"not text", "\xff\xfe{", "", "not valid JSON"},
	} {
		b.publish(subject, "", []byte(c.payload))
		e := l.next()
		if e.Kind != schemas.Failed || e.Seq != 1 || e.Error.Code != schemas.CodeInvalidRequest || e.Error.Param != c.param || !strings.Contains(e.Error.Message, c.want) {
			t.Errorf("%s: event = %s %d %+v, want failed, param %q, %q", c.name, e.Kind, e.Seq, e.Error, c.param, c.want)
		}
	}
	b.settled(0)
	letters := b.deadLetters(6)
	if letters[0].Payload != `{"body":` || string(letters[5].PayloadBase64) != "\xff\xfe{" || letters[5].Payload != "" {
		t.Errorf("payloads = %q, %q", letters[0].Payload, letters[5].PayloadBase64)
	}
	if r := b.result(b.submit(schemas.Job{})); r.Text != "fine" {
		t.Errorf("a good job after them = %+v", r)
	}
	if n := strings.Count(s.log.String(), `"outcome":"terminated"`); n != 6 {
		t.Errorf("%d terminated lines in the log, want 6: no hot loop", n)
	}
}

func TestSubjectWithABadTenantIsDeadLettered(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("never")
	b.run(engine, workers.Config{})
	b.publish("hxp.v1.jobs.phi3.standard.ac$me", "", []byte(`{"body":{"prompt":"x"},"metadata":{"`+strings.Repeat("long ", 60)+`":"x"}}`))
	if d := b.deadLetters(1)[0]; d.Tenant != schemas.UnknownTenant || !strings.Contains(d.Reason.Message, "ac$me") {
		t.Errorf("dead letter = %+v %v", d, d.Reason)
	}
	b.settled(0)
}

func TestStaleEventsInTheRecordAreIgnored(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 900 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true}, "half")
	// Attempt 2 was handed back; then the frozen attempt 1 woke up and went on.
	for _, e := range []schemas.Event{
		{Seq: 3, Attempt: 2, Kind: schemas.Restarted, Worker: "second"},
		{Seq: 4, Attempt: 2, Kind: schemas.Interrupted, Handback: true, Error: schemas.Errorf(schemas.CodeEngineUnavailable, "stopping")},
		{Seq: 3, Attempt: 1, Kind: schemas.Interrupted, Error: schemas.Errorf(schemas.CodeInternal, "late")},
	} {
		e.ID, e.TS = job.ID, time.Now().UnixMicro()
		if err := b.nc.Publish(schemas.EventSubject(tenant, schemas.NoClient, job.ID), e.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	l := b.listen(schemas.AllEvents)
	b.run(says("whole"), workers.Config{MaxAttempts: 2})
	events := l.end(5)
	if e := events[0]; e.Kind != schemas.Restarted || e.Attempt != 3 {
		t.Errorf("opening event = %+v, want attempt 3", e)
	}
	if r := b.result(job); r.Text != "whole" {
		t.Errorf("result = %+v", r)
	}
}

func TestEngineDownAtStartHoldsJobsBack(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("up")
	engine.setSick(unavailable("connection refused"))
	s := b.runUnready(engine, workers.Config{MaxAttempts: 1})
	job := b.submit(schemas.Job{})
	waitFor(t, "the worker to see the engine", func() bool {
		return strings.Contains(s.log.String(), "worker") || s.Info().Reason == "connection refused"
	})
	if info := s.Info(); info.State != schemas.WorkerStarting {
		t.Errorf("state = %s, want starting", info.State)
	}
	engine.setSick(nil)
	if r := b.result(job); r.Text != "up" || r.Attempts != 1 {
		t.Errorf("result = %q in %d attempts", r.Text, r.Attempts)
	}
}

func TestUnreceivedRequestIsNoFailure(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := newScript(func(_ context.Context, n int, _ *workers.Request, emit func(...string) bool) error {
		if n <= 4 {
			return errors.Join(workers.ErrNotReceived, unavailable("connection refused"))
		}
		emit("at last")
		return nil
	})
	b.run(engine, workers.Config{MaxAttempts: 1, MaxDeliveries: 2, MaxRetryDelay: 20 * time.Millisecond})
	// A delivery that came while the gate was shut, and was handed back unbegun, is one more.
	if r := b.result(b.submit(schemas.Job{})); r.Status != schemas.StatusCompleted || r.Text != "at last" || r.Attempts < 5 {
		t.Errorf("result = %s %q in %d attempts, want at least 5", r.Status, r.Text, r.Attempts)
	}
}

func TestDeliveriesAreBoundedWithoutARecord(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("never")
	engine.count = func([]byte) (int, error) { return 0, unavailable("no tokenizer today") }
	b.run(engine, workers.Config{MaxAttempts: 1, MaxDeliveries: 3, MaxRetryDelay: 20 * time.Millisecond})
	r := b.result(b.submit(schemas.Job{Body: json.RawMessage(`{"prompt":"` + strings.Repeat("long ", 1000) + `"}`)}))
	if r.Error == nil || r.Error.Code != schemas.CodeMaxAttempts || !strings.Contains(r.Error.Message, "delivered 4 times without an end; the bound is 3") {
		t.Errorf("error = %v", r.Error)
	}
	b.deadLetters(1)
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	aborted := make(chan struct{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("some")
		<-ctx.Done()
		close(aborted)
		return ctx.Err()
	})
	b.run(engine, workers.Config{})
	if r := b.result(b.submit(schemas.Job{Deadline: time.Now().Add(-time.Second)})); r.Status != schemas.StatusExpired || r.Error.Code != schemas.CodeDeadlineExceeded || !strings.Contains(r.Error.Message, "passed in queued") {
		t.Errorf("late at start: %s %v", r.Status, r.Error)
	}
	if n := len(engine.seen()); n != 0 {
		t.Errorf("the engine saw %d requests, want 0", n)
	}
	r := b.result(b.submit(schemas.Job{Deadline: time.Now().Add(300 * time.Millisecond)}))
	if r.Status != schemas.StatusExpired || r.Text != "some" || !strings.Contains(r.Error.Message, "passed in decode") {
		t.Errorf("late in decode: %s %q %v", r.Status, r.Text, r.Error)
	}
	<-aborted
	b.settled(0)
}
