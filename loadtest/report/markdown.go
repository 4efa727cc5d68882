package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/hxp-enterprise/hxp/loadtest"
)

// Markdown writes runs as tables, each with its command and its machine.
func Markdown(w io.Writer, runs []*Run) error {
	var b strings.Builder
	if len(runs) > 1 {
		t := overview(runs)
		b.WriteString("## " + t.Title + "\n\n")
		t.markdown(&b)
	}
	for i, r := range runs {
		if i > 0 || len(runs) > 1 {
			b.WriteByte('\n')
		}
		s, e := r.Summary, r.Environment
		title := s.Name
		if title == "" {
			title = r.Dir
		}
		fmt.Fprintf(&b, "## %s\n\n", plain(title))
		if len(s.Command) > 0 {
			fmt.Fprintf(&b, "```sh\n%s\n```\n\n", strings.Join(quoted(s.Command), " "))
		}
		fmt.Fprintf(&b, "%s; %s, hxp %s, %s, %s/%s, %s, %d cores; load average before the run %g.", s.Started.UTC().Format("2006-01-02 15:04 UTC"), workload(&s.Workload),
			e.Version, e.Go, e.OS, e.Arch, e.CPU, e.Cores, e.LoadAverage)
		for _, note := range e.Notes {
			fmt.Fprintf(&b, " %s.", plain(note))
		}
		b.WriteString("\n")
		for i := range s.Totals {
			t := &s.Totals[i]
			fmt.Fprintf(&b, "\n%s: %s ok, %s failed, %d lost, %d answered twice, %d with gaps, %d delivered again, %d replies that differ; %s requests/s, %s output tokens/s over all windows.\n",
				t.Target, group(fmt.Sprint(t.Completed)), group(fmt.Sprint(t.Failed)), t.Lost, t.Doubled, t.Gaps, t.Redeliveries, t.Different,
				number(t.RequestThroughput), number(t.OutputThroughput))
		}
		for _, t := range essentials(s) {
			b.WriteString("\n" + t.Title + ":\n\n")
			t.markdown(&b)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// overview is a row for each stage of each run.
func overview(runs []*Run) Table {
	t := Table{Title: "Overview", Header: []string{
		"run", "stage", "requests/s", "output tokens/s", "ttft p50, ms", "ttft p99, ms", "added ttft p50, ms", "added ttft p99, ms", "tokens/s while full, of direct",
		"added CPU, ms per 1,000 tokens", "failed", "lost, doubled, with gaps",
	}}
	for _, r := range runs {
		s := r.Summary
		target := s.Targets[len(s.Targets)-1]
		name, _, _ := strings.Cut(s.Name, ". ")
		for i, stage := range s.Workload.Stages {
			figure := func(f func(*loadtest.Block) (float64, bool)) string {
				v := s.Spread(target, i, f)
				if v.Rounds == 0 {
					return "-"
				}
				return number(v.Median)
			}
			ttft := func(f func(loadtest.Distribution) float64) string {
				return figure(func(b *loadtest.Block) (float64, bool) { d, ok := b.Metrics[loadtest.TTFT]; return f(d), ok })
			}
			var failed, wrong int
			for k := range s.Windows {
				if b := &s.Windows[k]; b.StageIndex == i && b.Target == target {
					failed += b.Failed
					wrong += b.Lost + b.Doubled + b.Gaps
				}
			}
			row := []string{
				name, stage.Name, figure(func(b *loadtest.Block) (float64, bool) { return b.RequestThroughput, true }),
				figure(func(b *loadtest.Block) (float64, bool) { return b.OutputThroughput, true }),
				ttft(func(d loadtest.Distribution) float64 { return d.P50 }), ttft(func(d loadtest.Distribution) float64 { return d.P99 }), "-", "-", "-", "-",
				group(fmt.Sprint(failed)), group(fmt.Sprint(wrong)),
			}
			if i < len(s.Differences) {
				d := s.Differences[i]
				row[6], row[7], row[8], row[9] = spread(d.TTFT50), spread(d.TTFT99), spread(d.SteadyThroughput), spread(d.CPUPer1000)
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

// essentials are the tables that a document has room for.
func essentials(s *loadtest.Summary) []Table {
	var out []Table
	if len(s.Differences) > 0 {
		out = append(out, turned(differences(s)))
	}
	out = append(out, turnedStages(s))
	switch {
	case len(s.Models) > 0:
		out = append(out, latencies("Models, ms", s.Models, func(b *loadtest.Block) string { return b.Target + ", " + b.Model }, loadtest.TTFT, loadtest.E2EL))
	case len(s.Workload.Stages) == 1:
		out = append(out, latencies("Latencies over all rounds, ms", s.Totals, func(b *loadtest.Block) string { return b.Target }, loadtest.Metrics()...))
	}
	if t := failures(s); len(t.Rows) > 0 {
		out = append(out, t)
	}
	return out
}

func (t Table) markdown(b *strings.Builder) {
	line := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + plain(c) + " ")
		}
		b.WriteString("|\n")
	}
	line(t.Header)
	b.WriteString("|" + strings.Repeat("---|", len(t.Header)) + "\n")
	for _, row := range t.Rows {
		line(row)
	}
}

// plain is text without what Markdown would take for a mark.
func plain(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ").Replace(s)
}

// quoted sets what a shell would take apart in quotes.
func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.ContainsAny(w, " \t*?[]{}()<>|&;$`\"\\#~") {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return out
}
