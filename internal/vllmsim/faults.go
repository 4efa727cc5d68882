package vllmsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind string

// The kinds of fault.
const (
	// ErrorBefore answers a request with 500.
	ErrorBefore FaultKind = "error_before"
	// QueueFull answers a request with 503, as vLLM does over --max-num-queued-reqs.
	QueueFull FaultKind = "queue_full"
	// ErrorInStream ends a stream with an error frame and [DONE]; a request that does not stream gets 500.
	ErrorInStream FaultKind = "error_in_stream"
	// EOF closes the connection without [DONE].
	EOF FaultKind = "eof"
	// Abort ends a request with finish_reason "abort".
	Abort FaultKind = "abort"
	// Hang stops the engine while /health stays 200: the whole of it, or with Match only the requests that match. It lasts for Duration, or until the faults are cleared.
	Hang FaultKind = "hang"
	// SlowStart answers everything with 503 for Duration, like an engine that is still loading.
	SlowStart FaultKind = "slow_start"
	// Slow makes everything take Factor times as long, for Duration or until the faults are cleared.
	Slow FaultKind = "slow"
	// Crash ends the engine at once; see [Config.Exit].
	Crash FaultKind = "crash"
)

// Fault is something that is to go wrong. A fault that acts on a request fires when the request has
// produced AfterTokens tokens, on requests that are under way as well; one that never gets that far
// leaves it armed. Hang and Crash without Match and AfterTokens, SlowStart and Slow act at once.
type Fault struct {
	Kind FaultKind
	// Count is how many requests it acts on. 0 is one; below 0 is every one until the faults are cleared.
	Count int
	// AfterTokens is how many tokens of a choice are delivered first. ErrorBefore and QueueFull come before any.
	AfterTokens int
	// Duration is how long Hang, SlowStart and Slow last. 0 is until the faults are cleared.
	Duration time.Duration
	// Factor is for Slow.
	Factor float64
	// Match restricts the fault to requests whose rendered prompt contains it.
	Match string
}

type wireFault struct {
	Kind        FaultKind `json:"kind"`
	Count       int       `json:"count,omitempty"`
	AfterTokens int       `json:"after_tokens,omitempty"`
	Duration    string    `json:"duration,omitempty"`
	Match       string    `json:"match,omitempty"`
	Factor      float64   `json:"factor,omitempty"`
}

// MarshalJSON writes the duration as text, such as "1.5s".
func (f Fault) MarshalJSON() ([]byte, error) {
	w := wireFault{Kind: f.Kind, Count: f.Count, AfterTokens: f.AfterTokens, Match: f.Match, Factor: f.Factor}
	if f.Duration != 0 {
		w.Duration = f.Duration.String()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *Fault) UnmarshalJSON(data []byte) error {
	var w wireFault
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // a fault that was misspelt would prove nothing
	if err := dec.Decode(&w); err != nil {
		return err
	}
	*f = Fault{Kind: w.Kind, Count: w.Count, AfterTokens: w.AfterTokens, Match: w.Match, Factor: w.Factor}
	if w.Duration == "" {
		return nil
	}
	d, err := time.ParseDuration(w.Duration)
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	f.Duration = d
	return nil
}

func faultKinds() []FaultKind {
	return []FaultKind{ErrorBefore, QueueFull, ErrorInStream, EOF, Abort, Hang, SlowStart, Slow, Crash}
}

func (f Fault) validate() error {
	var errs []error
	if !slices.Contains(faultKinds(), f.Kind) {
		errs = append(errs, fmt.Errorf("kind %q is not one of %v", f.Kind, faultKinds()))
	}
	if f.AfterTokens < 0 {
		errs = append(errs, fmt.Errorf("after_tokens is %d; want at least 0", f.AfterTokens))
	}
	if f.Duration < 0 {
		errs = append(errs, fmt.Errorf("duration is %v; want at least 0", f.Duration))
	}
	if f.Factor < 0 || f.Kind == Slow && f.Factor == 0 {
		errs = append(errs, fmt.Errorf("factor is %v; want above 0 for %s", f.Factor, Slow))
	}
	return errors.Join(errs...)
}

// immediate reports whether the fault acts without waiting for a request.
func (f Fault) immediate() bool {
	return f.Kind == SlowStart || f.Kind == Slow || (f.Kind == Hang || f.Kind == Crash) && f.Match == "" && f.AfterTokens == 0
}

// beforeAny reports whether the fault acts on arrival.
func (f Fault) beforeAny() bool { return f.Kind == ErrorBefore || f.Kind == QueueFull }

// armed is a fault with what is left of its count.
type armed struct {
	Fault
	left int // below 0: no end
}

func (a *armed) matches(g *group) bool {
	return a.Match == "" || strings.Contains(g.promptText(), a.Match)
}

// outage is a state that lasts until a time, or until it is cleared.
type outage struct {
	on    bool
	until time.Time
}

func (o *outage) begin(d time.Duration, now time.Time) {
	*o = outage{on: true}
	if d > 0 {
		o.until = now.Add(d)
	}
}

// active reports whether the outage goes on, ending it when its time is over.
func (o *outage) active(now time.Time) bool {
	if o.on && !o.until.IsZero() && !now.Before(o.until) {
		*o = outage{}
	}
	return o.on
}

// InjectFault arms a fault, or for one that acts at once lets it happen.
func (s *Sim) InjectFault(f Fault) error {
	if err := f.validate(); err != nil {
		return fmt.Errorf("fault: %w", err)
	}
	s.mu.Lock()
	s.arm(f, time.Now())
	s.unlock()
	s.wake()
	return nil
}

// arm is InjectFault under the lock.
func (s *Sim) arm(f Fault, now time.Time) {
	switch {
	case !f.immediate():
		left := f.Count
		if left == 0 {
			left = 1
		}
		s.faults = append(s.faults, &armed{Fault: f, left: left})
	case f.Kind == SlowStart:
		s.starting.begin(f.Duration, now)
	case f.Kind == Hang:
		s.hung.begin(f.Duration, now)
	case f.Kind == Slow:
		s.slow.begin(f.Duration, now)
		s.factor = f.Factor
	default:
		s.crash()
	}
}

// ClearFaults disarms every fault and ends those that last. A crash is not undone.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	s.faults = nil
	s.hung, s.starting, s.slow = outage{}, outage{}, outage{}
	for _, q := range s.running {
		q.group.held = outage{}
	}
	s.unlock()
	s.wake()
}

// take returns the first armed fault that wants g, and counts it as used.
func (s *Sim) take(g *group, wants func(*armed) bool) *armed {
	for i, a := range s.faults {
		if !wants(a) || !a.matches(g) {
			continue
		}
		if a.left > 0 {
			if a.left--; a.left == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return a
	}
	return nil
}

// arrivalFault returns the error that a fault wants g to be answered with.
func (s *Sim) arrivalFault(g *group) error {
	a := s.take(g, func(a *armed) bool { return a.beforeAny() })
	switch {
	case a == nil:
		return nil
	case a.Kind == QueueFull:
		return unavailable("The request queue is full. Please try again later.")
	}
	return internalError()
}

// strike lets a fault act on q before its next token, and reports whether one did.
func (s *Sim) strike(q *sequence, now time.Time) bool {
	g := q.group
	a := s.take(g, func(a *armed) bool { return !a.beforeAny() && q.gen.produced >= a.AfterTokens && g.struck != a })
	if a == nil {
		return false
	}
	g.struck = a // a hang that has ended must not begin again with the next token
	switch {
	case a.Kind == Crash:
		s.crash()
	case a.Kind == Hang && a.Match == "":
		s.hung.begin(a.Duration, now)
	case a.Kind == Hang:
		g.held.begin(a.Duration, now)
	default:
		s.fail(g, a.Kind, now)
	}
	return true
}
