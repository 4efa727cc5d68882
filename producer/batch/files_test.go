package batch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestScanStopsAtATornRecord(t *testing.T) {
	t.Parallel()
	one := fmt.Sprintf(`{"id":%q,"custom_id":"a","response":null,"error":{}}`+"\n", batch.RequestID("b", 7, 3, true))
	two := fmt.Sprintf(`{"id":%q,"custom_id":%q}`+"\n", batch.RequestID("b", 1<<30, 0, false), strings.Repeat("x", 200_000))
	for cut := range len(one) {
		lines := 0
		whole, err := batch.ScanRecords(strings.NewReader(two+one[:cut]), func(line int64, failed bool) {
			if lines++; line != 1<<30 || failed {
				t.Errorf("line %d, failed %t", line, failed)
			}
		})
		if err != nil || lines != 1 || whole != int64(len(two)) {
			t.Fatalf("cut at %d: %d whole bytes of %d lines, %v", cut, whole, lines, err)
		}
	}
	// What a power cut leaves.
	for _, tail := range []string{"\x00\x00\x00", one[:5] + "\n", one[:5] + "\n\x00\x00"} {
		if whole, err := batch.ScanRecords(strings.NewReader(one+tail), func(int64, bool) {}); err != nil || whole != int64(len(one)) {
			t.Errorf("after %q: %d, %v", tail, whole, err)
		}
	}
	for _, bad := range []string{"x\n" + one, `{"id":"batch_req_x"}` + "\n" + one, strings.Replace(one, "007003", "zzz003", 1) + one, strings.Replace(one, `0031"`, `0037"`, 1) + one} {
		if _, err := batch.ScanRecords(strings.NewReader(bad), func(int64, bool) {}); err == nil {
			t.Errorf("%.60q was taken for records", bad)
		}
	}
	boom := errors.New("boom")
	if _, err := batch.ScanRecords(io.MultiReader(strings.NewReader(one), iotest.ErrReader(boom)), func(int64, bool) {}); !errors.Is(err, boom) {
		t.Errorf("scan = %v", err)
	}
}

func FuzzScan(f *testing.F) {
	one := fmt.Sprintf(`{"id":%q}`+"\n", batch.RequestID("b", 7, 0, false))
	f.Add([]byte(one + one[:9]))
	f.Add([]byte("\x00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		whole, err := batch.ScanRecords(bytes.NewReader(data), func(int64, bool) { n++ })
		if whole < 0 || whole > int64(len(data)) || err == nil && n != bytes.Count(data[:whole], []byte("\n")) {
			t.Errorf("%d whole bytes of %d, %d records, %v", whole, len(data), n, err)
		}
	})
}

func TestJobIDs(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, id := range []string{
		batch.JobID("b", 1, 0, []byte("x")), batch.JobID("b", 2, 0, []byte("x")), batch.JobID("c", 1, 0, []byte("x")),
		batch.JobID("b", 1, 1, []byte("x")), batch.JobID("b", 1, 0, []byte("y")),
	} {
		if seen[id] || schemas.CheckToken(id) != nil {
			t.Errorf("id %s", id)
		}
		seen[id] = true
	}
	if a, b := batch.JobID("b", 1, 0, []byte("x")), batch.JobID("b", 1, 0, []byte("x")); a != b {
		t.Errorf("%s and %s for the same line", a, b)
	}
}

func TestRunConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := batch.NewRun(newRig(t).js, batch.RunConfig{Tenant: "a.b", Endpoint: "/v2", InFlight: -1, Sweep: -1})
	for _, want := range []string{`Tenant "a.b"`, `Input is "-", and Stdin is nil`, `Output or Errors is "-", and Stdout is nil`, `Endpoint is "/v2"`, "InFlight is -1", "Sweep is -1ns"} {
		wantError(t, err, nil, want)
	}
	_, err = batch.NewRun(newRig(t).js, batch.RunConfig{Input: "x", Output: "x"})
	wantError(t, err, nil, `Input is "x", and so is Output`)
}

// TestRunRefusesWhatIsNotItsOwn leaves files alone that it did not write, and does not go on with another's run.
func TestRunRefusesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(4, echo)
	try := func(p place, change func(*batch.RunConfig)) error {
		cfg := p.config()
		change(&cfg)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return newRun(t, r.js, cfg).Run(ctx)
	}
	same := func(*batch.RunConfig) {}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	other := newPlace(t, many(3))
	write(other.out, "precious\n")
	wantError(t, try(other, same), batch.ErrNotEmpty, other.out)
	if err := try(other, func(c *batch.RunConfig) { c.Restart = true }); err != nil {
		t.Error(err)
	}

	p := newPlace(t, many(3))
	if err := try(p, same); err != nil {
		t.Fatal(err)
	}
	wantError(t, try(p, func(c *batch.RunConfig) { c.Tenant = "other" }), nil, `of tenant "acme"`)
	wantError(t, try(p, func(c *batch.RunConfig) { c.Errors = "" }), nil, "with the error file")
	write(p.out, "{\"id\":\"x\"}\n{}\n")
	wantError(t, try(p, same), nil, "not a record of a batch")
	write(p.out, fmt.Sprintf(`{"id":%q}`+"\n", batch.RequestID("another", 1, 0, false)))
	wantError(t, try(p, same), nil, "of another batch")
	for _, text := range []string{"{", `{"batch":"a.b"}`} {
		write(p.out+".hxp", text)
		wantError(t, try(p, same), nil, "is not the journal of a run")
	}

	locked := newPlace(t, many(2))
	gate := make(chan struct{})
	in := locked.config()
	in.Input, in.Stdin = batch.Stdio, iotest.OneByteReader(io.MultiReader(strings.NewReader(many(1)), waits{gate}))
	in.SkipValidation = true
	first := newRun(t, r.js, in)
	ended := make(chan error, 1)
	go func() { ended <- first.Run(t.Context()) }()
	r.until("the first has a record", func() bool { return first.Progress().Completed == 1 })
	wantError(t, try(locked, same), batch.ErrLocked)
	close(gate)
	if err := <-ended; err != nil || !strings.HasPrefix(first.Batch(), "batch_") {
		t.Errorf("%v; batch %q", err, first.Batch())
	}
	wantError(t, first.Run(t.Context()), nil, "runs once")

	wantError(t, try(place{in: "/nowhere", out: p.out + "2"}, same), os.ErrNotExist)
	wantError(t, try(place{in: p.in, out: "/nowhere/out"}, same), os.ErrNotExist)
	wantError(t, try(place{in: p.in, out: filepath.Join(t.TempDir(), "o"), errs: "/nowhere/e"}, same), os.ErrNotExist)
	wantError(t, try(newPlace(t, "{}\n"), func(c *batch.RunConfig) { c.Strict = true }), batch.ErrInvalid, "1 of 1")
	boom := errors.New("boom")
	for _, skip := range []bool{true, false} {
		wantError(t, try(place{in: batch.Stdio, out: filepath.Join(t.TempDir(), "o")}, func(c *batch.RunConfig) {
			c.Stdin, c.SkipValidation = iotest.ErrReader(boom), skip
		}), boom)
	}
	wantError(t, try(place{in: p.in, out: batch.Stdio}, func(c *batch.RunConfig) { c.Stdout = broken{boom} }), boom, "write the record of line ")
}

// waits is a reader that waits for its end.
type waits struct{ gate chan struct{} }

func (w waits) Read([]byte) (int, error) { <-w.gate; return 0, io.EOF }

// broken is a writer that fails.
type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestChangedInputIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := make(chan struct{})
	r.work(4, func(j *schemas.Job) *schemas.Error {
		if prompt(j.Body) == "question 9" {
			<-gate
		}
		return nil
	})
	p := newPlace(t, many(10))
	ctx, cancel := context.WithCancel(t.Context())
	x := newRun(t, r.js, p.config())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	r.until("nine lines are done", func() bool { return x.Progress().Completed == 9 })
	cancel()
	wantError(t, <-ended, context.Canceled)
	close(gate)
	if err := os.WriteFile(p.in, []byte(many(11)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, newRun(t, r.js, p.config()).Run(t.Context()), batch.ErrChanged)
	cfg := p.config()
	cfg.SkipValidation = true // nobody compares: what is new is run
	if got := run(t, r.js, cfg); got.Completed != 11 || got.Resumed != 9 {
		t.Errorf("progress = %+v", got)
	}
	cfg.SkipValidation, cfg.Restart = false, true
	if got := run(t, r.js, cfg); got.Completed != 11 || got.Resumed != 0 {
		t.Errorf("progress = %+v", got)
	}
}

// TestRetryOfFailedLines has three lines fail, two of them once, with and without an error file.
func TestRetryOfFailedLines(t *testing.T) {
	t.Parallel()
	for _, apart := range []bool{true, false} {
		t.Run(fmt.Sprint("error file ", apart), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			tries := make(map[string]int)
			crew := r.work(1, func(j *schemas.Job) *schemas.Error {
				q := prompt(j.Body)
				tries[q]++
				switch {
				case j.Model != "phi3":
				case q == "question 0", q == "question 2" && tries[q] == 1, q == "question 4" && tries[q] == 1:
					return schemas.Errorf(schemas.CodeMaxAttempts, "it failed")
				}
				return nil
			})
			p := newPlace(t, strings.ReplaceAll(many(20), "hermes", "phi3")+"{}\n")
			cfg := p.config()
			if !apart {
				cfg.Errors, p.errs = "", p.out
			}
			if got := run(t, r.js, cfg); got.Completed != 17 || got.Failed != 4 {
				t.Errorf("progress = %+v", got)
			}
			cfg.RetryFailed = true
			if got := run(t, r.js, cfg); got.Completed != 19 || got.Failed != 2 || got.Resumed != 17 {
				t.Errorf("progress = %+v", got)
			}
			list := readEntries(t, p.out)
			if apart {
				list = append(list, readEntries(t, p.errs)...)
			}
			if done := customs(t, list); len(done) != 21 || done["c-0"].Response.StatusCode != 502 || done["c-4"].Response.StatusCode != 200 {
				t.Errorf("%d records; c-0 is %+v", len(done), done["c-0"])
			}
			if runs, jobs := crew.most(); runs != 1 || jobs != 23 {
				t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
			}
		})
	}
}

// TestBadLinesFailAlone is ten kinds of bad lines, one in a hundred.
func TestBadLinesFailAlone(t *testing.T) {
	t.Parallel()
	const n, kinds = 1000, 10
	r := newRig(t)
	r.work(64, echo)
	var in strings.Builder
	for i := range n {
		if i%100 == 50 {
			in.WriteString(badLines[3+(i/100)%kinds].line + "\n")
			continue
		}
		in.WriteString(chat(fmt.Sprint("c-", i), "phi3", fmt.Sprint("question ", i)) + "\n")
	}
	for _, skip := range []bool{false, true} {
		p := newPlace(t, in.String())
		cfg := p.config()
		told := 0
		cfg.SkipValidation, cfg.Invalid = skip, func(*batch.LineError) { told++ }
		var found batch.Summary
		cfg.Validated = func(s batch.Summary) { found = s }
		if got := run(t, r.js, cfg); got.Completed != n-n/100 || got.Failed != n/100 {
			t.Errorf("progress = %+v", got)
		}
		if !skip && (told != n/100 || found.Invalid != n/100) {
			t.Errorf("%d faults were told; %+v", told, found)
		}
		if done := customs(t, readEntries(t, p.out)); len(done) != n-n/100 {
			t.Errorf("%d answers", len(done))
		}
		for _, e := range readEntries(t, p.errs) {
			want := badLines[3+int(e.Error.Line/100)%kinds]
			if e.Error.Line%100 != 51 || !strings.Contains(e.Error.Message, want.want) || e.Error.Param != want.param || !strings.Contains(e.Error.Message, fmt.Sprint("line ", e.Error.Line)) {
				t.Errorf("error %+v, want %q of %q", e.Error, want.want, want.param)
			}
		}
	}
}

// TestEndsThatNobodyHears has no terminal event arrive: the sweep finds the Results.
func TestEndsThatNobodyHears(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	crew := r.work(16, echo)
	crew.silent.Store(true)
	p := newPlace(t, many(100))
	if got := run(t, r.js, p.config()); got.Completed != 100 {
		t.Errorf("progress = %+v", got)
	}
}

// TestFullQueueHoldsARunBack has room for a few jobs alone.
func TestFullQueueHoldsARunBack(t *testing.T) {
	t.Parallel()
	cfg := small()
	cfg.MaxJobsPerTenant = 3
	r := newRigWith(t, cfg)
	crew := r.work(2, func(*schemas.Job) *schemas.Error { <-time.After(time.Millisecond); return nil })
	p := newPlace(t, many(30))
	if got := run(t, r.js, p.config()); got.Completed != 30 || got.Fault != "" {
		t.Errorf("progress = %+v", got)
	}
	if runs, jobs := crew.most(); runs != 1 || jobs != 30 {
		t.Errorf("%d jobs were run, one of them %d times", jobs, runs)
	}
}

// TestLargeLines has bodies that travel by reference, and one above the bound.
func TestLargeLines(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.work(2, echo)
	var in strings.Builder
	for i := range 3 {
		in.WriteString(chat(fmt.Sprint("c-", i), "phi3", strings.Repeat("long ", 120_000)+fmt.Sprint(i)) + "\n")
	}
	in.WriteString(chat("too-large", "phi3", strings.Repeat("x", 1<<20)) + "\n")
	p := newPlace(t, in.String())
	cfg := p.config()
	cfg.MaxBody, cfg.InFlight = 1<<20, 2
	if got := run(t, r.js, cfg); got.Completed != 3 || got.Failed != 1 {
		t.Errorf("progress = %+v", got)
	}
	if e := readEntries(t, p.errs); len(e) != 1 || e[0].Error.Code != "payload_too_large" || !strings.Contains(e[0].Error.Message, "want at most 1048576") {
		t.Errorf("errors = %+v", e)
	}
}
