package batch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// TestIDsThatAreNone are as long as a record's and tell nothing.
func TestIDsThatAreNone(t *testing.T) {
	t.Parallel()
	good := batch.RequestID("b", 7, 3, true)
	for _, at := range []int{0, len("batch_req_") + 8, len(good) - 4, len(good) - 1} {
		id := good[:at] + "z" + good[at+1:]
		_, err := batch.ScanRecords(strings.NewReader(fmt.Sprintf("{\"id\":%q}\n{\"id\":%q}\n", id, good)), func(int64, bool) {})
		wantError(t, err, nil, "not a record of a batch")
	}
	if _, err := batch.ScanRecords(strings.NewReader(fmt.Sprintf("{\"id\":%q}\n", good)), func(line int64, failed bool) {
		if line != 7 || !failed {
			t.Errorf("line %d, failed %t", line, failed)
		}
	}); err != nil {
		t.Error(err)
	}
}

// TestMessagesThatAreNone are left to the worker, which knows what its engine takes.
func TestMessagesThatAreNone(t *testing.T) {
	t.Parallel()
	line := `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"phi3","messages":"text"}}`
	if s, faults := validate(t, line, rules); s.Valid != 1 {
		t.Errorf("%+v, %v", s, faults)
	}
}

func TestReadingStopsHalfway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(4, echo)
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	b := submit(t, c, many(5), batch.Submission{})
	over(t, c, b.ID, schemas.BatchCompleted)
	n := 0
	for _, err := range c.Output(t.Context(), b.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d records", n)
	}
}

// TestRunOverAnAPIPrefix names the JetStream API as an import of it would be named, and has errors in the output.
func TestRunOverAnAPIPrefix(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(4, echo)
	js, err := jetstream.NewWithAPIPrefix(r.nc, "$JS.API")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, many(4)+"{}\n")
	cfg := p.config()
	cfg.Errors = p.out
	if got := run(t, js, cfg); got.Completed != 4 || got.Failed != 1 {
		t.Errorf("progress = %+v", got)
	}
	if list := readEntries(t, p.out); len(list) != 5 {
		t.Errorf("%d records", len(list))
	}
}

// cancels is a reader that ends the context of whoever reads it.
type cancels struct {
	cancel context.CancelCauseFunc
	why    error
}

func (c cancels) Read(p []byte) (int, error) {
	c.cancel(c.why)
	return copy(p, "x"), nil
}

func TestInterruptedWhileItReadsItsInput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	var out bytes.Buffer
	x := newRun(t, r.js, batch.RunConfig{Tenant: tenant, Stdin: io.MultiReader(cancels{cancel, stop}, strings.NewReader(many(1))), Stdout: &out})
	wantError(t, x.Run(ctx), stop)
}

func TestRoundsComeToAnEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := newPlace(t, many(1))
	journal := fmt.Sprintf(`{"batch":"b","tenant":%q,"errors":%q,"round":4095,"completed":"2026-01-01T00:00:00Z"}`, tenant, p.errs)
	if err := os.WriteFile(p.out+".hxp", []byte(journal), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := p.config()
	cfg.RetryFailed = true
	wantError(t, newRun(t, r.js, cfg).Run(t.Context()), nil, "retried 4095 times")
}
