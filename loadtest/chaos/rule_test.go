package chaos_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
)

func opening(kind schemas.Kind, attempt int, seq uint64, kept int) schemas.Event {
	return schemas.Event{ID: "j", Kind: kind, Attempt: attempt, Seq: seq, Kept: kept}
}

func delta(attempt int, seq uint64, text string, ids ...int) schemas.Event {
	list := "[]"
	for i, id := range ids {
		if i == 0 {
			list = "["
		} else {
			list += ","
		}
		list += fmt.Sprint(id)
	}
	if len(ids) > 0 {
		list += "]"
	}
	choices := fmt.Sprintf(`[{"index":0,"text":%q,"token_ids":%s}]`, text, list)
	return schemas.Event{ID: "j", Kind: schemas.DeltaKind, Attempt: attempt, Seq: seq, Choices: []byte(choices)}
}

func done(attempt int, seq uint64) schemas.Event {
	return schemas.Event{ID: "j", Kind: schemas.Done, Attempt: attempt, Seq: seq}
}

// TestReaderFindsEveryFault proves the judge before it judges anything: a suite that cannot see a
// fault reports none.
func TestReaderFindsEveryFault(t *testing.T) {
	t.Parallel()
	start := []schemas.Event{opening(schemas.Started, 1, 1, 0), delta(1, 2, "a", 1), delta(1, 3, "b", 2)}
	for _, tc := range []struct {
		name   string
		events []schemas.Event
		want   tally
		text   string
		ids    []int
	}{
		{"undisturbed", []schemas.Event{done(1, 4)}, tally{}, "ab", []int{1, 2}},
		{"missing", []schemas.Event{delta(1, 5, "d", 4), done(1, 6)}, tally{lost: 1}, "abd", []int{1, 2, 4}},
		{"repeated", []schemas.Event{delta(1, 3, "b", 2), done(1, 4), done(1, 4)}, tally{repeated: 2}, "ab", []int{1, 2}},
		{
			"a whole buffer repeated",
			append(slices.Clone(start[1:]), delta(1, 4, "c", 3), done(1, 5)),
			tally{repeated: 2},
			"abc",
			[]int{1, 2, 3},
		},
		{"twice", []schemas.Event{delta(1, 3, "c", 2), done(1, 4)}, tally{duplicated: 1}, "ab", []int{1, 2}},
		{"two ends", []schemas.Event{done(1, 4), done(1, 5)}, tally{duplicated: 1}, "ab", []int{1, 2}},
		{
			"a second worker after the end",
			[]schemas.Event{done(1, 4), opening(schemas.Resumed, 2, 3, 1), delta(2, 4, "b", 2), done(2, 5)},
			tally{after: 3},
			"ab",
			[]int{1, 2},
		},
		{"opens behind", []schemas.Event{opening(schemas.Resumed, 2, 3, 2), done(2, 4)}, tally{reordered: 1, resumed: 1}, "ab", []int{1, 2}},
		{
			"resumed within held-back text",
			[]schemas.Event{opening(schemas.Resumed, 2, 4, 1), delta(2, 5, "c", 2, 3), done(2, 6)},
			tally{resumed: 1},
			"abc",
			[]int{1, 2, 3},
		},
		{
			"restarted",
			[]schemas.Event{opening(schemas.Restarted, 2, 4, 0), delta(2, 5, "x", 9), done(2, 6)},
			tally{restarted: 1},
			"x",
			[]int{9},
		},
		{
			"late words of a fenced worker",
			[]schemas.Event{opening(schemas.Resumed, 2, 4, 2), delta(1, 4, "?", 7), delta(2, 5, "c", 3), done(1, 5), done(2, 6)},
			tally{resumed: 1, late: 2},
			"abc",
			[]int{1, 2, 3},
		},
		{
			"failed and handed back",
			[]schemas.Event{
				{ID: "j", Kind: schemas.Interrupted, Attempt: 1, Seq: 4}, opening(schemas.Resumed, 2, 5, 2),
				{ID: "j", Kind: schemas.Interrupted, Attempt: 2, Seq: 6, Handback: true}, opening(schemas.Resumed, 3, 7, 2), done(3, 8),
			},
			tally{resumed: 2, failed: 1},
			"ab",
			[]int{1, 2},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var r reader
			for _, e := range slices.Concat(start, tc.events) {
				if err := r.read(e); err != nil {
					t.Fatal(err)
				}
			}
			var sum tally
			sum.add(r.tally)
			if diff := cmp.Diff(tc.want, sum, cmp.AllowUnexported(tally{})); diff != "" {
				t.Errorf("tally (-want +got):\n%s", diff)
			}
			if string(r.text) != tc.text || !cmp.Equal(r.ids, tc.ids) {
				t.Errorf("read %q %v, want %q %v", r.text, r.ids, tc.text, tc.ids)
			}
			if r.end != schemas.Done || r.last.Kind != schemas.Done {
				t.Errorf("ended with %q, last %q", r.end, r.last.Kind)
			}
		})
	}
}

func TestReaderRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	for _, e := range []schemas.Event{
		opening(schemas.Resumed, 2, 2, 5),
		{ID: "j", Kind: schemas.DeltaKind, Attempt: 1, Seq: 2, Choices: []byte("{")},
	} {
		r := reader{seq: 1, attempt: 1}
		if err := r.read(e); err == nil {
			t.Errorf("%s was read without an error", e.Kind)
		}
	}
}
