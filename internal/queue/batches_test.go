package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestResultsInBulk(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	var jobs []queue.JobKey
	for i := range 600 {
		id := fmt.Sprint("job-", i)
		jobs = append(jobs, queue.JobKey{Tenant: "acme", ID: id})
		if i%3 == 0 {
			if err := queue.PutResult(t.Context(), js, result(id, strings.Repeat("w", i*20))); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := make(map[queue.JobKey]*schemas.Result)
	err := queue.Results(t.Context(), js, jobs, func(k queue.JobKey, r *schemas.Result) { found[k] = r })
	if err != nil || len(found) != 200 {
		t.Fatalf("%d Results, want 200; %v", len(found), err)
	}
	for k, r := range found {
		if r.ID != k.ID {
			t.Errorf("the Result of %s is that of %s", k.ID, r.ID)
		}
	}
	if err := queue.Results(t.Context(), js, []queue.JobKey{{Tenant: "acme", ID: "*"}}, nil); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("Results of everything = %v", err)
	}
	if _, err := js.Publish(t.Context(), schemas.ResultSubject("acme", "job-1"), []byte("junk")); err != nil {
		t.Fatal(err)
	}
	if err := queue.Results(t.Context(), js, jobs[1:2], nil); err == nil || !strings.Contains(err.Error(), schemas.ResultsStream) {
		t.Errorf("Results with junk among them = %v", err)
	}
	if err := queue.Results(t.Context(), bare(t, embedded.Config{}), jobs, nil); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("Results of an empty server = %v", err)
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := start(t, queue.Config{})
	paused := func() bool {
		t.Helper()
		p, err := queue.Paused(ctx, js, "phi3", schemas.Batch)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if paused() {
		t.Error("a new queue is paused")
	}
	if err := queue.Pause(ctx, js, "phi3", schemas.Batch, queue.Forever); err != nil || !paused() {
		t.Errorf("Pause = %v", err)
	}
	// What is paused stays so when the queue is set up again.
	if _, err := queue.Apply(ctx, js, []string{"phi3"}, queue.Config{Lease: 5 * time.Second}); err != nil || !paused() {
		t.Errorf("Apply = %v", err)
	}
	stats, err := queue.Stats(ctx, js, "phi3")
	if err != nil || !stats.Classes[2].Paused || stats.Classes[0].Paused {
		t.Errorf("Stats = %+v, %v", stats, err)
	}
	if err := queue.Resume(ctx, js, "phi3", schemas.Batch); err != nil || paused() {
		t.Errorf("Resume = %v", err)
	}
	if err := queue.Pause(ctx, js, "phi3", "urgent", queue.Forever); err == nil {
		t.Error("a class that does not exist was paused")
	}
	for _, model := range []string{"gone", "a.b"} {
		_, err := queue.Paused(ctx, js, model, schemas.Batch)
		other := queue.Resume(ctx, js, model, schemas.Batch)
		if err == nil || other == nil {
			t.Errorf("model %s: %v, %v", model, err, other)
		}
		if unset := errors.Is(err, queue.ErrNotSetUp) && errors.Is(other, queue.ErrNotSetUp); unset != (model == "gone") {
			t.Errorf("model %s: %v, %v", model, err, other)
		}
	}
}

func TestBatchStates(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := start(t, queue.Config{})
	b := &schemas.BatchState{ID: "b1", Tenant: "acme", Status: schemas.BatchValidating}
	first, err := queue.PutBatch(ctx, js, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.PutBatch(ctx, js, b, 0); !errors.Is(err, queue.ErrBatchChanged) {
		t.Errorf("a second creation = %v", err)
	}
	b.Status = schemas.BatchInProgress
	second, err := queue.PutBatch(ctx, js, b, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.PutBatch(ctx, js, b, first); !errors.Is(err, queue.ErrBatchChanged) {
		t.Errorf("a change of what was = %v", err)
	}
	got, err := queue.GetBatch(ctx, js, "acme", "b1")
	if diff := cmp.Diff(&queue.StoredBatch{BatchState: *b, Revision: second}, got); err != nil || diff != "" {
		t.Errorf("GetBatch = %v (-want +got):\n%s", err, diff)
	}
	other := &schemas.BatchState{ID: "b1", Tenant: "other"}
	if _, err := queue.PutBatch(ctx, js, other, 0); err != nil {
		t.Fatal(err)
	}
	list, next, err := queue.Batches(ctx, js, "acme", 0)
	if err != nil || len(list) != 1 {
		t.Errorf("Batches = %v, %v", list, err)
	}
	if list, _, err = queue.Batches(ctx, js, "*", next); err != nil || len(list) != 1 || list[0].Tenant != "other" {
		t.Errorf("Batches from %d = %v, %v", next, list, err)
	}
	kv, err := js.KeyValue(ctx, schemas.BatchesBucket)
	if err == nil {
		err = kv.Delete(ctx, schemas.BatchKey("acme", "b1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.GetBatch(ctx, js, "acme", "b1"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetBatch of a deleted one = %v", err)
	}
	if list, _, err := queue.Batches(ctx, js, "acme", 0); err != nil || len(list) != 0 {
		t.Errorf("Batches = %v, %v", list, err)
	}
	if _, err := kv.Put(ctx, schemas.BatchKey("acme", "junk"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.GetBatch(ctx, js, "acme", "junk"); err == nil {
		t.Error("junk was taken for a batch")
	}
	if _, err := kv.Put(ctx, schemas.BatchKey("acme", "forged"), []byte(`{"id":"b1","tenant":"other"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.GetBatch(ctx, js, "acme", "forged"); !errors.Is(err, queue.ErrBadBatch) {
		t.Errorf("a batch of another tenant = %v", err)
	}
	list, _, err = queue.Batches(ctx, js, "*", 0)
	if !errors.Is(err, queue.ErrBadBatch) || !strings.Contains(err.Error(), "acme.junk") || !strings.Contains(err.Error(), "acme.forged") || len(list) != 1 {
		t.Errorf("Batches with junk among them = %v, %v", list, err)
	}
	for _, err := range []error{
		errOf(queue.GetBatch(ctx, js, "acme", "*")), errOf(queue.PutBatch(ctx, js, &schemas.BatchState{ID: "*", Tenant: "acme"}, 0)),
	} {
		if schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
			t.Errorf("a wildcard as a name: %v", err)
		}
	}
	if _, _, err := queue.Batches(ctx, js, "a.b", 0); err == nil {
		t.Error("a tenant of two tokens was listed")
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestBatchLog(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := start(t, queue.Config{})
	parts := []queue.BatchPart{{Data: []byte("a\nb\n"), PromptTokens: 1, CompletionTokens: 2}, {Data: []byte("c\n"), Failed: true}}
	last := uint64(0)
	for i := range parts {
		place, err := queue.AppendBatch(ctx, js, "acme", "b1", &parts[i], last)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := queue.AppendBatch(ctx, js, "acme", "b1", &parts[i], last); !errors.Is(err, queue.ErrBatchChanged) {
			t.Errorf("a second append after %d = %v", last, err)
		}
		parts[i].Stored, last = place, place
	}
	if _, err := queue.AppendBatch(ctx, js, "acme", "b2", &parts[0], 0); err != nil { // has an order of its own
		t.Error(err)
	}
	var got []queue.BatchPart
	for p, err := range queue.BatchParts(ctx, js, "acme", "b1", 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, *p)
	}
	if diff := cmp.Diff(parts, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, err := range queue.BatchParts(ctx, js, "acme", "b1", 0) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if err := errOf(queue.AppendBatch(ctx, js, "acme", "*", &parts[0], 0)); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("a wildcard as a name: %v", err)
	}
	missing := bare(t, embedded.Config{})
	if err := errOf(queue.AppendBatch(ctx, missing, "acme", "b1", &parts[0], 0)); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("AppendBatch = %v", err)
	}
	for _, name := range []string{"*", "b1"} {
		for _, err := range queue.BatchParts(ctx, missing, "acme", name, 0) {
			if err == nil {
				t.Error("there are records where there is no queue")
			}
		}
	}
}

func TestBatchInput(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js := start(t, queue.Config{})
	data := noise(3<<19 + 17)
	in, err := queue.PutBatchInput(ctx, js, "acme", "b1", iotest.HalfReader(bytes.NewReader(data)))
	if err != nil || in.Bytes != int64(len(data)) {
		t.Fatalf("PutBatchInput = %+v, %v", in, err)
	}
	r, err := queue.OpenBatchInput(ctx, js, in)
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, data); err != nil {
		t.Error(err)
	}
	r.Close()
	store, err := js.ObjectStore(ctx, schemas.BatchFilesBucket)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := store.GetBytes(ctx, schemas.BatchInputName("acme", "b1")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the client library reads %d bytes, %v", len(got), err)
	}
	boom := errors.New("boom")
	if _, err := queue.PutBatchInput(ctx, js, "acme", "b2", io.MultiReader(bytes.NewReader(data), iotest.ErrReader(boom))); !errors.Is(err, boom) {
		t.Errorf("PutBatchInput = %v", err)
	}
	if _, err := queue.PutBatchInput(ctx, js, "acme", "*", nil); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("PutBatchInput = %v", err)
	}
	if _, err := queue.OpenBatchInput(ctx, js, schemas.BatchInput{NUID: ">"}); !errors.Is(err, queue.ErrBadBody) {
		t.Errorf("OpenBatchInput = %v", err)
	}
	s, err := js.Stream(ctx, "OBJ_"+schemas.BatchFilesBucket)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject("$O."+schemas.BatchFilesBucket+".C."+in.NUID), jetstream.WithPurgeKeep(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	if r, err = queue.OpenBatchInput(ctx, js, in); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, queue.ErrBadBody) {
		t.Errorf("what is left of the input was read: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if r, err = queue.OpenBatchInput(ended, js, in); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil {
		t.Error("the input was read although nobody wants it any more")
	}
	r.Close()
	full := start(t, queue.Config{MaxBatchesBytes: 1 << 16})
	if _, err := queue.PutBatchInput(ctx, full, "acme", "b1", bytes.NewReader(data)); schemas.ErrorCode(err) != schemas.CodeQueueFull || !strings.Contains(err.Error(), "the store for batches") {
		t.Errorf("PutBatchInput = %v", err)
	}
}
