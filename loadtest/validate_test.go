package loadtest_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/producer"
)

func TestEveryFaultOfAWorkloadIsNamed(t *testing.T) {
	t.Parallel()
	good := func() loadtest.Workload {
		return loadtest.Workload{Dataset: loadtest.Random{Input: 1, Output: 1}, Mix: phi3(), Warmups: -1, Stages: []loadtest.Stage{{Concurrency: 1, Requests: 1}}}
	}
	stage := func(s loadtest.Stage) func(*loadtest.Workload) {
		return func(w *loadtest.Workload) { w.Stages[0] = s }
	}
	for want, change := range map[string]func(*loadtest.Workload){
		"Dataset is nil":                               func(w *loadtest.Workload) { w.Dataset = nil },
		"Mix.Models is empty":                          func(w *loadtest.Workload) { w.Mix.Models = nil },
		`Mix.Models[0] "a b" holds ' '`:                func(w *loadtest.Workload) { w.Mix.Models[0].Name = "a b" },
		"Mix.Tenants[0] weighs -1":                     func(w *loadtest.Workload) { w.Mix.Tenants = []loadtest.Weighted{{Name: "a", Weight: -1}} },
		`Mix.Classes[0] is "urgent"`:                   func(w *loadtest.Workload) { w.Mix.Classes = []loadtest.Weighted{{Name: "urgent"}} },
		"Stages has 0":                                 func(w *loadtest.Workload) { w.Stages = nil },
		"Rounds is -1":                                 func(w *loadtest.Workload) { w.Rounds = -1 },
		"MaxInFlight is -1":                            func(w *loadtest.Workload) { w.MaxInFlight = -1 },
		"OutputTokens is -1":                           func(w *loadtest.Workload) { w.OutputTokens = -1 },
		"Timeout is -1ns":                              func(w *loadtest.Workload) { w.Timeout = -1 },
		`Goodput has "itl"`:                            func(w *loadtest.Workload) { w.Goodput = map[string]time.Duration{"itl": 1} },
		"Goodput ttft is 0s":                           func(w *loadtest.Workload) { w.Goodput = map[string]time.Duration{"ttft": 0} },
		"Rate is 5 and Concurrency is 2":               stage(loadtest.Stage{Rate: 5, Concurrency: 2, Requests: 1}),
		"Rate and Concurrency are 0":                   stage(loadtest.Stage{Requests: 1}),
		"Concurrency is -1":                            stage(loadtest.Stage{Concurrency: -1, Requests: 1}),
		"Rate is NaN":                                  stage(loadtest.Stage{Rate: math.NaN(), Requests: 1}),
		"Duration is 0; want how long the ramp from 1": stage(loadtest.Stage{Rate: 1, EndRate: 2, Requests: 1}),
		`Arrival is "burst"`:                           stage(loadtest.Stage{Rate: 1, Arrival: "burst", Requests: 1}),
		"Duration is -1ns":                             stage(loadtest.Stage{Rate: 1, Duration: -1}),
		"Requests is -1":                               stage(loadtest.Stage{Rate: 1, Requests: -1}),
		"Duration and Requests are 0":                  stage(loadtest.Stage{Rate: 1}),
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			w := good()
			change(&w)
			_, err := loadtest.Run(t.Context(), w, []loadtest.Target{straight(t, "http://127.0.0.1:1")}, loadtest.Options{})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error = %v, want %q in it", err, want)
			}
		})
	}
	if _, err := loadtest.Run(t.Context(), good(), nil, loadtest.Options{}); err == nil || !strings.Contains(err.Error(), "0 targets") {
		t.Errorf("without a target: %v", err)
	}
}

func TestTargetsCheckWhatTheyAreGiven(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]loadtest.DirectConfig{
		"URLs is empty":            {},
		`URLs["a"] is not an http`: {URLs: map[string]string{"a": "ftp://x"}},
		"Connections is -1":        {URLs: map[string]string{"": "http://x"}, Connections: -1},
		`URLs[""] is not an http`:  {URLs: map[string]string{"": "http://%zz"}},
	} {
		if _, err := loadtest.NewDirect(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q in it", err, want)
		}
	}
	if _, err := loadtest.NewQueue(producer.Config{}); err == nil || !strings.Contains(err.Error(), "no connection") {
		t.Errorf("error = %v", err)
	}
}

func TestStagesAreNamedByTheirLoad(t *testing.T) {
	t.Parallel()
	_, url := simulate(t, simFast)
	s, err := loadtest.Run(t.Context(), loadtest.Workload{
		Dataset: loadtest.Random{Input: 1, Output: 1}, Mix: phi3(), OutputTokens: 2, IgnoreEOS: true,
		Stages: []loadtest.Stage{
			{Rate: 200, Requests: 1}, {Rate: 100, EndRate: 200, Duration: 20 * time.Millisecond}, {Concurrency: 2, Requests: 2}, {Name: "own", Concurrency: 1, Requests: 1},
		},
	}, []loadtest.Target{straight(t, url)}, loadtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, st := range s.Workload.Stages {
		names = append(names, st.Name)
	}
	if got := strings.Join(names, ", "); got != "200/s, 100..200/s, 2 clients, own" {
		t.Errorf("names %s", got)
	}
	if s.Totals[0].TotalOutputTokens != 2*s.Totals[0].Completed {
		t.Errorf("%d tokens of %d requests, want 2 each", s.Totals[0].TotalOutputTokens, s.Totals[0].Completed)
	}
	spread := s.Spread(loadtest.Direct, 2, func(b *loadtest.Block) (float64, bool) { return float64(b.Completed), true })
	if spread.Median != 2 || spread.Rounds != 1 {
		t.Errorf("spread %+v", spread)
	}
}

func TestTheWorkOfOthersIsTold(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]time.Duration{
		"cpu  100 20 3 9999 50 4 5 6 0 0\ncpu0 1": 1380 * time.Millisecond, "": 0, "intr 1 2 3 4 5 6 7 8 9": 0, "cpu a b c d e f g h i": 0,
	} {
		if got := loadtest.Busy(stat); got != want {
			t.Errorf("Busy(%q) = %v, want %v", stat, got, want)
		}
	}
	if got := loadtest.Others(5*time.Second, 2*time.Second, 2*time.Second); got != 1.5 {
		t.Errorf("%g cores, want 1.5", got)
	}
	if loadtest.Others(0, time.Second, time.Second) != 0 || loadtest.Others(time.Second, 2*time.Second, time.Second) != 0 {
		t.Error("nothing is told, or less than nothing")
	}
}

func TestTheMachineIsDescribed(t *testing.T) {
	t.Parallel()
	e := loadtest.Observe("v1")
	if e.Version != "v1" || e.Cores < 1 || e.GOMAXPROCS < 1 || e.Go == "" || e.OS == "" {
		t.Errorf("environment %+v", e)
	}
}
