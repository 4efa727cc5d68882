package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestEndQueued(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	sub, err := js.Conn().SubscribeSync("_INBOX.end.*")
	if err != nil {
		t.Fatal(err)
	}
	ending := func(id string) queue.Ending {
		job := &schemas.Job{ID: id, Model: "phi3", Class: schemas.Batch, Tenant: "acme", Endpoint: schemas.Completions, ReplyTo: "_INBOX.end." + id}
		return queue.Ending{
			Job: job, Stored: 7, Queued: time.Now().Add(-time.Second), Status: schemas.StatusExpired,
			Error: schemas.Errorf(schemas.CodeDeadlineExceeded, "too late"),
		}
	}
	attempt := func(job string, seq uint64, n int, kind schemas.Kind, source string) schemas.Event {
		return schemas.Event{ID: job, Seq: seq, Attempt: n, Kind: kind, TS: 1, Source: source}
	}
	record(t, js, "none",
		attempt("tried", 1, 1, schemas.Started, "HXP_JOBS_phi3/7"), attempt("tried", 2, 2, schemas.Restarted, "HXP_JOBS_phi3/7"),
		attempt("tried", 9, 1, schemas.Interrupted, ""), // a fenced worker's
		attempt("taken", 1, 1, schemas.Started, "HXP_JOBS_phi3/8"),
		attempt("over", 1, 1, schemas.Started, ""), attempt("over", 2, 1, schemas.Done, ""),
		attempt("odd", 1, 1, schemas.Started, ""))
	if err := js.Conn().Publish(schemas.EventSubject("acme", "none", "odd"), []byte("no event")); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		id       string
		last     uint64
		attempts int
	}{{"fresh", 1, 0}, {"tried", 3, 2}, {"odd", 2, 1}} {
		r, err := queue.EndQueued(t.Context(), js, ending(c.id))
		if err != nil {
			t.Fatal(err)
		}
		if r.LastSeq != c.last || r.Attempts != c.attempts || r.Status != schemas.StatusExpired || r.Timings.Total < 1000 {
			t.Errorf("%s: result %+v", c.id, r)
		}
		if have, err := queue.GetResult(t.Context(), js, "acme", c.id); err != nil || have.LastSeq != c.last {
			t.Errorf("%s: stored %+v, %v", c.id, have, err)
		}
		msg, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var e schemas.Event
		if err := e.Decode(msg.Data); err != nil || e.Kind != schemas.Expired || e.Seq != c.last || e.Attempt != max(c.attempts, 1) || e.ID != c.id {
			t.Errorf("%s: event %s, %v", c.id, msg.Data, err)
		}
		eventually(t, "the event is recorded", func() bool {
			e, err := queue.LastEvent(t.Context(), js, "acme", c.id)
			return err == nil && e.Kind == schemas.Expired
		})
	}
	for id, want := range map[string]error{"fresh": queue.ErrResultExists, "over": queue.ErrResultExists, "taken": queue.ErrOtherMessage} {
		if _, err := queue.EndQueued(t.Context(), js, ending(id)); !errors.Is(err, want) {
			t.Errorf("%s: EndQueued = %v, want %v", id, err, want)
		}
	}
	if msg, err := sub.NextMsg(50 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("said of a job that was not ended: %s, %v", msg.Data, err)
	}

	elsewhere := ending("elsewhere")
	elsewhere.Job.ReplyTo = "hxp.v1.events.other.me"
	if r, err := queue.EndQueued(t.Context(), js, elsewhere); err == nil || r == nil {
		t.Errorf("EndQueued = %v, %v; want a Result and an error", r, err)
	}
	bad := ending("a b")
	if _, err := queue.EndQueued(t.Context(), js, bad); err == nil {
		t.Error("an id with a space is taken")
	}
}
