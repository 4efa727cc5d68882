package producer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestFollowIsTheSameRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	half := make(chan struct{})
	r.work(func(k *task) {
		k.emit(schemas.Event{Kind: schemas.Started})
		k.delta("a")
		k.delta("b")
		<-half
		k.delta("c")
		k.end(schemas.StatusCompleted, nil)
	})
	s := submit(t, r.client(producer.Config{}), chat())
	id := s.Job().ID
	r.recorded(id, 3)
	other := r.client(producer.Config{})
	during, resumed := follow(t, other, id, 0), follow(t, other, id, 2)
	close(half)
	want, err := read(t, s)
	if err != nil {
		t.Fatal(err)
	}
	want = want[1:] // but Accepted, which is the submitter's own
	for name, tc := range map[string]struct {
		s    *producer.Stream
		want []schemas.Event
	}{
		"from the start, while running":  {during, want},
		"after 2, while running":         {resumed, want[2:]},
		"from the start, when over":      {follow(t, other, id, 0), want},
		"after 4, when over":             {follow(t, other, id, 4), want[4:]},
		"after the end":                  {follow(t, other, id, 5), nil},
		"by the client that submitted":   {follow(t, other, id, 0), want},
		"after what can never have been": {follow(t, other, id, 99), nil},
	} {
		got, err := read(t, tc.s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if j := tc.s.Job(); j.ID != id || j.Tenant != tenant || tc.s.Duplicate() {
			t.Errorf("%s: job = %+v, duplicate %v", name, j, tc.s.Duplicate())
		}
	}
}

func TestFollowAQueuedJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{})
	id := submit(t, c, chat()).Job().ID
	if _, err := c.Status(t.Context(), id); !errors.Is(err, producer.ErrUnknownJob) {
		t.Errorf("Status of a queued job = %v, want ErrUnknownJob", err)
	}
	s := follow(t, r.client(producer.Config{}), id, 0)
	r.work(say("x"))
	events, err := read(t, s)
	if want := "1 started, 2 delta, 3 done"; err != nil || kinds(events) != want {
		t.Errorf("%s, %v; want %s", kinds(events), err, want)
	}
}

func TestFollowAnUnknownJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{UnknownAfter: 60 * time.Millisecond})
	if _, err := read(t, follow(t, c, "nobody", 0)); !errors.Is(err, producer.ErrUnknownJob) {
		t.Errorf("error = %v, want ErrUnknownJob", err)
	}
	// A running job is waited for longer than that.
	x := &scene{rig: r}
	k := &task{r: r, ctx: t.Context(), job: &schemas.Job{ID: "slow", Tenant: tenant}, subject: schemas.EventSubject(tenant, "z", "slow"), attempt: 1}
	k.emit(schemas.Event{Kind: schemas.Started})
	r.recorded("slow", 1)
	s := follow(t, c, "slow", 0)
	if _, err := x.next(t, s, 1); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(120*time.Millisecond, func() { k.emit(schemas.Event{Kind: schemas.Done}) })
	if events, err := read(t, s); err != nil || kinds(events) != "2 done" {
		t.Errorf("%s, %v; want 2 done", kinds(events), err)
	}
}

func TestFollowWhenTheRecordHasExpired(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(quick())
	finished := time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Microsecond)
	want := &schemas.Result{
		ID: "aged", Model: model, Class: schemas.Batch, Tenant: tenant, Status: schemas.StatusCompleted, Text: "whole text",
		Usage: &schemas.Usage{TotalTokens: 7}, Attempts: 2, Finished: finished, LastSeq: 41,
	}
	if err := queue.PutResult(t.Context(), r.js, want); err != nil {
		t.Fatal(err)
	}
	for _, after := range []uint64{0, 17} {
		events, err := read(t, follow(t, c, "aged", after))
		if err != nil || len(events) != 1 {
			t.Fatalf("after %d: %s, %v; want one event", after, kinds(events), err)
		}
		if diff := cmp.Diff(schemas.Event{
			ID: "aged", Seq: 41, Attempt: 2, Kind: schemas.Done, TS: finished.UnixMicro(), Usage: want.Usage, Timings: &want.Timings,
			Reason: "the event record has expired; the result is complete",
		}, events[0]); diff != "" {
			t.Errorf("terminal event (-want +got):\n%s", diff)
		}
	}
	if events, err := read(t, follow(t, c, "aged", 40)); err != nil || kinds(events) != "41 done" || !strings.Contains(events[0].Reason, "not recorded") {
		t.Errorf("after 40: %s, %v", kinds(events), err)
	}
	if events, err := read(t, follow(t, c, "aged", 41)); err != nil || len(events) != 0 {
		t.Errorf("after 41: %s, %v; want nothing", kinds(events), err)
	}
	text := ""
	for piece, err := range follow(t, c, "aged", 0).Text(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		text += piece
	}
	if text != "whole text" {
		t.Errorf("text = %q, want that of the result", text)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	id := x.k.job.ID
	x.live(1, 1, schemas.Started, "")
	x.recorded(id, 1)
	st, err := x.c.Status(t.Context(), id)
	if err != nil || st.Last == nil || st.Last.Kind != schemas.Started || st.Result != nil || st.Cancel != nil {
		t.Errorf("status = %+v, %v; want running", st, err)
	}
	x.result(t, schemas.StatusCompleted, 1, 2)
	st, err = x.c.Status(t.Context(), id)
	if err != nil || st.Result == nil || st.Result.Status != schemas.StatusCompleted {
		t.Errorf("status = %+v, %v; want ended", st, err)
	}
	for name, err := range map[string]error{
		"Status": second(x.c.Status(t.Context(), "a.b")),
		"Result": second(x.c.Result(t.Context(), "*")),
		"Follow": second(x.c.Follow(t.Context(), ">", 0)),
		"Wait":   second(x.c.Wait(t.Context(), "")),
		"Cancel": second(x.c.Cancel(t.Context(), "a b", "")),
	} {
		if err == nil || !strings.Contains(err.Error(), "job id") {
			t.Errorf("%s of what is no id = %v", name, err)
		}
	}
	if err := x.js.DeleteStream(t.Context(), schemas.EventsStream); err != nil {
		t.Fatal(err)
	}
	if _, err := x.c.Status(t.Context(), id); !errors.Is(err, producer.ErrNotSetUp) {
		t.Errorf("Status = %v, want ErrNotSetUp", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestResultAndWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{})
	job := chat()
	job.ID = "w1"
	s := submit(t, c, job)
	if _, err := c.Result(t.Context(), "w1"); !errors.Is(err, producer.ErrNoResult) {
		t.Errorf("Result = %v, want ErrNoResult", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(ctx, "w1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, want DeadlineExceeded", err)
	}
	got := make(chan *schemas.Result, 1)
	go func() {
		res, err := r.client(producer.Config{}).Wait(t.Context(), "w1")
		if err != nil {
			t.Error(err)
		}
		got <- res
	}()
	r.work(say("one", " two"))
	mine, err := s.Result(t.Context())
	if err != nil || mine.Text != "one two" || mine.Status != schemas.StatusCompleted {
		t.Fatalf("result = %+v, %v", mine, err)
	}
	if diff := cmp.Diff(mine, <-got); diff != "" {
		t.Errorf("Wait elsewhere (-want +got):\n%s", diff)
	}
	// Waiting took nothing from the events.
	if events, err := read(t, s); err != nil || kinds(events) != "0 accepted, 1 started, 2 delta, 3 delta, 4 done" {
		t.Errorf("events = %s, %v", kinds(events), err)
	}
}

func TestResultIsFoundWithoutItsEvent(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	time.AfterFunc(20*time.Millisecond, func() { x.result(t, schemas.StatusCompleted, 1, 9) })
	if res, err := x.s.Result(t.Context()); err != nil || res.LastSeq != 9 {
		t.Errorf("result = %+v, %v", res, err)
	}
}

func TestResultComesAfterItsEvent(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Failed, "")
	x.flush()
	time.AfterFunc(50*time.Millisecond, func() { x.result(t, schemas.StatusFailed, 1, 1) })
	if res, err := x.s.Result(t.Context()); err != nil || res.Status != schemas.StatusFailed {
		t.Errorf("result = %+v, %v", res, err)
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(func(k *task) {
		k.emit(schemas.Event{Kind: schemas.Started})
		if k.job.Metadata["fail"] != "" {
			k.end(schemas.StatusFailed, schemas.Errorf(schemas.CodeEngineUnavailable, "no"))
			return
		}
		k.delta("done")
		k.end(schemas.StatusCompleted, nil)
	})
	c := r.client(producer.Config{})
	res, err := c.Do(t.Context(), chat())
	if err != nil || res.Text != "done" {
		t.Errorf("Do = %+v, %v", res, err)
	}
	job := chat()
	job.Metadata = map[string]string{"fail": "yes"}
	res, err = c.Do(t.Context(), job)
	if err != nil || res.Status != schemas.StatusFailed || schemas.ErrorCode(res.Error) != schemas.CodeEngineUnavailable {
		t.Errorf("Do of a failing job = %+v, %v", res, err)
	}
	job.Model = "nosuch"
	if _, err = c.Do(t.Context(), job); schemas.ErrorCode(err) != schemas.CodeModelNotFound {
		t.Errorf("Do = %v, want model_not_found", err)
	}
}
