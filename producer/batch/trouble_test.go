package batch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// TestOutcomesOfLines has a line end in every way there is.
func TestOutcomesOfLines(t *testing.T) {
	t.Parallel()
	ends := map[string]*schemas.Error{
		"question 0": schemas.Errorf(schemas.CodeDeadlineExceeded, "too late"),
		"question 1": schemas.Errorf(schemas.CodeCancelled, "not wanted"),
		"question 2": schemas.Errorf(schemas.CodeInternal, "broken"),
		"question 3": {Code: "odd", Message: "no status"},
		"question 4": schemas.Errorf(schemas.CodeInvalidRequest, "temperature is 9").WithParam("temperature"),
	}
	r := newRig(t)
	r.work(4, func(j *schemas.Job) *schemas.Error { return ends[prompt(j.Body)] })
	p := newPlace(t, many(6))
	if got := run(t, r.js, p.config()); got.Completed != 1 || got.Failed != 5 {
		t.Errorf("progress = %+v", got)
	}
	failed := customs(t, readEntries(t, p.errs))
	for id, code := range map[string]string{"c-0": "batch_expired", "c-1": "batch_cancelled"} {
		if e := failed[id]; e.Error == nil || e.Error.Code != code || e.Error.Line == 0 {
			t.Errorf("%s: %+v", id, e)
		}
	}
	for id, want := range map[string]struct {
		status int
		text   string
	}{"c-2": {500, "server_error"}, "c-3": {500, `"odd"`}, "c-4": {400, `"param":"temperature","code":"invalid_request","line":5`}} {
		if e := failed[id]; e.Response == nil || e.Response.StatusCode != want.status || !strings.Contains(string(e.Response.Body), want.text) {
			t.Errorf("%s: %+v", id, e)
		}
	}
}

func TestCompletions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(2, echo)
	var out bytes.Buffer
	line := `{"custom_id":"c","method":"POST","url":"/v1/completions","body":{"model":"phi3","prompt":"Once"}}`
	run(t, r.js, batch.RunConfig{Tenant: tenant, Stdin: strings.NewReader(line), Stdout: &out, Endpoint: schemas.Completions})
	if e := entries(t, out.Bytes()); len(e) != 1 || !strings.Contains(string(e[0].Response.Body), `"object":"text_completion"`) {
		t.Errorf("records = %s", out.String())
	}
}

// TestModelThatGoesAway removes a model's queue after its lines were validated.
func TestModelThatGoesAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(4, echo)
	p := newPlace(t, many(20))
	cfg := p.config()
	cfg.Validated = func(batch.Summary) {
		if err := r.js.DeleteStream(t.Context(), schemas.JobsStream("hermes")); err != nil {
			t.Error(err)
		}
	}
	if got := run(t, r.js, cfg); got.Completed != 10 || got.Failed != 10 {
		t.Errorf("progress = %+v", got)
	}
	for _, e := range readEntries(t, p.errs) {
		if e.Response == nil || e.Response.StatusCode != 404 {
			t.Errorf("%+v", e)
		}
	}
}

// TestResultsThatCannotBeRead takes the results away for a while.
func TestResultsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(4, echo)
	p := newPlace(t, many(20))
	cfg := p.config()
	cfg.Validated = func(batch.Summary) {
		if err := r.js.DeleteStream(t.Context(), schemas.ResultsStream); err != nil {
			t.Error(err)
		}
	}
	x := newRun(t, r.js, cfg)
	ended := make(chan error, 1)
	go func() { ended <- x.Run(t.Context()) }()
	r.until("it says what it waits for", func() bool { return strings.Contains(x.Progress().Fault, schemas.ResultsStream) })
	if _, err := queue.Ensure(t.Context(), r.js, []string{"phi3", "hermes"}, small()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || x.Progress().Completed != 20 || x.Progress().Fault != "" {
		t.Errorf("run = %v, %+v", err, x.Progress())
	}
}

// TestRoomFollowsTheWorkers keeps twice the slots of live workers in the queue.
func TestRoomFollowsTheWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := make(chan struct{})
	crew := r.work(400, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	w := &schemas.WorkerInfo{ID: "w1", Model: "phi3", Covering: []string{"hermes"}, State: schemas.WorkerReady, Pulling: true, Slots: 100}
	idle := &schemas.WorkerInfo{ID: "w2", Model: "phi3", State: schemas.WorkerDown, Slots: 1000}
	for _, w := range []*schemas.WorkerInfo{w, idle} {
		if err := queue.Announce(t.Context(), r.js, w); err != nil {
			t.Fatal(err)
		}
	}
	p := newPlace(t, many(1000))
	x := newRun(t, r.js, p.config())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(t.Context()) }()
	r.until("twice the slots of each model are in flight", func() bool { return x.Progress().InFlight == 400 })
	if _, jobs := crew.most(); jobs > 400 {
		t.Errorf("%d jobs were begun", jobs)
	}
	close(gate)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestPausedQueueHoldsLinesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(4, echo)
	for _, m := range []string{"phi3", "hermes"} {
		if err := queue.Pause(t.Context(), r.js, m, schemas.Batch, queue.Forever); err != nil {
			t.Fatal(err)
		}
	}
	p := newPlace(t, many(300))
	x := newRun(t, r.js, p.config())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(t.Context()) }()
	r.until("it is under way", func() bool { return x.Progress().InFlight > 0 })
	<-time.After(1200 * time.Millisecond) // by then it has been seen that the queues are paused
	if p := x.Progress(); p.Completed > 0 {
		t.Errorf("progress = %+v", p)
	}
	for _, m := range []string{"phi3", "hermes"} {
		if err := queue.Resume(t.Context(), r.js, m, schemas.Batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err != nil || x.Progress().Completed != 300 {
		t.Errorf("run = %v, %+v", err, x.Progress())
	}
}

// TestNothingIsSetUp asks a server that has no queue.
func TestNothingIsSetUp(t *testing.T) {
	t.Parallel()
	server, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	r := &rig{t: t, server: server}
	r.nc = r.connect()
	r.js = r.jetStream(r.nc)
	c := r.batches(tenant)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = c.Get(ctx, "b")
	wantError(t, err, queue.ErrNotSetUp)
	_, err = c.List(ctx)
	wantError(t, err, queue.ErrNotSetUp)
	_, err = c.Submit(ctx, strings.NewReader("x"), batch.Submission{})
	wantError(t, err, queue.ErrNotSetUp)
	for _, err := range c.Output(ctx, "b") {
		wantError(t, err, queue.ErrNotSetUp)
	}
	said := make(chan string, 16)
	r.coordinate(batch.CoordinatorConfig{Logger: zerolog.New(says(said))})
	if line := <-said; !strings.Contains(line, "lock could not be asked for") {
		t.Errorf("log = %s", line)
	}
	nc := r.connect()
	nc.Close()
	cfg := newPlace(t, many(1)).config()
	if err := newRun(t, r.jetStream(nc), cfg).Run(ctx); err == nil {
		t.Error("a run over a closed connection went well")
	}
}

// says is a log.
type says chan string

func (s says) Write(line []byte) (int, error) {
	select {
	case s <- string(line):
	default:
	}
	return len(line), nil
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := batch.NewClient(r.js, "a.b")
	wantError(t, err, nil, `tenant "a.b"`)
	c := r.batches(tenant)
	boom := errors.New("boom")
	_, err = c.Submit(t.Context(), broken2{boom}, batch.Submission{})
	wantError(t, err, boom)
	for line, err := range c.Output(t.Context(), "unheard-of") {
		wantError(t, err, batch.ErrUnknownBatch)
		if line != nil {
			t.Errorf("line %q", line)
		}
	}
	_, err = c.Watch(t.Context(), "unheard-of", func(*schemas.BatchState) {})
	wantError(t, err, batch.ErrUnknownBatch)
	_, err = c.Watch(t.Context(), "un.heard", func(*schemas.BatchState) {})
	wantError(t, err, nil, `un.heard`)
	b := submit(t, c, many(1), batch.Submission{})
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = c.Watch(ctx, b.ID, func(*schemas.BatchState) { cancel(boom) })
	wantError(t, err, boom)
	if got, err := c.Cancel(t.Context(), b.ID, false); err != nil || got.Abort {
		t.Errorf("Cancel = %+v, %v", got, err)
	}
	if got, err := c.Cancel(t.Context(), b.ID, true); err != nil || !got.Abort {
		t.Errorf("Cancel = %+v, %v", got, err)
	}
	_, err = c.RetryFailed(t.Context(), b.ID)
	wantError(t, err, nil, "cancelling")
	r.coordinate(batch.CoordinatorConfig{}) // a batch that was cancelled before anybody looked at it
	if got := over(t, c, b.ID, schemas.BatchCancelled); got.RequestCounts != (schemas.BatchCounts{Total: 1, Failed: 1}) {
		t.Errorf("counts = %+v", got.RequestCounts)
	}
	// As often as can be told.
	stored, err := queue.GetBatch(t.Context(), r.js, tenant, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	stored.Round = 4095
	if _, err := queue.PutBatch(t.Context(), r.js, &stored.BatchState, stored.Revision); err != nil {
		t.Fatal(err)
	}
	_, err = c.RetryFailed(t.Context(), b.ID)
	wantError(t, err, nil, "retried 4095 times")
}

// broken2 is a reader that fails.
type broken2 struct{ err error }

func (b broken2) Read([]byte) (int, error) { return 0, b.err }

func TestCoordinatorConfigIsChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := batch.NewCoordinator(r.js, batch.CoordinatorConfig{
		ID: "a.b", Interval: -1, Sweep: -1, Grace: -1, MaxActive: -1, MaxBody: -1, Burst: -1, Weights: map[string]float64{"x": 0},
	})
	for _, want := range []string{"ID ", "Interval is -1ns", "Sweep is -1ns", "Grace is -1ns", "MaxActive is -1", "MaxBody is -1", "Burst is -1", `Weights of tenant "x" is 0`} {
		wantError(t, err, nil, want)
	}
	reg := prometheus.NewRegistry()
	if _, err := batch.NewCoordinator(r.js, batch.CoordinatorConfig{Registry: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 3 {
		t.Errorf("metrics = %v, %v", families, err)
	}
}

// TestManyBatchesTakeTurns has more batches than are worked on at once.
func TestManyBatchesTakeTurns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(8, echo)
	type job struct {
		c  *batch.Client
		id string
	}
	var all []job
	for i := range 9 {
		c := r.batches(fmt.Sprint("tenant-", i%3))
		all = append(all, job{c, submit(t, c, phi3("x", 20), batch.Submission{}).ID})
	}
	r.coordinate(batch.CoordinatorConfig{MaxActive: 2})
	for _, j := range all {
		over(t, j.c, j.id, schemas.BatchCompleted)
	}
}

// TestBatchWithForeignRecords has something in its log that is no record of it: it is not worked on, and said so.
func TestBatchWithForeignRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(2, echo)
	c := r.batches(tenant)
	b := submit(t, c, many(2), batch.Submission{})
	place, err := queue.AppendBatch(t.Context(), r.js, tenant, b.ID, &queue.BatchPart{Data: []byte("junk\n")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.coordinate(batch.CoordinatorConfig{})
	r.until("it has been validated", func() bool {
		b, err := c.Get(t.Context(), b.ID)
		return err == nil && b.Status == schemas.BatchInProgress
	})
	s, err := r.js.Stream(t.Context(), schemas.BatchesStream)
	if err == nil {
		err = s.DeleteMsg(t.Context(), place)
	}
	if err != nil {
		t.Fatal(err)
	}
	over(t, c, b.ID, schemas.BatchCompleted)
}

// TestStatesThatAreNone hold no other tenant's batches up, and cannot speak for another tenant.
func TestStatesThatAreNone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(2, echo)
	kv, err := r.js.KeyValue(t.Context(), schemas.BatchesBucket)
	if err != nil {
		t.Fatal(err)
	}
	forged := `{"id":"b","tenant":"acme","status":"in_progress","completion_window":"24h","request_counts":{"total":9}}`
	for key, value := range map[string]string{"evil.junk": "{", "evil.b": forged} {
		if _, err := kv.Put(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	c := r.batches(tenant)
	odd := &schemas.BatchState{ID: "odd", Tenant: tenant, Status: schemas.BatchInProgress, CompletionWindow: "24h", Round: 5000}
	if _, err := queue.PutBatch(t.Context(), r.js, odd, 0); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 16)
	r.coordinate(batch.CoordinatorConfig{Logger: zerolog.New(says(said)).Level(zerolog.WarnLevel)})
	over(t, c, submit(t, c, many(4), batch.Submission{}).ID, schemas.BatchCompleted)
	if got := over(t, c, "odd", schemas.BatchFailed); !strings.Contains(got.Errors.Data[0].Message, "round is 5000") {
		t.Errorf("errors = %+v", got.Errors)
	}
	if line := <-said; !strings.Contains(line, "evil.junk") || !strings.Contains(line, "evil.b") {
		t.Errorf("log = %s", line)
	}
	list, err := r.batches("evil").List(t.Context())
	wantError(t, err, queue.ErrBadBatch)
	if len(list) != 0 {
		t.Errorf("batches = %v", list)
	}
}

func TestSharesForgetTenants(t *testing.T) {
	t.Parallel()
	s := batch.NewShares()
	for i := range batch.MaxIdleShares + 1 {
		s.Visit(fmt.Sprint(i), 2)
	}
	if s.Known() != 1 {
		t.Errorf("%d tenants are remembered, want 1", s.Known())
	}
}

func TestWholeLines(t *testing.T) {
	t.Parallel()
	short, long := strings.Repeat("x", 99)+"\n", strings.Repeat("y", queue.MaxBatchPart)+"\n"
	for _, tc := range []struct {
		data string
		want int
	}{
		{short, 100}, {strings.Repeat(short, 6000), queue.MaxBatchPart / 100 * 100}, {short + long, 100}, {long + short, len(long)},
	} {
		if got := batch.WholeLines([]byte(tc.data)); got != tc.want {
			t.Errorf("%d bytes: %d, want %d", len(tc.data), got, tc.want)
		}
	}
}

// TestErrorsThatAreNoFile retries failures whose records went to a device or a stream: there is nothing to be rewritten.
func TestErrorsThatAreNoFile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(8, func(j *schemas.Job) *schemas.Error {
		if prompt(j.Body) == "question 3" {
			return schemas.Errorf(schemas.CodeContextLengthExceeded, "too long")
		}
		return nil
	})
	p := newPlace(t, many(10))
	link := filepath.Join(filepath.Dir(p.out), "null")
	if err := os.Symlink(os.DevNull, link); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{link, batch.Stdio} {
		p := newPlace(t, many(10))
		cfg := p.config()
		cfg.Errors, cfg.Stdout = to, &bytes.Buffer{}
		run(t, r.js, cfg)
		cfg.RetryFailed = true
		if err := newRun(t, r.js, cfg).Run(t.Context()); err != nil {
			t.Errorf("errors to %s: %v", to, err)
		}
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link to a device is %v now (%v)", info.Mode(), err)
	}
}
