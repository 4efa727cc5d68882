package vllm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

var _ workers.Engine = (*Server)(nil)

// State is where a [Server] is in its life.
type State string

// The states.
const (
	// StateStarting lasts until the engine is ready for the first time, through all attempts.
	StateStarting State = "starting"
	StateReady    State = "ready"
	// StateRestarting is from the end of an engine that was ready until it is ready again.
	StateRestarting State = "restarting"
	// StateStopped is after a clean end of Run.
	StateStopped State = "stopped"
	// StateFailed is after Run has returned an error.
	StateFailed State = "failed"
)

// Status is what a [Server] knows of its process.
type Status struct {
	State State
	// Since is when the state began.
	Since time.Time
	// PID is vLLM's first process, 0 while there is none.
	PID int
	// Version is the installed vLLM's; "" if it does not say.
	Version string
	// Restarts counts the ends that were not asked for by a stop. Streak is how many of them came
	// without the engine being ready for MaxRestartDelay in between: above 2 or 3 it is a crash loop.
	Restarts, Streak int
	// LastExit is how and why the process last ended, with its last words.
	LastExit string
	// Progress is the newest line of the engine's log, or what is waited for.
	Progress string
	// Notes are flags that were left out and limits that cannot be enforced.
	Notes []string
	// MemoryBytes is the resident memory of all processes, CPUSeconds their CPU time from the first start on.
	MemoryBytes int64
	CPUSeconds  float64
	GPUs        []GPU
}

// Server is an [Engine] whose `vllm serve` it starts and supervises. [Server.Run] must run for it to
// be one; its other methods are safe for concurrent use.
type Server struct {
	*Engine

	args    Args
	srv     ServerConfig
	log     zerolog.Logger
	metrics *serverMetrics
	// asked carries a reason from Restart to the supervisor.
	asked chan string
	ran   atomic.Bool
	// inFlight and delivered count what is generated through this Server, which vLLM's own figures
	// do not show if it hung before they were updated.
	inFlight  atomic.Int64
	delivered atomic.Uint64

	mu     sync.Mutex
	status Status
	// source is the log of the process that is there, or nil.
	source *engineLog
	// was is set once the engine has been ready; readyFor is for how long the last process was.
	was      bool
	readyFor time.Duration
}

// NewServer returns a Server for `vllm serve`. It does no I/O: [Server.Run] does. engine.Model
// defaults to args.ServedName; engine.APIKey is handed to vLLM through its environment.
func NewServer(args Args, cfg ServerConfig, engine Config) (*Server, error) {
	args = args.withDefaults()
	cfg = cfg.withDefaults(args)
	if err := errors.Join(args.validate(), cfg.validate()); err != nil {
		return nil, err
	}
	if engine.Model == "" {
		engine.Model = args.ServedName
	}
	e, err := New(args.url(), engine)
	if err != nil {
		return nil, err
	}
	m, err := newServerMetrics(cfg.Registry, cfg.ModelName)
	if err != nil {
		return nil, err
	}
	return &Server{
		Engine: e, args: args, srv: cfg, metrics: m, asked: make(chan string, 1),
		log:    cfg.Logger.With().Str("model", cfg.ModelName).Logger(),
		status: Status{State: StateStarting, Since: time.Now(), Progress: "not started yet"},
	}, nil
}

// Health implements [workers.Engine]. Until the process is ready the error wraps
// [workers.ErrStarting] or, if it was ready before, [workers.ErrRestarting], and says for how long and
// what the engine's log says.
func (s *Server) Health(ctx context.Context) (workers.Health, error) {
	st := s.Status()
	words := fmt.Sprintf("for %s; %s", time.Since(st.Since).Round(time.Second), st.Progress)
	if st.Streak > 0 {
		words += fmt.Sprintf("; ended %d times in a row, at last: %s", st.Streak, st.LastExit)
	}
	unavailable := schemas.Errorf(schemas.CodeEngineUnavailable, "%s", s.redact(words))
	switch st.State {
	case StateReady:
		return s.Engine.Health(ctx)
	case StateStarting:
		return workers.Health{}, fmt.Errorf("%w: %w", workers.ErrStarting, unavailable)
	case StateRestarting:
		return workers.Health{}, fmt.Errorf("%w: %w", workers.ErrRestarting, unavailable)
	}
	return workers.Health{}, schemas.Errorf(schemas.CodeEngineUnavailable, "the engine is %s: %s", st.State, s.redact(st.LastExit))
}

// Generate implements [workers.Engine].
func (s *Server) Generate(ctx context.Context, req *workers.Request) iter.Seq2[workers.Delta, error] {
	return func(yield func(workers.Delta, error) bool) {
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		for d, err := range s.Engine.Generate(ctx, req) {
			if err == nil {
				s.delivered.Add(1)
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// Restart ends the process and starts it again, for a reason that goes to the log: a worker's canary
// that got no answer. While the engine is not ready it changes nothing. It does not wait.
func (s *Server) Restart(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State != StateReady {
		return
	}
	select {
	case s.asked <- clip(reason, 500):
	default: // it is asked for already
	}
}

// Status returns a copy of what is known.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if s.source != nil && st.State != StateReady {
		if line := s.source.line(); line != "" {
			st.Progress = "its log says: " + line
		}
	}
	st.Notes, st.GPUs = slices.Clone(st.Notes), slices.Clone(st.GPUs)
	return st
}

// set changes the status under its lock.
func (s *Server) set(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status.State
	change(&s.status)
	if s.status.State != before {
		s.status.Since = time.Now()
	}
}

// show says what is waited for while there is no log to show.
func (s *Server) show(words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source, s.status.Progress = nil, words
}

// note keeps words for the status, and logs them, once.
func (s *Server) note(words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.status.Notes, words) {
		s.status.Notes = append(s.status.Notes, words)
		s.log.Warn().Msg(words)
	}
}
