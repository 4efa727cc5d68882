package loadtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func request(stream bool) *loadtest.Request {
	return &loadtest.Request{Model: model, Class: schemas.Standard, Tenant: "default", Endpoint: schemas.Completions, Body: []byte(`{"prompt":"x"}`), Stream: stream}
}

// scripted is a queue whose worker sends the events of a script, and writes a Result first unless it has none.
func scripted(t *testing.T, result bool, script func(job *schemas.Job) []schemas.Event) (*loadtest.QueueTarget, jetstream.JetStream) {
	t.Helper()
	connect, js := broker(t)
	nc := connect()
	consumers, err := queue.Consumers(t.Context(), js, model)
	if err != nil {
		t.Fatal(err)
	}
	var stops []func()
	for _, c := range consumers {
		cc, err := c.Consume(func(msg jetstream.Msg) {
			job, err := schemas.DecodeJob(msg.Subject(), msg.Data(), "none")
			if err != nil {
				t.Errorf("decode: %v", err)
				return
			}
			events := script(job)
			if result {
				r := &schemas.Result{
					ID: job.ID, Model: job.Model, Class: job.Class, Tenant: job.Tenant, Endpoint: job.Endpoint, Status: schemas.StatusCompleted,
					Text: "in one piece", Attempts: 1, Finished: time.Now(), LastSeq: uint64(len(events)),
				}
				if err := queue.PutResult(context.Background(), js, r); err != nil {
					t.Errorf("result: %v", err)
				}
			}
			subject, _, _ := schemas.ReplySubject(job.ReplyTo, job.Tenant, job.ID)
			for i, e := range events {
				e.ID, e.TS = job.ID, time.Now().UnixMicro()
				if e.Seq == 0 {
					e.Seq = uint64(i + 1)
				}
				if e.Attempt == 0 {
					e.Attempt = 1
				}
				if err := nc.Publish(subject, e.Append(nil)); err != nil {
					t.Errorf("publish: %v", err)
				}
			}
			_ = msg.Ack()
		})
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, func() { cc.Stop(); <-cc.Closed() })
	}
	t.Cleanup(func() {
		for _, stop := range stops {
			stop()
		}
	})
	return through(t, producer.Config{IdleCheck: 50 * time.Millisecond, GapWait: 50 * time.Millisecond, CancelWait: 10 * time.Millisecond}, connect()), js
}

func delta(text string, ids ...int) schemas.Event {
	choice, _ := json.Marshal([]map[string]any{{"index": 0, "text": text, "token_ids": ids}})
	return schemas.Event{Kind: schemas.DeltaKind, Choices: choice}
}

func TestAJobsEventsAreMeasured(t *testing.T) {
	t.Parallel()
	usage := &schemas.Usage{PromptTokens: 3, CompletionTokens: 2, TotalTokens: 5}
	q, _ := scripted(t, true, func(*schemas.Job) []schemas.Event {
		return []schemas.Event{
			{Kind: schemas.Started, Source: "a/1"}, delta("void", 1, 2, 3), {Kind: schemas.Interrupted, Error: schemas.Errorf(schemas.CodeEngineUnavailable, "gone")},
			{Kind: schemas.Restarted, Attempt: 2, Source: "a/1"}, withAttempt(delta("a", 1), 2), withAttempt(delta("b", 2), 2),
			{Kind: schemas.UsageKind, Attempt: 2, Usage: usage}, {Kind: schemas.Done, Attempt: 2, Timings: &schemas.Timings{Queue: 12.5}},
		}
	})
	o := &loadtest.Observation{}
	if err := q.Do(t.Context(), request(true), o); err != nil {
		t.Fatal(err)
	}
	if o.Attempts != 2 || o.Tokens != 2 || o.OutputTokens() != 2 || o.QueueWait != 12500*time.Microsecond || o.Lost || o.Gap || o.Doubled {
		t.Errorf("observation %+v", o)
	}
	if len(o.Outputs) != 3 || len(o.Deliveries) != 5 || o.Accepted.Before(o.Sent) {
		t.Errorf("%d outputs, %d deliveries", len(o.Outputs), len(o.Deliveries))
	}
	again := &loadtest.Observation{}
	again.Choices(nil, time.Time{})
	if o.Reply() == again.Reply() {
		t.Error("the reply's hash is that of nothing")
	}
	o = &loadtest.Observation{}
	if err := q.Do(t.Context(), request(false), o); err != nil || o.OutputTokens() != 2 {
		t.Errorf("in one piece: %v, %+v", err, o)
	}
}

func withAttempt(e schemas.Event, n int) schemas.Event { e.Attempt = n; return e }

func TestEveryWayThatAJobFailsHasACode(t *testing.T) {
	t.Parallel()
	started := schemas.Event{Kind: schemas.Started, Source: "a/1"}
	for _, c := range []struct {
		name   string
		result bool
		events []schemas.Event
		code   string
		lost   bool
		gap    bool
	}{
		{"failed", true, []schemas.Event{started, {Kind: schemas.Failed, Error: schemas.Errorf(schemas.CodeMaxAttempts, "no")}}, "max_attempts", false, false},
		{"expired without a word", true, []schemas.Event{started, {Kind: schemas.Expired}}, "internal", false, false},
		{"malformed", true, []schemas.Event{started, {Kind: schemas.DeltaKind, Choices: json.RawMessage(`[{"index":"x"}]`)}}, "malformed", false, false},
		{"gap", false, []schemas.Event{started, {Kind: schemas.DeltaKind, Seq: 9, Choices: json.RawMessage(`[]`)}}, "gap", true, true},
		{"no answer", false, nil, "timeout", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			q, _ := scripted(t, c.result, func(*schemas.Job) []schemas.Event { return c.events })
			w := loadtest.Workload{
				Dataset: loadtest.Random{Input: 1, Output: 1}, Mix: phi3(), Warmups: -1, Timeout: 700 * time.Millisecond, Stages: []loadtest.Stage{{Concurrency: 1, Requests: 1}},
			}
			s, err := loadtest.Run(t.Context(), w, []loadtest.Target{q}, loadtest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			total := s.Totals[0]
			if total.FailuresByCode[c.code] != 1 || (total.Lost == 1) != c.lost || (total.Gaps == 1) != c.gap {
				t.Errorf("failures %v, %d lost, %d gaps; want %s, %v, %v", total.FailuresByCode, total.Lost, total.Gaps, c.code, c.lost, c.gap)
			}
		})
	}
}

func TestAStreamThatCannotBeReadHasACode(t *testing.T) {
	t.Parallel()
	if !loadtest.SeeAfterEnd(&schemas.Event{Kind: schemas.Done, Seq: 9}) {
		t.Error("a second end is not noticed")
	}
	for code, err := range map[string]error{
		"gap": &producer.GapError{Job: "a", From: 1, To: 2}, "conflict": &producer.ConflictError{Job: "a"}, "connection": producer.ErrClosed,
	} {
		if got := loadtest.FailureCode(loadtest.Broken(t.Context(), err)); got != code {
			t.Errorf("%v has the code %s, want %s", err, got, code)
		}
	}
}

func TestJobsThatAreNotAcceptedHaveACode(t *testing.T) {
	t.Parallel()
	connect, _ := broker(t)
	q := through(t, producer.Config{SubmitTimeout: 200 * time.Millisecond}, connect())
	r := request(true)
	r.Model = "unknown"
	if err := q.Do(t.Context(), r, &loadtest.Observation{}); loadtest.FailureCode(err) != "model_not_found" {
		t.Errorf("unknown model: %v", err)
	}
	r = request(true)
	r.Tenant = "no tenant"
	if err := q.Do(t.Context(), r, &loadtest.Observation{}); loadtest.FailureCode(err) != "invalid_request" {
		t.Errorf("a tenant that is none: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := q.Do(ctx, request(true), &loadtest.Observation{}); loadtest.FailureCode(err) != "interrupted" {
		t.Errorf("interrupted: %v", err)
	}
	gone := connect()
	gone.Close()
	if err := through(t, producer.Config{SubmitTimeout: 100 * time.Millisecond}, gone).Do(t.Context(), request(true), &loadtest.Observation{}); loadtest.FailureCode(err) != "connection" {
		t.Errorf("closed connection: %v", err)
	}
	silent := connect()
	if _, err := silent.Subscribe(schemas.JobSubject("silent", schemas.Standard, "default"), func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := silent.Flush(); err != nil {
		t.Fatal(err)
	}
	r = request(true)
	r.Model = "silent"
	if err := q.Do(t.Context(), r, &loadtest.Observation{}); loadtest.FailureCode(err) != "timeout" {
		t.Errorf("no acknowledgement: %v", err)
	}
}

func TestAJobThatIsGivenUpIsCancelled(t *testing.T) {
	t.Parallel()
	b := newBench(t, vllmsim.Config{TTFT: time.Hour})
	ctx, cancel := context.WithCancelCause(t.Context())
	var waiting sync.WaitGroup
	o := &loadtest.Observation{}
	var err error
	waiting.Go(func() { err = b.queued.Do(ctx, request(true), o) })
	until(t, func() bool { return b.sim.Stats().Running == 1 })
	cancel(errors.New("enough"))
	waiting.Wait()
	if loadtest.FailureCode(err) != "interrupted" || o.Lost {
		t.Errorf("error %v, lost %v", err, o.Lost)
	}
	until(t, func() bool { return b.sim.Stats().Running == 0 })
}

// until waits for something that no event tells.
func until(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it does not happen")
		}
	}
}

func TestFailuresAreInTheLog(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	q, _ := scripted(t, true, func(*schemas.Job) []schemas.Event {
		return []schemas.Event{{Kind: schemas.Started, Source: "a/1"}, {Kind: schemas.Failed, Error: schemas.Errorf(schemas.CodeMaxAttempts, "three times")}}
	})
	_, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 1, Output: 1}, Mix: phi3(), Warmups: -1, Stages: []loadtest.Stage{{Concurrency: 1, Requests: 1}},
	}, []loadtest.Target{q}, loadtest.Options{Log: &log})
	if err != nil || !strings.Contains(log.String(), `"code":"max_attempts","error":"max_attempts: max_attempts: three times"`) {
		t.Errorf("log %s, error %v", log.String(), err)
	}
}
