package producer_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// history is what the workers of one job published: the stream that every reader must see, and the
// late events of workers that had been replaced.
type history struct {
	all  []schemas.Event
	late []schemas.Event
}

func makeHistory(rnd *rand.Rand, id string) history {
	var h history
	seq, attempts := uint64(0), 1+rnd.IntN(3)
	add := func(attempt int, e schemas.Event) {
		seq++
		e.ID, e.Seq, e.Attempt, e.TS = id, seq, attempt, int64(seq)
		h.all = append(h.all, e)
	}
	for attempt := 1; attempt <= attempts; attempt++ {
		kind := schemas.Started
		if attempt > 1 {
			kind = []schemas.Kind{schemas.Resumed, schemas.Restarted}[rnd.IntN(2)]
		}
		add(attempt, schemas.Event{Kind: kind})
		for range rnd.IntN(12) {
			add(attempt, delta(fmt.Sprintf("%d.%d ", attempt, seq)))
		}
		if attempt < attempts {
			if rnd.IntN(2) == 0 {
				add(attempt, schemas.Event{Kind: schemas.Interrupted})
			}
			for i := range uint64(rnd.IntN(4)) { // what a fenced worker goes on to say
				e := delta("late")
				e.ID, e.Seq, e.Attempt = id, seq+1+i, attempt
				h.late = append(h.late, e)
			}
		}
	}
	add(attempts, schemas.Event{Kind: schemas.Done})
	return h
}

// mangle is the order in which a bad network delivers a history: late events after the attempt that
// replaced them, some events twice, neighbours out of order, some not delivered but recorded. An
// attempt's opening stays before its other events: a worker's messages are recorded in the order it sent them.
func mangle(rnd *rand.Rand, h history) (events []schemas.Event, lost map[int]bool) {
	events = slices.Clone(h.all)
	for _, e := range h.late {
		opened := slices.IndexFunc(events, func(o schemas.Event) bool { return o.Attempt > e.Attempt })
		at := opened + 1 + rnd.IntN(len(events)-opened)
		if rnd.IntN(8) == 0 {
			at = opened // just before: only a reader of the record can know
		}
		events = slices.Insert(events, at, e)
	}
	for range rnd.IntN(4) {
		i := rnd.IntN(len(events))
		events = slices.Insert(events, i, events[i])
	}
	for range rnd.IntN(6) {
		i := rnd.IntN(len(events))
		j := min(i+1+rnd.IntN(3), len(events)-1)
		if !slices.ContainsFunc(events[i:j+1], func(e schemas.Event) bool { return e.Kind.Opens() }) {
			events[i], events[j] = events[j], events[i]
		}
	}
	lost = map[int]bool{}
	for range rnd.IntN(8) {
		lost[rnd.IntN(len(events))] = true
	}
	return events, lost
}

// counts is what a reader is left with: the events from the last Restarted on, since earlier text is
// void. Of what came before, events that were lost are not looked for.
func counts(events []schemas.Event) []schemas.Event {
	for i := len(events) - 1; i > 0; i-- {
		if events[i].Kind == schemas.Restarted {
			return events[i:]
		}
	}
	return events
}

// fold drops from what a reader was shown what later Restarted events said to drop.
func fold(events []schemas.Event) []schemas.Event {
	var out []schemas.Event
	for _, e := range events {
		if e.Kind == schemas.Restarted {
			out = slices.DeleteFunc(out, func(o schemas.Event) bool { return o.Seq >= e.Seq })
		}
		out = append(out, e)
	}
	return out
}

type outcome struct {
	events []schemas.Event
	err    error
}

func TestStreamsUnderRandomLossRepetitionAndReordering(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{Buffer: 8})
	const rounds = 200
	conflicts := 0
	for seed := range uint64(rounds) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		s := submit(t, c, chat())
		id := s.Job().ID
		h := makeHistory(rnd, id)
		events, lost := mangle(rnd, h)

		read1 := make(chan outcome, 1)
		start := func() {
			events, err := read(t, s)
			read1 <- outcome{events, err}
		}
		keepsUp := rnd.IntN(2) == 0
		if keepsUp {
			go start()
		}
		for i, e := range events {
			subject := s.Job().ReplyTo
			if lost[i] {
				subject = schemas.EventSubject(tenant, "side", id)
			}
			r.publish(subject, e)
			if rnd.IntN(8) == 0 {
				r.flush() // so that a reader that keeps up sees them in more than one batch
			}
		}
		last := h.all[len(h.all)-1]
		k := &task{r: r, ctx: t.Context(), job: &schemas.Job{ID: id, Tenant: tenant}, attempt: last.Attempt, seq: last.Seq - 1}
		if err := k.store(schemas.StatusCompleted, nil); err != nil {
			t.Fatal(err)
		}
		// Where the last event was lost, nothing says so but silence; a cancel makes the client look at once.
		r.publishRaw(schemas.CancelSubject(tenant, id))
		if !keepsUp {
			go start()
		}
		live := <-read1
		switch {
		case errors.Is(live.err, producer.ErrConflict):
			conflicts++
		case live.err != nil:
			t.Fatalf("seed %d: %v after %v\npublished %v, lost %v", seed, live.err, brief(live.events), brief(events), lost)
		default:
			got := fold(live.events[1:])
			if diff := cmp.Diff(counts(h.all), counts(got)); diff != "" {
				t.Fatalf("seed %d: live stream (-want +got):\n%s\npublished %v, lost %v", seed, diff, brief(events), lost)
			}
			if len(counts(got)) == len(got) && len(got) != len(h.all) && got[0].Kind != schemas.Restarted {
				t.Fatalf("seed %d: %v of %v without a Restarted", seed, brief(got), brief(h.all))
			}
		}
		// From the record, at any point, it is the true stream and nothing else, conflict or not.
		for _, after := range []int{0, rnd.IntN(len(h.all))} {
			got, err := read(t, follow(t, c, id, uint64(after)))
			if err != nil {
				t.Fatalf("seed %d: follow after %d: %v\npublished %v", seed, after, err, brief(events))
			}
			if diff := cmp.Diff(h.all[after:], got); diff != "" {
				t.Fatalf("seed %d: follow after %d (-want +got):\n%s", seed, after, diff)
			}
		}
	}
	if t.Logf("%d of %d live streams ended in a conflict", conflicts, rounds); conflicts > rounds/3 {
		t.Error("want fewer: few late events come before the attempt that replaces them")
	}
}
