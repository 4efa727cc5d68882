package schemas_test

import (
	"testing"

	"github.com/hxp-enterprise/hxp/schemas"
)

func TestCausesOfAWorker(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cause schemas.WorkerCause
		state schemas.WorkerState
		stops bool
	}{
		{schemas.CauseQueue, schemas.WorkerDown, true},
		{schemas.CauseLease, schemas.WorkerDown, true},
		{schemas.CauseResults, schemas.WorkerDown, true},
		{schemas.CauseEngineDown, schemas.WorkerDown, true},
		{schemas.CauseHung, schemas.WorkerDown, true},
		{schemas.CauseBreakerOpen, schemas.WorkerDown, true},
		{schemas.CauseStarting, schemas.WorkerStarting, true},
		{schemas.CauseRestarting, schemas.WorkerDegraded, true},
		{schemas.CauseDoubt, schemas.WorkerDegraded, true},
		{schemas.CauseBreakerHalfOpen, schemas.WorkerDegraded, true},
		{schemas.CausePressure, schemas.WorkerDegraded, false},
		{schemas.CauseSaturated, schemas.WorkerDegraded, false},
		{schemas.CauseSlow, schemas.WorkerDegraded, false},
		{"of a later version", schemas.WorkerDown, true},
	} {
		if got := c.cause.State(); got != c.state {
			t.Errorf("%s.State() = %s, want %s", c.cause, got, c.state)
		}
		if got := c.cause.StopsPulling(); got != c.stops {
			t.Errorf("%s.StopsPulling() = %v, want %v", c.cause, got, c.stops)
		}
	}
	rank := map[schemas.WorkerState]int{schemas.WorkerDown: 0, schemas.WorkerStarting: 1, schemas.WorkerDegraded: 2}
	for i, c := range schemas.WorkerCauses()[1:] {
		if before := schemas.WorkerCauses()[i]; rank[before.State()] > rank[c.State()] {
			t.Errorf("%s stands before %s, which is graver", before, c)
		}
	}
}

func TestLive(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		info schemas.WorkerInfo
		want bool
	}{
		{schemas.WorkerInfo{State: schemas.WorkerReady}, true},
		{schemas.WorkerInfo{State: schemas.WorkerDegraded, Pulling: true}, true},
		{schemas.WorkerInfo{State: schemas.WorkerDegraded}, false},
		{schemas.WorkerInfo{State: schemas.WorkerStarting}, false},
		{schemas.WorkerInfo{State: schemas.WorkerDraining, Pulling: true}, false},
		{schemas.WorkerInfo{State: schemas.WorkerDown}, false},
	} {
		if got := c.info.Live(); got != c.want {
			t.Errorf("%+v.Live() = %v, want %v", c.info, got, c.want)
		}
	}
}
