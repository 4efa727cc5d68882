package batch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

func briefLock() queue.Config {
	cfg := small()
	cfg.LockTTL = 500 * time.Millisecond
	return cfg
}

// coordinator is one that runs until it is stopped.
type coordinator struct {
	stop func()
}

func (r *rig) coordinate(cfg batch.CoordinatorConfig) *coordinator {
	r.t.Helper()
	return r.coordinateOn(r.jetStream(r.connect()), cfg)
}

func (r *rig) coordinateOn(js jetstream.JetStream, cfg batch.CoordinatorConfig) *coordinator {
	r.t.Helper()
	if cfg.Interval == 0 {
		cfg.Interval = 20 * time.Millisecond
	}
	if cfg.Sweep == 0 {
		cfg.Sweep = 300 * time.Millisecond
	}
	c, err := batch.NewCoordinator(js, cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			r.t.Errorf("coordinator: %v", err)
		}
	})
	out := &coordinator{func() { cancel(); running.Wait() }}
	r.t.Cleanup(out.stop)
	return out
}

func (r *rig) batches(tenant string) *batch.Client {
	r.t.Helper()
	c, err := batch.NewClient(r.js, tenant)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func submit(t testing.TB, c *batch.Client, input string, s batch.Submission) *schemas.BatchState {
	t.Helper()
	b, err := c.Submit(t.Context(), strings.NewReader(input), s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// over waits until a batch is over.
func over(t testing.TB, c *batch.Client, id string, want schemas.BatchStatus) *schemas.BatchState {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := c.Watch(ctx, id, func(*schemas.BatchState) {})
	if err != nil {
		t.Fatal(err)
	}
	if b.Status != want {
		t.Fatalf("the batch is %s, want %s: %+v", b.Status, want, b)
	}
	return b
}

// stored reads the output and the errors of a batch.
func stored(t testing.TB, c *batch.Client, id string) (output, failed map[string]entry) {
	t.Helper()
	var out, errs bytes.Buffer
	for line, err := range c.Output(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		out.Write(line)
	}
	for line, err := range c.Errors(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		errs.Write(line)
	}
	return customs(t, entries(t, out.Bytes())), customs(t, entries(t, errs.Bytes()))
}

func TestSubmittedBatch(t *testing.T) {
	t.Parallel()
	const n = 600
	r := newRig(t)
	crew := r.work(64, func(j *schemas.Job) *schemas.Error {
		if prompt(j.Body) == "question 7" {
			return schemas.Errorf(schemas.CodeContentBlocked, "no")
		}
		return nil
	})
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	b := submit(t, c, many(n)+"{}\n"+chat("c-0", "phi3", "again")+"\n", batch.Submission{Metadata: map[string]string{"a": "b"}})
	var states []schemas.BatchStatus
	got, err := c.Watch(t.Context(), b.ID, func(b *schemas.BatchState) {
		if len(states) == 0 || states[len(states)-1] != b.Status {
			states = append(states, b.Status)
		}
	})
	if err != nil || got.Status != schemas.BatchCompleted {
		t.Fatalf("Watch = %+v, %v", got, err)
	}
	if want := (schemas.BatchCounts{Total: n + 2, Completed: n - 1, Failed: 3}); got.RequestCounts != want || got.Usage.CompletionTokens != 5*(n-1) {
		t.Errorf("counts = %+v, usage %+v", got.RequestCounts, got.Usage)
	}
	if got.InProgressAt == 0 || got.FinalizingAt == 0 || got.CompletedAt == 0 || got.Object != "batch" || got.Metadata["a"] != "b" ||
		len(got.Errors.Data) != 2 || got.Errors.Data[0].Line != n+1 || got.Errors.Data[1].Line != n+2 || got.Endpoint != schemas.ChatCompletions {
		t.Errorf("batch = %+v, errors %+v; went through %v", got, got.Errors, states)
	}
	output, failed := stored(t, c, b.ID)
	if len(output) != n-1 || len(failed) != 3 || failed["c-7"].Response.StatusCode != 403 || failed[""].Error.Param != "custom_id" || failed["c-0"].Error.Line != n+2 {
		t.Errorf("%d answers, failed %+v", len(output), failed)
	}
	if runs, jobs := crew.most(); runs != 1 || jobs != n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != b.ID {
		t.Errorf("List = %v, %v", list, err)
	}
	if list, err := r.batches("other").List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("another tenant's List = %v, %v", list, err)
	}
}

// TestSubmittedBatchSurvivesItsCoordinators takes one coordinator after the other away, some without a word.
func TestSubmittedBatchSurvivesItsCoordinators(t *testing.T) {
	t.Parallel()
	const n = 800
	r := newRigWith(t, briefLock())
	gate := make(chan struct{}, n)
	crew := r.work(64, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	t.Cleanup(func() { close(gate) })
	c := r.batches(tenant)
	b := submit(t, c, many(n), batch.Submission{})
	for round := range 4 {
		nc := r.connect()
		k := r.coordinateOn(r.jetStream(nc), batch.CoordinatorConfig{})
		for range n / 4 {
			gate <- struct{}{}
		}
		if round == 3 {
			break
		}
		r.until("it gets on", func() bool {
			runs, jobs := crew.most()
			return runs == 1 && jobs >= (round+1)*n/4-50
		})
		if round%2 == 0 {
			nc.Close() // it is cut off, and its lock expires
		}
		k.stop()
	}
	got := over(t, c, b.ID, schemas.BatchCompleted)
	if got.RequestCounts != (schemas.BatchCounts{Total: n, Completed: n}) {
		t.Errorf("counts = %+v", got.RequestCounts)
	}
	if output, failed := stored(t, c, b.ID); len(output) != n || len(failed) != 0 {
		t.Errorf("%d answers, %d failed", len(output), len(failed))
	}
	if runs, jobs := crew.most(); runs != 1 || jobs != n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
}

// TestTwoCoordinatorsDoNotRecordALineTwice has two work at once, as if one had been frozen and did not know.
func TestTwoCoordinatorsDoNotRecordALineTwice(t *testing.T) {
	t.Parallel()
	const n = 150
	cfg := briefLock()
	cfg.LockTTL = 100 * time.Millisecond // so short that both believe to have it now and then
	r := newRigWith(t, cfg)
	crew := r.work(16, echo)
	c := r.batches(tenant)
	for range 3 {
		r.coordinate(batch.CoordinatorConfig{})
	}
	for range 3 {
		b := submit(t, c, many(n), batch.Submission{})
		over(t, c, b.ID, schemas.BatchCompleted)
		if output, _ := stored(t, c, b.ID); len(output) != n {
			t.Errorf("%d answers, want %d", len(output), n)
		}
	}
	if runs, jobs := crew.most(); runs != 1 || jobs != 3*n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
}

func TestCancelledBatch(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{false, true} {
		t.Run(fmt.Sprint("abort ", abort), func(t *testing.T) {
			t.Parallel()
			const n = 600
			r := newRig(t)
			gate := make(chan struct{})
			open := sync.OnceFunc(func() { close(gate) })
			crew := r.work(8, func(*schemas.Job) *schemas.Error { <-gate; return nil })
			t.Cleanup(open)
			c := r.batches(tenant)
			r.coordinate(batch.CoordinatorConfig{})
			b := submit(t, c, many(n), batch.Submission{})
			r.until("it runs", func() bool { _, jobs := crew.most(); return jobs == 16 })
			got, err := c.Cancel(t.Context(), b.ID, abort)
			if err != nil || got.Status != schemas.BatchCancelling {
				t.Fatalf("Cancel = %+v, %v", got, err)
			}
			if !abort {
				r.until("the rest is given up", func() bool {
					b, err := c.Get(t.Context(), b.ID)
					return err == nil && b.RequestCounts.Failed > 0
				})
				open()
			}
			got = over(t, c, b.ID, schemas.BatchCancelled)
			output, failed := stored(t, c, b.ID)
			if got.CancelledAt == 0 || len(output)+len(failed) != n || abort == (len(output) > 0) {
				t.Errorf("batch = %+v; %d answers, %d failed", got, len(output), len(failed))
			}
			for _, e := range failed {
				if e.Error == nil || e.Error.Code != "batch_cancelled" {
					t.Fatalf("%+v", e)
				}
			}
			if _, err := c.Cancel(t.Context(), b.ID, true); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
				t.Errorf("a second cancel = %v", err)
			}
		})
	}
}

func TestExpiredBatchAndItsRetry(t *testing.T) {
	t.Parallel()
	const n = 300
	r := newRig(t)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	r.work(4, func(j *schemas.Job) *schemas.Error {
		if prompt(j.Body) != "question 0" {
			<-gate
		}
		return nil
	})
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	b := submit(t, c, many(n), batch.Submission{Window: 2 * time.Second})
	got := over(t, c, b.ID, schemas.BatchExpired)
	output, failed := stored(t, c, b.ID)
	if got.ExpiredAt == 0 || len(output) > 1 || len(output)+len(failed) != n {
		t.Errorf("batch = %+v; %d answers, %d failed", got, len(output), len(failed))
	}
	for _, e := range failed {
		if e.Error == nil || e.Error.Code != "batch_expired" || !strings.Contains(e.Error.Message, "2s") && e.Error.Line == 0 {
			t.Fatalf("%+v", e)
		}
	}
	open()
	// It has its window again: a longer one here, since the test is not to depend on the machine.
	state, err := queue.GetBatch(t.Context(), r.js, tenant, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	state.CompletionWindow = "1h"
	if _, err := queue.PutBatch(t.Context(), r.js, &state.BatchState, state.Revision); err != nil {
		t.Fatal(err)
	}
	again, err := c.RetryFailed(t.Context(), b.ID)
	if err != nil || again.Status != schemas.BatchInProgress || again.Round != 1 || again.ExpiredAt != 0 {
		t.Fatalf("RetryFailed = %+v, %v", again, err)
	}
	again = over(t, c, b.ID, schemas.BatchCompleted)
	if output, failed := stored(t, c, b.ID); again.RequestCounts.Completed != n || again.RequestCounts.Failed != 0 || len(output) != n || len(failed) != 0 {
		t.Errorf("batch = %+v; %d answers, %d failed", again, len(output), len(failed))
	}
	if _, err := c.RetryFailed(t.Context(), b.ID); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("a retry of nothing = %v", err)
	}
}

func TestBatchesThatCannotRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.batches(tenant)
	empty := submit(t, c, "\n", batch.Submission{})
	bad := submit(t, c, "{}\nnot json\n", batch.Submission{})
	damaged := submit(t, c, many(3), batch.Submission{})
	files, err := r.js.Stream(t.Context(), "OBJ_"+schemas.BatchFilesBucket)
	if err == nil {
		err = files.Purge(t.Context(), jetstream.WithPurgeSubject("$O."+schemas.BatchFilesBucket+".C."+damaged.Input.NUID))
	}
	if err != nil {
		t.Fatal(err)
	}
	r.coordinate(batch.CoordinatorConfig{})
	for b, want := range map[*schemas.BatchState]string{empty: "has no lines", bad: "custom_id is missing", damaged: "damaged"} {
		got := over(t, c, b.ID, schemas.BatchFailed)
		if got.FailedAt == 0 || got.Errors == nil || !strings.Contains(got.Errors.Data[0].Message, want) {
			t.Errorf("batch = %+v, errors %+v; want %q", got, got.Errors, want)
		}
	}
	if _, err := c.Get(t.Context(), "unheard-of"); !errors.Is(err, batch.ErrUnknownBatch) {
		t.Errorf("Get = %v", err)
	}
	if _, err := c.Submit(t.Context(), strings.NewReader(""), batch.Submission{Window: -1, Priority: 101, Endpoint: "/v2"}); err == nil {
		t.Error("a submission of nonsense was taken")
	} else {
		for _, want := range []string{"completion_window", "priority", "endpoint"} {
			wantError(t, err, nil, want)
		}
	}
}
