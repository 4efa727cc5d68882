package report_test

import (
	"fmt"
	"os"

	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/loadtest/report"
)

func Example() {
	dir, err := os.MkdirTemp("", "results-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	s := &loadtest.Summary{Format: loadtest.Format, Targets: []string{loadtest.Direct}, Totals: []loadtest.Block{{Target: loadtest.Direct, Completed: 1000}}}
	if err := report.Save(dir, s, &loadtest.Environment{}); err != nil {
		fmt.Println(err)
		return
	}
	run, err := report.Load(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Summary.Totals[0].Completed)
	// Output: 1000
}
