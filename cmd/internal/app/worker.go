package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/workers"
)

// WorkerOptions are what [Worker] is told beside the configuration.
type WorkerOptions struct {
	// Model is the model to serve.
	Model string
	// Engine overrides what its engine is: a URL, [EngineVLLM] or [EngineSim].
	Engine string
	// ID names the worker. By default the model and a random suffix.
	ID string
	// Hangup asks for the configuration to be read again. A change of its files does so by itself.
	Hangup <-chan os.Signal
	// Stderr receives progress and the log.
	Stderr io.Writer
	// Started is told once the worker runs and its health can be asked for.
	Started func(Running)
}

// Running says where what has been started can be reached.
type Running struct {
	// NATS is the queue's URL.
	NATS string `json:"nats"`
	// Redis is the address of the Redis, if one was started.
	Redis string `json:"redis,omitempty"`
	// HTTP is the address of health and metrics.
	HTTP string `json:"http"`
	// Engines are the engines' URLs by model.
	Engines map[string]string `json:"engines"`
	// Workers are the workers' ids by model.
	Workers map[string]string `json:"workers"`
}

// Worker runs one worker beside one engine, a janitor and a coordinator of batches, until ctx ends, and then drains it.
func Worker(ctx context.Context, cfg *Config, o WorkerOptions) (err error) {
	if _, ok := cfg.Models[o.Model]; !ok {
		return UnknownModel(cfg, o.Model)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var started stops
	defer func() { err = errors.Join(err, started.run()) }()

	where, err := cfg.engineOf(o.Model, o.Engine, "http://"+cfg.engineAddress(o.Model))
	if err != nil {
		return err
	}
	if err := cfg.prepare(); err != nil {
		return err
	}
	log, level := logger(cfg, o.Stderr)
	denied := func(err error) { log.Error().Err(err).Msg("the server forbids something that the worker needs") }
	conn, err := Connect(ctx, cfg, "hxp worker "+o.Model, denied)
	if err != nil {
		return err
	}
	started.push(func() error { conn.Close(); return nil })
	// Leases do not wait behind tokens.
	leases, err := Connect(ctx, cfg, "hxp leases "+o.Model, denied)
	if err != nil {
		return err
	}
	started.push(func() error { leases.Close(); return nil })
	warnings, err := ensureQueue(ctx, conn, cfg.queues(o.Model), cfg.Queue.Config())
	if err != nil {
		return err
	}
	l, err := listen(ctx, cfg.HTTP.Listen, "http.listen")
	if err != nil {
		return err
	}
	var c crew
	h := newHouse(ctx, func(err error) { fail(err) })
	started.push(h.stop)
	if where == EngineSim {
		sim, err := cfg.newSimulation(ctx, o.Model, cfg.engineAddress(o.Model), DefaultTiming())
		if err != nil {
			return errors.Join(fmt.Errorf("simulated engine of %s: %w", o.Model, err), l.Close())
		}
		where = sim.url()
		h.run(o.Model, "simulated engine", sim)
	}
	reg, kept := prometheus.NewRegistry(), &talks{}
	if cfg.Redis.configured() {
		if kept, err = openConversations(cfg, cfg.Redis, "hxp-worker-"+o.Model, reg); err != nil {
			return errors.Join(err, l.Close())
		}
		started.push(kept.rdb.Close)
	} else {
		warnings = append(warnings, "redis.url is not set: jobs with a session are refused")
	}
	err = c.hire(conn, cfg, o.Model, where, h, process{log, reg, o.Stderr}, cfg.workerConfig(o.Model, o.ID, log, reg, leases.NC, kept.store))
	if err == nil {
		err = c.hireJanitor(conn, log, reg)
	}
	if err == nil {
		err = c.hireCoordinator(conn, cfg, log, reg)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	p := printer{o.Stderr}
	reloads := newReloader(cfg, &c, h, level, false, p, reg)
	started.push(serve(l, monitor(c.workers, reg, reloads, kept), fail))
	p.notes("notice", cfg.Notices)
	p.notes("warning", warnings)
	c.start(ctx, func(_ *workers.Worker, err error) { fail(errOr(err, errEnded)) })
	started.push(c.stop)
	started.push(reloads.start(ctx, o.Hangup))
	w := c.workers[0]
	p.printf("worker %s: model %s, engine %s, queue %s, health http://%s/readyz\n", w.ID(), o.Model, c.engines[0], maskURL(cfg.NATS.URL), l.Addr())
	if o.Started != nil {
		o.Started(Running{
			NATS: cfg.NATS.URL, HTTP: l.Addr().String(),
			Engines: map[string]string{o.Model: c.engines[0].String()}, Workers: map[string]string{o.Model: w.ID()},
		})
	}
	select {
	case <-ctx.Done():
	case <-conn.Closed():
		fail(turnedAway(conn))
	case <-leases.Closed():
		fail(turnedAway(leases))
	}
	if err := endedBy(ctx); err != nil && (conn.NC.IsClosed() || leases.NC.IsClosed()) && !errors.Is(err, ErrNotAllowed) {
		return fmt.Errorf("%w: %w", turnedAway(conn), err)
	}
	return endedBy(ctx)
}

// errEnded ends a role whose only worker has drained because it was asked to over the queue.
var errEnded = errors.New("drained on request")

// endedBy returns why a role ends: nil if it was asked to.
func endedBy(ctx context.Context) error {
	err := context.Cause(ctx)
	if errors.Is(err, errEnded) || errors.Is(err, context.Canceled) || errors.Is(err, ErrInterrupted) {
		return nil
	}
	return err
}

// ErrInterrupted is the cause with which a signal ends a command's context.
var ErrInterrupted = errors.New("interrupted")

func turnedAway(c *Connection) error {
	return fmt.Errorf("%w: the connection to the queue was closed for good: %w", ErrNotAllowed, errOr(c.NC.LastError(), errors.New("no reason given")))
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func joined(errs []error) error { return errors.Join(errs...) }

// UnknownModel says that a model is not configured, and which are.
func UnknownModel(cfg *Config, model string) error {
	return fmt.Errorf("%w: model %q is not configured; there are %s: add a block under ai_model_services",
		ErrUsage, model, strings.Join(cfg.ModelNames(), ", "))
}

// ErrUsage marks what is wrong with a command line.
var ErrUsage = errors.New("usage")

// printer writes for people. What cannot be written to a terminal that has gone is nobody's loss.
type printer struct{ w io.Writer }

func (p printer) printf(format string, args ...any) { _, _ = fmt.Fprintf(p.w, format, args...) }

func (p printer) notes(kind string, lines []string) {
	for _, l := range lines {
		p.printf("%s: %s\n", kind, l)
	}
}

// DataDir is where [Up] stores things by default: .hxp here, or hxp in the user's state folder if there is one.
func DataDir(cfg *Config) string {
	if cfg.NATS.Data != "" {
		return cfg.NATS.Data
	}
	if state := os.Getenv("XDG_STATE_HOME"); state != "" {
		return state + "/hxp"
	}
	return ".hxp"
}
