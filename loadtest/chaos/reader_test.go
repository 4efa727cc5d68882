package chaos_test

import (
	"fmt"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// reader reads one job's stream by the rule that any client can follow: drop events of an attempt
// below the highest seen; seq rises by one; resumed keeps so many token ids; restarted voids the text.
//
// It knows nothing of the SDK on purpose, and forgives nothing.
type reader struct {
	seq     uint64
	attempt int
	ids     []int
	text    []byte
	end     schemas.Kind
	last    schemas.Event
	kept    map[uint64]schemas.Event // what has come, by seq
	tally
}

// tally counts what is wrong with streams, and what is worth knowing of them.
type tally struct {
	lost, duplicated, reordered int

	// repeated are events that came twice to the byte: a connection that broke in mid-write sends what
	// it cannot know to have arrived again. Every reader drops them by their seq.
	repeated int
	late     int // events of a fenced attempt, which no reader counts

	// after are events of another attempt after the end, which no reader waits for: a broker that was
	// killed forgets the renewals of leases, gives a job to a second worker, and the first still answers it.
	after     int
	restarted int
	resumed   int
	failed    int // attempts that count as failed
}

func (t *tally) add(o tally) {
	t.lost += o.lost
	t.duplicated += o.duplicated
	t.reordered += o.reordered
	t.repeated += o.repeated
	t.late += o.late
	t.after += o.after
	t.restarted += o.restarted
	t.resumed += o.resumed
	t.failed += o.failed
}

// read takes the next event as it came.
func (r *reader) read(e schemas.Event) error {
	if e.Attempt < r.attempt {
		r.late++
		return nil
	}
	if before, ok := r.kept[e.Seq]; ok && same(before, e) {
		r.repeated++
		return nil
	}
	switch {
	case r.end != "" && e.Attempt != r.attempt:
		r.after++
		return nil
	case r.end != "":
		r.duplicated++ // nothing follows the end
		return nil
	case e.Seq <= r.seq && e.Attempt == r.attempt:
		r.duplicated++
		return nil
	case e.Seq <= r.seq:
		r.reordered++
	case e.Seq > r.seq+1:
		r.lost += int(e.Seq - r.seq - 1)
	}
	r.seq, r.attempt, r.last = e.Seq, e.Attempt, e
	if r.kept == nil {
		r.kept = map[uint64]schemas.Event{}
	}
	r.kept[e.Seq] = e
	switch {
	case e.Kind == schemas.Restarted:
		r.restarted++
		r.ids, r.text = nil, nil
	case e.Kind == schemas.Resumed:
		r.resumed++
		if e.Kept > len(r.ids) {
			return fmt.Errorf("job %s: event %d keeps %d tokens; %d were sent", e.ID, e.Seq, e.Kept, len(r.ids))
		}
		r.ids = r.ids[:e.Kept]
	case e.Kind == schemas.Interrupted && !e.Handback:
		r.failed++
	case e.Kind == schemas.DeltaKind:
		parts, err := openai.ParseChoices(e.Choices, nil)
		if err != nil {
			return fmt.Errorf("job %s: event %d: %w", e.ID, e.Seq, err)
		}
		for i := range parts {
			r.ids = append(r.ids, parts[i].TokenIDs...)
			r.text = append(r.text, parts[i].Text...)
		}
	case e.Kind.Terminal():
		r.end = e.Kind
	}
	return nil
}

// same reports whether two events are one that was sent twice. A worker never gives one seq of an
// attempt to two moments.
func same(a, b schemas.Event) bool {
	return a.Attempt == b.Attempt && a.Kind == b.Kind && a.TS == b.TS && string(a.Choices) == string(b.Choices)
}
