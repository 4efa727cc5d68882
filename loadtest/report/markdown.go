package report

import (
	"fmt"
	"io"
	"strings"
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
		for _, t := range tables(s) {
			b.WriteString("\n" + t.Title + ":\n\n")
			t.markdown(&b)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
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
