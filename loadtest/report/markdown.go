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
	for i, r := range runs {
		if i > 0 {
			b.WriteByte('\n')
		}
		s, e := r.Summary, r.Environment
		title := s.Name
		if title == "" {
			title = r.Dir
		}
		fmt.Fprintf(&b, "## %s\n\n", title)
		if len(s.Command) > 0 {
			fmt.Fprintf(&b, "```sh\n%s\n```\n\n", strings.Join(quoted(s.Command), " "))
		}
		fmt.Fprintf(&b, "%s; %s, hxp %s, %s, %s/%s, %s, %d cores; load average before the run %g.", s.Started.UTC().Format("2006-01-02 15:04 UTC"), workload(&s.Workload),
			e.Version, e.Go, e.OS, e.Arch, e.CPU, e.Cores, e.LoadAverage)
		for _, note := range e.Notes {
			fmt.Fprintf(&b, " %s.", note)
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
	b.WriteString("| " + strings.Join(t.Header, " | ") + " |\n|" + strings.Repeat("---|", len(t.Header)) + "\n")
	for _, row := range t.Rows {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
	}
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
