package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Level is how bad a finding is.
type Level string

// The levels, best first. Only a problem makes [Healthy] false.
const (
	Fine    Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Finding is one thing that [Diagnose] has found.
type Finding struct {
	Level Level `json:"level"`
	// What is the case, Why that is so or matters, and what to Do about it.
	What string `json:"what"`
	Why  string `json:"why,omitempty"`
	Do   string `json:"do,omitempty"`
}

// Healthy reports whether no finding is a problem.
func Healthy(findings []Finding) bool {
	return !slices.ContainsFunc(findings, func(f Finding) bool { return f.Level == Problem })
}

// Thresholds of the diagnosis.
const (
	nearly       = 0.8              // of a cap
	skewAllowed  = time.Second      // between two clocks
	settles      = 3 * time.Second  // a queue's counters and a free worker's pull
	recently     = time.Hour        // for dead letters
	shortReplay  = 10 * time.Minute // that a full event record reaches back
	deadLooked   = 500              // letters, newest
	oldestServer = "2.11.0"         // has per-message TTL, which the worker registry uses
)

// doctor looks at one installation.
type doctor struct {
	cfg      *Config
	c        *Connection
	now      func() time.Time
	findings []Finding
	workers  []schemas.WorkerInfo
	nodes    sync.Mutex // several nodes of a cluster are looked at together
}

func (d *doctor) add(level Level, what, why, do string) {
	d.findings = append(d.findings, Finding{level, what, why, do})
}

// Diagnose says in words what keeps jobs from moving, or will. It changes nothing. An error from the
// connection is a finding as well: pass it as connectErr, with a nil connection.
func Diagnose(ctx context.Context, cfg *Config, c *Connection, connectErr error) []Finding {
	d := &doctor{cfg: cfg, c: c, now: time.Now}
	if connectErr != nil {
		d.add(Problem, "the queue at "+maskURL(cfg.NATS.URL)+" cannot be used", connectErr.Error(), "")
		return d.findings
	}
	return diagnose(ctx, d)
}

func diagnose(ctx context.Context, d *doctor) []Finding {
	d.server()
	if !d.jetStream(ctx) || !d.setUp(ctx) {
		return d.findings
	}
	d.clocks(ctx)
	var err error
	if d.workers, err = queue.Workers(ctx, d.c.JS); err != nil {
		d.cannot("read the worker registry", err)
	}
	d.models(ctx)
	d.dead(ctx)
	d.stores(ctx)
	d.redis(ctx)
	return d.findings
}

// cannot notes that something could not be looked at.
func (d *doctor) cannot(what string, err error) {
	d.add(Problem, "cannot "+what, d.c.Explain(err).Error(), "the user of this connection needs permission for it, or the server is overloaded")
}

func (d *doctor) server() {
	nc := d.c.NC
	rtt, err := nc.RTT()
	if err != nil {
		d.add(Problem, "the server does not answer", err.Error(), "look at the server's log")
		return
	}
	version := nc.ConnectedServerVersion()
	d.add(Fine, fmt.Sprintf("NATS %s at %s answers in %s", version, nc.ConnectedUrlRedacted(), rtt.Round(10*time.Microsecond)), "", "")
	if older(version, oldestServer) {
		d.add(Problem, fmt.Sprintf("the NATS server is version %s", version), "hxp needs "+oldestServer+" or later", "upgrade the server")
	}
}

// jetStream reports whether there is one to look at.
func (d *doctor) jetStream(ctx context.Context) bool {
	info, err := d.c.JS.AccountInfo(ctx)
	if err != nil {
		d.add(Problem, "JetStream is not available", d.c.Explain(err).Error(),
			"enable it in the server's configuration (jetstream {}) and, with accounts, in the account")
		return false
	}
	for _, s := range []struct {
		name  string
		used  uint64
		limit int64
	}{{"disk", info.Store, info.Limits.MaxStore}, {"memory", info.Memory, info.Limits.MaxMemory}} {
		if s.limit > 0 && float64(s.used) > nearly*float64(s.limit) {
			d.add(Warning, fmt.Sprintf("JetStream's %s is %.0f %% used", s.name, 100*float64(s.used)/float64(s.limit)),
				fmt.Sprintf("%s of %s; when it is full, jobs are refused", Bytes(s.used), Bytes(s.limit)), "raise the account's limit, or purge what is not needed")
		}
	}
	return true
}

// setUp reports whether there is a queue to look at, and says where it is not as configured.
func (d *doctor) setUp(ctx context.Context) bool {
	var models, missing, unserved []string
	for _, m := range d.cfg.ModelNames() {
		switch _, err := queue.Consumers(ctx, d.c.JS, m); {
		case err == nil:
			models = append(models, m)
		case errors.Is(err, queue.ErrNotSetUp):
			unserved = append(unserved, schemas.JobsStream(m))
		default:
			d.cannot("look at the queue of "+m, err)
			return false
		}
	}
	for _, name := range []string{schemas.EventsStream, schemas.ResultsStream, schemas.DeadStream} {
		if _, err := d.c.JS.Stream(ctx, name); errors.Is(err, jetstream.ErrStreamNotFound) {
			missing = append(missing, name)
		} else if err != nil {
			d.cannot("look at stream "+name, err)
			return false
		}
	}
	for _, name := range []string{schemas.WorkersBucket, schemas.CancelsBucket, schemas.LocksBucket} {
		if _, err := d.c.JS.KeyValue(ctx, name); errors.Is(err, jetstream.ErrBucketNotFound) {
			missing = append(missing, name)
		} else if err != nil {
			d.cannot("look at bucket "+name, err)
			return false
		}
	}
	if _, err := d.c.JS.ObjectStore(ctx, schemas.BodiesBucket); errors.Is(err, jetstream.ErrBucketNotFound) {
		missing = append(missing, schemas.BodiesBucket)
	} else if err != nil {
		d.cannot("look at object store "+schemas.BodiesBucket, err)
		return false
	}
	if len(missing) > 0 || len(models) == 0 {
		d.add(Problem, fmt.Sprintf("missing in the queue: %s", strings.Join(append(unserved, missing...), ", ")), "jobs have nowhere to go", "hxp queue apply")
		return false
	}
	if len(unserved) > 0 {
		d.add(Warning, fmt.Sprintf("configured, and without a queue: %s", strings.Join(unserved, ", ")),
			"jobs for them are refused as model_not_found", "hxp queue apply, or leave the models out of the configuration")
	}
	// Everything is there, so that this creates nothing and only compares.
	diffs, err := queue.Ensure(ctx, d.c.JS, models, d.cfg.Queue.Config())
	if err != nil {
		d.cannot("compare the queue with the configuration", err)
		return false
	}
	for _, x := range diffs {
		d.add(Warning, x.String(), "somebody else set it up, or the configuration has changed since", "hxp queue apply changes it")
	}
	if len(diffs) == 0 {
		d.add(Fine, fmt.Sprintf("the queue is set up as configured, for %s", strings.Join(models, ", ")), "", "")
	}
	return true
}
