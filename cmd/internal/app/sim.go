package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

// Timing is how fast simulated engines are. Zero is as fast as possible.
type Timing struct {
	// TTFT is the time to the first token.
	TTFT time.Duration
	// ITL is the time between tokens.
	ITL time.Duration
}

// DefaultTiming is about the pace of a small model on one GPU.
func DefaultTiming() Timing { return Timing{TTFT: 60 * time.Millisecond, ITL: 12 * time.Millisecond} }

// simConfig is the simulated engine of a model.
func (c *Config) simConfig(model string, t Timing) vllmsim.Config {
	m := c.Models[model]
	name := model
	if m.ServedName != "" {
		name = m.ServedName
	}
	p := c.timing(model, t)
	return vllmsim.Config{
		Model: name, MaxModelLen: m.MaxModelLen, MaxNumSeqs: m.EngineArgs.MaxNumSeqs,
		Priority: m.Priority || m.SchedulingPolicy == "priority", TTFT: p.TTFT, Prefill: p.Prefill, ITL: p.ITL, LoadFactor: p.LoadFactor, LogPrompts: c.Log.Prompts,
	}
}

// simulation is a simulated engine and where it listens.
type simulation struct {
	sim *vllmsim.Sim
	l   net.Listener
}

// newSimulation listens at address for the simulated engine of a model.
func (c *Config) newSimulation(ctx context.Context, model, address string, t Timing) (*simulation, error) {
	sim, err := vllmsim.New(c.simConfig(model, t))
	if err != nil {
		return nil, err
	}
	l, err := listen(ctx, address, modelsPath+"."+model+".port")
	if err != nil {
		return nil, err
	}
	return &simulation{sim, l}, nil
}

// Run implements runner.
func (s *simulation) Run(ctx context.Context) error { return s.sim.Run(ctx, s.l) }

func (s *simulation) url() string { return "http://" + s.l.Addr().String() }

// SimOptions are what [Sim] is told beside the configuration.
type SimOptions struct {
	// Model is the configured model to simulate.
	Model string
	// Listen is the address; by default the model's own port.
	Listen string
	// Timing is how fast it is.
	Timing Timing
	// Stderr receives progress.
	Stderr io.Writer
	// Started is told the address once it listens.
	Started func(address string)
}

// Sim runs the simulated engine of one model until ctx ends.
func Sim(ctx context.Context, cfg *Config, o SimOptions) error {
	if _, ok := cfg.Models[o.Model]; !ok {
		return UnknownModel(cfg, o.Model)
	}
	sim, err := cfg.newSimulation(ctx, o.Model, cmp.Or(o.Listen, cfg.engineAddress(o.Model)), o.Timing)
	if err != nil {
		return fmt.Errorf("simulated engine of %s: %w", o.Model, err)
	}
	p := printer{o.Stderr}
	p.printf("simulated engine of %s on %s: its text means nothing\n", o.Model, sim.url())
	if o.Started != nil {
		o.Started(sim.l.Addr().String())
	}
	if err := sim.Run(ctx); err != nil {
		return fmt.Errorf("simulated engine of %s: %w", o.Model, err)
	}
	return nil
}
