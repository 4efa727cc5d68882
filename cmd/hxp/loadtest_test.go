package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/loadtest/report"
)

// TestE2ELoadtestCompare needs nothing but the command: broker, worker and engine are in its process.
func TestE2ELoadtestCompare(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "results")
	s := command(t.Context(), "", "loadtest", "compare", "--up", "--models", "phi3", "--rate", "400", "--requests", "25", "--rounds", "1", "--sim-ttft", "2ms", "--sim-itl", "1ms",
		"--output-len", "8", "--goodput", "ttft:60000 e2el:60000", "--tenants", "a:1,b:2", "--classes", "interactive,batch:2", "--out", dir, "--name", "small", "--note", "a test").must(t, exitOK)
	for _, want := range []string{"successful requests", "What the queue adds", "queue_wait", "good requests/s"} {
		if !strings.Contains(s.out, want) {
			t.Errorf("stdout has no %q:\n%s", want, s.out)
		}
	}
	if !strings.Contains(s.stderr, "[1/2] direct, 400/s, round 1/1:") || !strings.Contains(s.stderr, "report.html") {
		t.Errorf("stderr: %s", s.stderr)
	}
	r, err := report.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Summary.Name != "small" || strings.Join(r.Summary.Command[:3], " ") != "hxp loadtest compare" || len(r.Environment.Notes) != 2 || r.Environment.Engines["phi3"] == "" {
		t.Errorf("summary %s %q, environment %+v", r.Summary.Name, r.Summary.Command, r.Environment)
	}
	for _, total := range r.Summary.Totals {
		if total.Completed != 25 || total.Lost+total.Doubled+total.Gaps+total.Different != 0 || total.TotalOutputTokens != 200 || total.RequestGoodput == 0 {
			t.Errorf("total %+v", total)
		}
	}
	lines, err := os.ReadFile(filepath.Join(dir, report.RequestsFile))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(lines), "\n"); n != 50 {
		t.Errorf("%d requests in the log, want 50", n)
	}

	page := filepath.Join(dir, report.PageFile)
	before, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(page); err != nil {
		t.Fatal(err)
	}
	command(t.Context(), "", "loadtest", "report", dir).must(t, exitOK)
	if after, err := os.ReadFile(page); err != nil || string(after) != string(before) {
		t.Errorf("the page is another one: %v", err)
	}
	tables := command(t.Context(), "", "loadtest", "report", "--markdown", dir).must(t, exitOK)
	if !strings.Contains(tables.out, "## small") || !strings.Contains(tables.out, "hxp loadtest compare --up") {
		t.Errorf("tables: %s", tables.out)
	}
}

func TestLoadtestRunThroughARunningQueue(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3")
	dir := t.TempDir()
	file := filepath.Join(dir, "mt.jsonl")
	if err := os.WriteFile(file, []byte(`{"turns":["one","two"]}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := c.hxp(t, "loadtest", "run", "--stage", "concurrency=2,requests=3,name=few", "--dataset", "mtbench", "--dataset-path", file, "--output-len", "4", "--warmups", "0",
		"-o", "json", "--out", filepath.Join(dir, "a")).must(t, exitOK)
	var sum loadtest.Summary
	if err := json.Unmarshal([]byte(s.out), &sum); err != nil {
		t.Fatal(err)
	}
	if sum.Totals[0].Target != loadtest.Queue || sum.Totals[0].Completed != 6 || sum.Totals[0].TotalOutputTokens != 24 || sum.Workload.Stages[0].Name != "few" {
		t.Errorf("summary %+v", sum.Totals[0])
	}
	direct := c.hxp(t, "loadtest", "run", "--target", "direct", "--direct", c.Engines["phi3"], "--direct", "other=http://127.0.0.1:1", "--models", "phi3,other", "--concurrency", "1",
		"--requests", "8", "--out", filepath.Join(dir, "b"))
	direct.must(t, exitPartly)
	if !strings.Contains(direct.out, "connection") {
		t.Errorf("failures are not shown: %s", direct.out)
	}
	c.hxp(t, "loadtest", "run", "--models", "nobody", "--requests", "1", "--rate", "100", "--warmups", "0", "--out", filepath.Join(dir, "c")).must(t, exitFailed)
}

func TestLoadtestSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"run --target there", exitUsage, `--target "there"`},
		{"run --output-len 0", exitUsage, "--output-len is 0"},
		{"run --range-ratio 2", exitUsage, "--range-ratio is 2"},
		{"run --dataset poems", exitUsage, `--dataset "poems" is not known`},
		{"run --dataset sharegpt", exitUsage, "needs its file"},
		{"run --dataset batch --dataset-path " + filepath.Join(dir, "none"), exitUsage, "no such file"},
		{"run --dataset sharegpt --dataset-path " + bad, exitUsage, "does not begin with an array"},
		{"run --dataset sharegpt-conversations --dataset-path " + bad, exitUsage, "does not begin with an array"},
		{"run --dataset mtbench-first --dataset-path " + bad, exitUsage, "line 1"},
		{"run --stage rate", exitUsage, "is not name=value"},
		{"run --stage rate=x", exitUsage, `stage "rate=x"`},
		{"run --stage speed=1", exitUsage, `"speed" is not known`},
		{"run --rate x", exitUsage, `stage "rate=x"`},
		{"run --concurrency x", exitUsage, `stage "concurrency=x"`},
		{"run --rate 0", exitUsage, "Rate and Concurrency are 0"},
		{"run --models phi3:0", exitUsage, "no number above 0"},
		{"run --classes standard:x", exitUsage, "no number above 0"},
		{"run --tenants a:x", exitUsage, "no number above 0"},
		{"run --goodput ttft", exitUsage, "is not metric:milliseconds"},
		{"run --goodput itl:5 --up", exitUsage, `Goodput has "itl"`},
		{"run --up --models gpt", exitUsage, "gpt"},
		{"run --server nats://127.0.0.1:1", exitConnect, "cannot connect"},
		{"run -o xml", exitUsage, "--output"},
		{"compare", exitUsage, "--direct URL, or --up"},
		{"run --target direct --direct ftp://x", exitUsage, "is not an http"},
		{"run --profile b200 --up", exitUsage, `"b200" is no profile; want h100`},
		{"report", exitUsage, "requires at least 1"},
		{"report " + dir, exitUsage, "summary.json"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"loadtest"}, strings.Fields(c.args)...)
			if strings.HasPrefix(c.args, "run") || strings.HasPrefix(c.args, "compare") {
				args = append(args, "--out", out)
			}
			if s := command(t.Context(), "", args...).must(t, c.code); !strings.Contains(s.stderr, c.want) {
				t.Errorf("stderr = %q, want %q in it", s.stderr, c.want)
			}
		})
	}
	if s := command(t.Context(), "", "loadtest").must(t, exitOK); !strings.Contains(s.out, "compare") {
		t.Errorf("help: %s", s.out)
	}
}

func TestLoadtestStopsWhenAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, interrupt := context.WithCancelCause(t.Context())
	defer interrupt(nil)
	stderr := &watched{stop: func() { interrupt(app.ErrInterrupted) }}
	code := run(ctx, strings.Fields("loadtest run --up --stage rate=50..60,for=1h --dataset prefix --output-len 2 --out "+dir), strings.NewReader(""), &safe{}, stderr, nil)
	if code != exitInterrupted {
		t.Fatalf("exit code %d, want %d: %s", code, exitInterrupted, stderr.String())
	}
	r, err := report.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Summary.Totals[0].Completed == 0 {
		t.Errorf("nothing was measured: %+v", r.Summary.Totals[0])
	}
}

// watched stops a run once it reports that requests were answered.
type watched struct {
	safe
	stop func()
}

func (w *watched) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "tokens/s") && !strings.Contains(string(p), " 0 ok") {
		w.stop()
	}
	return w.safe.Write(p)
}
