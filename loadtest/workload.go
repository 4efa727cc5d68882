package loadtest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Workload says what is asked, when, and of whom. Dataset, Mix.Models and Stages are required.
type Workload struct {
	Dataset Dataset
	Mix     Mix
	Stages  []Stage
	// Rounds is how often the stages are gone through. Defaults to 5 for two targets, otherwise 1.
	Rounds int
	// Seed makes another workload of the same kind. Defaults to 0, as vllm bench serve's.
	Seed uint64
	// OutputTokens replaces the length of the answers that the dataset asks for. 0 leaves it.
	OutputTokens int
	// IgnoreEOS asks the engine for answers of exactly the length asked for.
	IgnoreEOS bool
	// NoStream asks for answers in one piece: such requests have no ttft, itl and tpot.
	NoStream bool
	// Warmups is how many requests go to each model of each target first, and do not count. Defaults to 2; negative for none.
	Warmups int
	// MaxInFlight bounds the requests of an open loop that are under way; what has to wait is late. Defaults to 10,000.
	MaxInFlight int
	// Timeout ends a request, counted from when it is sent. Defaults to 5 minutes.
	Timeout time.Duration
	// Goodput are the latencies, by metric (ttft, tpot or e2el), that a good request has at most.
	Goodput map[string]time.Duration
}

// Mix is for whom requests are, by weight.
type Mix struct {
	Models  []Weighted
	Classes []Weighted // of schemas.Class; standard by default
	Tenants []Weighted // "default" by default
}

// Weighted is a name and its share. A weight of 0 is 1.
type Weighted struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"`
}

// Bounds of a workload that are not matters of taste.
const (
	maxRate    = 1e6
	maxStages  = 1000
	maxClients = 100_000
)

func (w Workload) withDefaults(targets int) Workload {
	if targets > 1 {
		w.Rounds = cmp.Or(w.Rounds, 5)
	}
	w.Rounds = cmp.Or(w.Rounds, 1)
	w.Warmups = max(0, cmp.Or(w.Warmups, 2))
	w.MaxInFlight = cmp.Or(w.MaxInFlight, 10_000)
	w.Timeout = cmp.Or(w.Timeout, 5*time.Minute)
	if len(w.Mix.Classes) == 0 {
		w.Mix.Classes = []Weighted{{Name: string(schemas.Standard)}}
	}
	if len(w.Mix.Tenants) == 0 {
		w.Mix.Tenants = []Weighted{{Name: "default"}}
	}
	stages := make([]Stage, len(w.Stages))
	for i, s := range w.Stages {
		stages[i] = s.withDefaults()
	}
	w.Stages = stages
	return w
}

// Check says what is wrong with a workload for so many targets, without running it.
func (w Workload) Check(targets int) error {
	err := w.withDefaults(targets).validate()
	if targets < 1 || targets > 2 {
		err = errors.Join(err, fmt.Errorf("%d targets are given; want 1 or 2", targets))
	}
	if err != nil {
		return fmt.Errorf("workload: %w", err)
	}
	return nil
}

func (w Workload) validate() error {
	var errs []error
	if w.Dataset == nil {
		errs = append(errs, errors.New("Dataset is nil; want one"))
	}
	errs = append(errs, validateWeights("Mix.Models", w.Mix.Models), validateWeights("Mix.Classes", w.Mix.Classes), validateWeights("Mix.Tenants", w.Mix.Tenants))
	for i, c := range w.Mix.Classes {
		if !schemas.Class(c.Name).Valid() {
			errs = append(errs, fmt.Errorf("Mix.Classes[%d] is %q; want interactive, standard or batch", i, c.Name))
		}
	}
	if n := len(w.Stages); n < 1 || n > maxStages {
		errs = append(errs, fmt.Errorf("Stages has %d; want 1 to %d", n, maxStages))
	}
	for i, s := range w.Stages {
		if err := s.validate(); err != nil {
			errs = append(errs, fmt.Errorf("Stages[%d]: %w", i, err))
		}
	}
	for _, f := range []struct {
		name        string
		value, most int
	}{{"Rounds", w.Rounds, 10_000}, {"MaxInFlight", w.MaxInFlight, 1_000_000}} {
		if f.value < 1 || f.value > f.most {
			errs = append(errs, fmt.Errorf("%s is %d; want 1 to %d", f.name, f.value, f.most))
		}
	}
	if w.OutputTokens < 0 {
		errs = append(errs, fmt.Errorf("OutputTokens is %d; want 0 or more", w.OutputTokens))
	}
	if w.Timeout < 0 {
		errs = append(errs, fmt.Errorf("Timeout is %v; want more than 0", w.Timeout))
	}
	for name, bound := range w.Goodput {
		switch {
		case name != TTFT && name != TPOT && name != E2EL:
			errs = append(errs, fmt.Errorf("Goodput has %q; want ttft, tpot or e2el", name))
		case bound <= 0:
			errs = append(errs, fmt.Errorf("Goodput %s is %v; want more than 0", name, bound))
		}
	}
	return errors.Join(errs...)
}

func validateWeights(field string, list []Weighted) error {
	if len(list) == 0 {
		return fmt.Errorf("%s is empty; want at least one", field)
	}
	var errs []error
	for i, x := range list {
		if err := schemas.CheckToken(x.Name); err != nil {
			errs = append(errs, fmt.Errorf("%s[%d] %w", field, i, err))
		}
		if x.Weight < 0 || math.IsNaN(x.Weight) || math.IsInf(x.Weight, 0) {
			errs = append(errs, fmt.Errorf("%s[%d] weighs %v; want 0 or more", field, i, x.Weight))
		}
	}
	return errors.Join(errs...)
}
