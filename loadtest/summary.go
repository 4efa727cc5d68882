package loadtest

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Format is the version of the summary's form.
const Format = 1

// Summary is what came of a run.
type Summary struct {
	Format int `json:"format"`
	// Name is what the run is called, if it has a name.
	Name string `json:"name,omitempty"`
	// Command is the command line, if there was one.
	Command  []string     `json:"command,omitempty"`
	Started  time.Time    `json:"started"`
	Finished time.Time    `json:"finished"`
	Workload WorkloadInfo `json:"workload"`
	Targets  []string     `json:"targets"`
	// Totals are the whole run, by target; Windows one stage of one round at one target; Models the whole run by
	// target and model, if there is more than one.
	Totals  []Block `json:"totals"`
	Windows []Block `json:"windows"`
	Models  []Block `json:"models,omitempty"`
	// Differences are what the second target adds to the direct one, by stage.
	Differences   []Difference `json:"differences,omitempty"`
	BucketSeconds float64      `json:"bucket_seconds"`
	Timeline      []Bucket     `json:"timeline"`
}

// WorkloadInfo is a [Workload] as the summary tells it.
type WorkloadInfo struct {
	Dataset      string             `json:"dataset"`
	Seed         uint64             `json:"seed"`
	Rounds       int                `json:"rounds"`
	OutputTokens int                `json:"output_tokens,omitempty"`
	IgnoreEOS    bool               `json:"ignore_eos,omitempty"`
	NoStream     bool               `json:"no_stream,omitempty"`
	MaxInFlight  int                `json:"max_in_flight"`
	TimeoutMS    float64            `json:"timeout_ms"`
	Models       []Weighted         `json:"models"`
	Classes      []Weighted         `json:"classes"`
	Tenants      []Weighted         `json:"tenants"`
	Stages       []StageInfo        `json:"stages"`
	Goodput      map[string]float64 `json:"goodput_ms,omitempty"`
}

// StageInfo is a [Stage] as the summary tells it.
type StageInfo struct {
	Name        string  `json:"name"`
	Rate        float64 `json:"rate,omitempty"`
	EndRate     float64 `json:"end_rate,omitempty"`
	Arrival     Arrival `json:"arrival,omitempty"`
	Concurrency int     `json:"concurrency,omitempty"`
	Seconds     float64 `json:"seconds,omitempty"`
	Requests    int     `json:"requests,omitempty"`
}

func describe(w Workload) WorkloadInfo {
	info := WorkloadInfo{
		Dataset: w.Dataset.Name(), Seed: w.Seed, Rounds: w.Rounds, OutputTokens: w.OutputTokens, IgnoreEOS: w.IgnoreEOS, NoStream: w.NoStream,
		MaxInFlight: w.MaxInFlight, TimeoutMS: millis(w.Timeout), Models: w.Mix.Models, Classes: w.Mix.Classes, Tenants: w.Mix.Tenants,
	}
	for _, s := range w.Stages {
		i := StageInfo{Name: s.Name, Concurrency: s.Concurrency, Seconds: s.Duration.Seconds(), Requests: s.Requests}
		if !s.closed() {
			i.Rate, i.EndRate, i.Arrival = s.Rate, s.EndRate, s.Arrival
		}
		info.Stages = append(info.Stages, i)
	}
	for name, d := range w.Goodput {
		if info.Goodput == nil {
			info.Goodput = map[string]float64{}
		}
		info.Goodput[name] = millis(d)
	}
	return info
}

// Block are the figures of a window, a target or a model. Its JSON has, beside these fields, vllm bench serve's flat
// ones: mean_, median_, std_ and p99_ of ttft_ms, tpot_ms, itl_ms and e2el_ms.
type Block struct {
	Target      string  `json:"target"`
	Model       string  `json:"model,omitempty"`
	Stage       string  `json:"stage,omitempty"`
	StageIndex  int     `json:"stage_index"`
	Round       int     `json:"round"`
	OfferedRate float64 `json:"offered_rate,omitempty"`
	Concurrency int     `json:"concurrency,omitempty"`

	Duration float64 `json:"duration"`
	// SentSeconds is when the last request was sent; the rest of Duration is waiting for the last answers.
	SentSeconds          float64 `json:"sent_seconds,omitempty"`
	Completed            int     `json:"completed"`
	Failed               int     `json:"failed"`
	TotalInputTokens     int     `json:"total_input_tokens"`
	TotalOutputTokens    int     `json:"total_output_tokens"`
	Chunks               int     `json:"chunks"`
	RequestThroughput    float64 `json:"request_throughput"`
	RequestGoodput       float64 `json:"request_goodput,omitempty"`
	OutputThroughput     float64 `json:"output_throughput"`
	TotalTokenThroughput float64 `json:"total_token_throughput"`
	MaxOutputPerSecond   float64 `json:"max_output_tokens_per_s"`
	Peak                 int     `json:"max_concurrent_requests"`
	// SteadyOutputThroughput and SteadyRequestThroughput leave out the first quarter of a stage with a duration, and what
	// comes after its end: a machine that is kept full, without its filling and emptying.
	SteadyOutputThroughput  float64 `json:"steady_output_throughput,omitempty"`
	SteadyRequestThroughput float64 `json:"steady_request_throughput,omitempty"`

	CPUSeconds    float64 `json:"cpu_seconds"`
	CPUPer1000    float64 `json:"cpu_ms_per_1000_tokens"`
	CPUPerRequest float64 `json:"cpu_ms_per_request"`
	// OtherCores is how many cores processes of others used meanwhile: what was not there for the measurement.
	OtherCores     float64        `json:"other_cores"`
	Redeliveries   int            `json:"redeliveries"`
	Lost           int            `json:"lost"`
	Doubled        int            `json:"duplicated"`
	Gaps           int            `json:"gaps"`
	Different      int            `json:"different_replies"`
	FailuresByCode map[string]int `json:"failures,omitempty"`

	GoodputBounds map[string]float64      `json:"goodput_ms,omitempty"`
	Metrics       map[string]Distribution `json:"metrics"`
}

// Distribution is that of one metric, in milliseconds.
type Distribution struct {
	Count int64   `json:"count"`
	Avg   float64 `json:"avg"`
	Std   float64 `json:"std"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`
	// CDF are the values at [Quantiles], of a target's total.
	CDF []float64 `json:"cdf,omitempty"`
}

// Quantiles are those of [Distribution.CDF], in percent.
func Quantiles() []float64 {
	var out []float64
	for q := 0; q <= 98; q += 2 {
		out = append(out, float64(q))
	}
	return append(out, 99, 99.5, 99.9, 100)
}

// MarshalJSON adds the flat names of vllm bench serve.
func (b Block) MarshalJSON() ([]byte, error) {
	type plain Block
	data, err := json.Marshal(plain(b))
	if err != nil {
		return nil, err
	}
	flat := make([]byte, 0, len(data)+512)
	flat = append(flat, data[:len(data)-1]...)
	for _, metric := range []string{TTFT, TPOT, ITL, E2EL} {
		d, ok := b.Metrics[metric]
		if !ok {
			continue
		}
		for _, v := range []struct {
			name  string
			value float64
		}{{"mean", d.Avg}, {"median", d.P50}, {"std", d.Std}, {"p99", d.P99}} {
			value, err := json.Marshal(v.value)
			if err != nil {
				return nil, err
			}
			flat = append(flat, `,"`+v.name+"_"+metric+`_ms":`...)
			flat = append(flat, value...)
		}
	}
	return append(flat, '}'), nil
}

// block makes the figures of what was tallied within a time.
func (t *tally) block(took time.Duration, cdf bool) Block {
	seconds := max(took.Seconds(), 1e-9)
	b := Block{
		Duration: took.Seconds(), Completed: t.completed, Failed: t.failed, TotalInputTokens: t.inputTokens, TotalOutputTokens: t.outputTokens,
		Chunks: t.chunks, RequestThroughput: float64(t.completed) / seconds, RequestGoodput: float64(t.good) / seconds,
		OutputThroughput: float64(t.outputTokens) / seconds, TotalTokenThroughput: float64(t.inputTokens+t.outputTokens) / seconds,
		Redeliveries: t.redelivered, Lost: t.lost, Doubled: t.doubled, Gaps: t.gaps, Different: t.different, Metrics: map[string]Distribution{},
	}
	if len(t.failures) > 0 {
		b.FailuresByCode = t.failures
	}
	for metric, h := range t.latencies {
		d := distribution(h)
		if cdf && slices.Contains([]string{TTFT, ITL, E2EL}, metric) {
			for _, v := range h.ValueAtPercentilesSlice(Quantiles()) {
				d.CDF = append(d.CDF, float64(v)/1000)
			}
		}
		b.Metrics[metric] = d
	}
	return b
}

func (b *Block) cpu(used time.Duration) {
	b.CPUSeconds = used.Seconds()
	if b.TotalOutputTokens > 0 {
		b.CPUPer1000 = used.Seconds() * 1e6 / float64(b.TotalOutputTokens)
	}
	if b.Completed > 0 {
		b.CPUPerRequest = used.Seconds() * 1e3 / float64(b.Completed)
	}
}

func distribution(h *hdrhistogram.Histogram) Distribution {
	v := h.ValueAtPercentilesSlice([]float64{50, 90, 95, 99, 99.9})
	ms := func(x int64) float64 { return float64(x) / 1000 }
	return Distribution{
		Count: h.TotalCount(), Avg: math.Round(h.Mean()) / 1000, Std: math.Round(h.StdDev()) / 1000, Min: ms(h.Min()), Max: ms(h.Max()),
		P50: ms(v[0]), P90: ms(v[1]), P95: ms(v[2]), P99: ms(v[3]), P999: ms(v[4]),
	}
}
