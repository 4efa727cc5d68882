package report

import (
	_ "embed"
	"html/template"
	"io"
	"strings"
	"sync"

	"github.com/hxp-enterprise/hxp/loadtest"
)

//go:embed report.html.tmpl
var pageTemplate string

var page = sync.OnceValues(func() (*template.Template, error) { return template.New("report").Parse(pageTemplate) })

// HTML writes a run as one page that needs nothing else: no script, no font, no network. It is light or dark as
// its reader's system is.
func HTML(w io.Writer, s *loadtest.Summary, e *loadtest.Environment) error {
	t, err := page()
	if err != nil {
		return err
	}
	title := s.Name
	if title == "" {
		title = "Load test"
	}
	return t.Execute(w, map[string]any{
		"Title": title, "Command": strings.Join(s.Command, " "), "Summary": s, "Environment": e, "Workload": workload(&s.Workload),
		"Started": s.Started.UTC().Format("2006-01-02 15:04:05 UTC"), "Seconds": number(s.Finished.Sub(s.Started).Seconds()),
		"Charts": charts(s), "Tables": tables(s),
	})
}
