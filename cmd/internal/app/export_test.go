package app

import (
	"context"
	"time"
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
	return d.findings
}

// Older is older.
func Older(version, least string) bool { return older(version, least) }
