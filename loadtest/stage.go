package loadtest

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"time"
)

// Arrival is how the requests of an open loop come.
type Arrival string

// The arrival processes.
const (
	// Poisson has requests come independently of one another, as many users' do. The default.
	Poisson Arrival = "poisson"
	// Constant has them come at equal distances.
	Constant Arrival = "constant"
)

// Stage is a stretch of a workload with one load: an open loop with a rate, or a closed loop with clients. It ends after
// Duration or after Requests, whichever is first; one of them is required. What is under way then is waited for.
type Stage struct {
	// Name is shown in the report. By default what the load is.
	Name string
	// Rate is how many requests come in a second.
	Rate float64
	// EndRate is the rate at the end of a ramp, which takes Duration. Defaults to Rate.
	EndRate float64
	// Arrival is Poisson by default.
	Arrival Arrival
	// Concurrency is how many clients ask one request after another. Not with Rate.
	Concurrency int
	Duration    time.Duration
	Requests    int
}

func (s Stage) withDefaults() Stage {
	s.Arrival = cmp.Or(s.Arrival, Poisson)
	if s.EndRate == 0 {
		s.EndRate = s.Rate
	}
	if s.Name == "" {
		switch {
		case s.Concurrency == 1:
			s.Name = "1 client"
		case s.Concurrency > 0:
			s.Name = fmt.Sprintf("%d clients", s.Concurrency)
		case s.EndRate != s.Rate:
			s.Name = fmt.Sprintf("%g..%g/s", s.Rate, s.EndRate)
		default:
			s.Name = fmt.Sprintf("%g/s", s.Rate)
		}
	}
	return s
}

func (s Stage) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	open := s.Rate != 0 || s.EndRate != 0
	switch {
	case open && s.Concurrency != 0:
		bad("Rate is %g and Concurrency is %d; want one of them", s.Rate, s.Concurrency)
	case !open && s.Concurrency == 0:
		bad("Rate and Concurrency are 0; want one of them")
	case s.Concurrency < 0 || s.Concurrency > maxClients:
		bad("Concurrency is %d; want 1 to %d", s.Concurrency, maxClients)
	}
	for _, r := range []struct {
		name string
		v    float64
	}{{"Rate", s.Rate}, {"EndRate", s.EndRate}} {
		if math.IsNaN(r.v) || r.v < 0 || r.v > maxRate {
			bad("%s is %g; want 0 to %g", r.name, r.v, maxRate)
		}
	}
	if s.EndRate != s.Rate && s.Duration == 0 {
		bad("Duration is 0; want how long the ramp from %g to %g takes", s.Rate, s.EndRate)
	}
	if s.Arrival != Poisson && s.Arrival != Constant {
		bad("Arrival is %q; want poisson or constant", s.Arrival)
	}
	if s.Duration < 0 {
		bad("Duration is %v; want more than 0", s.Duration)
	}
	if s.Requests < 0 {
		bad("Requests is %d; want more than 0", s.Requests)
	}
	if s.Duration == 0 && s.Requests == 0 {
		bad("Duration and Requests are 0; want one of them")
	}
	return errors.Join(errs...)
}

func (s Stage) closed() bool { return s.Concurrency > 0 }

// arrivals yields when the requests of an open loop are due, counted from the start of the stage.
//
// The n-th request is due where the integral of the rate reaches the sum of n steps: steps of one make
// equal distances, steps that are exponentially distributed a Poisson process, and both follow a ramp.
func (s Stage) arrivals(r *rand.Rand) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		var sum float64
		for n := 0; s.Requests == 0 || n < s.Requests; n++ {
			switch {
			case s.Arrival == Poisson:
				sum += r.ExpFloat64()
			case n > 0: // the first of equal distances is due at once
				sum++
			}
			at, ok := s.reaches(sum)
			if !ok || s.Duration > 0 && at >= s.Duration || !yield(at) {
				return
			}
		}
	}
}

// reaches returns when the integral of the rate is sum, ok false if never.
func (s Stage) reaches(sum float64) (at time.Duration, ok bool) {
	a, b := s.Rate, 0.0
	if s.EndRate != s.Rate {
		b = (s.EndRate - s.Rate) / s.Duration.Seconds()
	}
	t := sum / a
	if b != 0 && sum == 0 {
		t = 0
	} else if b != 0 {
		root := a*a + 2*b*sum
		if root < 0 {
			return 0, false // the ramp has come down to nothing before
		}
		t = 2 * sum / (a + math.Sqrt(root)) // of the two forms the one that subtracts nothing
	}
	if t > math.MaxInt64/1e9/2 {
		return 0, false
	}
	return time.Duration(t * 1e9), true
}
