package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/loadtest/report"
)

var update = flag.Bool("update", false, "write the golden files")

// sample is a run with everything that a report shows.
func sample() (*loadtest.Summary, *loadtest.Environment) {
	began := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	cdf := func(scale float64) (out []float64) {
		for i := range loadtest.Quantiles() {
			out = append(out, scale*float64(i+1))
		}
		return out
	}
	metrics := func(scale float64) map[string]loadtest.Distribution {
		d := loadtest.Distribution{Count: 12345, Avg: 2 * scale, Std: 1, Min: scale, P50: 2 * scale, P90: 3 * scale, P95: 4 * scale, P99: 5 * scale, P999: 6 * scale, Max: 7 * scale}
		d.CDF = cdf(scale)
		return map[string]loadtest.Distribution{loadtest.TTFT: d, loadtest.ITL: d, loadtest.E2EL: d}
	}
	s := &loadtest.Summary{
		Format: loadtest.Format, Name: "A <sample>", Command: []string{"hxp", "loadtest", "compare", "--name", "it's a run"}, Started: began, Finished: began.Add(90 * time.Second),
		Workload: loadtest.WorkloadInfo{
			Dataset: "random", Rounds: 2, OutputTokens: 64, Models: []loadtest.Weighted{{Name: "phi3", Weight: 1}, {Name: "hermes", Weight: 2}},
			Stages:  []loadtest.StageInfo{{Name: "100/s", Rate: 100, EndRate: 100, Seconds: 10}, {Name: "500/s", Rate: 500, EndRate: 500, Seconds: 10}, {Name: "8 clients", Concurrency: 8}, {Name: "64 clients", Concurrency: 64}},
			Goodput: map[string]float64{loadtest.TTFT: 500},
		},
		Targets: []string{loadtest.Direct, loadtest.Queue}, BucketSeconds: 1,
		Timeline: []loadtest.Bucket{
			{At: 0, Target: loadtest.Direct, Sent: 3, Completed: 2, MaxTTFT: 12}, {At: 1, Target: loadtest.Queue, Completed: 4, Redelivered: 1, MaxTTFT: 30},
			{At: 2, Target: loadtest.Queue, Completed: 1, Failed: 2, MaxTTFT: 20}, {At: 3, Completed: 1},
		},
	}
	for i, target := range s.Targets {
		scale := float64(i + 1)
		total := loadtest.Block{
			Target: target, Duration: 40, Completed: 12345, Failed: 2 * i, TotalInputTokens: 1234567, TotalOutputTokens: 790080, Chunks: 700000, RequestThroughput: 308.6,
			RequestGoodput: 300, OutputThroughput: 19752, MaxOutputPerSecond: 2.5e6, Peak: 64, CPUPer1000: 3.25 * scale, CPUPerRequest: 0.021 * scale, Redeliveries: i, Metrics: metrics(scale),
		}
		if i == 1 {
			total.FailuresByCode = map[string]int{"timeout": 1, "max_attempts": 1}
		}
		s.Totals = append(s.Totals, total)
		for _, m := range s.Workload.Models {
			s.Models = append(s.Models, loadtest.Block{Target: target, Model: m.Name, Metrics: metrics(scale)})
		}
		for round := range 2 {
			for stage := range s.Workload.Stages {
				if stage == 3 && i == 1 {
					continue // was not reached
				}
				w := metrics(scale * float64(stage+1))
				if stage == 2 && i == 1 {
					w = nil
				}
				s.Windows = append(s.Windows, loadtest.Block{
					Target: target, StageIndex: stage, Round: round, Completed: 100 + round, RequestThroughput: 10 * scale, OutputThroughput: 1000 * scale * float64(stage+round+1), CPUPer1000: 2, Metrics: w,
				})
			}
		}
	}
	s.Differences = []loadtest.Difference{
		{Stage: "100/s", TTFT50: loadtest.Spread{Median: 0.8, Min: 0.5, Max: 1.25, Rounds: 2}, OutputThroughput: loadtest.Spread{Median: 0.99, Rounds: 1}, TTFT99: loadtest.Spread{Median: -12345.6, Rounds: 1}},
	}
	e := &loadtest.Environment{
		Version: "v1.2.3", Go: "go1.26", OS: "linux", Arch: "amd64", CPU: "A CPU", Cores: 2, MemoryMiB: 2048, LoadAverage: 1.5, Engines: map[string]string{"phi3": "http://127.0.0.1:11403"}, Notes: []string{"the machine was shared"},
	}
	return s, e
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestThePageIsTheSameForTheSameFigures(t *testing.T) {
	t.Parallel()
	var page bytes.Buffer
	if err := report.HTML(&page, first(sample()), second(sample())); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.html", page.Bytes())
}

func first(s *loadtest.Summary, _ *loadtest.Environment) *loadtest.Summary      { return s }
func second(_ *loadtest.Summary, e *loadtest.Environment) *loadtest.Environment { return e }

func TestThePageNeedsNothingElse(t *testing.T) {
	t.Parallel()
	s, e := sample()
	s.Name = ""
	var page bytes.Buffer
	if err := report.HTML(&page, s, e); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, never := range []string{"<script", "http-equiv", "src=", "href=", "url(", "@import", "ZgotmplZ"} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %s in it", never)
		}
	}
	for _, must := range []string{"prefers-color-scheme: dark", "<title>Load test</title>", "Latency against rate", "Throughput against concurrency", "1 redelivered", "2 failed", "max_attempts"} {
		if !strings.Contains(text, must) {
			t.Errorf("the page has no %q", must)
		}
	}
	// Every drawing is well-formed by itself.
	for part := range strings.SplitSeq(text, "<svg") {
		body, _, ok := strings.Cut(part, "</svg>")
		if !ok {
			continue
		}
		d := xml.NewDecoder(strings.NewReader("<svg" + body + "</svg>"))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("drawing: %v: %s", err, body)
			}
		}
	}
}

func TestARunOfNothingIsShown(t *testing.T) {
	t.Parallel()
	s := &loadtest.Summary{Format: loadtest.Format, Targets: []string{loadtest.Queue}, Workload: loadtest.WorkloadInfo{NoStream: true, Rounds: 1}, Totals: []loadtest.Block{{Target: loadtest.Queue}}}
	var page bytes.Buffer
	if err := report.HTML(&page, s, &loadtest.Environment{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page.String(), "<figure>") || !strings.Contains(page.String(), "not streamed") {
		t.Errorf("page: %s", page.String())
	}
	if text := report.Text(s); !strings.Contains(text, "successful requests") || strings.Contains(text, "queue adds") {
		t.Errorf("text: %s", text)
	}
}

func TestTablesForPeople(t *testing.T) {
	t.Parallel()
	s, e := sample()
	var b bytes.Buffer
	plain := *s
	plain.Name, plain.Command = "", nil
	if err := report.Markdown(&b, []*report.Run{{Dir: "a", Summary: s, Environment: e}, {Dir: "second", Summary: &plain, Environment: e}}); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.md", b.Bytes())
	golden(t, "report.txt", []byte(report.Text(s)))
}

func TestAFolderIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, e := sample()
	if err := report.Save(dir, s, e); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, report.PageFile))
	if err != nil {
		t.Fatal(err)
	}
	r, err := report.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, r.Summary); diff != "" {
		t.Errorf("summary (-want +got): %s", diff)
	}
	if diff := cmp.Diff(e, r.Environment); diff != "" {
		t.Errorf("environment (-want +got): %s", diff)
	}
	var again bytes.Buffer
	if err := report.HTML(&again, r.Summary, r.Environment); err != nil || !bytes.Equal(page, again.Bytes()) {
		t.Errorf("the page is another one after reading: %v", err)
	}
}

func TestFaultsOfFoldersAreNamed(t *testing.T) {
	t.Parallel()
	write := func(summary, environment string) string {
		dir := t.TempDir()
		for name, text := range map[string]string{report.SummaryFile: summary, report.EnvironmentFile: environment} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	big := write("", "{}")
	f, err := os.OpenFile(filepath.Join(big, report.SummaryFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(64<<20+1), f.Close()); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, report.SummaryFile), 0o755); err != nil {
		t.Fatal(err)
	}
	for want, dir := range map[string]string{
		"no such file":       t.TempDir(),
		"unexpected end":     write("{", "{}"),
		"format is 99":       write(`{"format":99}`, "{}"),
		"environment.json: ": write(`{"format":1}`, "x"),
		"is longer than":     big,
		"is a directory":     folder,
	} {
		if _, err := report.Load(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q in it", err, want)
		}
	}
	s, e := sample()
	if err := report.Save(filepath.Join(t.TempDir(), "missing"), s, e); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is missing: %v", err)
	}
	if err := report.Markdown(full{}, nil); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
