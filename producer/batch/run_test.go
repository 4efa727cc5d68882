package batch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestRunAnswersEveryLine(t *testing.T) {
	t.Parallel()
	const n = 1200
	r := newRig(t)
	c := r.work(64, echo)
	p := newPlace(t, many(n))
	got := run(t, r.js, p.config())
	if got.Completed != n || got.Failed != 0 || got.Total != n || got.InFlight != 0 || got.CompletionTokens != 5*n {
		t.Errorf("progress = %+v", got)
	}
	done := customs(t, readEntries(t, p.out))
	if len(done) != n {
		t.Errorf("%d records, want %d", len(done), n)
	}
	for i := range n {
		e := done[fmt.Sprintf("c-%d", i)]
		if e.Response == nil || e.Response.StatusCode != 200 || !strings.Contains(string(e.Response.Body), fmt.Sprintf(`"re: question %d"`, i)) {
			t.Fatalf("line %d: %+v", i+1, e)
		}
	}
	if runs, jobs := c.most(); runs != 1 || jobs != n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
	if data, err := os.ReadFile(p.errs); err != nil || len(data) > 0 {
		t.Errorf("error file: %q, %v", data, err)
	}
	// Once more: everything has been done.
	if got := run(t, r.js, p.config()); got.Completed != n || got.Resumed != n {
		t.Errorf("progress = %+v", got)
	}
	if _, jobs := c.most(); jobs != n {
		t.Errorf("%d jobs were run, want %d", jobs, n)
	}
}

func TestRunAsAFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(8, func(j *schemas.Job) *schemas.Error {
		if prompt(j.Body) == "question 3" {
			return schemas.Errorf(schemas.CodeContextLengthExceeded, "too long")
		}
		return nil
	})
	for _, skip := range []bool{false, true} {
		var out bytes.Buffer
		got := run(t, r.js, batch.RunConfig{Tenant: tenant, Stdin: strings.NewReader(many(10)), Stdout: &out, SkipValidation: skip})
		if got.Completed != 9 || got.Failed != 1 {
			t.Errorf("progress = %+v", got)
		}
		list := customs(t, entries(t, out.Bytes()))
		if e := list["c-3"]; len(list) != 10 || e.Response == nil || e.Response.StatusCode != 400 || !strings.Contains(string(e.Response.Body), `"code":"context_length_exceeded"`) {
			t.Errorf("%d records; c-3 is %+v", len(list), e)
		}
	}
}

func TestInterruptedRunGoesOn(t *testing.T) {
	t.Parallel()
	const n = 800
	r := newRig(t)
	gate := make(chan struct{}, n)
	c := r.work(32, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	t.Cleanup(func() { close(gate) })
	p := newPlace(t, many(n))
	for round := 1; ; round++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		x := newRun(t, r.js, p.config())
		ended := make(chan error, 1)
		go func() { ended <- x.Run(ctx) }()
		for range min(240, n-240*(round-1)) {
			gate <- struct{}{}
		}
		if round == 4 {
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			cancel(nil)
			if got := x.Progress(); got.Completed != n || got.Resumed == 0 {
				t.Errorf("progress = %+v", got)
			}
			break
		}
		r.until("some lines are done", func() bool { return x.Progress().Completed >= int64(240*round-160) })
		cancel(stop)
		wantError(t, <-ended, stop)
		// A writer that is killed leaves part of a record.
		f, err := os.OpenFile(p.out, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(`{"id":"batch_req_0123456789`[:5*round]); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if done := customs(t, readEntries(t, p.out)); len(done) != n {
		t.Errorf("%d records, want %d", len(done), n)
	}
	if runs, jobs := c.most(); runs != 1 || jobs != n {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
}
