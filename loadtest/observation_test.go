package loadtest_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

func TestTimesAreThoseOfVLLM(t *testing.T) {
	t.Parallel()
	due := time.Unix(100, 0)
	at := func(ms int) time.Time { return due.Add(time.Duration(ms) * time.Millisecond) }
	chunk := func(text string, ids ...int) []openai.Choice {
		return []openai.Choice{{Text: []byte(text), TokenIDs: ids}}
	}
	// Due at 0, sent at 5; a chunk with the role at 30, output at 40 (1 token), 60 (2 tokens), 100 (1 token),
	// and a chunk with the finish reason alone at 101; the stream ends at 120.
	o := &loadtest.Observation{Sent: at(5)}
	o.Choices([]openai.Choice{{Role: "assistant"}}, at(30))
	o.Choices(chunk("a", 1), at(40))
	o.Choices(chunk("bc", 2, 3), at(60))
	o.Choices(chunk("d", 4), at(100))
	o.Choices([]openai.Choice{{FinishReason: "length"}}, at(101))
	o.End = at(120)
	ttft, tpot, e2el, lag := o.Times(due)
	for _, c := range []struct {
		name string
		got  time.Duration
		want int64 // in milliseconds
	}{{"ttft", ttft, 40}, {"tpot", tpot, 20}, {"e2el", e2el, 100}, {"lag", lag, 5}} {
		if c.got.Milliseconds() != c.want || c.got%time.Millisecond != 0 {
			t.Errorf("%s = %v, want %d ms", c.name, c.got, c.want)
		}
	}
	if o.OutputTokens() != 4 || o.Finish != "length" || len(o.Outputs) != 3 {
		t.Errorf("%d tokens in %d chunks, finished by %q", o.OutputTokens(), len(o.Outputs), o.Finish)
	}
	if want := uint64(0xfc179f83ee0724dd); o.Reply() != want { // FNV-1a of "abcd"
		t.Errorf("reply = %x, want %x", o.Reply(), want)
	}
	o.Usage = &schemas.Usage{CompletionTokens: 11}
	if _, tpot, _, _ = o.Times(due); tpot != 6*time.Millisecond {
		t.Errorf("tpot = %v, want 6 ms by the engine's count", tpot)
	}
}

func TestATokenAloneHasNoTimePerToken(t *testing.T) {
	t.Parallel()
	due := time.Unix(100, 0)
	o := &loadtest.Observation{Sent: due, End: due.Add(2 * time.Second)}
	if ttft, tpot, e2el, _ := o.Times(due); ttft != -1 || tpot != -1 || e2el != 2*time.Second {
		t.Errorf("without output: %v, %v, %v", ttft, tpot, e2el)
	}
	if o.Reply() != 0xcbf29ce484222325 {
		t.Errorf("the hash of nothing is %x", o.Reply())
	}
	o.Choices([]openai.Choice{{Reasoning: []byte("hm")}}, due.Add(time.Second))
	if ttft, tpot, e2el, _ := o.Times(due); ttft != time.Second || tpot != -1 || e2el != time.Second || o.OutputTokens() != 1 {
		t.Errorf("with one token: %v, %v, %v", ttft, tpot, e2el)
	}
}

func TestTheTimeLineStaysBounded(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	width, buckets := loadtest.Timeline(began, began, began.Add(time.Second), began.Add(10*time.Second), began.Add(3*time.Hour))
	if width != 16*time.Second || len(buckets) != 676 {
		t.Fatalf("%d buckets of %v, want 676 of 16 s", len(buckets), width)
	}
	want := loadtest.Bucket{Target: loadtest.Queue, Sent: 3, Completed: 3, Failed: 1, Redelivered: 1, OutputTokens: 3, SumTTFT: 11_000, MaxTTFT: 10_000}
	if got := buckets[0]; got != want {
		t.Errorf("the first bucket is %+v, want %+v", got, want)
	}
	if last := buckets[675]; last.At != 10800 || last.Target != loadtest.Queue || last.Redelivered != 1 {
		t.Errorf("the last bucket is %+v", last)
	}
}

func TestABlockHasTheNamesOfVLLM(t *testing.T) {
	t.Parallel()
	b := loadtest.Block{Completed: 3, Metrics: map[string]loadtest.Distribution{
		loadtest.TTFT: {Avg: 1.5, P50: 1, Std: 0.5, P99: 3}, loadtest.E2EL: {P50: 9},
	}}
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var flat map[string]any
	if err := json.Unmarshal(data, &flat); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"mean_ttft_ms": 1.5, "median_ttft_ms": 1.0, "std_ttft_ms": 0.5, "p99_ttft_ms": 3.0, "median_e2el_ms": 9.0, "completed": 3.0, "failed": 0.0,
		"median_tpot_ms": nil, "request_throughput": 0.0, "total_input_tokens": 0.0,
	} {
		if flat[name] != want {
			t.Errorf("%s = %v, want %v", name, flat[name], want)
		}
	}
	var back loadtest.Block
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if back.Metrics[loadtest.TTFT].P99 != 3 {
		t.Errorf("read back: %+v", back)
	}
}

func TestASpreadIsTheMedianAndItsBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   loadtest.Spread
	}{
		{nil, loadtest.Spread{}},
		{[]float64{3, 1, 2}, loadtest.Spread{Median: 2, Min: 1, Max: 3, Rounds: 3}},
		{[]float64{4, 1}, loadtest.Spread{Median: 2.5, Min: 1, Max: 4, Rounds: 2}},
	} {
		if got := loadtest.SpreadOf(c.values); got != c.want {
			t.Errorf("SpreadOf(%v) = %+v, want %+v", c.values, got, c.want)
		}
	}
}
