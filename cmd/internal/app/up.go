package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/workers"
)

// UpOptions are what [Up] is told beside the configuration.
type UpOptions struct {
	// Data is the folder for what is stored. By default [DataDir].
	Data string
	// Models are the models to serve; all that are configured by default.
	Models []string
	// Engines are URLs of running engines, [EngineVLLM] or [EngineSim], by model. A model without one,
	// and without an engine in the configuration, is simulated.
	Engines map[string]string
	// Timing is how fast simulated engines are.
	Timing Timing
	// RandomPorts ignores the configured ports and takes free ones.
	RandomPorts bool
	// InMemoryRedis starts no redis-server even if there is one.
	InMemoryRedis bool
	// Hangup asks for the configuration to be read again. A change of its files does so by itself.
	Hangup <-chan os.Signal
	// Version is shown to people.
	Version string
	// Stderr receives progress and the log.
	Stderr io.Writer
	// Started is told where everything is, once every simulated model serves.
	Started func(Running)
}

// readyWithin is how long [Up] waits for a simulated engine's worker. It takes milliseconds.
const readyWithin = 30 * time.Second

// up is what [Up] has started so far.
type up struct {
	cfg     *Config
	o       UpOptions
	p       printer
	log     zerolog.Logger
	fail    context.CancelCauseFunc
	level   *logLevel
	models  []string
	engines map[string]string // a URL, vllm or sim, by model
	started stops

	broker   *embedded.NATS
	redis    *embedded.Redis
	conn     *Connection
	leases   *Connection
	house    *house
	crew     crew
	reloads  *reloader
	http     net.Listener
	warnings []string
	running  Running
}

// Up runs every role in this process until ctx ends: broker, Redis, a simulated engine for each
// model that has none of its own, and a worker for each model, with one janitor. What it started first it stops last.
func Up(ctx context.Context, cfg *Config, o UpOptions) (err error) {
	began := time.Now()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	u := &up{cfg: cfg, o: o, p: printer{o.Stderr}, fail: fail}
	u.log, u.level = logger(cfg, o.Stderr)
	defer func() { err = errors.Join(err, u.started.run()) }()
	if err := u.choose(); err != nil {
		return err
	}
	u.p.notes("notice", cfg.Notices)
	for _, step := range []func(context.Context) error{u.startBroker, u.startRedis, u.setUpQueue, u.startEngines, u.startMonitor, u.startWorkers} {
		if err := step(ctx); err != nil {
			return u.unless(ctx, err)
		}
	}
	waiting, err := u.awaitReady(ctx)
	if err != nil {
		return u.unless(ctx, err)
	}
	u.report(time.Since(began), waiting)
	if o.Started != nil {
		o.Started(u.running)
	}
	select {
	case <-ctx.Done():
	case <-u.redisDone():
		fail(errors.New("redis-server has ended by itself"))
	}
	if endedBy(ctx) == nil {
		u.p.printf("stopping: jobs in flight have %s to finish (again to stop at once)\n", u.reloads.cfg.Load().Worker.DrainTimeout)
	}
	return endedBy(ctx)
}

// unless returns nil instead of err if a start was given up because ctx ended.
func (u *up) unless(ctx context.Context, err error) error {
	if ctx.Err() != nil && endedBy(ctx) == nil {
		return nil
	}
	return err
}

// choose settles which models are served, and on which engines.
func (u *up) choose() error {
	u.models = u.cfg.ModelNames()
	if len(u.o.Models) > 0 {
		u.models = u.o.Models
	}
	for _, m := range slices.Concat(u.models, slices.Sorted(maps.Keys(u.o.Engines))) {
		if _, ok := u.cfg.Models[m]; !ok {
			return UnknownModel(u.cfg, m)
		}
		if !slices.Contains(u.models, m) {
			return fmt.Errorf("%w: an engine is given for model %s, which is not among those to serve: %s", ErrUsage, m, strings.Join(u.models, ", "))
		}
	}
	u.running = Running{Engines: map[string]string{}, Workers: map[string]string{}}
	u.engines = map[string]string{}
	for _, m := range u.models {
		where, err := u.cfg.engineOf(m, u.o.Engines[m], EngineSim)
		if err != nil {
			return err
		}
		u.engines[m] = where
	}
	if u.o.Data == "" {
		u.o.Data = DataDir(u.cfg)
	}
	return nil
}

// address is where a part listens.
func (u *up) address(configured string) string {
	if !u.o.RandomPorts {
		return configured
	}
	host, _, _ := net.SplitHostPort(configured) // validate has looked at it
	return net.JoinHostPort(host, "0")
}

func (u *up) startBroker(context.Context) error {
	n, err := embedded.StartNATS(embedded.Config{Dir: u.o.Data, Listen: u.address(u.cfg.NATS.Listen), Logger: u.log})
	if err != nil {
		return fmt.Errorf("%w: set nats.listen (--nats-listen) and --data to others, or run hxp worker against that server", err)
	}
	u.broker = n
	u.running.NATS = n.URL()
	u.started.push(func() error { n.Close(); return nil })
	return nil
}

func (u *up) startRedis(ctx context.Context) error {
	if u.cfg.Redis.configured() {
		u.running.Redis = u.cfg.Redis.shown()
		return nil
	}
	_, port, _ := net.SplitHostPort(u.address(u.cfg.Redis.Listen)) // validate has looked at it
	n, _ := strconv.Atoi(port)
	r, err := embedded.StartRedis(ctx, embedded.RedisConfig{Dir: u.o.Data, InMemory: u.o.InMemoryRedis, Port: n, Logger: u.log})
	if err != nil {
		return fmt.Errorf("redis.listen: %w: set another address (--redis-listen), or redis.url to a Redis that runs", err)
	}
	u.redis = r
	u.running.Redis = r.Addr()
	u.started.push(r.Close)
	return nil
}

// redisDone ends when the Redis that was started does; never if there is none.
func (u *up) redisDone() <-chan struct{} {
	if u.redis == nil {
		return nil
	}
	return u.redis.Done()
}

// setUpQueue connects inside the process and declares the queue, within the room there is.
func (u *up) setUpQueue(ctx context.Context) error {
	for _, c := range []struct {
		to   **Connection
		name string
	}{{&u.conn, "hxp up"}, {&u.leases, "hxp up, leases"}} {
		conn := &Connection{closed: make(chan struct{})}
		nc, err := u.broker.Connect(nats.Name(c.name), nats.MaxReconnects(-1), nats.ClosedHandler(func(*nats.Conn) { close(conn.closed) }))
		if err != nil {
			return fmt.Errorf("connect to the embedded NATS: %w", err)
		}
		if conn, err = conn.over(nc); err != nil {
			return err
		}
		*c.to = conn
		u.started.push(func() error { conn.Close(); return nil })
	}
	wanted := u.cfg.Queue.Config()
	queues := u.cfg.queues(u.models...)
	fitted := wanted.Fit(len(queues), u.broker.MaxStore())
	if fitted.MaxBytes != wanted.MaxBytes {
		u.warnings = append(u.warnings, fmt.Sprintf("the disk of %s has room for %s: queue.max_bytes is %s for now, not %s, and the other bounds are as much smaller",
			u.o.Data, Bytes(u.broker.MaxStore()>>20<<20), Bytes(fitted.MaxBytes), Bytes(wanted.MaxBytes)))
	}
	warnings, err := ensureQueue(ctx, u.conn, queues, fitted)
	u.warnings = append(u.warnings, warnings...)
	return err
}

// startEngines starts the engines that are simulated.
func (u *up) startEngines(ctx context.Context) error {
	u.house = newHouse(ctx, func(err error) { u.fail(err) })
	u.started.push(u.house.stop)
	for _, m := range u.models {
		if !u.simulates(m) {
			continue
		}
		address := u.address(u.cfg.engineAddress(m))
		sim, err := u.cfg.newSimulation(ctx, m, address, u.o.Timing)
		if err != nil {
			return fmt.Errorf("simulated engine of %s: %w; if an engine is running there: --engine %s=http://%s", m, err, m, address)
		}
		u.running.Engines[m] = sim.url()
		u.house.run(m, "simulated engine", sim)
	}
	return nil
}

// startMonitor hires the workers, which does no I/O, and listens for questions about them.
func (u *up) startMonitor(ctx context.Context) error {
	reg := prometheus.NewRegistry()
	redis := u.cfg.Redis
	if u.redis != nil {
		redis = Redis{URL: "redis://" + u.redis.Addr()}
	}
	kept, err := openConversations(u.cfg, redis, "hxp-up", reg)
	if err != nil {
		return err
	}
	u.started.push(kept.rdb.Close)
	if err := u.cfg.prepare(); err != nil {
		return err
	}
	for _, m := range u.models {
		wc := u.cfg.workerConfig(m, "", u.log, reg, u.leases.NC, kept.store)
		where := u.engines[m]
		if where == EngineSim {
			where = u.running.Engines[m]
		}
		if err := u.crew.hire(u.conn, u.cfg, m, where, u.house, process{u.log, reg, u.o.Stderr}, wc); err != nil {
			return err
		}
		u.running.Engines[m] = u.crew.engines[len(u.crew.engines)-1].String()
		u.running.Workers[m] = u.crew.workers[len(u.crew.workers)-1].ID()
	}
	if err := u.crew.hireJanitor(u.conn, u.log, reg); err != nil {
		return err
	}
	if err := u.crew.hireCoordinator(u.conn, u.cfg, u.log, reg); err != nil {
		return err
	}
	l, err := listen(ctx, u.address(u.cfg.HTTP.Listen), "http.listen")
	if err != nil {
		return err
	}
	u.http = l
	u.running.HTTP = l.Addr().String()
	u.reloads = newReloader(u.cfg, &u.crew, u.house, u.level, len(u.o.Models) == 0, u.p, reg)
	u.started.push(serve(l, monitor(u.crew.workers, reg, u.reloads, kept), u.fail))
	return nil
}

func (u *up) startWorkers(ctx context.Context) error {
	u.crew.start(ctx, func(w *workers.Worker, err error) {
		switch {
		case err != nil:
			u.fail(err)
		case ctx.Err() == nil:
			u.p.printf("worker %s has drained on request\n", w.ID())
		}
	})
	u.started.push(u.crew.stop)
	u.started.push(u.reloads.start(ctx, u.o.Hangup))
	return nil
}

// awaitReady waits for the workers of simulated engines, and returns what the other ones wait for.
func (u *up) awaitReady(ctx context.Context) (waiting []string, err error) {
	limit := time.NewTimer(readyWithin)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting = waiting[:0]
		simulated := false
		for i, w := range u.crew.workers {
			m := u.models[i]
			if ok, _ := w.Ready(); !ok {

				simulated = simulated || u.simulates(m)
				waiting = append(waiting, fmt.Sprintf("%s: %s: %s", m, u.running.Engines[m], w.Info().Reason))
			}
		}
		if !simulated {
			return waiting, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-limit.C:
			return nil, fmt.Errorf("not ready after %s: %s", readyWithin, strings.Join(waiting, "; "))
		case <-tick.C:
		}
	}
}
