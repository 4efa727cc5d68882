package queue_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func newLock(t *testing.T, js jetstream.JetStream, holder string) *queue.Lock {
	t.Helper()
	l, err := queue.NewLock(js, "chore", holder)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func take(t *testing.T, l *queue.Lock, want bool) {
	t.Helper()
	held, err := l.Take(t.Context())
	if err != nil || held != want || l.Held() != want {
		t.Fatalf("Take = %t, %v, Held = %t; want %t", held, err, l.Held(), want)
	}
}

func TestLockHasOneHolder(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{LockTTL: time.Minute})
	one, two := newLock(t, js, "one"), newLock(t, js, "two")
	if one.Held() || one.TTL() != 0 {
		t.Error("held before it was taken")
	}
	take(t, one, true)
	if one.TTL() != time.Minute {
		t.Errorf("TTL = %s", one.TTL())
	}
	take(t, two, false)
	take(t, one, true)
	if err := two.Release(t.Context()); err != nil { // of what it does not hold
		t.Fatal(err)
	}
	take(t, two, false)
	if err := one.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if one.Held() {
		t.Error("held after its release")
	}
	take(t, two, true)
	take(t, one, false)
}

func TestLockIsTakenByOneOfMany(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{LockTTL: time.Minute})
	var held atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		l := newLock(t, js, "same")
		all.Go(func() {
			ok, err := l.Take(t.Context())
			if err != nil {
				t.Error(err)
			}
			if ok {
				held.Add(1)
			}
		})
	}
	all.Wait()
	if n := held.Load(); n != 1 {
		t.Errorf("%d hold the lock, want 1", n)
	}
}

// A holder that was stopped for longer than the term knows it by its own clock, before it has asked anybody.
func TestStoppedHolderKnowsThatItsLockHasGone(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{LockTTL: 400 * time.Millisecond})
	one, two := newLock(t, js, "one"), newLock(t, js, "two")
	take(t, one, true)
	eventually(t, "the lock is lost by the clock", func() bool { return !one.Held() })
	eventually(t, "another can take it", func() bool {
		held, err := two.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if held && one.Held() {
			t.Fatal("two hold the lock")
		}
		return held
	})
	take(t, one, false)
	// Renewed by nobody it is free again, also for one that believes to hold it.
	eventually(t, "it is lost as well", func() bool { return !two.Held() })
	eventually(t, "it can be taken again", func() bool { held, err := two.Take(t.Context()); return held && err == nil })
	if err := two.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The answer to a renewal is lost: the holder finds its own value under a newer revision.
func TestLockSurvivesALostAnswer(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{LockTTL: time.Minute})
	l := newLock(t, js, "one")
	take(t, l, true)
	kv, err := js.KeyValue(t.Context(), schemas.LocksBucket)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), "chore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "chore", e.Value()); err != nil {
		t.Fatal(err)
	}
	take(t, l, true)
	if _, err := kv.Put(t.Context(), "chore", []byte("another")); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context()); err != nil { // it is another's, which is not touched
		t.Fatal(err)
	}
	take(t, newLock(t, js, "two"), false)
}

func TestLockErrors(t *testing.T) {
	t.Parallel()
	if _, err := queue.NewLock(nil, "chore", "a b"); err == nil || !strings.Contains(err.Error(), "a b") {
		t.Errorf("NewLock = %v", err)
	}
	js := bare(t, embedded.Config{})
	if _, err := newLock(t, js, "one").Take(t.Context()); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("Take without a bucket = %v", err)
	}
	if _, err := queue.Ensure(t.Context(), js, nil, queue.Config{}); err != nil {
		t.Fatal(err)
	}
	l := newLock(t, js, "one")
	take(t, l, true)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if held, err := l.Take(ended); err == nil || !held {
		t.Errorf("Take = %t, %v; want an error, and the lock for as long as it lasts", held, err)
	}
	if err := l.Release(ended); err == nil {
		t.Error("Release without an answer is nil")
	}
	if _, err := l.Take(ended); err == nil {
		t.Error("Take without an answer is nil")
	}
}
