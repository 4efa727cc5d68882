package producer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestAttempts(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Started, "")
	x.live(1, 2, schemas.DeltaKind, "a")
	x.live(2, 3, schemas.Resumed, "")
	x.live(1, 3, schemas.DeltaKind, "stale")
	x.live(1, 4, schemas.Failed, "") // a fenced worker's opinion
	x.live(2, 4, schemas.DeltaKind, "b")
	x.live(2, 4, schemas.DeltaKind, "b")
	x.live(2, 5, schemas.Interrupted, "")
	x.live(4, 6, schemas.Failed, "") // given up before it began
	events := x.expect(t, x.s, "0 accepted, 1 started, 2 delta, 3 resumed, 4 delta, 5 interrupted, 6 failed")
	if events[6].Attempt != 4 {
		t.Errorf("attempt of the end = %d, want 4", events[6].Attempt)
	}
	x.expect(t, follow(t, x.c, x.k.job.ID, 0), "1 started, 2 delta, 3 resumed, 4 delta, 5 interrupted, 6 failed")
	x.expect(t, follow(t, x.c, x.k.job.ID, 3), "4 delta, 5 interrupted, 6 failed")
}

func TestConflict(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		replaced func(x *scene) // attempt 2 opens at 3 where attempt 1 was shown up to 4
	}{
		"opening received": {func(x *scene) {
			x.live(2, 3, schemas.Resumed, "")
			x.live(2, 4, schemas.DeltaKind, "B")
		}},
		"opening lost": {func(x *scene) {
			x.lost(2, 3, schemas.Resumed, "")
			x.live(2, 4, schemas.DeltaKind, "B")
		}},
		"opening lost, seq fits": {func(x *scene) {
			x.lost(2, 3, schemas.Resumed, "")
			x.lost(2, 4, schemas.DeltaKind, "B")
			x.live(2, 5, schemas.DeltaKind, "C")
		}},
		"opening lost, seq early": {func(x *scene) {
			x.lost(2, 3, schemas.Resumed, "")
			x.lost(2, 4, schemas.DeltaKind, "B")
			x.lost(2, 5, schemas.DeltaKind, "C")
			x.live(2, 6, schemas.DeltaKind, "D")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newScene(t, producer.Config{})
			x.live(1, 1, schemas.Started, "")
			x.live(1, 2, schemas.DeltaKind, "a")
			x.live(1, 3, schemas.DeltaKind, "b")
			x.live(1, 4, schemas.DeltaKind, "late")
			if events, err := x.next(t, x.s, 5); err != nil {
				t.Fatalf("%s, %v", kinds(events), err)
			}
			tc.replaced(x)
			_, err := read(t, x.s)
			conflict, ok := errors.AsType[*producer.ConflictError](err)
			if !ok || conflict.Last != 4 || conflict.Attempt != 2 || conflict.Seq != 3 || !errors.Is(err, producer.ErrConflict) ||
				!strings.Contains(err.Error(), "follow the job from 0") {
				t.Fatalf("error = %v, want a conflict at 3 of attempt 2", err)
			}
			if _, err := read(t, x.s); !errors.Is(err, producer.ErrConflict) {
				t.Errorf("reading on = %v, want the conflict again", err)
			}
			// From the start, the record shows which events were replaced.
			x.live(2, 7, schemas.DeltaKind, "E")
			x.flush()
			x.lost(2, 4, schemas.DeltaKind, "B")
			x.lost(2, 5, schemas.DeltaKind, "C")
			x.lost(2, 6, schemas.DeltaKind, "D")
			x.lost(2, 8, schemas.Done, "")
			events := x.expect(t, follow(t, x.c, x.k.job.ID, 0), "1 started, 2 delta, 3 resumed, 4 delta, 5 delta, 6 delta, 7 delta, 8 done")
			if len(events) > 3 && !strings.Contains(string(events[3].Choices), `"B"`) {
				t.Errorf("event 4 = %s, want that of attempt 2", events[3].Choices)
			}
		})
	}
}

func TestRestartedStepsBack(t *testing.T) {
	t.Parallel()
	for _, opening := range []string{"received", "lost"} {
		t.Run(opening, func(t *testing.T) {
			t.Parallel()
			x := newScene(t, producer.Config{})
			x.live(1, 1, schemas.Started, "")
			x.live(1, 2, schemas.DeltaKind, "a")
			x.live(1, 3, schemas.DeltaKind, "late")
			if _, err := x.next(t, x.s, 4); err != nil {
				t.Fatal(err)
			}
			send := x.live
			if opening == "lost" {
				send = x.lost
			}
			send(2, 2, schemas.Restarted, "")
			x.live(2, 3, schemas.DeltaKind, "A")
			x.live(2, 4, schemas.Done, "")
			x.expect(t, x.s, "2 restarted, 3 delta, 4 done")
		})
	}
}

func TestNewerAttemptWithoutOpeningOnlyEnds(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.live(1, 1, schemas.Started, "")
	x.live(2, 2, schemas.DeltaKind, "from nowhere")
	if _, err := read(t, x.s); !errors.Is(err, producer.ErrConflict) {
		t.Errorf("a delta of an attempt that never opened = %v, want ErrConflict", err)
	}
	y := newScene(t, quick())
	y.live(1, 1, schemas.Started, "")
	if _, err := y.next(t, y.s, 2); err != nil {
		t.Fatal(err)
	}
	y.live(2, 2, schemas.DeltaKind, "not recorded")
	y.flush()
	y.purge(y.k.job.ID)
	if _, err := read(t, y.s); !errors.Is(err, producer.ErrConflict) {
		t.Errorf("a delta that is not even recorded = %v, want ErrConflict", err)
	}
}

func TestEndsBeforeWhatWasShown(t *testing.T) {
	t.Parallel()
	// A job that was taken for queued was cancelled at 3 while its unreachable worker had sent 3 and 4.
	for name, attempt := range map[string]int{"same attempt": 1, "newer attempt": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newScene(t, producer.Config{})
			x.live(1, 1, schemas.Started, "")
			x.live(1, 2, schemas.DeltaKind, "a")
			x.live(1, 3, schemas.DeltaKind, "b")
			x.live(1, 4, schemas.DeltaKind, "c")
			if _, err := x.next(t, x.s, 5); err != nil {
				t.Fatal(err)
			}
			x.result(t, schemas.StatusCancelled, attempt, 3)
			x.live(attempt, 3, schemas.Cancelled, "")
			x.expect(t, x.s, "5 cancelled")
			if attempt == 1 {
				x.expect(t, follow(t, x.c, x.k.job.ID, 0), "1 started, 2 delta, 3 cancelled")
			}
		})
	}
	t.Run("completed", func(t *testing.T) {
		t.Parallel()
		x := newScene(t, quick())
		x.live(1, 1, schemas.Started, "")
		x.live(1, 2, schemas.DeltaKind, "a")
		x.live(1, 3, schemas.DeltaKind, "b")
		if _, err := x.next(t, x.s, 4); err != nil {
			t.Fatal(err)
		}
		x.result(t, schemas.StatusCompleted, 2, 3)
		if _, err := read(t, x.s); !errors.Is(err, producer.ErrConflict) {
			t.Errorf("error = %v, want ErrConflict: the text shown is not the result's", err)
		}
	})
}

func TestFollowInTheMiddleMeetsAnotherAttempt(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind     schemas.Kind
		want     string
		conflict bool
	}{
		"an old delta": {schemas.DeltaKind, "6 done", false},
		"resumed":      {schemas.Resumed, "", true},
		"restarted":    {schemas.Restarted, "4 restarted, 5 delta, 6 done", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newScene(t, producer.Config{})
			s := follow(t, x.c, x.k.job.ID, 5)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			for e, err := range s.Events(ctx) { // looks at the record, which is empty, and waits
				if err == nil {
					t.Errorf("event %+v from nowhere", e)
				}
			}
			x.live(2, 4, tc.kind, "")
			x.live(2, 5, schemas.DeltaKind, "")
			x.live(2, 6, schemas.Done, "")
			events, err := read(t, s)
			if errors.Is(err, producer.ErrConflict) != tc.conflict || err != nil && !tc.conflict || kinds(events) != tc.want {
				t.Errorf("%s, %v; want %q, conflict %v", kinds(events), err, tc.want, tc.conflict)
			}
		})
	}
}
