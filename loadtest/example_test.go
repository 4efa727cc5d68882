package loadtest_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/loadtest"
)

func Example() {
	sim, err := vllmsim.New(vllmsim.Config{Model: "phi3"})
	if err != nil {
		fmt.Println(err)
		return
	}
	engine := httptest.NewServer(sim.Handler())
	defer engine.Close()
	direct, err := loadtest.NewDirect(loadtest.DirectConfig{URLs: map[string]string{"phi3": engine.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer direct.Close()
	summary, err := loadtest.Run(context.Background(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 16, Output: 8}, IgnoreEOS: true,
		Mix:    loadtest.Mix{Models: []loadtest.Weighted{{Name: "phi3"}}},
		Stages: []loadtest.Stage{{Rate: 500, Requests: 10}},
	}, []loadtest.Target{direct}, loadtest.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	total := summary.Totals[0]
	fmt.Println(total.Completed, "answers,", total.TotalOutputTokens, "tokens,", total.Failed, "failures")
	// Output: 10 answers, 80 tokens, 0 failures
}
