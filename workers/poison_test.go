package workers_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// mortal is an engine that dies of poison, and takes everything on it along.
type mortal struct {
	mu     sync.Mutex
	life   chan struct{} // closed when it dies
	deaths int
}

func (m *mortal) now() chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

func (m *mortal) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaths++
	close(m.life)
	m.life = make(chan struct{})
}

func (m *mortal) generate(ctx context.Context, _ int, req *workers.Request, emit func(...string) bool) error {
	dead := m.now()
	emit("first ")
	select {
	case <-time.After(30 * time.Millisecond):
	case <-dead:
		return unavailable("the engine has died")
	case <-ctx.Done():
		return ctx.Err()
	}
	if strings.Contains(string(req.Body), "poison") {
		m.die()
		return unavailable("the engine has died")
	}
	emit("second")
	return nil
}

func TestPoisonTakesNoGoodJobAlong(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	m := &mortal{life: make(chan struct{})}
	b.run(newScript(m.generate), workers.Config{Slots: 64, MaxAttempts: 3})
	poison := b.submit(schemas.Job{ID: "killer", Body: []byte(`{"prompt":"poison"}`)})
	var good []schemas.Job
	for i := range 60 {
		good = append(good, b.submit(schemas.Job{ID: fmt.Sprintf("good-%d", i), Body: []byte(`{"prompt":"good"}`)}))
	}
	for _, job := range good {
		if r := b.result(job); r.Status != schemas.StatusCompleted || r.Text != "first second" {
			t.Errorf("%s: %s %q %v", job.ID, r.Status, r.Text, r.Error)
		}
	}
	if r := b.result(poison); r.Error == nil || r.Error.Code != schemas.CodeMaxAttempts {
		t.Errorf("the poison ended %s: %v", r.Status, r.Error)
	}
	if d := b.deadLetters(1)[0]; d.ID != poison.ID || len(d.Attempts) != 3 {
		t.Errorf("dead letter = %s with %d attempts", d.ID, len(d.Attempts))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaths != 3 {
		t.Errorf("the engine died %d times, want 3", m.deaths)
	}
}
