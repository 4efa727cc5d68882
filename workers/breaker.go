package workers

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// Breaker says how often the engine may fail before the worker stops pulling, and how it is tried
// out then. The zero value is ready for use.
type Breaker struct {
	// Window is the time over which attempts are counted. Defaults to 30 s.
	Window time.Duration
	// Attempts is how many must have ended in the window before their failures say anything. Defaults to 5.
	Attempts int
	// FailureRate is the part of them, above 0 and up to 1, that must have failed by the engine's
	// fault for the breaker to open. Defaults to 0.5.
	FailureRate float64
	// Wait is how long it stays open before the engine is tried out. Defaults to [Config.HealthInterval].
	Wait time.Duration
	// Successes is how many trials must succeed in a row for it to close. Defaults to 2.
	Successes int
}

func (b Breaker) withDefaults(interval time.Duration) Breaker {
	b.Window = cmp.Or(b.Window, 30*time.Second)
	b.Attempts = cmp.Or(b.Attempts, 5)
	b.FailureRate = cmp.Or(b.FailureRate, 0.5)
	b.Wait = cmp.Or(b.Wait, interval)
	b.Successes = cmp.Or(b.Successes, 2)
	return b
}

func (b Breaker) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(b.Window >= 10*time.Millisecond, "Breaker.Window is %s; want at least 10ms", b.Window)
	check(b.Attempts > 0, "Breaker.Attempts is %d; want at least 1", b.Attempts)
	check(b.FailureRate > 0 && b.FailureRate <= 1, "Breaker.FailureRate is %g; want above 0 and at most 1", b.FailureRate)
	check(b.Wait > 0, "Breaker.Wait is %s; want above 0", b.Wait)
	check(b.Successes > 0, "Breaker.Successes is %d; want at least 1", b.Successes)
	return errors.Join(errs...)
}

func breakerStates() []string {
	return []string{breakerName(circuitbreaker.ClosedState), breakerName(circuitbreaker.HalfOpenState), breakerName(circuitbreaker.OpenState)}
}

func breakerName(s circuitbreaker.State) string {
	switch s {
	case circuitbreaker.OpenState:
		return "open"
	case circuitbreaker.HalfOpenState:
		return "half_open"
	default:
		return "closed"
	}
}

// breaker counts attempts while it is closed, and trials while it is half open. What ends in another
// state says nothing: attempts that were under way when it opened fail for the reason that opened it.
type breaker struct {
	mu sync.Mutex // changes of state are told in their order
	cb circuitbreaker.CircuitBreaker[any]
}

// newBreaker returns a closed breaker that tells changed of every change of its state.
func newBreaker(cfg Breaker, changed func(circuitbreaker.StateChangedEvent)) *breaker {
	return &breaker{cb: circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(cfg.FailureRate, uint(cfg.Attempts), cfg.Window).
		WithSuccessThreshold(uint(cfg.Successes)).
		WithDelay(cfg.Wait).WithJitterFactor(0.2).
		OnStateChanged(changed).Build()}
}

// attempted counts an attempt that ended, well or by the engine's fault.
func (b *breaker) attempted(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.cb.IsClosed():
	case ok:
		b.cb.RecordSuccess()
	default:
		b.cb.RecordFailure()
	}
}

// due reports whether the engine is to be tried out, and the outcome told to tried.
func (b *breaker) due() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.cb.IsClosed() && b.cb.TryAcquirePermit()
}

func (b *breaker) tried(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.cb.RecordSuccess()
	} else {
		b.cb.RecordFailure()
	}
}
