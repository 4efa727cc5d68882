package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// heartbeat keeps the worker's registry entry alive until ctx ends, and renews it at once when the
// worker's state changes, or a cause for it.
func (w *Worker) heartbeat(ctx context.Context) {
	for {
		changed := w.gate.watch()
		info := w.Info()
		put, stop := context.WithTimeout(ctx, w.cfg.Heartbeat)
		err := queue.Announce(put, w.js, &info)
		stop()
		if ctx.Err() != nil {
			return
		}
		w.fault(err, "announce the worker")
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(w.cfg.Heartbeat):
		}
	}
}

// announceService makes the worker visible to NATS service discovery and open to drain requests.
func (w *Worker) announceService() (micro.Service, error) {
	service, err := micro.AddService(w.nc, micro.Config{
		Name:        "hxp-worker",
		Version:     "1.0.0", // of the service's interface, as v1 in the subjects
		Description: "hxp worker for " + w.model,
		Metadata:    map[string]string{"worker": w.cfg.ID, "model": w.model, "engine": w.engine.String()},
	})
	if err != nil {
		return nil, fmt.Errorf("announce the service: %w", err)
	}
	err = service.AddEndpoint("drain", micro.HandlerFunc(w.onDrain), micro.WithEndpointSubject(schemas.DrainSubject(w.cfg.ID)))
	if err != nil {
		w.fault(service.Stop(), "stop the service")
		return nil, fmt.Errorf("listen for drain requests: %w", err)
	}
	err = service.AddEndpoint("attempt", micro.HandlerFunc(w.onAttempt), micro.WithEndpointSubject(schemas.AttemptSubject(w.cfg.ID)))
	if err != nil {
		w.fault(service.Stop(), "stop the service")
		return nil, fmt.Errorf("listen for questions about attempts: %w", err)
	}
	return service, nil
}

func (w *Worker) onDrain(req micro.Request) {
	w.gate.drain()
	w.mu.Lock()
	drain := w.drain
	w.mu.Unlock()
	w.log.Info().Msg("asked to drain")
	reply, err := json.Marshal(schemas.DrainReply{ID: w.cfg.ID, State: schemas.WorkerDraining})
	if err == nil {
		err = req.Respond(reply)
	}
	w.fault(err, "answer a drain request")
	drain()
}

// withdraw takes the worker out of the registry and of service discovery.
func (w *Worker) withdraw(service micro.Service) error {
	if err := service.Stop(); err != nil {
		return fmt.Errorf("worker %s: stop the service: %w", w.cfg.ID, err)
	}
	if !w.nc.IsConnected() {
		return nil // the entry expires by itself
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	if err := queue.Withdraw(ctx, w.js, w.cfg.ID); err != nil {
		return fmt.Errorf("worker %s: leave the registry: %w", w.cfg.ID, err)
	}
	return nil
}
