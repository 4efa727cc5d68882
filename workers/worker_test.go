package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func TestStreamsAnAnswer(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("Hello", ", ", "world")
	b.run(engine, workers.Config{ID: "w1", Coalesce: -1})
	l := b.listen(schemas.EventsOfClient(tenant, "me"))
	job := b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.me", Metadata: map[string]string{"k": "v"}})

	events := l.end(1)
	if got, want := kinds(events), "started delta usage done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
	if got := textOf(t, events); got != "Hello, world" {
		t.Errorf("text = %q", got)
	}
	if e := events[0]; e.Worker != "w1" || e.Attempt != 1 || e.ID != job.ID || time.Since(e.Time()) > time.Minute {
		t.Errorf("opening event = %+v", e)
	}
	r := b.result(job)
	want := &schemas.Result{
		ID: job.ID, Model: model, Class: schemas.Standard, Tenant: tenant, Endpoint: schemas.ChatCompletions,
		Status: schemas.StatusCompleted, Text: "Hello, world", Attempts: 1, Worker: "w1", Metadata: map[string]string{"k": "v"},
		Choices: json.RawMessage(`[{"index":0,"message":{"role":"assistant","content":"Hello, world"},"logprobs":null,"finish_reason":"stop"}]`),
		Usage:   &schemas.Usage{PromptTokens: 3, CompletionTokens: 3, TotalTokens: 6}, LastSeq: uint64(len(events)),
		Timings: r.Timings, Created: r.Created, Finished: r.Finished,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if r.Timings.Total < r.Timings.Generate || r.Timings.Generate < r.Timings.TTFT {
		t.Errorf("timings = %+v, want ttft <= generate <= total", r.Timings)
	}
	b.settled(0)
}

func TestJobWithoutStreamHasNoDeltas(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(says("a", "b"), workers.Config{})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Body: json.RawMessage(`{"prompt":"x"}`)})
	if got, want := kinds(l.end(1)), "started done"; got != want {
		t.Errorf("kinds = %q, want %q", got, want)
	}
	if r := b.result(job); r.Text != "ab" || string(r.Choices) != `[{"index":0,"text":"ab","logprobs":null,"finish_reason":"stop"}]` {
		t.Errorf("result = %q %s", r.Text, r.Choices)
	}
}

// A plain NATS client needs nothing but a body and an address.
func TestPlainPublishIsAnsweredOnItsReplySubject(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(says("yes"), workers.Config{})
	inbox := b.nc.NewRespInbox()
	l := b.listen(inbox)
	b.publish("hxp.v1.jobs.phi3.interactive.acme", "", []byte(`{"reply_to":"`+inbox+`","body":{"messages":[{"role":"user","content":"?"}],"stream":true}}`))
	events := l.end(1)
	if got := textOf(t, events); got != "yes" {
		t.Errorf("text = %q, want yes", got)
	}
	// The record has the same events, under the id that was made for the job.
	waitFor(t, "the record to have them all", func() bool {
		recorded, err := queue.ReadRecord(t.Context(), b.js, tenant, events[0].ID, 0)
		return err == nil && len(recorded) == len(events)
	})
}

func TestBodyReachesTheEngineByteForByte(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	engine := says("ok")
	b.run(engine, workers.Config{})
	body := `{"messages":[{"role":"user","content":"é\u00e9"}], "x_unknown" : {"deep":[1, 2.50,"\/"]},"max_tokens":7}`
	b.publish(schemas.JobSubject(model, schemas.Standard, tenant), "one", []byte(`{"body":`+body+`}`))
	b.result(schemas.Job{ID: "one"})
	if got := string(engine.seen()[0].Body); got != body {
		t.Errorf("engine got\n%s\nwant\n%s", got, body)
	}
}

func TestTokensAfterTheFirstAreCoalesced(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	words := strings.Split(strings.Repeat("w ", 200), "")
	b.run(says(words...), workers.Config{Coalesce: 50 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	b.submit(schemas.Job{Stream: true})
	events := l.end(1)
	deltas := 0
	for _, e := range events {
		if e.Kind == schemas.DeltaKind {
			deltas++
		}
	}
	if deltas < 2 || deltas > len(words)/4 {
		t.Errorf("%d tokens came in %d events", len(words), deltas)
	}
	if first, err := openaiText(events[1]); err != nil || first != "w" {
		t.Errorf("first delta = %q (%v), want the first token alone", first, err)
	}
	if got := textOf(t, events); got != strings.Join(words, "") {
		t.Errorf("text = %q", got)
	}
}

func TestWaitingTokensGoOutThoughTheEnginePauses(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	release := make(chan struct{})
	b.run(newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("a", "b", "c")
		select {
		case <-release:
		case <-ctx.Done():
		}
		emit("d")
		return nil
	}), workers.Config{Coalesce: 30 * time.Millisecond})
	l := b.listen(schemas.AllEvents)
	b.submit(schemas.Job{Stream: true})
	var seen []schemas.Event
	for textOf(t, seen) != "abc" {
		seen = append(seen, l.next())
	}
	close(release)
	if got := textOf(t, append(seen, l.end(uint64(len(seen)+1))...)); got != "abcd" {
		t.Errorf("text = %q, want abcd", got)
	}
}

func TestJobsOfADeclaredModelWaitForItsWorker(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	job := b.submit(schemas.Job{})
	if _, err := queue.GetResult(t.Context(), b.js, tenant, job.ID); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("GetResult = %v, want ErrNotFound", err)
	}
	b.run(says("late"), workers.Config{})
	if r := b.result(job); r.Text != "late" {
		t.Errorf("text = %q, want late", r.Text)
	}
}

func TestSubmittedTwiceRunsOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{DuplicateWindow: 100 * time.Millisecond})
	engine := says("once")
	b.run(engine, workers.Config{})
	job := b.submit(schemas.Job{})
	first := b.result(job)
	// Past the broker's own window, the Result is what keeps the job from running again.
	waitFor(t, "the broker to forget the id", func() bool {
		data, _ := json.Marshal(job)
		return !b.publish(schemas.JobSubject(model, job.Class, tenant), job.ID, data).Duplicate
	})
	b.settled(0)
	if n := len(engine.seen()); n != 1 {
		t.Errorf("the engine saw %d requests, want 1", n)
	}
	if diff := cmp.Diff(first, b.result(job)); diff != "" {
		t.Errorf("the result changed:\n%s", diff)
	}
}

func TestSecondCopyOfARunningJobIsDropped(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	release := make(chan struct{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("a")
		<-release
		return nil
	})
	b.run(engine, workers.Config{})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	l.until(schemas.DeltaKind)
	data, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	b.publish(schemas.JobSubject(model, job.Class, tenant), "another-message-id", data)
	b.settled(1)
	close(release)
	b.settled(0)
	if n := len(engine.seen()); n != 1 {
		t.Errorf("the engine saw %d requests, want 1", n)
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, err := workers.New(b.js, "a.b", says(), workers.Config{
		ID: "x y", Slots: -1, StandardShare: 0.7, BatchShare: 0.9, MaxAttempts: -1, RetryDelay: -1, Heartbeat: -1, GroupSize: 1025,
		Limits: workers.Limits{MaxModelLen: -1, Temperature: [2]float64{2, 1}, TopP: [2]float64{1, 0}, MaxTokens: [2]int{5, 4}},
	})
	if err == nil {
		t.Fatal("New = nil, want an error")
	}
	for _, want := range []string{
		`model "a.b"`, `ID "x y"`, "Slots is -1; want at least 1", "StandardShare is 0.7", "BatchShare is 0.9", "MaxAttempts is -1", "RetryDelay is -1ns",
		"Heartbeat is -1ns", "GroupSize is 1025; want 1 to 1024", "MaxModelLen is -1", "Temperature is [2 1]", "TopP is [1 0]", "MaxTokens is [5 4]",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}
}

func TestRunNeedsTheQueue(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	w, err := workers.New(b.js, "undeclared", says(), workers.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "undeclared") {
		t.Errorf("Run = %v, want an error that names the model", err)
	}
}

func TestMessageIDNamesAJobThatBringsNoID(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	b.run(says("x"), workers.Config{})
	for _, id := range []string{schemas.MsgID(tenant, "mine"), "bare"} {
		b.publish(schemas.JobSubject(model, schemas.Standard, tenant), id, []byte(`{"body":{"prompt":"x"}}`))
	}
	b.result(schemas.Job{ID: "mine"})
	b.result(schemas.Job{ID: "bare"})
}
