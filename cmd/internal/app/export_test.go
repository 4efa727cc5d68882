package app

import (
	"context"
	"time"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// DiagnoseAt is Diagnose by another clock.
func DiagnoseAt(ctx context.Context, cfg *Config, c *Connection, now func() time.Time) []Finding {
	return diagnose(ctx, &doctor{cfg: cfg, c: c, now: now})
}

// DiagnoseParts looks at everything, even if what it rests on is missing.
func DiagnoseParts(ctx context.Context, cfg *Config, c *Connection) []Finding {
	d := &doctor{cfg: cfg, c: c, now: time.Now}
	d.clocks(ctx)
	d.models(ctx)
	d.dead(ctx)
	d.stores(ctx)
	d.redis(ctx)
	return d.findings
}

// Older is older.
func Older(version, least string) bool { return older(version, least) }

// ServeArgs, ServerConfig, Covers and TargetLatency are what a model's worker is started with.
func ServeArgs(c *Config, model string) vllm.Args            { return c.serveArgs(model) }
func ServerConfig(c *Config, model string) vllm.ServerConfig { return c.serverConfig(model) }
func Covers(c *Config, model string) []workers.Cover         { return c.covers(model) }
func TargetLatency(c *Config, model string) time.Duration {
	return c.targetLatency(model)
}

// FileWatcher tells when files have changed.
type FileWatcher struct{ *watcher }

// WatchFiles watches files.
func WatchFiles(files []string) (FileWatcher, error) {
	w, err := watchFiles(files)
	return FileWatcher{w}, err
}

// Settled reports whether the files hold something else than before.
func (w FileWatcher) Settled() bool { return w.settled() }

// Close ends it.
func (w FileWatcher) Close() { _ = w.close() }

// NewEngine returns the engine of a model, and whether this process runs it.
func NewEngine(c *Config, model, where string) (e workers.Engine, own bool, err error) {
	e, run, err := c.newEngine(model, where, process{})
	return e, run != nil, err
}

// PaceOf is how fast the simulated engine of a model is.
func PaceOf(c *Config, model string, t Timing) Profile { return c.timing(model, t) }
