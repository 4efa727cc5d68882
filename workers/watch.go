package workers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// healthTimeout bounds one question for health or load.
	healthTimeout = 5 * time.Second
	// fullLooks is for how many looks in a row no slot may be free before the worker counts as saturated.
	fullLooks = 5
	// restartAgain is the least time between two requests for a restart, unless the engine was seen to restart.
	restartAgain = time.Minute
)

// Restarter is an [Engine] that can be started again: one whose process is supervised.
type Restarter interface {
	// Restart asks for it, and does not wait. Asking again while the engine restarts does nothing.
	Restart(reason string)
}

// watch looks at the engine, and at how the worker gets on with it. It belongs to one goroutine.
type watch struct {
	w         *Worker
	consumers map[schemas.Class]jetstream.Consumer
	still     stillness
	full      int       // looks in a row that saw no free slot
	restart   time.Time // when a restart was asked for last
}

// watchEngine looks at the engine until ctx ends, and opens and closes the gate accordingly.
func (w *Worker) watchEngine(ctx context.Context, consumers map[schemas.Class]jetstream.Consumer) {
	v := &watch{w: w, consumers: consumers}
	for {
		v.look(ctx)
		wait := w.cfg.HealthInterval
		if open, _ := w.gate.state(); !open {
			wait /= 4
		}
		select {
		case <-ctx.Done():
			return
		case <-w.suspect:
		case <-time.After(wait):
		}
	}
}

// look asks the engine for its health, has it generate a token where that proves nothing, and opens
// the gate if both went well.
func (v *watch) look(ctx context.Context) {
	w := v.w
	h, err := v.health(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		v.unwell(err)
		return
	}
	w.mu.Lock()
	first := w.health.Model == ""
	w.health = h
	w.mu.Unlock()
	w.metrics.engineUp.Set(1)
	if silent := v.stillFor(ctx); silent > w.patience() {
		w.mistrust(fmt.Sprintf("the engine has sequences and computed no token for %s", silent.Round(time.Millisecond)))
	}
	if !v.proves(ctx) {
		return
	}
	v.strain(ctx)
	if w.mistrusted.Load() || !w.gate.release(keeperEngine) {
		return
	}
	w.log.Info().Stringer("engine", w.engine).Str("serves", h.Model).Int("max_model_len", h.MaxModelLen).
		Str("version", h.Version).Bool("simulated", h.Simulated).Msg("engine is ready")
	if first {
		for _, missing := range h.Missing {
			w.log.Warn().Stringer("engine", w.engine).Msg(missing)
		}
	}
}

func (v *watch) health(ctx context.Context) (Health, error) {
	ctx, stop := context.WithTimeout(ctx, healthTimeout)
	defer stop()
	return v.w.engine.Health(ctx)
}

// unwell shuts the gate because the engine does not say that it is well.
func (v *watch) unwell(err error) {
	w := v.w
	w.mu.Lock()
	started := w.health.Model != ""
	w.mu.Unlock()
	cause := schemas.CauseEngineDown
	switch {
	case errors.Is(err, ErrRestarting):
		cause = schemas.CauseRestarting
	case !started, errors.Is(err, ErrStarting):
		cause = schemas.CauseStarting
	}
	v.still, v.restart = stillness{}, time.Time{}
	w.metrics.engineUp.Set(0)
	if w.gate.hold(keeperEngine, cause, schemas.AsError(err).Message) {
		w.log.Warn().Err(err).Stringer("engine", w.engine).Msg("engine is not well; pulling stops")
	}
}

// stillFor returns for how long the engine has had something to compute and computed nothing.
func (v *watch) stillFor(ctx context.Context) time.Duration {
	ctx, stop := context.WithTimeout(ctx, healthTimeout)
	defer stop()
	load, err := v.w.engine.Load(ctx)
	if err != nil { // it does not say, or has just got into trouble, which the next look will see
		v.still = stillness{}
		return 0
	}
	return v.still.observe(load, time.Now())
}

// patience is for how long the engine may count no token before it has to prove itself. Without a job
// that decodes it may be at a long prompt, whose tokens vLLM counts at its end.
func (w *Worker) patience() time.Duration {
	tuned := w.tuned.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.running {
		if r.decoding.Load() {
			return tuned.TokenTimeout
		}
	}
	return max(tuned.TokenTimeout, tuned.FirstTokenTimeout)
}

// stillness tells an engine that computes nothing from one that has nothing to compute.
type stillness struct {
	tokens uint64
	since  time.Time
}

// observe takes in a load and returns for how long no token has been computed though there were sequences.
func (s *stillness) observe(l Load, now time.Time) time.Duration {
	if tokens := l.PromptTokens + l.GeneratedTokens; l.Running+l.Waiting == 0 || tokens != s.tokens || s.since.IsZero() {
		*s = stillness{tokens, now}
	}
	return now.Sub(s.since)
}

// proves has the engine generate a token, if it is mistrusted or the breaker wants a trial, and
// reports whether it is to be believed.
func (v *watch) proves(ctx context.Context) bool {
	w := v.w
	trial, mistrusted := w.breaker.due(), w.mistrusted.Load()
	if !trial && !mistrusted {
		return true
	}
	if mistrusted && w.gate.held(keeperEngine) == "" { // a look that had begun before the doubt let go of it
		w.gate.hold(keeperEngine, schemas.CauseDoubt, "the engine has to generate a token first")
	}
	began := time.Now()
	err := v.canary(ctx)
	if ctx.Err() != nil {
		return false
	}
	if err != nil && w.lastToken.Load() > int64(began.Sub(w.started)) {
		err = nil // it was too busy for one more
	}
	if trial {
		w.breaker.tried(err == nil)
	}
	if err == nil {
		w.healthMetrics.canaryPassed.Inc()
		w.mistrusted.Store(false)
		v.still, v.restart = stillness{}, time.Time{}
		return true
	}
	w.healthMetrics.canaryFailed.Inc()
	reason := "the engine says that it is well, and did not generate a token: " + schemas.AsError(err).Message
	w.mistrusted.Store(true)
	w.gate.hold(keeperEngine, schemas.CauseHung, reason)
	w.log.Error().Err(err).Stringer("engine", w.engine).Msg("engine says that it is well, and generates nothing")
	if engine, ok := w.engine.(Restarter); ok && !errors.Is(err, ErrNotReceived) && time.Since(v.restart) > restartAgain {
		v.restart = time.Now()
		w.healthMetrics.restarts.Inc()
		engine.Restart(reason)
	}
	return false
}

func (v *watch) canary(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, v.w.tuned.Load().FirstTokenTimeout)
	defer stop()
	err := v.w.engine.Canary(ctx)
	if errors.Is(err, ErrUnsupported) || schemas.ErrorCode(err) == schemas.CodeInvalidRequest {
		return nil // there is nothing to be learned from an engine that takes no such request
	}
	return err
}

// strain looks for what makes the worker slow or full. None of it stops the pulling.
func (v *watch) strain(ctx context.Context) {
	w := v.w
	if p90, target := w.pace.p90(time.Now()), w.tuned.Load().TargetLatency; target > 0 && p90 > target {
		w.gate.hold(keeperSlow, schemas.CauseSlow, fmt.Sprintf("the 90th percentile of the time to the first token is %s; the target is %s", p90.Round(time.Millisecond), target))
	} else {
		w.gate.release(keeperSlow)
	}
	if pressure := w.capacity.pressing(); pressure != "" {
		w.gate.hold(keeperPressure, schemas.CausePressure, pressure)
	} else {
		w.gate.release(keeperPressure)
	}
	if v.full++; w.slots.free() > 0 {
		v.full = 0
	}
	if queued := v.queued(ctx); queued > 0 {
		w.gate.hold(keeperSaturated, schemas.CauseSaturated, fmt.Sprintf("no slot has been free for %s, and %d more jobs are queued", time.Duration(v.full)*w.cfg.HealthInterval, queued))
	} else {
		w.gate.release(keeperSaturated)
	}
}

// queued counts the jobs that wait behind a worker which has been full for a while. It is 0 for any other.
func (v *watch) queued(ctx context.Context) (n uint64) {
	if v.full < fullLooks {
		return 0
	}
	ctx, stop := context.WithTimeout(ctx, healthTimeout)
	defer stop()
	for _, c := range v.consumers {
		info, err := c.Info(ctx)
		if err != nil {
			v.w.fault(err, "count the queued jobs")
			return 0
		}
		n += info.NumPending
	}
	return n
}

// mistrust has the engine prove itself by a token before the gate opens again.
func (w *Worker) mistrust(reason string) {
	w.mistrusted.Store(true)
	if w.gate.hold(keeperEngine, schemas.CauseDoubt, reason) {
		w.log.Warn().Stringer("engine", w.engine).Str("reason", reason).Msg("the engine may hang; pulling stops until it has generated a token")
	}
}

// judge takes in how an attempt ended. err is nil if it was complete, and otherwise reason says why
// it failed. A failure that may be the engine's shuts the gate until the engine has been looked at:
// after a stall, until it has generated a token.
func (w *Worker) judge(r *run, err error, reason *schemas.Error) {
	if err == nil {
		w.breaker.attempted(true)
		return
	}
	if reason.Code != schemas.CodeEngineUnavailable || !reason.Retryable {
		return
	}
	// Jobs that stall while the engine is mistrusted already, such as the others of a group, tell nothing new.
	again := errors.Is(err, ErrStalled) && w.mistrusted.Load()
	if r.opened && !again && !errors.Is(err, ErrNotReceived) && !errors.Is(err, errSameRequest) {
		w.breaker.attempted(false)
	}
	if errors.Is(err, ErrStalled) {
		w.mistrust(reason.Message)
	} else if w.gate.hold(keeperEngine, schemas.CauseDoubt, reason.Message) {
		w.log.Warn().Err(reason).Stringer("engine", w.engine).Msg("a job failed on the engine; pulling stops until it has been looked at")
	}
	select {
	case w.suspect <- struct{}{}:
	default:
	}
}

// watchConnection notes when there is no connection to the broker, until ctx ends.
func (w *Worker) watchConnection(ctx context.Context) {
	changes := w.nc.StatusChanged()
	defer w.nc.RemoveStatusListener(changes)
	for {
		if w.nc.IsConnected() {
			w.gate.release(keeperQueue)
		} else {
			w.gate.hold(keeperQueue, schemas.CauseQueue, "the connection to the queue is "+w.nc.Status().String())
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
	}
}
