package conversation

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config tunes a store. The zero value is ready for use. All stores on one Redis must agree on Prefix.
type Config struct {
	// Prefix begins every key. Defaults to "hxp".
	Prefix string
	// TTL is how long a session outlives its last change, unless it says otherwise. Defaults to 30 days.
	TTL time.Duration
	// MaxTTL bounds what a session may say. Defaults to 400 days.
	MaxTTL time.Duration
	// TombstoneTTL is how long a deleted session cannot come back. Defaults to 24 h.
	TombstoneTTL time.Duration
	// PendingTTL is how long a turn counts as in flight after its last Begin. Defaults to 10 min.
	PendingTTL time.Duration
	// Timeout bounds one call to Redis, of a client with ContextTimeoutEnabled; another has only its own
	// timeouts. Defaults to 5 s.
	Timeout time.Duration
	// MaxMessages is how many messages a session keeps the bodies of, and how many turns it knows of. Defaults to 10,000.
	MaxMessages int
	// MaxBytes is the size of those bodies. Defaults to 8 MiB.
	MaxBytes int
	// MaxTurnMessages and MaxTurnBytes bound one turn. Default to 128 and 1 MiB.
	MaxTurnMessages int
	MaxTurnBytes    int
	// MaxPending bounds the turns in flight on a session. Defaults to 64.
	MaxPending int
	// MaxBranches bounds a session's named heads. Defaults to 64.
	MaxBranches int
	// MaxSummaries bounds a session's summaries, beyond which the oldest go; MaxSummaryBytes one of them. Default to 64 and 16 KiB.
	MaxSummaries    int
	MaxSummaryBytes int
	// MaxSystemBytes bounds a system prompt. Defaults to 64 KiB.
	MaxSystemBytes int
	// MaxSessions bounds the sessions of one user. Defaults to 10,000.
	MaxSessions int
	// MaxScan is how many sessions one [Store.List] looks at in search of a title. Defaults to 1,000.
	MaxScan int
	// MaxImportBytes bounds what an import reads. Defaults to 32 MiB.
	MaxImportBytes int
	// Registry receives the metrics; several stores may share one. nil keeps them on a registry of the store's own.
	Registry *prometheus.Registry
}

// Bounds of a session's fields, in bytes.
const (
	MaxTitle  = 256
	MaxUser   = 256
	MaxModel  = 256
	MaxBranch = 64
)

func (c Config) withDefaults() Config {
	const day = 24 * time.Hour
	c.Prefix = cmp.Or(c.Prefix, "hxp")
	c.TTL = cmp.Or(c.TTL, 30*day)
	c.MaxTTL = cmp.Or(c.MaxTTL, max(c.TTL, 400*day))
	c.TombstoneTTL = cmp.Or(c.TombstoneTTL, day)
	c.PendingTTL = cmp.Or(c.PendingTTL, 10*time.Minute)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	c.MaxMessages = cmp.Or(c.MaxMessages, 10_000)
	c.MaxBytes = cmp.Or(c.MaxBytes, 8<<20)
	c.MaxTurnMessages = cmp.Or(c.MaxTurnMessages, min(128, c.MaxMessages))
	c.MaxTurnBytes = cmp.Or(c.MaxTurnBytes, min(1<<20, c.MaxBytes))
	c.MaxPending = cmp.Or(c.MaxPending, 64)
	c.MaxBranches = cmp.Or(c.MaxBranches, 64)
	c.MaxSummaries = cmp.Or(c.MaxSummaries, 64)
	c.MaxSummaryBytes = cmp.Or(c.MaxSummaryBytes, 16<<10)
	c.MaxSystemBytes = cmp.Or(c.MaxSystemBytes, 64<<10)
	c.MaxSessions = cmp.Or(c.MaxSessions, 10_000)
	c.MaxScan = cmp.Or(c.MaxScan, 1_000)
	c.MaxImportBytes = cmp.Or(c.MaxImportBytes, 32<<20)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if strings.ContainsAny(c.Prefix, "{}") {
		errs = append(errs, fmt.Errorf("Prefix is %q; want it without braces, which are for hash tags", c.Prefix))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"TTL", c.TTL}, {"MaxTTL", c.MaxTTL}, {"TombstoneTTL", c.TombstoneTTL}, {"PendingTTL", c.PendingTTL}, {"Timeout", c.Timeout},
	} {
		if d.value < time.Millisecond {
			errs = append(errs, fmt.Errorf("%s is %s; want at least 1ms", d.name, d.value))
		}
	}
	if c.TTL > c.MaxTTL {
		errs = append(errs, fmt.Errorf("TTL is %s; want at most MaxTTL, %s", c.TTL, c.MaxTTL))
	}
	for _, n := range []struct {
		name              string
		value, least, top int
	}{
		{"MaxMessages", c.MaxMessages, 1, 1 << 20}, {"MaxBytes", c.MaxBytes, 1, 1 << 28},
		{"MaxTurnMessages", c.MaxTurnMessages, 1, c.MaxMessages}, {"MaxTurnBytes", c.MaxTurnBytes, 1, c.MaxBytes},
		{"MaxPending", c.MaxPending, 1, 1 << 10}, {"MaxBranches", c.MaxBranches, 1, 1 << 10},
		{"MaxSummaries", c.MaxSummaries, 1, 1 << 8}, {"MaxSummaryBytes", c.MaxSummaryBytes, 1, 1 << 20},
		{"MaxSystemBytes", c.MaxSystemBytes, 1, 1 << 20}, {"MaxSessions", c.MaxSessions, 1, 1 << 20},
		{"MaxScan", c.MaxScan, 1, 1 << 20}, {"MaxImportBytes", c.MaxImportBytes, 1, 1 << 30},
	} {
		if n.value < n.least || n.value > n.top {
			errs = append(errs, fmt.Errorf("%s is %d; want %d to %d", n.name, n.value, n.least, n.top))
		}
	}
	return errors.Join(errs...)
}
