package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// file writes a file and returns its path.
func batchFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// few are n lines for phi3.
func few(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		b.WriteString(batchLine(t, fmt.Sprint("line-", i), "phi3", fmt.Sprint("Count to ", i), 4))
	}
	return b.String()
}

func TestBatchValidate(t *testing.T) {
	t.Parallel()
	good, bad := few(t, 2), `{"custom_id":"x","method":"GET"}`+"\n"
	for _, tc := range []struct {
		args      []string
		in        string
		code      int
		out, errs string
	}{
		{[]string{"-"}, good, exitOK, "", "2 lines, 2 valid, 0 invalid"},
		{[]string{batchFile(t, good+bad)}, "", exitPartly, `line 3: method is "GET"; want "POST"`, "3 lines, 2 valid, 1 invalid"},
		{[]string{"-", "-o", "ndjson"}, bad, exitFailed, `"param":"method","line":1`, "1 lines"},
		{[]string{"-", "-o", "json"}, good + bad, exitPartly, `"valid": 2`, ""},
		{[]string{"-", "--endpoint", "/v1/completions"}, good, exitFailed, `want "/v1/completions"`, ""},
		{[]string{"-", "--endpoint", "/v1/embeddings"}, good, exitUsage, "", "--endpoint"},
		{[]string{"/nowhere/in.jsonl"}, "", exitUsage, "", "no such file"},
	} {
		s := command(t.Context(), tc.in, append([]string{"batch", "validate"}, tc.args...)...).must(t, tc.code)
		if !strings.Contains(s.out, tc.out) || !strings.Contains(s.stderr, tc.errs) {
			t.Errorf("validate %v: stdout %q, stderr %q; want %q and %q", tc.args, s.out, s.stderr, tc.out, tc.errs)
		}
	}
}

func TestBatchRun(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3")
	run := func(t *testing.T, stdin string, args ...string) said {
		t.Helper()
		return command(t.Context(), stdin, append([]string{"batch", "run", "--server", c.NATS}, args...)...)
	}
	t.Run("as a filter", func(t *testing.T) {
		t.Parallel()
		s := run(t, few(t, 3)+"{}\n").must(t, exitPartly)
		if strings.Count(s.out, "\n") != 4 || !strings.Contains(s.stderr, "4 lines: 3 completed, 1 failed") || !strings.Contains(s.stderr, "line 4: custom_id is missing") {
			t.Errorf("stdout = %s; stderr = %s", s.out, s.stderr)
		}
		run(t, "{}\n").must(t, exitFailed)
	})
	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		in := batchFile(t, few(t, 1)+"{}\n")
		if s := run(t, "", "-i", in, "--strict").must(t, exitUsage); !strings.Contains(s.stderr, "1 of 2") {
			t.Errorf("stderr = %s", s.stderr)
		}
		run(t, "", "-i", in, "-o", in).must(t, exitUsage)
		run(t, "", "-i", "/nowhere").must(t, exitUsage)
		run(t, "", "--endpoint", "x").must(t, exitUsage)
	})
	t.Run("retry of what failed", func(t *testing.T) {
		t.Parallel()
		in := batchFile(t, few(t, 2)+batchLine(t, "long", "phi3", "Hi", 1_000_000))
		out := filepath.Join(t.TempDir(), "out.jsonl")
		for range 2 {
			if s := run(t, "", "-i", in, "-o", out, "--retry-failed").must(t, exitPartly); !strings.Contains(s.stderr, "3 lines: 2 completed, 1 failed") {
				t.Errorf("stderr = %s", s.stderr)
			}
			if got := batchRecords(t, out); len(got) != 3 || got["long"].Response.StatusCode != 400 || got["long"].Response.Body.Error.Param == "" {
				t.Errorf("records = %+v", got)
			}
		}
	})
}

func TestBatchOfTheCluster(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3")
	in := batchFile(t, few(t, 40)+"{}\n")
	s := c.hxp(t, "batch", "submit", in, "--priority", "3", "--metadata", "a=b", "--window", "1h").must(t, exitOK)
	id := strings.TrimSpace(s.out)
	if !strings.Contains(s.stderr, "1 of 41 lines are invalid") || !strings.HasPrefix(id, "batch_") {
		t.Errorf("stdout = %q, stderr = %q", s.out, s.stderr)
	}
	if s := c.hxp(t, "batch", "watch", id).must(t, exitPartly); !strings.Contains(s.out, "completed") || !strings.Contains(s.stderr, "line 41: custom_id is missing") {
		t.Errorf("stdout = %q, stderr = %q", s.out, s.stderr)
	}
	b := decode[schemas.BatchState](t, c.hxp(t, "batch", "show", id, "-o", "json").must(t, exitOK).out)
	if b.RequestCounts != (schemas.BatchCounts{Total: 41, Completed: 40, Failed: 1}) || b.Priority != 3 || b.Metadata["a"] != "b" || b.CompletionWindow != "1h0m0s" {
		t.Errorf("batch = %+v", b)
	}
	dir := t.TempDir()
	out, errs := filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "errors.jsonl")
	if s := c.hxp(t, "batch", "results", id, "-o", out, "-e", errs).must(t, exitOK); !strings.Contains(s.stderr, "40 completed, 1 failed") {
		t.Errorf("stderr = %q", s.stderr)
	}
	if got, failed := batchRecords(t, out), batchRecords(t, errs); len(got) != 40 || len(failed) != 1 || failed[""].Error.Line != 41 {
		t.Errorf("%d records; failed: %+v", len(got), failed)
	}
	if s := c.hxp(t, "batch", "results", id).must(t, exitOK); strings.Count(s.out, "\n") != 40 {
		t.Errorf("stdout = %s", s.out)
	}
	if s := c.hxp(t, "batch", "ls").must(t, exitOK); !strings.Contains(s.out, id) {
		t.Errorf("stdout = %s", s.out)
	}
	c.hxp(t, "batch", "retry-failed", id).must(t, exitOK)
	c.hxp(t, "batch", "watch", id).must(t, exitPartly)
	for _, args := range [][]string{{"show", "x"}, {"cancel", id}, {"results", "x"}, {"watch", "x"}, {"retry-failed", "x"}, {"priority", "x", "--to", "1"}} {
		c.hxp(t, append([]string{"batch"}, args...)...).must(t, exitFailed)
	}
	c.hxp(t, "batch", "submit", batchFile(t, "{}\n")).must(t, exitUsage)
	c.hxp(t, "batch", "submit", in, "--endpoint", "x").must(t, exitUsage)
	c.hxp(t, "batch", "submit", in, "--priority", "101").must(t, exitFailed)
}

func TestQueuePauseHoldsABatch(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3")
	c.hxp(t, "queue", "pause", "--class", "batch").must(t, exitOK)
	if s := c.hxp(t, "queue", "ls").must(t, exitOK); !strings.Contains(s.out, "paused\n") {
		t.Errorf("stdout = %s", s.out)
	}
	id := strings.TrimSpace(c.hxp(t, "batch", "submit", batchFile(t, few(t, 200)), "--no-validate").must(t, exitOK).out)
	c.hxp(t, "batch", "priority", id, "--to", "5").must(t, exitOK)
	c.hxp(t, "run", "phi3", "Hello", "--max-tokens", "4").must(t, exitOK) // the other classes go on
	b := decode[schemas.BatchState](t, c.hxp(t, "batch", "show", id, "-o", "json").must(t, exitOK).out)
	if b.RequestCounts.Completed > 0 || b.Status.Terminal() || b.Priority != 5 {
		t.Errorf("batch = %+v", b)
	}
	c.hxp(t, "queue", "resume").must(t, exitOK)
	c.hxp(t, "batch", "watch", id).must(t, exitOK)
	c.hxp(t, "queue", "pause", "phi3", "--for", "1h").must(t, exitOK)
	if s := c.hxp(t, "queue", "ls").must(t, exitOK); !strings.Contains(s.out, "paused for ") {
		t.Errorf("stdout = %s", s.out)
	}
	id = strings.TrimSpace(c.hxp(t, "batch", "submit", batchFile(t, few(t, 200)), "--no-validate").must(t, exitOK).out)
	c.hxp(t, "batch", "cancel", id, "--abort").must(t, exitOK)
	c.hxp(t, "batch", "watch", id).must(t, exitFailed)
	for _, args := range [][]string{{"pause", "nope"}, {"pause", "--class", "x"}, {"pause", "--for", "-1s"}} {
		c.hxp(t, append([]string{"queue"}, args...)...).must(t, exitUsage)
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	m := meter{}
	m.line(batch.Progress{Total: 1000, Completed: 100}, at, true)
	p := batch.Progress{Total: 1000, Completed: 290, Failed: 10, InFlight: 8, CompletionTokens: 4000, Fault: "no connection"}
	for bar, want := range map[bool]string{
		true:  "[=======                 ] 300/1000 lines, 10 failed, 8 in flight, 20 lines/s, 400 tok/s, ETA 35s; waiting: no connection",
		false: "300/1000 lines, 10 failed, 8 in flight, 20 lines/s, 400 tok/s, ETA 35s; waiting: no connection",
	} {
		if got := m.line(p, at.Add(10*time.Second), bar); got != want {
			t.Errorf("line = %q, want %q", got, want)
		}
	}
}
