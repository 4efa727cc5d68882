package vllm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/workers"
)

const (
	// readyInterval is the time between two looks at an engine that starts.
	readyInterval = 100 * time.Millisecond
	// progressInterval is the time between two lines about a start.
	progressInterval = 15 * time.Second
	// maxPulse bounds the time between two looks at an engine that is ready.
	maxPulse = 5 * time.Second
)

// untilReady returns nil when the engine has generated a token, or why that will not be.
func (s *Server) untilReady(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.srv.StartTimeout, &verdict{reasonTimeout, fmt.Sprintf("not ready within %s", s.srv.StartTimeout)})
	defer cancel()
	tick, tell := time.NewTicker(readyInterval), time.NewTicker(progressInterval)
	defer tick.Stop()
	defer tell.Stop()
	last := errors.New("it has not answered")
	for {
		select {
		case <-ctx.Done():
			v, ok := errors.AsType[*verdict](context.Cause(ctx))
			if ok && v.reason == reasonTimeout {
				return &verdict{reasonTimeout, fmt.Sprintf("%s: %v", v.words, last)}
			}
			return context.Cause(ctx)
		case <-tell.C:
			s.log.Info().Stringer("after", time.Since(p.started).Round(time.Second)).Str("progress", p.log.line()).Msg("the engine is starting")
			continue
		case <-tick.C:
		}
		if _, err := s.Engine.Health(ctx); err != nil {
			last = orKept(ctx, last, err)
			continue
		}
		err := s.Canary(ctx)
		if err == nil {
			return nil
		}
		last = orKept(ctx, last, fmt.Errorf("it answers, and generates no token: %w", err))
	}
}

// orKept is what is wrong with a start: not that its time is over.
func orKept(ctx context.Context, before, err error) error {
	if ctx.Err() != nil {
		return before
	}
	return err
}

// pulse is what shows whether an engine works.
type pulse struct {
	// busy is set while the engine has work.
	busy bool
	// tokens changes with each token.
	tokens uint64
}

// feel takes the engine's pulse. An error is an engine that does not answer, or says that it is dead.
func (s *Server) feel(ctx context.Context) (pulse, error) {
	if _, err := s.Engine.Health(ctx); err != nil {
		return pulse{}, err
	}
	now := pulse{busy: s.inFlight.Load() > 0, tokens: s.delivered.Load()}
	load, err := s.Load(ctx)
	if errors.Is(err, workers.ErrUnsupported) {
		return now, nil
	}
	if err != nil {
		return pulse{}, err
	}
	now.busy = now.busy || load.Running+load.Waiting > 0
	now.tokens += load.PromptTokens + load.GeneratedTokens
	return now, nil
}

// watchProgress returns when ctx has ended or the engine hangs: it has had work, or has not
// answered, for StallTimeout without a token, and then generates none for a canary either.
func (s *Server) watchProgress(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(min(max(s.srv.StallTimeout/6, time.Millisecond), maxPulse))
	defer tick.Stop()
	alive, last := time.Now(), pulse{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := s.feel(ctx)
		if err == nil && (!now.busy || now.tokens != last.tokens) {
			alive, last = time.Now(), now
			continue
		}
		still := time.Since(alive)
		if still < s.srv.StallTimeout || ctx.Err() != nil {
			continue
		}
		s.log.Warn().Stringer("since", still.Round(time.Millisecond)).AnErr("health", err).Msg("the engine has work and makes no token; a canary decides")
		canary := s.Canary(ctx)
		if canary != nil {
			// It may have waited behind work that goes on.
			if again, err := s.feel(ctx); err != nil || again.tokens == last.tokens {
				stop(&verdict{reasonHung, fmt.Sprintf("it made no token for %s, nor for a canary: %v", time.Since(alive).Round(time.Millisecond), canary)})
				return
			}
		}
		alive = time.Now()
	}
}

// becomeReady ends the start.
func (s *Server) becomeReady(p *process) {
	took := time.Since(p.started)
	s.metrics.startSeconds.Set(took.Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.asked: // meant for the process before
	default:
	}
	s.was = true
	s.status.State, s.status.Since, s.status.Progress = StateReady, time.Now(), ""
	s.log.Info().Int("pid", s.status.PID).Float64("seconds", took.Seconds()).Msg("the engine is ready")
}

// leaveReady begins a restart.
func (s *Server) leaveReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readyFor = time.Since(s.status.Since)
	s.status.State, s.status.Since = StateRestarting, time.Now()
}

func (s *Server) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.State == StateReady
}

// wasReady reports whether the engine has ever been ready.
func (s *Server) wasReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.was
}
