package queue_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestStats(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{MaxJobs: 50, MaxJobsPerTenant: 20, MaxBytes: 1 << 20, MaxJobBytes: 4096, Lease: time.Minute})
	ctx := t.Context()
	before := time.Now().Add(-time.Second)
	for i := range 4 {
		if err := submit(t, js, schemas.Interactive, "acme", fmt.Sprint("i", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := submit(t, js, schemas.Batch, "acme", "b1"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.PauseConsumer(ctx, schemas.JobsStream("phi3"), schemas.ClassConsumer(schemas.Batch), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	consumers, err := queue.Consumers(ctx, js, "phi3")
	if err != nil {
		t.Fatal(err)
	}
	naks, err := js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.>")
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumers[schemas.Interactive].FetchNoWait(2)
	if err != nil {
		t.Fatal(err)
	}
	for msg := range batch.Messages() {
		if err := msg.Nak(); err != nil {
			t.Fatal(err)
		}
		if _, err := naks.NextMsg(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	again, err := consumers[schemas.Interactive].Fetch(2, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for range again.Messages() {
	}
	if err := again.Error(); err != nil {
		t.Fatal(err)
	}
	messages, err := consumers[schemas.Standard].Messages(jetstream.PullMaxMessages(1))
	if err != nil {
		t.Fatal(err)
	}
	pulled := make(chan error, 1)
	go func() { _, err := messages.Next(); pulled <- err }()

	var s queue.ModelStats
	eventually(t, "the pull waits and the counts are right", func() bool {
		if s, err = queue.Stats(ctx, js, "phi3"); err != nil {
			t.Fatal(err)
		}
		return s.Classes[1].Waiting == 1 && s.Classes[0].Pending == 2
	})
	messages.Stop()
	if err := <-pulled; !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
		t.Error(err)
	}
	if s.Jobs != 5 || s.Bytes == 0 || s.MaxJobs != 50 || s.MaxJobsPerTenant != 20 || s.MaxBytes != 1<<20 || s.MaxJobBytes != 4096 {
		t.Errorf("Stats = %+v", s)
	}
	i, st, b := s.Classes[0], s.Classes[1], s.Classes[2]
	if i.Class != schemas.Interactive || i.Running != 2 || i.Redelivered != 2 || i.Paused || i.Oldest.Before(before) {
		t.Errorf("interactive = %+v", i)
	}
	if st.Pending != 0 || !st.Oldest.IsZero() {
		t.Errorf("standard = %+v", st)
	}
	if b.Pending != 1 || !b.Paused || b.PauseRemaining < time.Minute || b.Oldest.Before(i.Oldest) {
		t.Errorf("batch = %+v", b)
	}
}
