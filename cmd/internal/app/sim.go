package app

import (
	"context"
	"fmt"
	"io"
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
	return vllmsim.Config{Model: name, MaxModelLen: m.MaxModelLen, MaxNumSeqs: c.VLLM.EngineArgs.MaxNumSeqs, TTFT: t.TTFT, ITL: t.ITL}
}

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
	m, ok := cfg.Models[o.Model]
	if !ok {
		return UnknownModel(cfg, o.Model)
	}
	sim, err := vllmsim.New(cfg.simConfig(o.Model, o.Timing))
	if err != nil {
		return fmt.Errorf("simulated engine of %s: %w", o.Model, err)
	}
	if o.Listen == "" {
		o.Listen = fmt.Sprintf("%s:%d", cfg.Network.Internal.Localhost, m.Port)
	}
	l, err := listen(ctx, o.Listen, "ai_model_services."+o.Model+".port")
	if err != nil {
		return err
	}
	p := printer{o.Stderr}
	p.printf("simulated engine of %s on http://%s: its text means nothing\n", o.Model, l.Addr())
	if o.Started != nil {
		o.Started(l.Addr().String())
	}
	if err := sim.Run(ctx, l); err != nil {
		return fmt.Errorf("simulated engine of %s: %w", o.Model, err)
	}
	return nil
}
