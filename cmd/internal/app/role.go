package app

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/workers"
)

// limits are the bounds on requests for a model.
func (c *Config) limits(model string) workers.Limits {
	s := c.Models[model].Sampling
	return workers.Limits{
		MaxModelLen: c.Models[model].MaxModelLen,
		Temperature: s.TemperatureRange, TopP: s.TopPRange, MaxTokens: s.MaxTokensRange,
	}
}

// workerConfig is how the worker of a model works. For package workers zero asks for a default,
// and what is meant to be nothing is negative.
func (c *Config) workerConfig(model, id string, log zerolog.Logger, reg *prometheus.Registry, lease *nats.Conn, kept *conversation.Store) workers.Config {
	w, m := c.Worker, c.Models[model]
	return workers.Config{
		Conversations: kept, Sessions: c.sessions(model),
		ID: id, Slots: m.Slots, TargetLatency: c.targetLatency(model), Reserved: m.Reserved.config(), Covers: c.covers(model),
		DrainTimeout: none(w.DrainTimeout), FirstTokenTimeout: m.FirstTokenTimeout, TokenTimeout: m.TokenTimeout,
		MaxAttempts: w.Attempts, Coalesce: none(w.Coalesce), StandardShare: none(w.StandardShare), BatchShare: none(w.BatchShare),
		GroupSize: m.GroupSize, GroupWait: none(m.GroupWait),
		Limits: c.limits(model), Capabilities: m.Capabilities.config(), LogPrompts: c.Log.Prompts, Logger: log, Registry: reg, LeaseConn: lease,
		Moderator: c.moderates(),
		Heartbeat: min(3*time.Second, c.Queue.WorkerTTL/3), MaxBodyBytes: int(c.Queue.MaxBodyBytes),
	}
}

// tunables are what of it can change while the worker runs.
func (c *Config) tunables(model string) workers.Tunables {
	return c.workerConfig(model, "", zerolog.Nop(), nil, nil, nil).Tunables()
}

func none[T time.Duration | float64](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

// logLevel is the level of a log. It can change while the log is in use.
type logLevel struct{ at atomic.Int32 }

// set takes a level by its name. validate has refused what is none.
func (l *logLevel) set(name string) {
	level, err := zerolog.ParseLevel(name)
	if err != nil {
		level = zerolog.InfoLevel
	}
	l.at.Store(int32(level))
}

// Sample implements [zerolog.Sampler]: a line below the level is not even begun.
func (l *logLevel) Sample(line zerolog.Level) bool { return int32(line) >= l.at.Load() }

// logger writes lines for people to a terminal or a file.
func logger(cfg *Config, w io.Writer) (zerolog.Logger, *logLevel) {
	level := &logLevel{}
	level.set(cfg.Log.Level)
	console := zerolog.ConsoleWriter{Out: w, NoColor: true, TimeFormat: time.TimeOnly}
	return zerolog.New(console).Level(zerolog.TraceLevel).Sample(level).With().Timestamp().Logger(), level
}

// crew is the workers of a process, and the janitor and the coordinator of batches that they share. They start together and drain together.
type crew struct {
	models  []string
	workers []*workers.Worker // of each model
	engines []workers.Engine  // of each model
	janitor *workers.Janitor
	batches *batch.Coordinator
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

// hire makes the worker of a model on its engine, which h runs if it is the process's own.
func (c *crew) hire(conn *Connection, cfg *Config, model, where string, h *house, p process, wc workers.Config) error {
	engine, run, err := cfg.newEngine(model, where, p)
	if err != nil {
		return err
	}
	w, err := workers.New(conn.JS, model, engine, wc)
	if err != nil {
		return err
	}
	c.models, c.workers, c.engines = append(c.models, model), append(c.workers, w), append(c.engines, engine)
	if run != nil {
		h.run(model, "engine", run)
	}
	return nil
}

// hireJanitor makes the one janitor of the process.
func (c *crew) hireJanitor(conn *Connection, log zerolog.Logger, reg *prometheus.Registry) (err error) {
	c.janitor, err = workers.NewJanitor(conn.JS, workers.JanitorConfig{Logger: log, Registry: reg})
	return err
}

// hireCoordinator makes the one coordinator of batches of the process.
func (c *crew) hireCoordinator(conn *Connection, cfg *Config, log zerolog.Logger, reg *prometheus.Registry) (err error) {
	c.batches, err = batch.NewCoordinator(conn.JS, batch.CoordinatorConfig{MaxBody: int(cfg.Queue.MaxBodyBytes), Logger: log, Registry: reg})
	return err
}

// start runs the workers, the janitor and the coordinator. ended hears of each that has ended, with its error or with nil if it was asked to.
func (c *crew) start(ctx context.Context, ended func(*workers.Worker, error)) {
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, w := range c.workers {
		c.running.Go(func() { ended(w, w.Run(ctx)) })
	}
	c.running.Go(func() { c.note(c.janitor.Run(ctx)) })
	c.running.Go(func() { c.note(c.batches.Run(ctx)) })
}

// stop drains the workers, stops the others and waits for the last.
func (c *crew) stop() error {
	c.cancel()
	c.running.Wait()
	for _, e := range c.engines {
		if open, ok := e.(io.Closer); ok {
			c.note(open.Close())
		}
	}
	return joined(c.errs)
}

func (c *crew) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// ensureQueue creates what is missing in the queue and returns what differs as lines for people.
func ensureQueue(ctx context.Context, conn *Connection, models []string, q queue.Config) ([]string, error) {
	diffs, err := queue.Ensure(ctx, conn.JS, models, q)
	if err != nil {
		return nil, conn.Explain(err)
	}
	var out []string
	for _, d := range diffs {
		out = append(out, d.String()+": it is left as it is; hxp queue apply changes it")
	}
	return out, nil
}
