package batch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// minRoom is how many lines of a model may be in the queue when nothing is known of its workers.
	minRoom = 32
	// maxRoom bounds what many workers ask for: the cap of a tenant's jobs of one class, less some.
	maxRoom = 8192
	// roomPerSlot keeps the workers' queue fed: one line runs in a slot, and one waits for it.
	roomPerSlot = 2
	budgetEvery = time.Second
)

// budget is how many lines of each model may be in the queue or running. The queue is kept as short as keeps the
// workers busy: what has not been admitted can still be shared fairly, ordered, cancelled and paused.
type budget struct {
	js    jetstream.JetStream
	fault func(error)

	mu    sync.Mutex
	slots map[string]int  // of live workers, by model
	held  map[string]bool // models whose batch queue is paused
	asked []string        // models that have been asked for
}

func newBudget(js jetstream.JetStream, fault func(error)) *budget {
	return &budget{js: js, fault: fault, slots: make(map[string]int), held: make(map[string]bool)}
}

// room is how many lines of a model may be in the queue.
func (b *budget) room(model string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.asked, model) {
		b.asked = append(b.asked, model)
	}
	if b.held[model] {
		return 0
	}
	return min(max(roomPerSlot*b.slots[model], minRoom), maxRoom)
}

// run keeps the numbers current until ctx ends. changed is told after each look.
func (b *budget) run(ctx context.Context, changed func()) {
	tick := time.NewTicker(budgetEvery)
	defer tick.Stop()
	for {
		err := b.look(ctx)
		if ctx.Err() != nil {
			return
		}
		b.fault(err)
		changed()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look reads the registry of workers, and whether the queues of models that lines are for are paused.
func (b *budget) look(ctx context.Context) error {
	slots := make(map[string]int)
	list, err := queue.Workers(ctx, b.js)
	if err != nil && !errors.Is(err, queue.ErrNotSetUp) {
		return err
	}
	for _, w := range list {
		if !w.Live() {
			continue
		}
		slots[w.Model] += w.Slots
		for _, m := range w.Covering {
			slots[m] += w.Slots
		}
	}
	b.mu.Lock()
	asked := slices.Clone(b.asked)
	b.mu.Unlock()
	held := make(map[string]bool)
	for _, m := range asked {
		paused, err := queue.Paused(ctx, b.js, m, schemas.Batch)
		if err != nil && !errors.Is(err, queue.ErrNotSetUp) {
			return err
		}
		held[m] = paused
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots, b.held = slots, held
	return nil
}
