package producer_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestGapIsFilledFromTheRecord(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Started, "")
	x.lost(1, 2, schemas.DeltaKind, "a")
	x.lost(1, 3, schemas.DeltaKind, "b")
	x.live(1, 4, schemas.DeltaKind, "c")
	x.live(1, 5, schemas.Done, "")
	events := x.expect(t, x.s, "0 accepted, 1 started, 2 delta, 3 delta, 4 delta, 5 done")
	if got := string(events[2].Choices); !strings.Contains(got, `"a"`) {
		t.Errorf("filled event = %s", got)
	}
}

func TestGapAppearsLateInTheRecord(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{})
	x.live(1, 1, schemas.Started, "")
	x.live(1, 3, schemas.Done, "")
	x.recorded(x.k.job.ID, 2)
	got := make(chan string, 1)
	go func() {
		events, err := read(t, x.s)
		got <- fmt.Sprint(kinds(events), " ", err)
	}()
	x.lost(1, 2, schemas.DeltaKind, "late")
	if got, want := <-got, "0 accepted, 1 started, 2 delta, 3 done <nil>"; got != want {
		t.Errorf("stream = %s, want %s", got, want)
	}
}

func TestGapThatIsNowhere(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.live(1, 1, schemas.Started, "")
	x.live(1, 4, schemas.DeltaKind, "d")
	events, err := read(t, x.s)
	gap, ok := errors.AsType[*producer.GapError](err)
	if !ok || gap.From != 2 || gap.To != 3 || !errors.Is(err, producer.ErrGap) || !strings.Contains(err.Error(), "2 to 3") {
		t.Fatalf("error = %v, want a gap from 2 to 3", err)
	}
	if want := "0 accepted, 1 started"; kinds(events) != want {
		t.Errorf("events = %s, want %s", kinds(events), want)
	}
	// Reading on tries again: what has appeared since is found, and nothing is skipped.
	x.lost(1, 2, schemas.DeltaKind, "b")
	x.lost(1, 3, schemas.DeltaKind, "c")
	x.live(1, 5, schemas.Done, "")
	x.expect(t, x.s, "2 delta, 3 delta, 4 delta, 5 done")
}

func TestGapBeforeAResult(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.live(1, 1, schemas.Started, "")
	x.result(t, schemas.StatusCompleted, 1, 5)
	_, err := read(t, x.s)
	if gap, ok := errors.AsType[*producer.GapError](err); !ok || gap.From != 2 || gap.To != 4 {
		t.Errorf("error = %v, want a gap from 2 to 4", err)
	}
	x.live(1, 4, schemas.DeltaKind, "d")
	x.recorded(x.k.job.ID, 2)
	_, err = read(t, follow(t, x.c, x.k.job.ID, 1))
	if gap, ok := errors.AsType[*producer.GapError](err); !ok || gap.From != 2 || gap.To != 3 {
		t.Errorf("error = %v, want a gap from 2 to 3", err)
	}
	_, err = read(t, follow(t, x.c, x.k.job.ID, 4))
	if err != nil {
		t.Errorf("after all but the terminal event: %v", err)
	}
	_, err = read(t, follow(t, x.c, x.k.job.ID, 2))
	if gap, ok := errors.AsType[*producer.GapError](err); !ok || gap.From != 3 || gap.To != 3 {
		t.Errorf("error = %v, want a gap from 3 to 3", err)
	}
}

func TestRecordThatIsEmptyInTheMiddle(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.live(1, 1, schemas.Started, "")
	x.recorded(x.k.job.ID, 1)
	x.result(t, schemas.StatusCompleted, 1, 5)
	_, err := read(t, follow(t, x.c, x.k.job.ID, 2)) // the record has not expired: 3 and 4 were lost
	if gap, ok := errors.AsType[*producer.GapError](err); !ok || gap.From != 3 || gap.To != 4 {
		t.Errorf("error = %v, want a gap from 3 to 4", err)
	}
}

func TestLostTerminalEvent(t *testing.T) {
	t.Parallel()
	t.Run("recorded", func(t *testing.T) {
		t.Parallel()
		x := newScene(t, quick())
		x.live(1, 1, schemas.Started, "")
		x.result(t, schemas.StatusCompleted, 1, 2)
		x.lost(1, 2, schemas.Done, "")
		events := x.expect(t, x.s, "0 accepted, 1 started, 2 done")
		if events[2].Reason != "" {
			t.Errorf("reason = %q, want the published event", events[2].Reason)
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		t.Parallel()
		x := newScene(t, quick())
		x.live(1, 1, schemas.Started, "")
		x.result(t, schemas.StatusFailed, 1, 2)
		events := x.expect(t, x.s, "0 accepted, 1 started, 2 failed")
		if events[2].Reason == "" {
			t.Error("a terminal event made from the Result does not say so")
		}
	})
	t.Run("no result yet", func(t *testing.T) {
		t.Parallel()
		x := newScene(t, quick())
		x.lost(1, 1, schemas.Started, "")
		x.lost(1, 2, schemas.DeltaKind, "a")
		x.lost(1, 3, schemas.Done, "")
		x.expect(t, x.s, "0 accepted, 1 started, 2 delta, 3 done") // found by silence alone
	})
}

func TestSlowReaderIsFilledFromTheRecord(t *testing.T) {
	t.Parallel()
	cfg := producer.Config{Buffer: 4}
	x := newScene(t, cfg)
	x.live(1, 1, schemas.Started, "")
	for seq := range uint64(500) {
		x.live(1, seq+2, schemas.DeltaKind, "x")
	}
	x.live(1, 502, schemas.Done, "")
	x.recorded(x.k.job.ID, 502)
	events, err := read(t, x.s)
	if err != nil || len(events) != 503 {
		t.Fatalf("%d events, %v; want 503", len(events), err)
	}
	for i, e := range events {
		if e.Seq != uint64(i) {
			t.Fatalf("event %d has seq %d", i, e.Seq)
		}
	}
}

func TestWhatIsNoEventIsLost(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.live(1, 1, schemas.Started, "")
	for _, junk := range []string{"junk", `{"id":"other","seq":2,"attempt":1,"kind":"delta"}`, `{"id":"` + x.k.job.ID + `","seq":0,"attempt":1}`} {
		if err := x.nc.Publish(x.k.subject, []byte(junk)); err != nil {
			t.Fatal(err)
		}
	}
	x.lost(1, 2, schemas.DeltaKind, "a")
	x.live(1, 3, schemas.Done, "")
	x.expect(t, x.s, "0 accepted, 1 started, 2 delta, 3 done")
}

func TestJunkAtTheEndOfTheRecord(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.lost(1, 1, schemas.Started, "")
	x.lost(1, 2, schemas.Done, "")
	if err := x.nc.Publish(x.side, []byte("junk")); err != nil {
		t.Fatal(err)
	}
	x.expect(t, x.s, "0 accepted, 1 started, 2 done")
}

func TestOnlyTheRecordHasIt(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.lost(1, 1, schemas.Started, "")
	x.lost(1, 2, schemas.DeltaKind, "a")
	x.recorded(x.k.job.ID, 2)
	x.result(t, schemas.StatusCompleted, 1, 3)
	x.expect(t, x.s, "0 accepted, 1 started, 2 delta, 3 done")
}

func TestJunkWhereTheRecordHasExpired(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	if err := x.nc.Publish(x.side, []byte("junk")); err != nil {
		t.Fatal(err)
	}
	x.result(t, schemas.StatusCompleted, 1, 3)
	if _, err := read(t, x.s); err == nil {
		t.Error("a record that cannot be read was taken for one that has expired")
	}
}
