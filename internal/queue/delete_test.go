package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestDeleteJob(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	for _, id := range []string{"a", "b", "c"} {
		if err := submit(t, js, schemas.Standard, "acme", id); err != nil {
			t.Fatal(err)
		}
	}
	if err := queue.DeleteJob(t.Context(), js, "phi3", 2); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), schemas.JobsStream("phi3"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetMsg(t.Context(), 2); !errors.Is(err, jetstream.ErrMsgNotFound) || s.CachedInfo().State.Msgs != 2 {
		t.Errorf("the queue holds %d jobs, the deleted one: %v; want the other 2", s.CachedInfo().State.Msgs, err)
	}
	if err := queue.DeleteJob(t.Context(), js, "phi3", 2); err == nil {
		t.Error("a job that has gone was deleted again")
	}
	if err := queue.DeleteJob(t.Context(), js, "nosuch", 1); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("DeleteJob of a model without a queue = %v, want ErrNotSetUp", err)
	}
	if err := queue.DeleteJob(t.Context(), js, "a.b", 1); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("DeleteJob of what is no model = %v, want invalid_request", err)
	}
}

// A tombstone that expires before the Result would let a job that still waits be run.
func TestTombstonesOutliveResults(t *testing.T) {
	t.Parallel()
	const age = 30 * 24 * time.Hour
	js := start(t, queue.Config{ResultsMaxAge: age})
	kv, err := js.KeyValue(t.Context(), schemas.CancelsBucket)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := kv.Status(t.Context()); err != nil || status.TTL() < age {
		t.Errorf("tombstones are kept for %v, %v; want %v as results are", status.TTL(), err, age)
	}
}

func TestTenantsDoNotShareDeadLetters(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	for _, tenant := range []string{"acme", "beta", "acme"} {
		if err := queue.PutDeadLetter(t.Context(), js, letter("phi3", tenant, "same")); err != nil {
			t.Fatal(err)
		}
	}
	if got := letters(t, js, queue.DeadFilter{}); len(got) != 2 {
		t.Errorf("%d dead letters, want one of each tenant", len(got))
	}
}
