package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Lock is something that one process at a time should do: a key that expires unless its holder
// renews it. [Lock.Take] takes and renews; call it every third of [Lock.TTL].
//
// A lock keeps work from being done twice. It does not keep a write from being made twice: a process
// may be stopped between its look at [Lock.Held] and what it does next, so what must happen once
// needs a condition of its own, as [PutResult] has. Safe for concurrent use.
type Lock struct {
	js    jetstream.JetStream
	name  string
	value string // names the holder, and this very lock among all of its own

	asking sync.Mutex // one request at a time

	mu       sync.Mutex
	ttl      time.Duration
	revision uint64 // of the key, 0 while another holds it
	renewed  time.Time
}

// NewLock names a lock and who is to hold it. It does no I/O. Both are subject tokens.
func NewLock(js jetstream.JetStream, name, holder string) (*Lock, error) {
	for _, token := range []string{name, holder} {
		if err := schemas.CheckToken(token); err != nil {
			return nil, fmt.Errorf("lock: name or holder %w", err)
		}
	}
	return &Lock{js: js, name: name, value: holder + "/" + nuid.Next()}, nil
}

// TTL is how long the lock is held after a Take. 0 until the first Take has been answered.
func (l *Lock) TTL() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ttl
}

// Held reports whether the lock is held at this moment, by this process's own clock: a holder that
// was stopped, slept or cut off finds out here that its time has run out. It answers no a fifth of the
// time early, so that what is begun now ends while the lock lasts.
func (l *Lock) Held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The monotonic clock stands still while the machine sleeps; the wall clock may be set back.
	elapsed := max(time.Since(l.renewed), time.Now().Round(0).Sub(l.renewed.Round(0)))
	return l.revision > 0 && elapsed < l.ttl*4/5
}

// Take takes the lock if nobody holds it, renews it if it is held, and reports whether it is held then.
// After an error it is held for as long as the last renewal lasts.
func (l *Lock) Take(ctx context.Context) (bool, error) {
	l.asking.Lock()
	defer l.asking.Unlock()
	err := l.take(ctx)
	if err != nil {
		err = fmt.Errorf("lock %s: %w", l.name, err)
	}
	return l.Held(), err
}

func (l *Lock) take(ctx context.Context) error {
	if l.TTL() == 0 {
		if err := l.learnTTL(ctx); err != nil {
			return err
		}
	}
	expect := l.revision
	if expect == 0 {
		last, free, err := l.look(ctx)
		if err != nil || !free {
			return err
		}
		expect = last
	}
	for range 2 {
		sent := time.Now()
		revision, err := l.put(ctx, expect)
		if err == nil {
			l.set(revision, sent)
			return nil
		}
		if !isConflict(err) {
			return err
		}
		// Another was faster, or the answer to an earlier write of ours was lost.
		l.set(0, time.Time{})
		last, free, err := l.look(ctx)
		if err != nil || !free || last == expect {
			return err
		}
		expect = last
	}
	return nil
}

// set notes the revision that is held, and since when. Only who asks writes it.
func (l *Lock) set(revision uint64, renewed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision, l.renewed = revision, renewed
}

// look returns the last revision of the key, 0 if there is none, and whether a write may follow it: it is
// our own value, or the mark of a released lock.
func (l *Lock) look(ctx context.Context) (last uint64, free bool, err error) {
	m, err := directOn(ctx, l.js, bucketPrefix+schemas.LocksBucket, keySubject(schemas.LocksBucket, l.name))
	switch {
	case errors.Is(err, ErrNotFound):
		return 0, true, nil
	case err != nil:
		return 0, false, err
	}
	return m.seq, !isValue(m.header) || string(m.data) == l.value, nil
}

func (l *Lock) learnTTL(ctx context.Context) error {
	return withBucket(ctx, l.js, schemas.LocksBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		status, err := kv.Status(ctx)
		if err == nil {
			l.mu.Lock()
			l.ttl = status.TTL()
			l.mu.Unlock()
		}
		return err
	})
}

func (l *Lock) put(ctx context.Context, expect uint64) (revision uint64, err error) {
	err = withBucket(ctx, l.js, schemas.LocksBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		revision, err = kv.Update(ctx, l.name, []byte(l.value), expect)
		return err
	})
	return revision, err
}

// Release gives the lock up, so that another may take it at once. It does nothing if it is not held.
func (l *Lock) Release(ctx context.Context) error {
	l.asking.Lock()
	defer l.asking.Unlock()
	revision := l.revision
	if revision == 0 {
		return nil
	}
	l.set(0, time.Time{})
	err := withBucket(ctx, l.js, schemas.LocksBucket, func(ctx context.Context, kv jetstream.KeyValue) error {
		return kv.Delete(ctx, l.name, jetstream.LastRevision(revision))
	})
	if err != nil && !isConflict(err) {
		return fmt.Errorf("release lock %s: %w", l.name, err)
	}
	return nil
}
