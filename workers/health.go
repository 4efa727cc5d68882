package workers

import (
	"context"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// watchEngine looks at the engine until ctx ends, and opens and closes the gate accordingly.
func (w *Worker) watchEngine(ctx context.Context) {
	for {
		w.look(ctx)
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

func (w *Worker) look(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	h, err := w.engine.Health(ctx)
	if ctx.Err() == context.Canceled {
		return
	}
	if err != nil {
		w.metrics.engineUp.Set(0)
		if w.gate.shut(keeperEngine, schemas.AsError(err).Message) {
			w.log.Warn().Err(err).Stringer("engine", w.engine).Msg("engine is not well; pulling stops")
		}
		return
	}
	w.mu.Lock()
	first := w.health.Model == ""
	w.health = h
	w.mu.Unlock()
	w.metrics.engineUp.Set(1)
	if !w.gate.release(keeperEngine) {
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

// doubt closes the gate after a failure that may be the engine's, until it has been looked at.
func (w *Worker) doubt(reason *schemas.Error) {
	if w.gate.shut(keeperEngine, reason.Message) {
		w.log.Warn().Err(reason).Stringer("engine", w.engine).Msg("a job failed on the engine; pulling stops until it has been looked at")
	}
	select {
	case w.suspect <- struct{}{}:
	default:
	}
}
