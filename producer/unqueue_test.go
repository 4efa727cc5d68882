package producer_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func queued(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	stream, err := js.Stream(t.Context(), schemas.JobsStream(model))
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func TestCancelFreesTheQueue(t *testing.T) {
	t.Parallel()
	cfg := small()
	cfg.MaxJobsPerTenant = 1
	r := newRig(t, cfg)
	c := r.client(producer.Config{CancelWait: time.Millisecond})
	for name, cancel := range map[string]func(*producer.Stream) (schemas.Phase, error){
		"stream": func(s *producer.Stream) (schemas.Phase, error) { return s.Cancel(t.Context(), "") },
		"client": func(s *producer.Stream) (schemas.Phase, error) { return c.Cancel(t.Context(), s.Job().ID, "") },
	} {
		s := submit(t, c, chat()) // refused while an earlier one is in the tenant's way
		if phase, err := cancel(s); err != nil || phase != schemas.PhaseQueued {
			t.Fatalf("%s: Cancel = %q, %v; want queued", name, phase, err)
		}
		if n := queued(t, r.js); n != 0 {
			t.Errorf("%s: the queue holds %d jobs after the only one was cancelled", name, n)
		}
		cancelled(t, s)
	}
	job := chat()
	job.ID = "given"
	submit(t, c, job)
	s := submit(t, r.client(producer.Config{CancelWait: time.Millisecond}), job)
	if _, err := s.Cancel(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if n := queued(t, r.js); n != 0 || !s.Duplicate() {
		t.Errorf("the queue holds %d jobs after the duplicate was cancelled", n)
	}
}

func TestCancelOfAJobThatHasLeftTheQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	s := submit(t, r.client(producer.Config{CancelWait: time.Millisecond}), chat())
	if err := queue.DeleteJob(t.Context(), r.js, model, 1); err != nil {
		t.Fatal(err)
	}
	if phase, err := s.Cancel(t.Context(), ""); err != nil || phase != schemas.PhaseQueued {
		t.Errorf("Cancel = %q, %v; want queued", phase, err)
	}
}

func TestCancelWhereDeletingIsNotAllowed(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "admin", Password: "a"},
			{Username: "tenant", Password: "t", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.MSG.DELETE.>"}},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("server not ready")
	}
	connect := func(user, password string) *nats.Conn {
		nc, err := nats.Connect("", nats.InProcessServer(s), nats.Timeout(patience), nats.UserInfo(user, password),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	js, err := jetstream.New(connect("admin", "a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), js, []string{model}, small()); err != nil {
		t.Fatal(err)
	}
	c, err := producer.New(connect("tenant", "t"), producer.Config{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream := submit(t, c, chat())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if phase, err := stream.Cancel(ctx, ""); err != nil || phase != schemas.PhaseQueued {
		t.Errorf("Cancel = %q, %v; want queued: the job has ended all the same", phase, err)
	}
	cancelled(t, stream)
	if n := queued(t, js); n != 1 {
		t.Errorf("the queue holds %d jobs, want 1: nobody was allowed to delete it", n)
	}
}
