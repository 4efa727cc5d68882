package vllmsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Sim is one simulated engine. Its methods are safe for concurrent use.
type Sim struct {
	cfg     Config
	started time.Time
	metrics *metrics
	load    atomic.Int64
	kick    chan struct{} // holds a value when the loop must look again
	crashed chan struct{} // closed by a crash
	wg      sync.WaitGroup

	mu       sync.Mutex
	looping  bool
	running  []*sequence
	waiting  []*sequence // in the order of admission
	arrivals uint64
	nextTick time.Time
	stats    Stats
	prompts  []string

	faults   []*armed
	hung     outage
	starting outage
	slow     outage
	factor   float64 // of slow
	stopping bool
	down     bool
	exit     func(int) // to be called once the lock is given back
}

// New makes a simulator. Nothing runs until a request comes.
func New(cfg Config) (*Sim, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("simulator config: %w", err)
	}
	s := &Sim{cfg: cfg, started: time.Now(), kick: make(chan struct{}, 1), crashed: make(chan struct{})}
	s.metrics = newMetrics(s)
	if cfg.StartDelay > 0 {
		s.starting.begin(cfg.StartDelay, s.started)
	}
	s.mu.Lock()
	for _, f := range cfg.Faults {
		s.arm(f, s.started)
	}
	s.unlock()
	return s, nil
}

const (
	// keepAlive is uvicorn's default; clients that keep idle connections longer meet closed ones, as with vLLM.
	keepAlive = 5 * time.Second
	// stopWait is how long handlers have to write their last chunk.
	stopWait = 2 * time.Second
)

// Run serves on l until ctx ends, and closes l. It begins to answer after StartDelay. When ctx ends
// it aborts what is under way, as vLLM does on SIGTERM at its best: choices end with finish_reason "abort". It
// returns nil then, and [ErrCrashed] after a crash fault. A simulator runs once.
func (s *Sim) Run(ctx context.Context, l net.Listener) error {
	if s.cfg.StartDelay > 0 {
		delay := time.NewTimer(time.Until(s.started.Add(s.cfg.StartDelay)))
		defer delay.Stop()
		select {
		case <-delay.C:
		case <-ctx.Done():
			return l.Close()
		}
	}
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: keepAlive}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	var err error
	select {
	case err = <-served: // the listener failed
		s.stop()
		err = errors.Join(fmt.Errorf("serve simulator: %w", err), srv.Close())
		s.wg.Wait()
		return err
	case <-s.crashed:
		err = ErrCrashed
		_ = srv.Close() // what it could say is that l is closed
	case <-ctx.Done():
		s.stop()
		err = shutdown(context.WithoutCancel(ctx), srv)
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	s.wg.Wait()
	return err
}

// shutdown lets handlers finish, for a while.
func shutdown(ctx context.Context, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		// A client that does not read holds its handler; cutting it off is what stopping means.
		return srv.Close()
	}
	return nil
}

// stop refuses new requests and aborts those under way.
func (s *Sim) stop() {
	s.mu.Lock()
	s.stopping = true
	s.abortAll(Abort, time.Now())
	s.unlock()
	s.wake()
}
