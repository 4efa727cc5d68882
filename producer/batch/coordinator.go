package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// coordinatorLock is held by the coordinator that works.
	coordinatorLock = "batches"
	// lockTerm is how long a lock is taken to last before the broker has said it.
	lockTerm = 3 * time.Second
	// releaseWithin bounds how long a coordinator that stops takes to give its lock up.
	releaseWithin = 2 * time.Second
)

// CoordinatorConfig tunes a coordinator. Its zero value is ready for use.
type CoordinatorConfig struct {
	// ID names the coordinator in its lock and in logs; a subject token. Defaults to batches and a random suffix.
	ID string
	// Interval is the time between two looks at the states of batches. Defaults to 500 ms.
	Interval time.Duration
	// Sweep is after how much silence a line's Result is asked for. Defaults to 5 s.
	Sweep time.Duration
	// MaxActive is how many batches are worked on at once, shared by the tenants. Each may hold 3 MiB of its input,
	// or three lines if they are longer. Defaults to 64.
	MaxActive int
	// Grace is how long running lines may finish once a batch is cancelled; after that they are cancelled. Defaults to 10 min.
	Grace time.Duration
	// Weights are the shares of tenants, in tokens. Defaults to 1 for each.
	Weights map[string]float64
	// Burst is how many tokens a tenant that comes, or comes back, may have before it shares: a few lines do not
	// wait for their turn. Defaults to 65,536.
	Burst int
	// MaxBody is the length in bytes that a request may have. Defaults to 16 MiB.
	MaxBody int
	// Logger receives a line for each batch that begins and ends. The zero value is silent.
	Logger zerolog.Logger
	// Registry receives the metrics. nil keeps them on a registry of the coordinator's own.
	Registry *prometheus.Registry
}

func (c CoordinatorConfig) withDefaults() CoordinatorConfig {
	c.ID = cmp.Or(c.ID, "batches-"+uuid.NewString()[:8])
	c.Interval = cmp.Or(c.Interval, 500*time.Millisecond)
	c.Sweep = cmp.Or(c.Sweep, 5*time.Second)
	c.MaxActive = cmp.Or(c.MaxActive, 64)
	c.Grace = cmp.Or(c.Grace, 10*time.Minute)
	c.Burst = cmp.Or(c.Burst, 1<<16)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func (c CoordinatorConfig) validate() error {
	var errs []error
	if err := schemas.CheckToken(c.ID); err != nil {
		errs = append(errs, fmt.Errorf("ID %w", err))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Interval", c.Interval}, {"Sweep", c.Sweep}, {"Grace", c.Grace}} {
		if f.value <= 0 {
			errs = append(errs, fmt.Errorf("%s is %s; want above 0", f.name, f.value))
		}
	}
	if c.MaxActive < 1 {
		errs = append(errs, fmt.Errorf("MaxActive is %d; want at least 1", c.MaxActive))
	}
	if c.Burst < 1 {
		errs = append(errs, fmt.Errorf("Burst is %d; want at least 1", c.Burst))
	}
	if c.MaxBody < 0 {
		errs = append(errs, fmt.Errorf("MaxBody is %d; want 0 or more", c.MaxBody))
	}
	for tenant, w := range c.Weights {
		if w <= 0 {
			errs = append(errs, fmt.Errorf("Weights of tenant %q is %g; want above 0", tenant, w))
		}
	}
	return errors.Join(errs...)
}

// Coordinator works on the batches that were left to the cluster, of every tenant. Any number may run; the holder
// of a lock in the broker works, and the others wait to take over. See "The cluster" in the package's documentation.
type Coordinator struct {
	js   jetstream.JetStream
	cfg  CoordinatorConfig
	log  zerolog.Logger
	lock *queue.Lock

	working prometheus.Gauge
	active  prometheus.Gauge
	lines   *prometheus.CounterVec
}

// NewCoordinator returns a coordinator. It does no I/O, and does not close js's connection.
func NewCoordinator(js jetstream.JetStream, cfg CoordinatorConfig) (*Coordinator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("coordinator %q: %w", cfg.ID, err)
	}
	lock, err := queue.NewLock(js, coordinatorLock, cfg.ID)
	if err != nil {
		return nil, fmt.Errorf("coordinator %q: %w", cfg.ID, err)
	}
	metrics := promauto.With(cfg.Registry)
	c := &Coordinator{
		js: js, cfg: cfg, lock: lock, log: cfg.Logger.With().Str("coordinator", cfg.ID).Logger(),
		working: metrics.NewGauge(prometheus.GaugeOpts{Name: "hxp_batch_coordinator_active", Help: "1 while this process's coordinator works on the batches."}),
		active:  metrics.NewGauge(prometheus.GaugeOpts{Name: "hxp_batches_active", Help: "Batches that are being worked on."}),
		lines:   metrics.NewCounterVec(prometheus.CounterOpts{Name: "hxp_batch_lines_total", Help: "Lines of batches that have a record, by how they ended."}, []string{"outcome"}),
	}
	for _, outcome := range []string{"completed", "failed"} {
		c.lines.WithLabelValues(outcome)
	}
	return c, nil
}

// Run works whenever it holds the lock, until ctx ends, and gives the lock up. What fails is logged and tried again: a
// coordinator that cannot work is no reason for its process to end.
func (c *Coordinator) Run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		held, err := c.take(ctx)
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			c.log.Warn().Err(err).Msg("the coordinator's lock could not be asked for")
		}
		if held {
			c.work(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(cmp.Or(c.lock.TTL(), lockTerm) / 3):
		}
	}
	if !c.js.Conn().IsConnected() {
		return nil // the lock expires by itself
	}
	release, stop := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer stop()
	if err := c.lock.Release(release); err != nil {
		return fmt.Errorf("coordinator %s: %w", c.cfg.ID, err)
	}
	return nil
}

func (c *Coordinator) take(ctx context.Context) (bool, error) {
	try, stop := context.WithTimeout(ctx, cmp.Or(c.lock.TTL(), lockTerm)/3)
	defer stop()
	return c.lock.Take(try)
}

// errLockLost is why a coordinator stops that another may have replaced.
var errLockLost = errors.New("the lock was lost")

// work works on all batches until ctx ends or the lock is lost.
func (c *Coordinator) work(ctx context.Context) {
	c.log.Info().Msg("this process's coordinator works on the batches")
	c.working.Set(1)
	defer c.working.Set(0)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var holding sync.WaitGroup
	defer holding.Wait()
	holding.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(c.lock.TTL() / 4):
			}
			if held, _ := c.take(ctx); !held && ctx.Err() == nil { // an error leaves it held for as long as it lasts
				c.log.Warn().Msg("the coordinator's lock was lost")
				stop(errLockLost)
			}
		}
	})
	s := &session{
		Coordinator: c, known: make(map[string]*queue.StoredBatch), tended: make(map[string]bool), validating: make(chan struct{}, validations),
		engine: newEngine(c.js, engineConfig{
			subject: schemas.EventsOfClient("*", schemas.BatchClient), sweep: c.cfg.Sweep,
			weight: func(tenant string) float64 { return c.cfg.Weights[tenant] }, burst: float64(c.cfg.Burst),
		}),
	}
	s.run(ctx)
	stop(nil)
}
