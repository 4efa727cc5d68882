package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/loadtest/report"
	"github.com/hxp-enterprise/hxp/producer"
)

// LoadtestOptions are what [Loadtest] is told beside the configuration.
type LoadtestOptions struct {
	// Targets are loadtest.Queue, loadtest.Direct, or both to compare them.
	Targets  []string
	Workload loadtest.Workload
	// Up runs broker, workers and simulated engines in this process, on free ports, and leaves nothing behind.
	Up bool
	// Timing is that of the simulated engines, as in [UpOptions].
	Timing Timing
	// Direct are the URLs of the engines by model, "" for all others. With Up they are those of the simulated ones.
	Direct map[string]string
	// Connections is how many NATS connections the requests share. Defaults to 1.
	Connections int
	// Out is the folder for the results. It is made if it is missing.
	Out string
	// Name is what the run is called, Command its command line, Notes are for whoever reads its figures.
	Name    string
	Command []string
	Notes   []string
	Version string
	// CPUProfile leaves a profile of this process for go tool pprof in the folder.
	CPUProfile bool
	// Progress hears how it goes, once a second.
	Progress func(loadtest.Progress)
}

// Loadtest runs a workload and leaves its results in a folder. If ctx ends before the workload does, what was
// measured is in the folder, and the error is why ctx ended.
func Loadtest(ctx context.Context, cfg *Config, o LoadtestOptions) (s *loadtest.Summary, err error) {
	if err := o.Workload.Check(len(o.Targets)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	for _, m := range o.Workload.Mix.Models {
		if _, ok := cfg.Models[m.Name]; !ok && o.Up {
			return nil, UnknownModel(cfg, m.Name)
		}
	}
	if slices.Contains(o.Targets, loadtest.Direct) && !o.Up && len(o.Direct) == 0 {
		return nil, fmt.Errorf("%w: no engine is given to ask directly; want --direct URL, or --up", ErrUsage)
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, fmt.Errorf("folder for the results: %w", err)
	}
	env := loadtest.Observe(o.Version)
	env.Notes = o.Notes
	if o.Up {
		own, stop, err := upForLoad(ctx, cfg, &o)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		cfg = own
		env.Notes = append(env.Notes, "broker, workers, simulated engines and the load generator share one process")
	}
	env.Engines = o.Direct
	targets, done, err := o.targets(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer done()
	return o.run(ctx, targets, &env)
}

// run runs the workload and writes the results.
func (o *LoadtestOptions) run(ctx context.Context, targets []loadtest.Target, env *loadtest.Environment) (*loadtest.Summary, error) {
	f, err := os.Create(filepath.Join(o.Out, report.RequestsFile))
	if err != nil {
		return nil, err
	}
	log := bufio.NewWriterSize(f, 256<<10)
	stop, err := o.profiled()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s, err := loadtest.Run(ctx, o.Workload, targets, loadtest.Options{Log: log, Progress: o.Progress})
	err = errors.Join(err, stop(), log.Flush(), f.Close())
	if s == nil {
		return nil, err
	}
	s.Name, s.Command = o.Name, o.Command
	return s, errors.Join(err, report.Save(o.Out, s, env))
}

// profiled records where this process spends its time until stop is called, if that was asked for.
func (o *LoadtestOptions) profiled() (stop func() error, err error) {
	if !o.CPUProfile {
		return func() error { return nil }, nil
	}
	f, err := os.Create(filepath.Join(o.Out, cpuProfile))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}

// targets makes the targets. done closes them.
func (o *LoadtestOptions) targets(ctx context.Context, cfg *Config) (_ []loadtest.Target, done func(), err error) {
	var out []loadtest.Target
	var opened stops
	closeAll := func() { _ = opened.run() } // connections that are closed lose nothing here
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	for _, name := range o.Targets {
		switch name {
		case loadtest.Direct:
			d := loadtest.DirectConfig{URLs: o.Direct, ServedNames: map[string]string{}, APIKeys: map[string]string{}}
			for name, m := range cfg.Models {
				d.ServedNames[name], d.APIKeys[name] = m.ServedName, m.APIKey
			}
			t, err := loadtest.NewDirect(d)
			if err != nil {
				return nil, nil, fmt.Errorf("%w: %w", ErrUsage, err)
			}
			opened.push(func() error { t.Close(); return nil })
			out = append(out, t)
		case loadtest.Queue:
			var conns []*nats.Conn
			for range max(1, o.Connections) {
				c, err := Connect(ctx, cfg, "hxp loadtest", nil)
				if err != nil {
					return nil, nil, err
				}
				opened.push(func() error { c.Close(); return nil })
				conns = append(conns, c.NC)
			}
			t, err := loadtest.NewQueue(producer.Config{SubmitTimeout: cfg.NATS.Timeout, MaxBodyBytes: int(cfg.Queue.MaxBodyBytes)}, conns...)
			if err != nil {
				return nil, nil, err
			}
			opened.push(t.Close)
			out = append(out, t)
		default:
			return nil, nil, fmt.Errorf("%w: target %q is neither queue nor direct", ErrUsage, name)
		}
	}
	return out, closeAll, nil
}

// upForLoad runs everything in this process until stop is called. The configuration that it returns leads there.
func upForLoad(ctx context.Context, cfg *Config, o *LoadtestOptions) (own *Config, stop func() error, err error) {
	data, err := os.MkdirTemp("", "hxp-loadtest-")
	if err != nil {
		return nil, nil, err
	}
	said, err := os.Create(filepath.Join(o.Out, upLog))
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(data))
	}
	var models []string
	for _, m := range o.Workload.Mix.Models {
		models = append(models, m.Name)
	}
	up, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the workers outlive the last request
	started, ended := make(chan Running, 1), make(chan struct{})
	var failed error
	go func() {
		defer close(ended)
		failed = Up(up, cfg, UpOptions{
			Data: data, Models: models, Timing: o.Timing, RandomPorts: true, InMemoryRedis: true, Version: o.Version,
			Stderr: said, Started: func(r Running) { started <- r },
		})
	}()
	stopUp := func() error {
		cancel()
		<-ended
		return errors.Join(failed, said.Close(), os.RemoveAll(data))
	}
	select {
	case r := <-started:
		own = &Config{}
		*own = *cfg
		own.NATS.URL, own.NATS.Creds, own.NATS.User, own.NATS.Password = r.NATS, "", "", ""
		directly, err := o.enginesApart(ctx, cfg, models)
		if err != nil {
			return nil, nil, errors.Join(err, stopUp())
		}
		return own, func() error { return errors.Join(directly(), stopUp()) }, nil
	case <-ended:
		return nil, nil, stopUp()
	case <-ctx.Done():
		return nil, nil, errors.Join(context.Cause(ctx), stopUp())
	}
}

// enginesApart runs engines for the direct target, the same as those behind the workers. A worker gives a shared engine
// fewer jobs as long as it finds requests of others in it, so that what was sent directly in one window
// would slow the queue down in the next.
func (o *LoadtestOptions) enginesApart(ctx context.Context, cfg *Config, models []string) (stop func() error, err error) {
	var failed []error
	var mu sync.Mutex
	h := newHouse(ctx, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	})
	stop = func() error { return errors.Join(h.stop(), errors.Join(failed...)) }
	o.Direct = map[string]string{}
	for _, m := range models {
		sim, err := cfg.newSimulation(ctx, m, net.JoinHostPort(cfg.Network.Internal.Localhost, "0"), o.Timing)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("simulated engine of %s: %w", m, err), stop())
		}
		o.Direct[m] = sim.url()
		h.run(m, "simulated engine", sim)
	}
	return stop, nil
}

// Files in the folder of the results beside those of package report.
const (
	upLog      = "up.log"    // what broker, workers and engines said
	cpuProfile = "cpu.pprof" // for go tool pprof
)
