package workers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// janitorLock is held by the janitor that works.
	janitorLock = "janitor"
	// lockTerm is how long a lock is taken to last before the broker has said it.
	lockTerm = 3 * time.Second
)

// JanitorConfig tunes a janitor. The zero value is ready for use.
type JanitorConfig struct {
	// ID names the janitor in its lock and in logs; a subject token. Defaults to janitor and a random suffix.
	ID string
	// Interval is the time between two looks at the queues. A job is looked at once it has been queued
	// for as long. Defaults to 2 s.
	Interval time.Duration
	// MaxTracked bounds the queued jobs that are remembered, at 24 bytes each. Jobs beyond it are looked
	// at when there is room again; a worker that pulls them needs no janitor. Defaults to 1,000,000.
	MaxTracked int
	// Logger receives one line for each job that is ended. The zero value is silent.
	Logger zerolog.Logger
	// Registry receives the metrics; workers may share it. nil keeps them on a registry of the janitor's own.
	Registry *prometheus.Registry
}

func (c JanitorConfig) withDefaults() JanitorConfig {
	c.ID = cmp.Or(c.ID, "janitor-"+uuid.NewString()[:8])
	c.Interval = cmp.Or(c.Interval, 2*time.Second)
	c.MaxTracked = cmp.Or(c.MaxTracked, 1_000_000)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func (c JanitorConfig) validate() error {
	var errs []error
	if err := schemas.CheckToken(c.ID); err != nil {
		errs = append(errs, fmt.Errorf("ID %w", err))
	}
	if c.Interval <= 0 {
		errs = append(errs, fmt.Errorf("Interval is %s; want above 0", c.Interval))
	}
	if c.MaxTracked < 1 {
		errs = append(errs, fmt.Errorf("MaxTracked is %d; want at least 1", c.MaxTracked))
	}
	return errors.Join(errs...)
}

// Janitor ends queued jobs that no worker would end, of every model that has a queue, whether or not
// a worker serves it: a job past its deadline gets its Result and terminal event, expired; a cancelled
// job gets the same, cancelled, if its canceller did not get to write it; and a job that has its Result is
// taken out of the queue, where it counts against its tenant's cap.
//
// # Delivery
//
// A janitor answers a job as a worker does: the Result is stored on the condition that there is none,
// then the terminal event is published, then the message is removed. So a job has one Result whoever
// else ends it at the same moment, and a janitor that is killed between two of these steps leaves the
// rest to the next one. A job in flight is its worker's: a janitor acts no sooner than two leases after
// the deadline, the cancel or the Result, and asks all workers before it ends a cancelled job. A message
// that is no valid job is left to a worker, which makes a dead letter of it.
//
// A queued job without a worker ends at most two leases and two Intervals after its deadline while the
// broker keeps up.
//
// # One at a time
//
// Any number may run; the holder of a lock in the broker works and the others wait to take over. A
// holder renews the lock every third of its term, and looks at its own clock before each thing it
// does, so that one that was frozen or cut off stops by itself. The lock saves work. What keeps a job
// from being answered twice is its Result.
type Janitor struct {
	js   jetstream.JetStream
	cfg  JanitorConfig
	log  zerolog.Logger
	lock *queue.Lock
	seed maphash.Seed

	active  prometheus.Gauge
	expired *prometheus.CounterVec
	removed *prometheus.CounterVec

	backlogs   map[string]*backlog
	tombstones uint64 // where to read on; 0 before the first look
	full       bool   // MaxTracked has been reached and said
	fault      string // what went wrong last, so that it is logged once
}

// NewJanitor returns a janitor for all models. It does no I/O, and does not close js's connection.
func NewJanitor(js jetstream.JetStream, cfg JanitorConfig) (*Janitor, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("janitor %q: %w", cfg.ID, err)
	}
	lock, err := queue.NewLock(js, janitorLock, cfg.ID)
	if err != nil {
		return nil, fmt.Errorf("janitor %q: %w", cfg.ID, err)
	}
	v := vectors{reg: cfg.Registry}
	j := &Janitor{
		js: js, cfg: cfg, lock: lock, seed: maphash.MakeSeed(),
		log:      cfg.Logger.With().Str("janitor", cfg.ID).Logger(),
		active:   v.gauge("hxp_janitor_active", "1 while this process's janitor holds the lock.").WithLabelValues(),
		expired:  v.counter("hxp_janitor_expired_total", "Queued jobs that the janitor ended because their deadline had passed.", "model"),
		removed:  v.counter("hxp_janitor_removed_total", "Queued jobs that had ended or been cancelled, removed from the queue.", "model"),
		backlogs: make(map[string]*backlog),
	}
	if v.err != nil {
		return nil, fmt.Errorf("janitor %q: %w", cfg.ID, v.err)
	}
	return j, nil
}

// Run works whenever it holds the lock, until ctx ends, and gives the lock up. What fails is logged
// and tried again: a janitor that cannot work is no reason for its process to end.
func (j *Janitor) Run(ctx context.Context) error {
	var holding sync.WaitGroup
	holding.Go(func() { j.hold(ctx) })
	tick := time.NewTicker(j.cfg.Interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			j.look(ctx)
		}
	}
	holding.Wait()
	if !j.js.Conn().IsConnected() {
		return nil // the lock expires by itself
	}
	release, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if err := j.lock.Release(release); err != nil {
		return fmt.Errorf("janitor %s: %w", j.cfg.ID, err)
	}
	return nil
}

// look works if the lock is held, and otherwise forgets what it knew: the holder knows better.
func (j *Janitor) look(ctx context.Context) {
	if !j.lock.Held() {
		clear(j.backlogs)
		j.tombstones = 0
		return
	}
	err := j.sweep(ctx)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		j.fault = ""
	case err.Error() != j.fault:
		j.fault = err.Error()
		j.log.Warn().Err(err).Msg("the janitor could not look after every queue; it tries again")
	}
}

// hold takes the lock and renews it until ctx ends.
func (j *Janitor) hold(ctx context.Context) {
	defer j.active.Set(0)
	held, said := false, ""
	for {
		try, stop := context.WithTimeout(ctx, cmp.Or(j.lock.TTL(), lockTerm)/3)
		now, err := j.lock.Take(try)
		stop()
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			j.log.Warn().Err(err).Msg("the janitor's lock could not be asked for")
		}
		if now != held {
			if held = now; held {
				j.active.Set(1)
				j.log.Info().Msg("this process's janitor looks after the queues")
			} else {
				j.active.Set(0)
				j.log.Warn().Msg("the janitor's lock was lost")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(cmp.Or(j.lock.TTL(), lockTerm) / 3):
		}
	}
}
