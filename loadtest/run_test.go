package loadtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/loadtest"
)

// records reads a request log.
func records(t *testing.T, log *bytes.Buffer) []loadtest.Record {
	t.Helper()
	var out []loadtest.Record
	for line := range strings.Lines(log.String()) {
		var r loadtest.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestAComparisonMeasuresBothWays(t *testing.T) {
	t.Parallel()
	b := newBench(t, vllmsim.Config{TTFT: 5 * time.Millisecond, ITL: time.Millisecond})
	var log bytes.Buffer
	var told atomic.Int64
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 8, Output: 12}, Mix: phi3(), IgnoreEOS: true, Rounds: 2,
		Stages:  []loadtest.Stage{{Rate: 400, Requests: 20}, {Concurrency: 4, Duration: 200 * time.Millisecond, Requests: 1000}},
		Goodput: map[string]time.Duration{loadtest.E2EL: time.Minute},
	}, []loadtest.Target{b.direct, b.queued}, loadtest.Options{Log: &log, Progress: func(loadtest.Progress) { told.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Windows) != 8 || told.Load() < 8 {
		t.Errorf("%d windows and %d reports, want 8 and at least as many", len(s.Windows), told.Load())
	}
	var order []string
	for _, w := range s.Windows {
		order = append(order, w.Target)
	}
	if got := strings.Join(order, " "); got != "direct queue queue direct direct queue queue direct" {
		t.Errorf("the windows' order is %s", got)
	}
	for i, total := range s.Totals {
		if total.Target != []string{"direct", "queue"}[i] || total.Failed+total.Lost+total.Doubled+total.Gaps+total.Different != 0 {
			t.Errorf("total: %+v", total)
		}
		if total.Completed < 60 || total.TotalOutputTokens != 12*total.Completed || total.TotalInputTokens < 8*total.Completed {
			t.Errorf("%s: %d completed, %d and %d tokens", total.Target, total.Completed, total.TotalInputTokens, total.TotalOutputTokens)
		}
		if d := total.Metrics[loadtest.TTFT]; d.Count != int64(total.Completed) || d.P50 < 5 || len(d.CDF) != len(loadtest.Quantiles()) {
			t.Errorf("%s: ttft %+v", total.Target, d)
		}
		if total.RequestGoodput != total.RequestThroughput || total.CPUSeconds <= 0 || total.MaxOutputPerSecond <= 0 {
			t.Errorf("%s: goodput %g of %g, %g CPU seconds, at most %g tokens/s", total.Target, total.RequestGoodput, total.RequestThroughput, total.CPUSeconds, total.MaxOutputPerSecond)
		}
	}
	queue := s.Totals[1].Metrics
	if queue[loadtest.Accept].Count == 0 || queue[loadtest.QueueWait].Count == 0 || queue[loadtest.Delivery].Count == 0 {
		t.Errorf("the queue's metrics are %v", queue)
	}
	if len(s.Differences) != 2 || s.Differences[0].TTFT50.Rounds != 2 || s.Differences[0].TTFT50.Median <= 0 || s.Differences[1].SteadyThroughput.Rounds != 2 {
		t.Errorf("differences: %+v", s.Differences)
	}
	lines := records(t, &log)
	if want := s.Totals[0].Completed + s.Totals[1].Completed; len(lines) != want {
		t.Fatalf("%d lines in the log, want %d", len(lines), want)
	}
	replies := map[[3]any]string{}
	for _, l := range lines {
		key := [3]any{l.Stage, l.Round, l.N}
		if before, ok := replies[key]; ok && before != l.Reply {
			t.Errorf("request %v has replies %s and %s", key, before, l.Reply)
		}
		replies[key] = l.Reply
		if l.Target == loadtest.Queue && (l.Job == "" || l.Attempts != 1 || l.AcceptMS <= 0) {
			t.Errorf("line %+v", l)
		}
	}
}

// TestAStalledServerMakesRequestsLate is coordinated omission: one request at a time, and a server that stands still for a
// while. What could not be sent meanwhile counts from when it was due.
func TestAStalledServerMakesRequestsLate(t *testing.T) {
	t.Parallel()
	const stall = 300 * time.Millisecond
	var once sync.Once
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		once.Do(func() { <-time.After(stall) })
		rw.Header().Set("Content-Type", "text/event-stream")
		_, _ = rw.Write([]byte("data: {\"choices\":[{\"index\":0,\"text\":\"hi\"}]}\n\ndata: [DONE]\n\n"))
	}))
	const rate, n = 100, 40
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 2, Output: 1}, Mix: phi3(), Warmups: -1, MaxInFlight: 1,
		Stages: []loadtest.Stage{{Rate: rate, Arrival: loadtest.Constant, Requests: n}},
	}, []loadtest.Target{straight(t, url)}, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// The stall holds 30 arrivals up: the first by 300 ms, the last of them by 10. A generator that waits for its
	// answers and counts from when it sends would see a single slow request.
	got := s.Totals[0].Metrics[loadtest.TTFT]
	if got.Count != n || got.Max < 300 || got.P50 < 80 {
		t.Errorf("ttft is %+v; want the median at least 80 ms and the longest 300", got)
	}
	if lag := s.Totals[0].Metrics[loadtest.Lag]; lag.P50 < 80 || lag.Max < 250 {
		t.Errorf("lag is %+v", lag)
	}
	if s.Totals[0].Peak != 1 {
		t.Errorf("%d were in flight, want 1", s.Totals[0].Peak)
	}
}

func TestAnOpenLoopDoesNotWait(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var waiting atomic.Int64
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if waiting.Add(1) == 10 {
			close(release) // the tenth comes although none was answered
		}
		<-release
		_, _ = rw.Write([]byte(`{"choices":[{"text":"hi","finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}`))
	}))
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 2, Output: 1}, Mix: phi3(), Warmups: -1, NoStream: true,
		Stages: []loadtest.Stage{{Rate: 1000, Requests: 10}},
	}, []loadtest.Target{straight(t, url)}, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	total := s.Totals[0]
	if total.Completed != 10 || total.Peak != 10 || total.TotalOutputTokens != 10 {
		t.Errorf("total: %+v", total)
	}
	if _, ok := total.Metrics[loadtest.TTFT]; ok || total.Metrics[loadtest.E2EL].Count != 10 {
		t.Errorf("metrics of answers in one piece: %v", total.Metrics)
	}
}

func TestConversationsCarryTheReplies(t *testing.T) {
	t.Parallel()
	sim, url := simulate(t, vllmsim.Config{LogPrompts: true})
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Dialogues{Turns: 3, Input: 2, Output: 5}, Mix: phi3(), Warmups: -1, IgnoreEOS: true,
		Stages: []loadtest.Stage{{Concurrency: 1, Requests: 2}},
	}, []loadtest.Target{straight(t, url)}, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Totals[0].Completed != 6 {
		t.Fatalf("total: %+v", s.Totals[0])
	}
	prompts := sim.Prompts()
	for i, p := range prompts {
		if turn := i % 3; strings.Count(p, "user") != turn+1 || strings.Count(p, "assistant") != turn+1 || !strings.Contains(p, "patient teacher") {
			t.Errorf("prompt %d: %s", i, p)
		}
	}
}

func TestGoodputCountsWhatIsWithinEveryBound(t *testing.T) {
	t.Parallel()
	// The engine takes 30 ms to the first token and at least 2 ms for each of the others.
	_, url := simulate(t, vllmsim.Config{TTFT: 30 * time.Millisecond, ITL: 2 * time.Millisecond})
	for _, c := range []struct {
		name   string
		bounds map[string]time.Duration
		good   bool
	}{
		{"all", map[string]time.Duration{loadtest.TTFT: time.Minute, loadtest.TPOT: time.Minute, loadtest.E2EL: time.Minute}, true},
		{"ttft", map[string]time.Duration{loadtest.TTFT: 20 * time.Millisecond, loadtest.E2EL: time.Minute}, false},
		{"tpot", map[string]time.Duration{loadtest.TPOT: time.Microsecond}, false},
		{"e2el", map[string]time.Duration{loadtest.E2EL: 30 * time.Millisecond}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := loadtest.Run(t.Context(), loadtest.Workload{
				Dataset: loadtest.Random{Input: 2, Output: 4}, Mix: phi3(), Warmups: -1, IgnoreEOS: true, Goodput: c.bounds,
				Stages: []loadtest.Stage{{Concurrency: 2, Requests: 4}},
			}, []loadtest.Target{straight(t, url)}, loadtest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Totals[0].RequestGoodput > 0; got != c.good || s.Totals[0].Completed != 4 {
				t.Errorf("goodput %g of %d completed", s.Totals[0].RequestGoodput, s.Totals[0].Completed)
			}
			if len(s.Totals[0].GoodputBounds) != len(c.bounds) {
				t.Errorf("bounds %v", s.Totals[0].GoodputBounds)
			}
		})
	}
}

func TestSeveralModelsAreToldApart(t *testing.T) {
	t.Parallel()
	_, url := simulate(t, vllmsim.Config{})
	d, err := loadtest.NewDirect(loadtest.DirectConfig{
		URLs: map[string]string{"": url, "away": "http://127.0.0.1:1"}, ServedNames: map[string]string{"other": model}, APIKeys: map[string]string{model: "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 2, Output: 2, Chat: true},
		Mix:     loadtest.Mix{Models: []loadtest.Weighted{{Name: model}, {Name: "other"}, {Name: "away"}, {Name: "none", Weight: 1}}},
		Stages:  []loadtest.Stage{{Concurrency: 2, Requests: 80}},
	}, []loadtest.Target{d}, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{model: "", "other": "", "away": "connection", "none": "http_404"}
	sum := 0
	for _, m := range s.Models {
		sum += m.Completed + m.Failed
		if code := want[m.Model]; code == "" && m.Failed != 0 || code != "" && m.FailuresByCode[code] != m.Failed {
			t.Errorf("%s: %d completed, failures %v", m.Model, m.Completed, m.FailuresByCode)
		}
	}
	if sum != 80 || len(s.Models) != 4 {
		t.Errorf("%d requests of %d models, want 80 of 4", sum, len(s.Models))
	}
}

func TestWhatEndsARunIsSaid(t *testing.T) {
	t.Parallel()
	url := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a server sees its client go away only after that
		<-r.Context().Done()
	}))
	why := errors.New("enough")
	endless := func() loadtest.Workload {
		return loadtest.Workload{Dataset: loadtest.Random{Input: 1, Output: 1}, Mix: phi3(), Warmups: -1, Stages: []loadtest.Stage{{Rate: 100, Duration: time.Hour}}}
	}
	for _, c := range []struct {
		name   string
		change func(*loadtest.Workload)
	}{
		{"open loop", func(*loadtest.Workload) {}},
		{"open loop that waits for a place", func(w *loadtest.Workload) { w.MaxInFlight = 1 }},
		{"closed loop", func(w *loadtest.Workload) { w.Stages[0] = loadtest.Stage{Concurrency: 3, Duration: time.Hour} }},
		{"warm-up", func(w *loadtest.Workload) { w.Warmups = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := endless()
			c.change(&w)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
			s, err := loadtest.Run(ctx, w, []loadtest.Target{straight(t, url)}, loadtest.Options{})
			if !errors.Is(err, why) {
				t.Errorf("error = %v, want %v", err, why)
			}
			if n := s.Totals[0].FailuresByCode["interrupted"]; n != s.Totals[0].Failed || c.name != "warm-up" && n == 0 {
				t.Errorf("total: %+v", s.Totals[0])
			}
		})
	}
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		w := endless()
		w.Timeout, w.Stages = time.Millisecond, []loadtest.Stage{{Concurrency: 1, Requests: 2}}
		s, err := loadtest.Run(t.Context(), w, []loadtest.Target{straight(t, url)}, loadtest.Options{Log: full{}})
		if !errors.Is(err, errFull) || s.Totals[0].FailuresByCode["timeout"] != 2 {
			t.Errorf("error = %v, failures %v", err, s.Totals[0].FailuresByCode)
		}
	})
}

var errFull = errors.New("the disk is full")

// full is a file on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
