package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// record is a line of an output file, as OpenAI describes it.
type batchRecord struct {
	ID       string `json:"id"`
	CustomID string `json:"custom_id"`
	Response *struct {
		StatusCode int    `json:"status_code"`
		RequestID  string `json:"request_id"`
		Body       struct {
			ID      string `json:"id"`
			Object  string `json:"object"`
			Created int64  `json:"created"`
			Model   string `json:"model"`
			Choices []struct {
				Index   int `json:"index"`
				Message struct {
					Role    string `json:"role"`
					Content string `json:"content"`
				} `json:"message"`
				FinishReason string `json:"finish_reason"`
			} `json:"choices"`
			Usage schemas.Usage `json:"usage"`
			Error *struct {
				Message, Param string
				Code           schemas.Code
			} `json:"error"`
		} `json:"body"`
	} `json:"response"`
	Error *struct {
		Code    schemas.Code `json:"code"`
		Message string       `json:"message"`
		Param   string       `json:"param"`
		Line    int64        `json:"line"`
	} `json:"error"`
}

// batchRecords reads a file of records, each custom_id of which must be there once.
func batchRecords(t *testing.T, path string) map[string]batchRecord {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]batchRecord)
	for line := range bytes.Lines(data) {
		var r batchRecord
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		if _, twice := out[r.CustomID]; twice && r.CustomID != "" {
			t.Errorf("%s: custom_id %q is there twice", path, r.CustomID)
		}
		out[r.CustomID] = r
	}
	return out
}

// turns are all turns of MT-Bench, or the built-in questions where it is not at hand.
func turns(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(cmp.Or(os.Getenv("HXP_MT_BENCH"), "../../../shared/data/mt_bench.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return ownQuestions
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range bytes.Lines(data) {
		var q struct{ Turns []string }
		if err := json.Unmarshal(line, &q); err != nil {
			t.Fatal(err)
		}
		out = append(out, q.Turns...)
	}
	return out
}

func batchLine(t *testing.T, id, model, prompt string, maxTokens int) string {
	t.Helper()
	line, err := json.Marshal(map[string]any{
		"custom_id": id, "method": "POST", "url": "/v1/chat/completions",
		"body": map[string]any{"model": model, "max_tokens": maxTokens, "messages": []map[string]string{{"role": "user", "content": prompt}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(line) + "\n"
}

// TestE2EBatchRunOverEveryModel runs every turn through each of the four models, and compares each record with
// what the engine makes of it.
func TestE2EBatchRunOverEveryModel(t *testing.T) {
	t.Parallel()
	cluster := start(t, "--log-level", "warn")
	dir := t.TempDir()
	in, out, errs := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "errors.jsonl")
	type asked struct{ model, prompt string }
	want := make(map[string]asked)
	var b strings.Builder
	for i, q := range turns(t) {
		for _, m := range []string{"mixtral", "hermes", "openchat", "phi3"} {
			id := fmt.Sprintf("%s-%d", m, i)
			want[id] = asked{m, q}
			b.WriteString(batchLine(t, id, m, q, 32))
		}
	}
	if err := os.WriteFile(in, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s := cluster.hxp(t, "batch", "run", "-i", in, "-o", out, "-e", errs).must(t, exitOK)
	t.Logf("lines=%d seconds=%.1f: %s", len(want), time.Since(began).Seconds(), strings.TrimSpace(s.stderr))
	if failed := batchRecords(t, errs); len(failed) > 0 {
		t.Errorf("%d lines failed: %+v", len(failed), failed)
	}
	got := batchRecords(t, out)
	if len(got) != len(want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
	for id, a := range want {
		body := fmt.Sprintf(`{"messages":[{"role":"user","content":%s}],"max_tokens":32}`, quoted(t, a.prompt))
		expected, err := vllmsim.Expected(a.model, []byte(body), string(schemas.ChatCompletions))
		if err != nil {
			t.Fatal(err)
		}
		r := got[id].Response
		switch {
		case r == nil || r.StatusCode != 200 || r.RequestID == "" || r.Body.Object != "chat.completion" || r.Body.Model != a.model || r.Body.Created == 0:
			t.Fatalf("%s: %+v", id, got[id])
		case len(r.Body.Choices) != 1 || r.Body.Choices[0].Message.Content != expected[0].Text || r.Body.Choices[0].Message.Role != "assistant":
			t.Fatalf("%s: %+v, want %q", id, r.Body.Choices, expected[0].Text)
		case r.Body.Usage.CompletionTokens != len(expected[0].TokenIDs):
			t.Errorf("%s: usage %+v, want %d tokens", id, r.Body.Usage, len(expected[0].TokenIDs))
		}
	}
}

func quoted(t *testing.T, s string) []byte {
	t.Helper()
	q, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestE2EBatchRunKilledFiveTimes kills the process that runs a file, again and again at another moment, and has the
// same command go on.
func TestE2EBatchRunKilledFiveTimes(t *testing.T) {
	t.Parallel()
	const n, kills = 2000, 5
	cluster := start(t, "--models", "phi3", "--log-level", "warn", "--sim-itl", "2ms")
	dir := t.TempDir()
	in, out, errs := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "errors.jsonl")
	var b strings.Builder
	for i := range n {
		b.WriteString(batchLine(t, fmt.Sprint("line-", i), "phi3", fmt.Sprint("Count to ", i), 16))
	}
	if err := os.WriteFile(in, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"batch", "run", "-i", in, "-o", out, "-e", errs, "--server", cluster.NATS}
	lines := func() int {
		data, _ := os.ReadFile(out)
		return bytes.Count(data, []byte("\n"))
	}
	for i := range kills {
		cmd, stderr := process(t, args...)
		for lines() < (i+1)*n/(kills+3) {
			if t.Context().Err() != nil {
				t.Fatal("the run does not get on")
			}
			<-time.After(time.Millisecond)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = stderr.WriteTo(&safe{})
		_ = cmd.Wait()
	}
	if had := lines(); had >= n {
		t.Fatalf("the run was over before it was killed %d times", kills)
	}
	s := cluster.hxp(t, args[:len(args)-2]...).must(t, exitOK)
	if !strings.Contains(s.stderr, fmt.Sprintf("%d lines: %d completed, 0 failed", n, n)) {
		t.Errorf("stderr = %s", s.stderr)
	}
	got := batchRecords(t, out)
	if len(got) != n {
		t.Errorf("%d custom_ids, want %d", len(got), n)
	}
	jobs := make(map[string]bool)
	for _, r := range got {
		jobs[r.Response.RequestID] = true
	}
	if len(jobs) != n {
		t.Errorf("%d jobs for %d lines", len(jobs), n)
	}
	if asked := generated(t, cluster); asked != n {
		t.Errorf("the engine was asked %d times for %d lines", asked, n)
	}
}

// generated is how often workers have asked their engines to generate.
func generated(t *testing.T, c *cluster) (n int) {
	t.Helper()
	resp, err := http.Get("http://" + c.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var count int
		if strings.HasPrefix(line, "hxp_engine_requests_total{") {
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &count); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			n += count
		}
	}
	return n
}

// TestE2ESubmittedBatchOutlivesEveryWorker kills the processes that work on a batch, coordinators and workers in one, again
// and again. The broker and the engine live.
func TestE2ESubmittedBatchOutlivesEveryWorker(t *testing.T) {
	t.Parallel()
	const n, kills = 1500, 5
	broker, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	nc, err := nats.Connect(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// Another coordinator takes over when the lock of one that was killed has expired.
	if _, err := queue.Ensure(t.Context(), js, []string{"phi3"}, queue.Config{LockTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	engine := begin(t, "sim", "phi3", "--listen", "127.0.0.1:0", "--ttft", "1ms", "--itl", "2ms")
	work := func() *exec.Cmd {
		cmd, stderr := process(t, "worker", "--model", "phi3", "--server", broker.URL(), "--engine", engine.Engines["phi3"], "--listen", "127.0.0.1:0", "--log-level", "warn")
		go func() { _, _ = stderr.WriteTo(&safe{}) }() // until the process ends
		return cmd
	}
	workers := []*exec.Cmd{work(), work()}
	batches, err := batch.NewClient(js, "default")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range n {
		b.WriteString(batchLine(t, fmt.Sprint("line-", i), "phi3", fmt.Sprint("Count to ", i), 12))
	}
	state, err := batches.Submit(t.Context(), strings.NewReader(b.String()), batch.Submission{})
	if err != nil {
		t.Fatal(err)
	}
	done := func() int64 {
		var n int64
		for _, err := range batches.Output(t.Context(), state.ID) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	for i := range kills {
		for done() < int64((i+1)*n/(kills+3)) {
			if t.Context().Err() != nil {
				t.Fatal("the batch does not get on")
			}
			<-time.After(5 * time.Millisecond)
		}
		victim := i % 2
		if err := workers[victim].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = workers[victim].Wait()
		workers[victim] = work()
	}
	end, err := batches.Watch(t.Context(), state.ID, func(*schemas.BatchState) {})
	if err != nil || end.Status != schemas.BatchCompleted || end.RequestCounts != (schemas.BatchCounts{Total: n, Completed: n}) {
		t.Errorf("batch = %+v, %v", end, err)
	}
	path := filepath.Join(t.TempDir(), "out.jsonl")
	command(t.Context(), "", "batch", "results", state.ID, "-o", path, "--server", broker.URL()).must(t, exitOK)
	if got := batchRecords(t, path); len(got) != n {
		t.Errorf("%d custom_ids, want %d", len(got), n)
	}
	for _, w := range workers {
		_ = w.Process.Kill()
		_ = w.Wait()
	}
}
