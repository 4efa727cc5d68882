package loadtest_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/loadtest"
)

func TestPoissonArrivalsAreExponentiallyDistributed(t *testing.T) {
	t.Parallel()
	const rate, n = 1000.0, 100_000
	var gaps []float64
	last := time.Duration(0)
	for at := range loadtest.Arrivals(loadtest.Stage{Rate: rate, Requests: n}, 1) {
		gaps = append(gaps, (at - last).Seconds())
		last = at
	}
	if len(gaps) != n {
		t.Fatalf("%d arrivals, want %d", len(gaps), n)
	}
	var sum, squares, beyond float64
	for _, g := range gaps {
		sum += g
		squares += g * g
		if g > 1/rate {
			beyond++
		}
	}
	mean := sum / n
	deviation := math.Sqrt(squares/n - mean*mean)
	// Of an exponential distribution mean and deviation are the same, and 1/e of it lies beyond the mean.
	for _, c := range []struct {
		what      string
		got, want float64
	}{{"mean", mean, 1 / rate}, {"standard deviation", deviation, 1 / rate}, {"share beyond the mean", beyond / n, 1 / math.E}} {
		if math.Abs(c.got/c.want-1) > 0.02 {
			t.Errorf("%s = %g, want %g within 2%%", c.what, c.got, c.want)
		}
	}
}

func TestArrivalsDependOnTheSeedAlone(t *testing.T) {
	t.Parallel()
	s := loadtest.Stage{Rate: 50, Duration: 10 * time.Second}
	first := slices.Collect(loadtest.Arrivals(s, 7))
	if diff := cmp.Diff(first, slices.Collect(loadtest.Arrivals(s, 7))); diff != "" {
		t.Errorf("the same seed gives others: %s", diff)
	}
	if cmp.Equal(first, slices.Collect(loadtest.Arrivals(s, 8))) {
		t.Error("another seed gives the same")
	}
	if !slices.IsSorted(first) || first[len(first)-1] >= s.Duration {
		t.Errorf("arrivals are not in order within %v: %v", s.Duration, first)
	}
}

func TestConstantArrivalsFollowTheRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		stage loadtest.Stage
		want  []time.Duration // in milliseconds
	}{
		{"constant", loadtest.Stage{Rate: 10, Requests: 4}, []time.Duration{0, 100, 200, 300}},
		{"until the end", loadtest.Stage{Rate: 10, Duration: 250 * time.Millisecond}, []time.Duration{0, 100, 200}},
		// The integral of a ramp from 0 to 8 in 2 s is 2t².
		{"ramp up", loadtest.Stage{Rate: 0, EndRate: 8, Duration: 2 * time.Second, Requests: 5}, []time.Duration{0, 707, 1000, 1225, 1414}},
		// The integral of one from 4 to nothing is 4t - t².
		{"ramp down", loadtest.Stage{Rate: 4, EndRate: 1e-9, Duration: 2 * time.Second, Requests: 4}, []time.Duration{0, 268, 586, 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.stage.Arrival = loadtest.Constant
			var got []time.Duration
			for at := range loadtest.Arrivals(c.stage, 0) {
				got = append(got, at.Round(time.Millisecond)/time.Millisecond)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got: %s", diff)
			}
		})
	}
}

func TestAChoiceFollowsTheWeights(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 0))
	list := []loadtest.Weighted{{Name: "a", Weight: 3}, {Name: "b"}, {Name: "c", Weight: 6}}
	count := map[string]int{}
	for range 10_000 {
		count[loadtest.Pick(list, r)]++
	}
	for name, share := range map[string]float64{"a": 0.3, "b": 0.1, "c": 0.6} {
		if got := float64(count[name]) / 10_000; math.Abs(got-share) > 0.02 {
			t.Errorf("%s was chosen %.3f of the time, want %.3f", name, got, share)
		}
	}
}
