package batch_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// TestCoordinatorThatWasReplacedRecordsNothing has another one store a record behind its back.
func TestCoordinatorThatWasReplacedRecordsNothing(t *testing.T) {
	t.Parallel()
	const n = 40
	r := newRig(t)
	gate := make(chan struct{})
	crew := r.work(64, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	b := submit(t, c, many(n), batch.Submission{})
	r.until("all lines run", func() bool { _, jobs := crew.most(); return jobs == n })
	theirs := fmt.Sprintf(`{"id":%q,"custom_id":"c-0","response":{"status_code":200,"request_id":"theirs","body":{}},"error":null}`+"\n", batch.RequestID(b.ID, 1, 0, false))
	if _, err := queue.AppendBatch(t.Context(), r.js, tenant, b.ID, &queue.BatchPart{Data: []byte(theirs)}, 0); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if got := over(t, c, b.ID, schemas.BatchCompleted); got.RequestCounts != (schemas.BatchCounts{Total: n, Completed: n}) {
		t.Errorf("counts = %+v", got.RequestCounts)
	}
	output, _ := stored(t, c, b.ID) // fails if a line has two records
	if len(output) != n || output["c-0"].Response.RequestID != "theirs" {
		t.Errorf("%d answers; c-0 is %+v", len(output), output["c-0"])
	}
	if runs, jobs := crew.most(); runs != 1 || jobs != n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
}

// TestBatchWhoseStateIsDeleted is forgotten, and holds nobody up.
func TestBatchWhoseStateIsDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := make(chan struct{})
	crew := r.work(4, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	b := submit(t, c, many(8), batch.Submission{})
	r.until("it runs", func() bool { _, jobs := crew.most(); return jobs > 0 })
	kv, err := r.js.KeyValue(t.Context(), schemas.BatchesBucket)
	if err == nil {
		err = kv.Purge(t.Context(), schemas.BatchKey(tenant, b.ID))
	}
	if err != nil {
		t.Fatal(err)
	}
	close(gate)
	over(t, c, submit(t, c, many(8), batch.Submission{}).ID, schemas.BatchCompleted)
}

// TestFullStoreHoldsABatchBack has room for the input, and not for the records.
func TestFullStoreHoldsABatchBack(t *testing.T) {
	t.Parallel()
	const n = 300
	cfg := small()
	cfg.MaxBatchesBytes = 64 << 10
	r := newRigWith(t, cfg)
	r.work(16, echo)
	c := r.batches(tenant)
	if _, err := c.Submit(t.Context(), strings.NewReader(many(2*n)), batch.Submission{}); schemas.ErrorCode(err) != schemas.CodeQueueFull {
		t.Errorf("Submit = %v", err)
	}
	b := submit(t, c, many(n), batch.Submission{})
	r.coordinate(batch.CoordinatorConfig{})
	r.until("it says what it waits for", func() bool {
		b, err := c.Get(t.Context(), b.ID)
		return err == nil && strings.Contains(b.Fault, "the store for batches")
	})
	cfg.MaxBatchesBytes = 4 << 20
	if _, err := queue.Apply(t.Context(), r.js, []string{"phi3", "hermes"}, cfg); err != nil {
		t.Fatal(err)
	}
	got := over(t, c, b.ID, schemas.BatchCompleted)
	if output, _ := stored(t, c, b.ID); len(output) != n || got.Fault != "" {
		t.Errorf("%d answers, fault %q", len(output), got.Fault)
	}
}

// TestCancelWhileTheQueueIsFull has lines on their way to a queue that takes none.
func TestCancelWhileTheQueueIsFull(t *testing.T) {
	t.Parallel()
	cfg := small()
	cfg.MaxJobsPerTenant = 1
	r := newRigWith(t, cfg)
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	b := submit(t, c, many(200), batch.Submission{})
	r.until("it waits", func() bool {
		b, err := c.Get(t.Context(), b.ID)
		return err == nil && strings.Contains(b.Fault, "tenant's cap")
	})
	if _, err := c.Cancel(t.Context(), b.ID, true); err != nil {
		t.Fatal(err)
	}
	if got := over(t, c, b.ID, schemas.BatchCancelled); got.RequestCounts != (schemas.BatchCounts{Total: 200, Failed: 200}) {
		t.Errorf("counts = %+v", got.RequestCounts)
	}
}

func TestInputThatGoesAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := newPlace(t, many(3))
	cfg := p.config()
	cfg.Validated = func(batch.Summary) {
		if err := os.Remove(p.in); err != nil {
			t.Error(err)
		}
	}
	wantError(t, newRun(t, r.js, cfg).Run(t.Context()), os.ErrNotExist)
	cfg.Input = filepath.Dir(p.in) // a folder can be opened, and not read
	cfg.Validated = nil
	if err := newRun(t, r.js, cfg).Run(t.Context()); err == nil {
		t.Error("a folder was read")
	}
}

// TestUnvalidatedRunGoesOn reads its endpoint off a line that is done.
func TestUnvalidatedRunGoesOn(t *testing.T) {
	t.Parallel()
	const n = 50
	r := newRig(t)
	gate := make(chan struct{}, n)
	crew := r.work(4, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	t.Cleanup(func() { close(gate) })
	p := newPlace(t, "{}\n"+many(n))
	cfg := p.config()
	cfg.SkipValidation = true
	ctx, cancel := context.WithCancel(t.Context())
	x := newRun(t, r.js, cfg)
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	for range 10 {
		gate <- struct{}{}
	}
	r.until("ten lines are done", func() bool { return x.Progress().Completed == 10 })
	cancel()
	wantError(t, <-ended, context.Canceled)
	for range n - 10 {
		gate <- struct{}{}
	}
	if got := run(t, r.js, cfg); got.Completed != n || got.Failed != 1 || got.Resumed != 11 {
		t.Errorf("progress = %+v", got)
	}
	if runs, jobs := crew.most(); runs != 1 || jobs != n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
}

// TestNoRoomForTemporaryFiles is not parallel: it changes the environment.
func TestNoRoomForTemporaryFiles(t *testing.T) {
	r, p := newRig(t), newPlace(t, "")
	t.Setenv("TMPDIR", "/nowhere")
	_, err := batch.ValidateWithin(t.Context(), strings.NewReader(many(10)), rules, 3, func(*batch.LineError) error { return nil })
	wantError(t, err, os.ErrNotExist, "custom_id")
	cfg := p.config()
	cfg.Input, cfg.Stdin = batch.Stdio, strings.NewReader(many(1))
	wantError(t, newRun(t, r.js, cfg).Run(t.Context()), os.ErrNotExist)
}

// TestFilesOfAnotherKind are no place for a journal.
func TestFilesOfAnotherKind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(2, echo)
	p := newPlace(t, many(2))
	if err := os.Mkdir(p.out+".hxp", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := newRun(t, r.js, p.config()).Run(t.Context()); err == nil {
		t.Error("a folder was taken for a journal")
	}
	cfg := p.config()
	cfg.Output = filepath.Join(t.TempDir(), "out")
	cfg.Errors = os.DevNull // is written as it is
	if got := run(t, r.js, cfg); got.Completed != 2 {
		t.Errorf("progress = %+v", got)
	}
}

// TestRecordThatIsThereTwice counts once.
func TestRecordThatIsThereTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := make(chan struct{})
	r.work(4, func(j *schemas.Job) *schemas.Error {
		if prompt(j.Body) == "question 3" {
			<-gate
		}
		return nil
	})
	p := newPlace(t, many(4))
	ctx, cancel := context.WithCancel(t.Context())
	x := newRun(t, r.js, p.config())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	r.until("three lines are done", func() bool { return x.Progress().Completed == 3 })
	cancel()
	wantError(t, <-ended, context.Canceled)
	close(gate)
	data, err := os.ReadFile(p.out)
	if err == nil {
		err = os.WriteFile(p.out, append(data, data...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, r.js, p.config()); got.Completed != 4 {
		t.Errorf("progress = %+v", got)
	}
}
