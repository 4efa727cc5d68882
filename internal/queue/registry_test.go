package queue_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

type queueJS = jetstream.JetStream

func worker(id, model string) *schemas.WorkerInfo {
	at := time.Unix(1_767_000_000, 0).UTC()
	return &schemas.WorkerInfo{ID: id, Model: model, State: schemas.WorkerReady, Slots: 8, Engine: "sim", Host: "h", PID: 1, Started: at, Updated: at}
}

func workers(t *testing.T, js queueJS) (ids []string) {
	t.Helper()
	list, err := queue.Workers(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		ids = append(ids, w.Model+"/"+w.ID)
	}
	return ids
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	ctx := t.Context()
	if got := workers(t, js); len(got) != 0 {
		t.Errorf("Workers = %q, want none", got)
	}
	for _, w := range []*schemas.WorkerInfo{worker("w2", "phi3"), worker("w3", "mixtral"), worker("w1", "phi3"), worker("w2", "phi3")} {
		if err := queue.Announce(ctx, js, w); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := workers(t, js), []string{"mixtral/w3", "phi3/w1", "phi3/w2"}; !slices.Equal(got, want) {
		t.Errorf("Workers = %q, want %q", got, want)
	}
	list, err := queue.Workers(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*worker("w3", "mixtral"), list[0]); d != "" {
		t.Errorf("entry (-want +got):\n%s", d)
	}
	data, err := json.Marshal(list[0])
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "worker-info", data)
	for range 2 {
		if err := queue.Withdraw(ctx, js, "w3"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := workers(t, js), []string{"phi3/w1", "phi3/w2"}; !slices.Equal(got, want) {
		t.Errorf("after Withdraw Workers = %q, want %q", got, want)
	}
	kv, err := js.KeyValue(ctx, schemas.WorkersBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "w9", []byte("junk")); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Workers(ctx, js); err == nil || !strings.Contains(err.Error(), "w9") {
		t.Errorf("Workers = %v, want the entry that cannot be read named", err)
	}
}

// A worker that falls silent is gone after its time, and watchers see it go.
func TestSilentWorkerIsForgotten(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{WorkerTTL: 300 * time.Millisecond})
	kv, err := js.KeyValue(t.Context(), schemas.WorkersBucket)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := kv.WatchAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := watch.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := queue.Announce(t.Context(), js, worker("w1", "phi3")); err != nil {
		t.Fatal(err)
	}
	for e := range watch.Updates() {
		if e != nil && e.Operation() == jetstream.KeyValuePurge {
			break
		}
	}
	if got := workers(t, js); len(got) != 0 {
		t.Errorf("Workers = %q, want none", got)
	}
}

func TestTombstone(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	ctx := t.Context()
	if _, err := queue.GetTombstone(ctx, js, "acme", "job-1"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetTombstone = %v, want %v", err, queue.ErrNotFound)
	}
	want := &schemas.Cancel{ID: "job-1", Tenant: "acme", Reason: "changed my mind", Requested: time.Unix(1_767_000_000, 0).UTC()}
	if err := queue.PutTombstone(ctx, js, want); err != nil {
		t.Fatal(err)
	}
	got, err := queue.GetTombstone(ctx, js, "acme", "job-1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("tombstone (-want +got):\n%s", d)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "cancel", data)
	if _, err := queue.GetTombstone(ctx, js, "other", "job-1"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("another tenant's GetTombstone = %v, want %v", err, queue.ErrNotFound)
	}
	kv, err := js.KeyValue(ctx, schemas.CancelsBucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(ctx, schemas.CancelKey("acme", "job-1")); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.GetTombstone(ctx, js, "acme", "job-1"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("after its deletion GetTombstone = %v, want %v", err, queue.ErrNotFound)
	}
	if _, err := kv.Put(ctx, schemas.CancelKey("acme", "job-1"), []byte("junk")); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.GetTombstone(ctx, js, "acme", "job-1"); err == nil || errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetTombstone of junk = %v", err)
	}
}
