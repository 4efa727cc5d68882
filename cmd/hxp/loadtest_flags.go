package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/loadtest"
)

// loadFlags are the flags of a workload.
type loadFlags struct {
	o                       app.LoadtestOptions
	w                       loadtest.Workload
	models                  string
	classes, tenants        string
	direct, goodput, stages []string
	rates, clients          []string
	arrival                 string
	duration                time.Duration
	requests                int
	dataset, path           string
	input, output, turns    int
	prefixes, prefix        int
	spread                  float64
}

func (x *loadFlags) declare(c *cli, cmd *cobra.Command) {
	f := cmd.Flags()
	x.o.Timing = app.DefaultTiming()
	f.BoolVar(&x.o.Up, "up", false, "run broker, workers and simulated engines in this process")
	f.DurationVar(&x.o.Timing.TTFT, "sim-ttft", x.o.Timing.TTFT, "time to the first token of simulated engines")
	f.DurationVar(&x.o.Timing.ITL, "sim-itl", x.o.Timing.ITL, "time between tokens of simulated engines")
	c.profileFlag(cmd)
	f.StringArrayVar(&x.direct, "direct", nil, "engine to ask directly, as `URL` or model=URL; repeatable")
	f.IntVar(&x.o.Connections, "connections", 1, "NATS connections that the requests share")
	f.StringVar(&x.o.Out, "out", "", "`folder` for the results (default loadtest- and the time)")
	f.StringVar(&x.o.Name, "name", "", "what the report calls the run")
	f.StringArrayVar(&x.o.Notes, "note", nil, "something the reader of the report should know; repeatable")
	f.BoolVar(&x.o.CPUProfile, "cpu-profile", false, "leave cpu.pprof of this process in the folder, for go tool pprof")

	f.StringVar(&x.models, "models", "phi3", "`models`, with weights if they differ: phi3:3,hermes:1")
	f.StringVar(&x.classes, "classes", "standard", "`classes`, with weights if they differ: interactive:1,batch:4")
	f.StringVar(&x.tenants, "tenants", "", "`tenants`, with weights if they differ (default the configured one)")

	f.StringSliceVar(&x.rates, "rate", nil, "open loop: `requests` per second, or a ramp as 10..100; several make stages")
	f.StringVar(&x.arrival, "arrival", string(loadtest.Poisson), "open loop: `how` requests come, poisson or constant")
	f.StringSliceVar(&x.clients, "concurrency", nil, "closed loop: `clients` that ask one request after another; several make stages")
	f.StringArrayVar(&x.stages, "stage", nil, "a stage as `rate=50,for=30s` or concurrency=8,requests=500; repeatable")
	f.DurationVar(&x.duration, "duration", 0, "how long a stage takes (default 10s, unless --requests is given)")
	f.IntVar(&x.requests, "requests", 0, "after how many requests a stage ends")
	f.IntVar(&x.w.MaxInFlight, "max-in-flight", 0, "open loop: most requests at once; what waits is late (default 10000)")
	f.IntVar(&x.w.Rounds, "rounds", 0, "how often the stages are gone through (default 5 to compare, otherwise 1)")
	f.IntVar(&x.w.Warmups, "warmups", 2, "requests to each model first, which do not count")
	f.DurationVar(&x.w.Timeout, "request-timeout", 0, "end a request after this long (default 5m)")
	f.Uint64Var(&x.w.Seed, "seed", 0, "another seed makes another workload of the same kind")

	f.StringVar(&x.dataset, "dataset", "random", "what is asked: random, chat, prefix, conversations, sharegpt, sharegpt-conversations, mtbench, mtbench-first, batch")
	f.StringVar(&x.path, "dataset-path", "", "`file` of the dataset")
	f.IntVar(&x.input, "input-len", 32, "random, chat, prefix, conversations: words of a prompt, or of what follows the prefix")
	f.IntVar(&x.output, "output-len", 64, "tokens of an answer; of a recorded dataset only where given")
	f.Float64Var(&x.spread, "range-ratio", 0, "random, chat: spread both lengths by this `part` of themselves")
	f.IntVar(&x.turns, "turns", 3, "conversations: questions in each")
	f.IntVar(&x.prefixes, "prefixes", 10, "prefix: how many beginnings there are")
	f.IntVar(&x.prefix, "prefix-len", 256, "prefix: words of a beginning")
	f.BoolVar(&x.w.IgnoreEOS, "ignore-eos", true, "answers of exactly the length asked for (not OpenAI's; vLLM and the simulator know it)")
	f.BoolVar(&x.w.NoStream, "no-stream", false, "answers in one piece")
	f.StringArrayVar(&x.goodput, "goodput", nil, "bound of a good request, as `ttft:500` in milliseconds; of ttft, tpot, e2el; repeatable")
}

// options makes of the flags what app takes.
func (x *loadFlags) options(cmd *cobra.Command, targets []string, tenant string) (app.LoadtestOptions, error) {
	o, w := x.o, x.w
	o.Targets, o.Command = targets, commandLine(cmd.Context(), cmd)
	o.Out = cmp.Or(o.Out, resultsFolder())
	if w.Warmups == 0 {
		w.Warmups = -1
	}
	var err error
	if w.Mix.Models, err = weights("models", x.models); err != nil {
		return o, err
	}
	if w.Mix.Classes, err = weights("classes", x.classes); err != nil {
		return o, err
	}
	if w.Mix.Tenants, err = weights("tenants", cmp.Or(x.tenants, tenant)); err != nil {
		return o, err
	}
	if w.Stages, err = x.stageList(); err != nil {
		return o, err
	}
	if w.Goodput, err = bounds(x.goodput); err != nil {
		return o, err
	}
	if len(x.direct) > 0 {
		o.Direct = map[string]string{}
	}
	for _, s := range x.direct {
		model, url, ok := strings.Cut(s, "=")
		if !ok || strings.Contains(model, "/") {
			model, url = "", s
		}
		o.Direct[model] = url
	}
	if w.Dataset, err = x.read(w.Seed); err != nil {
		return o, err
	}
	switch x.dataset {
	case "random", "chat", "prefix", "conversations":
	default:
		if cmd.Flags().Changed("output-len") {
			w.OutputTokens = x.output
		}
	}
	o.Workload = w
	return o, nil
}

// read makes the dataset.
func (x *loadFlags) read(seed uint64) (loadtest.Dataset, error) {
	for _, f := range []struct {
		name  string
		value int
	}{{"input-len", x.input}, {"output-len", x.output}, {"turns", x.turns}, {"prefixes", x.prefixes}, {"prefix-len", x.prefix}} {
		if f.value < 1 || f.value > 10_000_000 {
			return nil, fmt.Errorf("%w: --%s is %d; want 1 to 10000000", app.ErrUsage, f.name, f.value)
		}
	}
	if !(x.spread >= 0 && x.spread <= 1) {
		return nil, fmt.Errorf("%w: --range-ratio is %g; want 0 to 1", app.ErrUsage, x.spread)
	}
	switch x.dataset {
	case "random", "chat":
		return loadtest.Random{Input: x.input, Output: x.output, Range: x.spread, Chat: x.dataset == "chat"}, nil
	case "prefix":
		return loadtest.Prefixed{Prefixes: x.prefixes, Prefix: x.prefix, Suffix: x.input, Output: x.output}, nil
	case "conversations":
		return loadtest.Dialogues{Turns: x.turns, Input: x.input, Output: x.output}, nil
	}
	recorded := map[string]func(io.Reader) (loadtest.Dataset, error){
		"sharegpt":               func(in io.Reader) (loadtest.Dataset, error) { return loadtest.ShareGPT(in, seed, false) },
		"sharegpt-conversations": func(in io.Reader) (loadtest.Dataset, error) { return loadtest.ShareGPT(in, seed, true) },
		"mtbench":                func(in io.Reader) (loadtest.Dataset, error) { return loadtest.MTBench(in, seed, false) },
		"mtbench-first":          func(in io.Reader) (loadtest.Dataset, error) { return loadtest.MTBench(in, seed, true) },
		"batch":                  func(in io.Reader) (loadtest.Dataset, error) { return loadtest.BatchFile(in, seed) },
	}[x.dataset]
	if recorded == nil {
		return nil, fmt.Errorf("%w: --dataset %q is not known", app.ErrUsage, x.dataset)
	}
	if x.path == "" {
		return nil, fmt.Errorf("%w: --dataset %s needs its file: --dataset-path", app.ErrUsage, x.dataset)
	}
	f, err := opened("dataset-path", x.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	d, err := recorded(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", app.ErrUsage, x.path, err)
	}
	return d, nil
}

// stageList makes the stages: those of --stage, or one for each rate and each number of clients.
func (x *loadFlags) stageList() ([]loadtest.Stage, error) {
	var out []loadtest.Stage
	for _, s := range x.stages {
		stage, err := x.stage(s)
		if err != nil {
			return nil, err
		}
		out = append(out, stage)
	}
	rates := x.rates
	if len(out)+len(rates)+len(x.clients) == 0 {
		rates = []string{"10"}
	}
	for _, r := range rates {
		stage, err := x.stage("rate=" + r)
		if err != nil {
			return nil, err
		}
		out = append(out, stage)
	}
	for _, n := range x.clients {
		stage, err := x.stage("concurrency=" + n)
		if err != nil {
			return nil, err
		}
		out = append(out, stage)
	}
	return out, nil
}

// stage reads one stage. What it does not say is said by the flags.
func (x *loadFlags) stage(text string) (loadtest.Stage, error) {
	s := loadtest.Stage{Arrival: loadtest.Arrival(x.arrival)}
	bad := func(err error) (loadtest.Stage, error) {
		return s, fmt.Errorf("%w: stage %q: %w", app.ErrUsage, text, err)
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return bad(fmt.Errorf("%q is not name=value", part))
		}
		var err error
		switch name {
		case "rate":
			from, to, ramp := strings.Cut(value, "..")
			if s.Rate, err = strconv.ParseFloat(from, 64); err == nil && ramp {
				s.EndRate, err = strconv.ParseFloat(to, 64)
			}
		case "concurrency":
			s.Concurrency, err = strconv.Atoi(value)
		case "for":
			s.Duration, err = time.ParseDuration(value)
		case "requests":
			s.Requests, err = strconv.Atoi(value)
		case "arrival":
			s.Arrival = loadtest.Arrival(value)
		case "name":
			s.Name = value
		default:
			err = fmt.Errorf("%q is not known; want rate, concurrency, for, requests, arrival or name", name)
		}
		if err != nil {
			return bad(err)
		}
	}
	if s.Duration == 0 && s.Requests == 0 {
		s.Duration, s.Requests = x.duration, x.requests
	}
	if s.Duration == 0 && s.Requests == 0 {
		s.Duration = 10 * time.Second
	}
	return s, nil
}

// weights reads names with their weights.
func weights(flag, text string) ([]loadtest.Weighted, error) {
	var out []loadtest.Weighted
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, weight, ok := strings.Cut(part, ":")
		w := loadtest.Weighted{Name: name, Weight: 1}
		if ok {
			var err error
			if w.Weight, err = strconv.ParseFloat(weight, 64); err != nil || !(w.Weight > 0) || math.IsInf(w.Weight, 0) {
				return nil, fmt.Errorf("%w: --%s %q: the weight is no number above 0", app.ErrUsage, flag, part)
			}
		}
		out = append(out, w)
	}
	return out, nil
}

// bounds reads latencies in milliseconds.
func bounds(flags []string) (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	for _, text := range flags {
		for part := range strings.FieldsSeq(strings.ReplaceAll(text, ",", " ")) {
			name, value, _ := strings.Cut(part, ":")
			ms, err := strconv.ParseFloat(value, 64)
			if err != nil || !(ms > 0) || ms > 1e9 {
				return nil, fmt.Errorf("%w: --goodput %q is not metric:milliseconds", app.ErrUsage, part)
			}
			out[name] = time.Duration(ms * 1e6)
		}
	}
	return out, nil
}
