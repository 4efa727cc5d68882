package workers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// Causes for which the context of a job in flight is cancelled.
var (
	// ErrStopping hands a job back because the worker was asked to stop. Not a failure.
	ErrStopping = errors.New("the worker is stopping")
	// ErrStalled aborts an attempt in which the engine made no progress. Retried.
	ErrStalled = errors.New("the engine made no progress")
	// ErrLeaseLost abandons a job that may have been given to another worker.
	ErrLeaseLost = errors.New("the lease on the job was lost")
	// ErrDiscard ends the deliveries of a message that can never be answered otherwise.
	ErrDiscard = errors.New("the job was given up")

	errLastChance = errors.New("another job that is on its last attempt runs here")
	errCancelled  = errors.New("the job was cancelled")
	errExpired    = errors.New("the job's deadline has passed")
)

// Worker runs the jobs of one model on one engine.
type Worker struct {
	js      jetstream.JetStream
	nc      *nats.Conn
	model   string
	engine  Engine
	cfg     Config
	tuned   atomic.Pointer[Tunables] // what of cfg can change while the worker runs
	log     zerolog.Logger
	metrics *metrics
	slots   *slots
	gate    *gate
	leases  *leases
	groups  *groups
	// capacity says how many slots there are.
	capacity *capacity
	suspect  chan struct{} // asks for a look at the engine now
	breaker  *breaker
	pace     *pace
	// mistrusted is set while the engine has to prove itself by a token.
	mistrusted    atomic.Bool
	lastToken     atomic.Int64 // when the engine last gave one to any job, as time since started
	healthMetrics *healthMetrics
	covers        []*cover
	sessions      *sessions
	// lastChance is held by the one job here that is on its last attempt.
	lastChance chan struct{}
	forsaken   forsaken
	started    time.Time
	auditing   sync.WaitGroup // checks that no job waits for
	audits     chan struct{}  // holds a value for each of them

	mu      sync.Mutex
	running map[string]*run // by tenant and job id
	health  Health
	drain   context.CancelFunc // stops the pulling; set while Run runs
}

// New returns a worker for a declared model. It does no I/O. js's connection carries pulls and
// tokens; the worker closes neither it nor the engine.
func New(js jetstream.JetStream, model string, engine Engine, cfg Config) (*Worker, error) {
	cfg = cfg.withDefaults(model)
	if err := cfg.validate(model); err != nil {
		return nil, fmt.Errorf("worker for %q: %w", model, err)
	}
	if cfg.LeaseConn == nil {
		cfg.LeaseConn = js.Conn()
	}
	m, err := newMetrics(cfg.Registry, model)
	if err != nil {
		return nil, fmt.Errorf("worker for %q: %w", model, err)
	}
	hm, err := newHealthMetrics(cfg.Registry, model)
	if err != nil {
		return nil, fmt.Errorf("worker for %q: %w", model, err)
	}
	w := &Worker{
		js: js, nc: js.Conn(), model: model, engine: engine, cfg: cfg, metrics: m,
		log:   cfg.Logger.With().Str("model", model).Str("worker", cfg.ID).Logger(),
		slots: newSlots(cfg.Slots),
		gate:  newGate(hm), pace: &pace{}, healthMetrics: hm,
		suspect: make(chan struct{}, 1), lastChance: make(chan struct{}, 1), audits: make(chan struct{}, maxAudits),
		running: make(map[string]*run),
		started: time.Now(),
	}
	w.tuned.Store(cfg.tunables())
	w.leases = newLeases(w)
	w.groups = newGroups(engine, &w.tuned, cfg.Slots, m)
	w.capacity = newCapacity(w)
	if w.sessions, err = newSessions(w, cfg.Registry); err != nil {
		return nil, fmt.Errorf("worker for %q: %w", model, err)
	}
	w.gate.hold(keeperEngine, schemas.CauseStarting, "the engine has not answered yet")
	w.breaker = newBreaker(cfg.Breaker, w.breakerChanged)
	hm.showBreaker(breakerName(circuitbreaker.ClosedState))
	for _, c := range cfg.Covers {
		covered, err := newCover(w, c)
		if err != nil {
			return nil, fmt.Errorf("worker for %q: %w", model, err)
		}
		w.covers = append(w.covers, covered)
	}
	return w, nil
}

// ID returns the worker's name.
func (w *Worker) ID() string { return w.cfg.ID }

// Run pulls and runs jobs until ctx ends, drains as [Config.DrainTimeout] says, and returns nil. It
// returns an error if the model's queue is not there or the broker refuses what it needs.
func (w *Worker) Run(ctx context.Context) error {
	consumers, err := queue.Consumers(ctx, w.js, w.model)
	if err != nil {
		return fmt.Errorf("worker for %s: %w", w.model, err)
	}
	info := consumers[schemas.Interactive].CachedInfo()
	w.leases.term = info.Config.AckWait

	pulling, stopPulling := context.WithCancel(ctx)
	defer stopPulling()
	// Jobs outlive ctx: they end by themselves, or with a cause.
	jobs, stopJobs := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopJobs(ErrStopping)
	unhook := context.AfterFunc(pulling, func() {
		w.gate.drain()
		time.AfterFunc(w.tuned.Load().DrainTimeout, func() { stopJobs(ErrStopping) })
	})
	defer unhook()
	// What watches over the jobs outlives them.
	watch, stopWatch := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatch()

	w.mu.Lock()
	w.drain = stopPulling
	w.mu.Unlock()

	var watchers, inFlight, covering sync.WaitGroup
	start := func(class schemas.Class, msg jetstream.Msg) {
		inFlight.Go(func() { w.handle(jobs, pulling, class, msg) })
	}
	p := newPuller(w, consumers, start)
	cancels, err := w.nc.Subscribe(schemas.AllCancels, w.onCancel)
	if err != nil {
		return fmt.Errorf("worker for %s: listen for cancels: %w", w.model, err)
	}
	service, err := w.announceService()
	if err != nil {
		return errors.Join(fmt.Errorf("worker for %s: %w", w.model, err), cancels.Unsubscribe())
	}

	watchers.Go(func() { w.leases.run(watch) })
	watchers.Go(func() { w.capacity.run(watch) })
	watchers.Go(func() { w.watchEngine(watch, consumers) })
	watchers.Go(func() { w.watchConnection(watch) })
	watchers.Go(func() { w.heartbeat(watch) })
	for _, c := range w.covers {
		covering.Go(func() { c.run(pulling, p, start) })
	}
	p.run(pulling)
	covering.Wait()
	inFlight.Wait()
	w.auditing.Wait()
	w.groups.running.Wait() // a request may outlive its last member by the end of its stream

	stopWatch()
	watchers.Wait()
	return errors.Join(w.withdraw(service), cancels.Unsubscribe(), w.flush())
}

// flush waits until the broker has what the worker sent last: settlements and terminal events.
func (w *Worker) flush() error {
	if !w.nc.IsConnected() {
		return nil // nothing more can be said; unsettled jobs come back after one lease
	}
	if err := w.nc.FlushTimeout(2 * time.Second); err != nil {
		return fmt.Errorf("worker %s: flush: %w", w.cfg.ID, err)
	}
	return nil
}

// fault reports an error that has no caller to go to: the message concerned comes back after one lease.
func (w *Worker) fault(err error, doing string) {
	if err != nil {
		w.log.Warn().Err(err).Str("doing", doing).Msg("broker call failed")
	}
}

// Status returns the worker's health as of now.
func (w *Worker) Status() Status {
	s := w.gate.status()
	s.Engine = w.engine.String()
	s.Slots, s.Busy = w.slots.count()
	for _, c := range w.covers {
		if c.active.Load() {
			s.Covering = append(s.Covering, c.model)
		}
	}
	return s
}

// Info returns the worker's registry entry as of now.
func (w *Worker) Info() schemas.WorkerInfo {
	w.mu.Lock()
	h := w.health
	w.mu.Unlock()
	s := w.Status()
	info := schemas.WorkerInfo{
		ID: w.cfg.ID, Model: w.model, State: s.State, Since: s.Since, Pulling: s.Pulling, Reason: words(s.Causes),
		Covering: s.Covering, Slots: s.Slots, Busy: s.Busy, Engine: s.Engine, Version: h.Version, Simulated: h.Simulated,
		PID: os.Getpid(), Started: w.started.UTC(), Updated: time.Now().UTC(),
	}
	for _, c := range s.Causes {
		info.Causes = append(info.Causes, c.Cause)
	}
	info.Host, _ = os.Hostname() // a registry entry without it is still of use
	return info
}

// breakerChanged shows the breaker's state, and shuts the gate while it is not closed.
func (w *Worker) breakerChanged(e circuitbreaker.StateChangedEvent) {
	state := breakerName(e.NewState)
	w.healthMetrics.showBreaker(state)
	w.healthMetrics.transitions[state].Inc()
	switch e.NewState {
	case circuitbreaker.OpenState:
		w.gate.hold(keeperBreaker, schemas.CauseBreakerOpen, fmt.Sprintf("the engine failed %d of the last %d attempts", e.Metrics().Failures(), e.Metrics().Executions()))
	case circuitbreaker.HalfOpenState:
		w.gate.hold(keeperBreaker, schemas.CauseBreakerHalfOpen, "the engine failed too often and is being tried out")
	default:
		w.gate.release(keeperBreaker)
	}
	w.log.Warn().Str("breaker", state).Stringer("engine", w.engine).Msg("the engine's breaker changed its state")
}

// Handler serves /livez, /readyz and /metrics.
func (w *Worker) Handler() http.Handler { return w.routes() }

// jobNamespace makes ids for jobs that bring none. A random UUID, fixed for ever.
var jobNamespace = uuid.MustParse("6f1de1a2-6f0b-4c55-9d0b-0c8f1a6f7f52")

// fallbackID names a job by its place in the stream: the same on every delivery, and another one
// should the stream be made anew and count from one again.
func fallbackID(meta *jetstream.MsgMetadata) string {
	return uuid.NewSHA1(jobNamespace, fmt.Appendf(nil, "%s/%d/%d", meta.Stream, meta.Sequence.Stream, meta.Timestamp.UnixNano())).String()
}
