package loadtest

import "slices"

// Difference is what the queue adds at one stage. Each figure is of one round's pair of windows; rounds in which
// a target answered nothing do not count.
type Difference struct {
	Stage       string  `json:"stage"`
	OfferedRate float64 `json:"offered_rate,omitempty"`
	Concurrency int     `json:"concurrency,omitempty"`
	// In milliseconds, queue less direct: at the median, and at the 99th percentile.
	TTFT50 Spread `json:"added_ttft_p50_ms"`
	TTFT99 Spread `json:"added_ttft_p99_ms"`
	ITL50  Spread `json:"added_itl_p50_ms"`
	ITL99  Spread `json:"added_itl_p99_ms"`
	E2EL50 Spread `json:"added_e2el_p50_ms"`
	E2EL99 Spread `json:"added_e2el_p99_ms"`
	// As a part of direct's.
	OutputThroughput  Spread `json:"output_throughput_ratio"`
	SteadyThroughput  Spread `json:"steady_output_throughput_ratio"`
	RequestThroughput Spread `json:"request_throughput_ratio"`
	// CPU is that of the process in milliseconds, queue less direct.
	CPUPer1000    Spread `json:"added_cpu_ms_per_1000_tokens"`
	CPUPerRequest Spread `json:"added_cpu_ms_per_request"`
}

// Spread are the median, the lowest and the highest of some rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// SpreadOf sums values up.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Spread{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1], Rounds: n}
}

// Spread is that of one figure over the rounds of a stage at a target.
func (s *Summary) Spread(target string, stage int, figure func(*Block) (float64, bool)) Spread {
	var values []float64
	for i := range s.Windows {
		if b := &s.Windows[i]; b.Target == target && b.StageIndex == stage {
			if v, ok := figure(b); ok {
				values = append(values, v)
			}
		}
	}
	return SpreadOf(values)
}

// differences compares the windows of each pair, if direct and queue were measured.
func differences(s *Summary) []Difference {
	if !slices.Contains(s.Targets, Direct) || !slices.Contains(s.Targets, Queue) {
		return nil
	}
	var out []Difference
	for i, stage := range s.Workload.Stages {
		var pairs [][2]*Block
		for round := range s.Workload.Rounds {
			d, q := s.window(Direct, i, round), s.window(Queue, i, round)
			if d != nil && q != nil && d.Completed > 0 && q.Completed > 0 {
				pairs = append(pairs, [2]*Block{d, q})
			}
		}
		over := func(f func(d, q *Block) (float64, bool)) Spread {
			var values []float64
			for _, p := range pairs {
				if v, ok := f(p[0], p[1]); ok {
					values = append(values, v)
				}
			}
			return SpreadOf(values)
		}
		added := func(metric string, at func(Distribution) float64) Spread {
			return over(func(d, q *Block) (float64, bool) {
				x, xok := d.Metrics[metric]
				y, yok := q.Metrics[metric]
				return at(y) - at(x), xok && yok
			})
		}
		less := func(of func(*Block) float64) Spread {
			return over(func(d, q *Block) (float64, bool) { return of(q) - of(d), true })
		}
		ratio := func(of func(*Block) float64) Spread {
			return over(func(d, q *Block) (float64, bool) {
				if of(d) == 0 {
					return 0, false
				}
				return of(q) / of(d), true
			})
		}
		p50, p99 := func(d Distribution) float64 { return d.P50 }, func(d Distribution) float64 { return d.P99 }
		out = append(out, Difference{
			Stage: stage.Name, OfferedRate: (stage.Rate + stage.EndRate) / 2, Concurrency: stage.Concurrency,
			TTFT50: added(TTFT, p50), TTFT99: added(TTFT, p99), ITL50: added(ITL, p50), ITL99: added(ITL, p99),
			E2EL50: added(E2EL, p50), E2EL99: added(E2EL, p99),
			OutputThroughput:  ratio(func(b *Block) float64 { return b.OutputThroughput }),
			SteadyThroughput:  ratio(func(b *Block) float64 { return b.SteadyOutputThroughput }),
			RequestThroughput: ratio(func(b *Block) float64 { return b.RequestThroughput }),
			CPUPer1000:        less(func(b *Block) float64 { return b.CPUPer1000 }),
			CPUPerRequest:     less(func(b *Block) float64 { return b.CPUPerRequest }),
		})
	}
	return out
}

func (s *Summary) window(target string, stage, round int) *Block {
	for i := range s.Windows {
		if b := &s.Windows[i]; b.Target == target && b.StageIndex == stage && b.Round == round {
			return b
		}
	}
	return nil
}
