package app

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// engineURL is where the engine of a model is.
func (c *Config) engineURL(model string) string {
	m := c.Models[model]
	if m.Engine != "" {
		return m.Engine
	}
	return fmt.Sprintf("http://%s:%d", c.Network.Internal.Localhost, m.Port)
}

// limits are the bounds on requests for a model.
func (c *Config) limits(model string) workers.Limits {
	s := c.VLLM.Sampling
	return workers.Limits{
		MaxModelLen: c.Models[model].MaxModelLen,
		Temperature: s.TemperatureRange, TopP: s.TopPRange, MaxTokens: s.MaxTokensRange,
	}
}

// workerConfig is how the worker of a model works. For package workers zero asks for a default,
// and what is meant to be nothing is negative.
func (c *Config) workerConfig(model, id string, log zerolog.Logger, reg *prometheus.Registry, lease *nats.Conn) workers.Config {
	w := c.Worker
	return workers.Config{
		ID: id, Slots: c.Models[model].Slots, TargetLatency: time.Duration(c.Models[model].TargetLatencyMS * float64(time.Millisecond)),
		DrainTimeout: none(w.DrainTimeout), FirstTokenTimeout: w.FirstTokenTimeout, TokenTimeout: w.TokenTimeout,
		MaxAttempts: w.Attempts, Coalesce: none(w.Coalesce), StandardShare: none(w.StandardShare), BatchShare: none(w.BatchShare),
		Limits: c.limits(model), LogPrompts: c.Log.Prompts, Logger: log, Registry: reg, LeaseConn: lease,
		Heartbeat: min(3*time.Second, c.Queue.WorkerTTL/3), MaxBodyBytes: int(c.Queue.MaxBodyBytes),
	}
}

func none[T time.Duration | float64](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

// logger writes lines for people to a terminal or a file.
func logger(cfg *Config, w io.Writer) zerolog.Logger {
	level, err := zerolog.ParseLevel(cfg.Log.Level)
	if err != nil {
		level = zerolog.InfoLevel // validate has refused any other
	}
	console := zerolog.ConsoleWriter{Out: w, NoColor: true, TimeFormat: time.TimeOnly}
	return zerolog.New(console).Level(level).With().Timestamp().Logger()
}

// crew is the workers of a process and the janitor they share. They start together and drain together.
type crew struct {
	workers []*workers.Worker
	janitor *workers.Janitor
	engines []*vllm.Engine
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

// hire makes the worker of a model on its engine.
func (c *crew) hire(conn *Connection, cfg *Config, model, url string, wc workers.Config) error {
	m := cfg.Models[model]
	engine, err := vllm.New(url, vllm.Config{Model: m.ServedName, APIKey: m.APIKey})
	if err != nil {
		return fmt.Errorf("engine of %s: %w", model, err)
	}
	w, err := workers.New(conn.JS, model, engine, wc)
	if err != nil {
		return err
	}
	c.workers, c.engines = append(c.workers, w), append(c.engines, engine)
	return nil
}

// hireJanitor makes the one janitor of the process.
func (c *crew) hireJanitor(conn *Connection, log zerolog.Logger, reg *prometheus.Registry) (err error) {
	c.janitor, err = workers.NewJanitor(conn.JS, workers.JanitorConfig{Logger: log, Registry: reg})
	return err
}

// start runs the workers and the janitor. ended hears of each that has ended, with its error or with nil if it was asked to.
func (c *crew) start(ctx context.Context, ended func(*workers.Worker, error)) {
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, w := range c.workers {
		c.running.Go(func() { ended(w, w.Run(ctx)) })
	}
	c.running.Go(func() { c.note(c.janitor.Run(ctx)) })
}

// stop drains the workers, stops the janitor and waits for the last.
func (c *crew) stop() error {
	c.cancel()
	c.running.Wait()
	for _, e := range c.engines {
		c.note(e.Close())
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
