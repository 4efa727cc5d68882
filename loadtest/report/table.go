package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hxp-enterprise/hxp/loadtest"
)

// Table is rows under a header; the first cell of a row is its name.
type Table struct {
	Title  string
	Header []string
	Rows   [][]string
}

// tables are a run's tables, in the order of the page.
func tables(s *loadtest.Summary) []Table {
	out := []Table{totals(s), latencies("Latencies over the whole run, ms", s.Totals, func(b *loadtest.Block) string { return b.Target }, loadtest.Metrics()...)}
	if len(s.Differences) > 0 {
		out = append(out, differences(s))
	}
	out = append(out, stages(s))
	if len(s.Models) > 0 {
		out = append(out, latencies("Models, ms", s.Models, func(b *loadtest.Block) string { return b.Target + ", " + b.Model }, loadtest.Metrics()...))
	}
	if t := failures(s); len(t.Rows) > 0 {
		out = append(out, t)
	}
	return out
}

// totals are what vllm bench serve prints first, by target.
func totals(s *loadtest.Summary) Table {
	t := Table{Title: "The whole run", Header: []string{""}}
	for i := range s.Totals {
		t.Header = append(t.Header, s.Totals[i].Target)
	}
	row := func(name string, of func(*loadtest.Block) string) {
		cells := []string{name}
		for i := range s.Totals {
			cells = append(cells, of(&s.Totals[i]))
		}
		t.Rows = append(t.Rows, cells)
	}
	count := func(of func(*loadtest.Block) int) func(*loadtest.Block) string {
		return func(b *loadtest.Block) string { return group(fmt.Sprint(of(b))) }
	}
	figure := func(of func(*loadtest.Block) float64) func(*loadtest.Block) string {
		return func(b *loadtest.Block) string { return number(of(b)) }
	}
	row("successful requests", count(func(b *loadtest.Block) int { return b.Completed }))
	row("failed requests", count(func(b *loadtest.Block) int { return b.Failed }))
	row("duration, s", figure(func(b *loadtest.Block) float64 { return b.Duration }))
	row("input tokens", count(func(b *loadtest.Block) int { return b.TotalInputTokens }))
	row("output tokens", count(func(b *loadtest.Block) int { return b.TotalOutputTokens }))
	row("chunks", count(func(b *loadtest.Block) int { return b.Chunks }))
	row("requests/s", figure(func(b *loadtest.Block) float64 { return b.RequestThroughput }))
	if len(s.Workload.Goodput) > 0 {
		row("good requests/s", figure(func(b *loadtest.Block) float64 { return b.RequestGoodput }))
	}
	row("output tokens/s", figure(func(b *loadtest.Block) float64 { return b.OutputThroughput }))
	row("highest output tokens/s in a second", figure(func(b *loadtest.Block) float64 { return b.MaxOutputPerSecond }))
	row("most requests at once", count(func(b *loadtest.Block) int { return b.Peak }))
	row("CPU of the process, ms per 1,000 tokens", figure(func(b *loadtest.Block) float64 { return b.CPUPer1000 }))
	row("CPU of the process, ms per request", figure(func(b *loadtest.Block) float64 { return b.CPUPerRequest }))
	row("cores used by other processes", figure(func(b *loadtest.Block) float64 { return b.OtherCores }))
	row("delivered again to another worker", count(func(b *loadtest.Block) int { return b.Redeliveries }))
	row("lost", count(func(b *loadtest.Block) int { return b.Lost }))
	row("answered twice", count(func(b *loadtest.Block) int { return b.Doubled }))
	row("with gaps", count(func(b *loadtest.Block) int { return b.Gaps }))
	if len(s.Totals) > 1 {
		row("replies that differ", count(func(b *loadtest.Block) int { return b.Different }))
	}
	return t
}

// latencies are a row for each metric of each block.
func latencies(title string, blocks []loadtest.Block, name func(*loadtest.Block) string, metrics ...string) Table {
	t := Table{Title: title, Header: []string{"", "", "count", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"}}
	for _, metric := range metrics {
		for i := range blocks {
			d, ok := blocks[i].Metrics[metric]
			if !ok {
				continue
			}
			t.Rows = append(t.Rows, []string{
				metric, name(&blocks[i]), group(fmt.Sprint(d.Count)), number(d.Avg), number(d.P50), number(d.P90), number(d.P95), number(d.P99), number(d.P999), number(d.Max),
			})
		}
	}
	return t
}

// stages are a row for each stage of each target: medians of the rounds, with the lowest and the highest.
func stages(s *loadtest.Summary) Table {
	t := Table{Title: fmt.Sprintf("Stages: medians of %d, with the lowest and the highest", s.Workload.Rounds), Header: []string{
		"stage", "target", "ok", "failed", "requests/s", "tokens/s", "tokens/s while full", "ttft p50, ms", "ttft p99, ms", "itl p50, ms", "itl p99, ms", "e2el p50, ms", "e2el p99, ms",
		"delivery p99, ms", "queue wait p99, ms", "CPU, ms per 1,000 tokens", "CPU, ms per request", "cores used by others",
	}}
	for i, stage := range s.Workload.Stages {
		for _, target := range s.Targets {
			of := func(f func(*loadtest.Block) float64) string {
				return spread(s.Spread(target, i, func(b *loadtest.Block) (float64, bool) { return f(b), true }))
			}
			at := func(metric string, f func(loadtest.Distribution) float64) string {
				return spread(s.Spread(target, i, func(b *loadtest.Block) (float64, bool) {
					d, ok := b.Metrics[metric]
					return f(d), ok
				}))
			}
			p50, p99 := func(d loadtest.Distribution) float64 { return d.P50 }, func(d loadtest.Distribution) float64 { return d.P99 }
			t.Rows = append(t.Rows, []string{
				stage.Name, target, of(func(b *loadtest.Block) float64 { return float64(b.Completed) }), of(func(b *loadtest.Block) float64 { return float64(b.Failed) }),
				of(func(b *loadtest.Block) float64 { return b.RequestThroughput }), of(func(b *loadtest.Block) float64 { return b.OutputThroughput }),
				of(func(b *loadtest.Block) float64 { return b.SteadyOutputThroughput }),
				at(loadtest.TTFT, p50), at(loadtest.TTFT, p99), at(loadtest.ITL, p50), at(loadtest.ITL, p99), at(loadtest.E2EL, p50), at(loadtest.E2EL, p99),
				at(loadtest.Delivery, p99), at(loadtest.QueueWait, p99), of(func(b *loadtest.Block) float64 { return b.CPUPer1000 }), of(func(b *loadtest.Block) float64 { return b.CPUPerRequest }),
				of(func(b *loadtest.Block) float64 { return b.OtherCores }),
			})
		}
	}
	return t
}

// turnedStages is the same with a column for each stage and target, without the figures that nothing has.
func turnedStages(s *loadtest.Summary) Table {
	t := stages(s)
	for i := range t.Rows {
		t.Rows[i] = append([]string{t.Rows[i][0] + ", " + t.Rows[i][1]}, t.Rows[i][2:]...)
	}
	t.Header = append([]string{""}, t.Header[2:]...)
	t = turned(t)
	t.Rows = slices.DeleteFunc(t.Rows, func(row []string) bool {
		return !slices.ContainsFunc(row[1:], func(cell string) bool { return cell != "-" && cell != "0" && cell != "0 (0 to 0)" })
	})
	return t
}

// differences are what the queue adds, with the spread of the rounds.
func differences(s *loadtest.Summary) Table {
	t := Table{Title: fmt.Sprintf("What the queue adds: medians of %d, with the lowest and the highest", s.Workload.Rounds), Header: []string{
		"stage", "ttft p50, ms", "ttft p99, ms", "itl p50, ms", "itl p99, ms", "e2el p50, ms", "e2el p99, ms", "tokens/s, of direct", "while full, of direct", "requests/s, of direct",
		"CPU, ms per 1,000 tokens", "CPU, ms per request",
	}}
	for _, d := range s.Differences {
		cells := []string{d.Stage}
		for _, v := range []loadtest.Spread{
			d.TTFT50, d.TTFT99, d.ITL50, d.ITL99, d.E2EL50, d.E2EL99, d.OutputThroughput, d.SteadyThroughput, d.RequestThroughput, d.CPUPer1000, d.CPUPerRequest,
		} {
			cells = append(cells, spread(v))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// spread writes a median with its bounds.
func spread(v loadtest.Spread) string {
	switch v.Rounds {
	case 0:
		return "-"
	case 1:
		return number(v.Median)
	default:
		return fmt.Sprintf("%s (%s to %s)", number(v.Median), number(v.Min), number(v.Max))
	}
}

func failures(s *loadtest.Summary) Table {
	t := Table{Title: "Failures by code", Header: []string{"target", "code", "requests"}}
	for i := range s.Totals {
		b := &s.Totals[i]
		for _, code := range slices.Sorted(maps.Keys(b.FailuresByCode)) {
			t.Rows = append(t.Rows, []string{b.Target, code, group(fmt.Sprint(b.FailuresByCode[code]))})
		}
	}
	return t
}

// workload says in a line what was asked.
func workload(w *loadtest.WorkloadInfo) string {
	var models []string
	for _, m := range w.Models {
		models = append(models, m.Name)
	}
	parts := []string{w.Dataset, "models " + strings.Join(models, ", ")}
	if w.OutputTokens > 0 {
		parts = append(parts, fmt.Sprintf("%d tokens each", w.OutputTokens))
	}
	if w.NoStream {
		parts = append(parts, "not streamed")
	}
	return strings.Join(append(parts, fmt.Sprintf("seed %d", w.Seed)), "; ")
}

// Text is what a person at a terminal wants to know: the tables of the whole run and of what the queue adds.
func Text(s *loadtest.Summary) string {
	var b strings.Builder
	shown := []Table{totals(s), latencies("Latencies, ms", s.Totals, func(b *loadtest.Block) string { return b.Target }, loadtest.Metrics()...)}
	if len(s.Differences) > 0 {
		shown = append(shown, turned(differences(s)))
	}
	if t := failures(s); len(t.Rows) > 0 {
		shown = append(shown, t)
	}
	for i, t := range shown {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(t.Title + "\n")
		w := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
		for _, row := range append([][]string{t.Header}, t.Rows...) {
			_, _ = fmt.Fprintln(w, "  "+strings.Join(row, "\t")) // writes to memory
		}
		_ = w.Flush()
	}
	return b.String()
}

// turned is a table with its rows as columns.
func turned(t Table) Table {
	out := Table{Title: t.Title, Header: []string{t.Header[0]}}
	for _, row := range t.Rows {
		out.Header = append(out.Header, row[0])
	}
	for i, name := range t.Header[1:] {
		cells := []string{name}
		for _, row := range t.Rows {
			cells = append(cells, row[i+1])
		}
		out.Rows = append(out.Rows, cells)
	}
	return out
}
