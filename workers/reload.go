package workers

import (
	"fmt"
	"time"
)

// Tunables are what of a [Config] can change while the worker runs. The fields are those of Config:
// zero asks for the default, and what may be nothing is negative then.
type Tunables struct {
	StandardShare, BatchShare       float64
	Reserved                        Reserved
	TargetLatency, TargetInterToken time.Duration
	DrainTimeout                    time.Duration
	MaxAttempts                     int
	FirstTokenTimeout, TokenTimeout time.Duration
	Coalesce                        time.Duration
	GroupSize                       int
	GroupWait                       time.Duration
	Limits                          Limits
	Capabilities                    Capabilities
	Sessions                        Sessions
	LogPrompts                      bool
	Moderator                       Moderator
}

// Tune replaces what can change. A job that has been delivered goes on as it was; the next one
// finds the new values. Values that New would refuse are refused, and change nothing. Safe for
// concurrent use.
func (w *Worker) Tune(t Tunables) error {
	cfg := w.cfg
	cfg.StandardShare, cfg.BatchShare = t.StandardShare, t.BatchShare
	cfg.Reserved, cfg.TargetLatency, cfg.TargetInterToken = t.Reserved, t.TargetLatency, t.TargetInterToken
	cfg.DrainTimeout, cfg.MaxAttempts = t.DrainTimeout, t.MaxAttempts
	cfg.FirstTokenTimeout, cfg.TokenTimeout, cfg.Coalesce = t.FirstTokenTimeout, t.TokenTimeout, t.Coalesce
	cfg.GroupSize, cfg.GroupWait = t.GroupSize, t.GroupWait
	cfg.Limits, cfg.Capabilities, cfg.LogPrompts = t.Limits, t.Capabilities, t.LogPrompts
	cfg.Sessions, cfg.Moderator = t.Sessions, t.Moderator
	cfg = cfg.withDefaults(w.model)
	if err := cfg.validate(w.model); err != nil {
		return fmt.Errorf("tune worker %s: %w", w.cfg.ID, err)
	}
	w.tuned.Store(cfg.tunables())
	w.capacity.latency.aim(cfg.TargetLatency, cfg.TargetInterToken)
	w.capacity.nudge() // there may be room for more now
	return nil
}

// Tunables returns what can change, as c has it.
func (c Config) Tunables() Tunables { return *c.tunables() }

func (c *Config) tunables() *Tunables {
	return &Tunables{
		StandardShare: c.StandardShare, BatchShare: c.BatchShare,
		Reserved: c.Reserved, TargetLatency: c.TargetLatency, TargetInterToken: c.TargetInterToken,
		DrainTimeout: c.DrainTimeout, MaxAttempts: c.MaxAttempts,
		FirstTokenTimeout: c.FirstTokenTimeout, TokenTimeout: c.TokenTimeout, Coalesce: c.Coalesce,
		GroupSize: c.GroupSize, GroupWait: c.GroupWait,
		Limits: c.Limits, Capabilities: c.Capabilities, LogPrompts: c.LogPrompts, Sessions: c.Sessions, Moderator: c.Moderator,
	}
}
