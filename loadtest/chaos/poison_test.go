//go:build chaos && linux

package chaos_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

// poison is in the prompt that kills an engine.
const poison = "poison"

// mortal is an engine that dies of the poison and is started again whenever it has died. The way to it
// leads over a door that is shut until it can die again.
type mortal struct {
	*engine
	address string
	open    atomic.Bool
	deaths  atomic.Int64
}

// mortal replaces an engine's address by that of the door.
func (b *bed) mortal(name string, itl time.Duration) *mortal {
	b.t.Helper()
	e := b.engine(name, itl)
	m := &mortal{engine: e, address: e.url[len("http://"):]}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	go m.serve(l)
	arm := func() {
		e.inject(vllmsim.Fault{Kind: vllmsim.Crash, Match: poison, Count: -1})
		m.open.Store(true)
	}
	arm()
	ctx := b.t.Context()
	over := make(chan struct{})
	b.t.Cleanup(func() { <-over })
	go func() {
		defer close(over)
		for {
			select {
			case <-ctx.Done():
				return
			case <-e.done:
			}
			m.open.Store(false)
			if ctx.Err() != nil {
				return
			}
			m.deaths.Add(1)
			if !pause(ctx, 200*time.Millisecond) {
				return
			}
			e.start()
			e.ready()
			arm()
		}
	}()
	m.engine = &engine{url: "http://" + l.Addr().String()}
	return m
}

func (m *mortal) serve(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		if !m.open.Load() {
			in.Close()
			continue
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", m.address)
			if err != nil {
				return
			}
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.Copy(out, in); out.Close() })
			both.Go(func() { _, _ = io.Copy(in, out); in.Close() })
			both.Wait()
		}()
	}
}

// TestPoison has one job that kills every engine that it comes to beside many that do not.
func TestPoison(t *testing.T) {
	const scenario, attempts = "poison", 3
	b := newBed(t, 1, 2*time.Second, fmt.Sprintf("worker.attempts=%d", attempts))
	e1, e2 := b.mortal("e1", 10*time.Millisecond), b.mortal("e2", 10*time.Millisecond)
	b.worker("w1", e1.engine, 32)
	b.worker("w2", e2.engine, 32)
	w := b.watch()
	list := tasks(t, scenario, 200, 50)
	done := b.background(w, list, 40, time.Minute)
	eventually(t, 20*time.Second, "good jobs run", func() bool { return w.count(func(s *seen) bool { return s.ended }) >= 20 })
	bad := schemas.Job{
		ID: "the-poison", Model: model, Class: schemas.Standard, Tenant: tenant, Endpoint: schemas.Completions, Stream: true,
		Body: []byte(`{"prompt":"this is ` + poison + `","max_tokens":50,"stream":true}`),
	}
	if err := b.submit(t.Context(), &bad, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	r := &report{scenario: scenario, jobs: <-done}
	var dead []schemas.DeadLetter
	eventually(t, 30*time.Second, "the poison has its result", func() bool { return len(b.results()[bad.ID]) == 1 })
	b.stored(schemas.DeadStream, func(msg jetstream.Msg) {
		var d schemas.DeadLetter
		if err := json.Unmarshal(msg.Data(), &d); err != nil {
			t.Error(err)
		}
		dead = append(dead, d)
	})
	r.judgeAll(b, w, list)
	deaths := e1.deaths.Load() + e2.deaths.Load()
	r.note("engine_deaths=%d dead_letters=%d failed_attempts_of_others=%d", deaths, len(dead), r.failed)
	if deaths > attempts {
		r.fault("the engines died %d times; want at most %d", deaths, attempts)
	}
	for _, d := range dead {
		if d.ID != bad.ID {
			r.fault("job %s, which is none of the poison, is a dead letter: %v", d.ID, d.Reason)
		} else if len(d.Attempts) != attempts {
			r.fault("the dead letter names %d attempts; want %d: %+v", len(d.Attempts), attempts, d.Attempts)
		}
	}
	if len(dead) == 0 {
		r.fault("there is no dead letter")
	}
	r.close(b)
}
