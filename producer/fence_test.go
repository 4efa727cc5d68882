package producer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// texts are the deltas of a stream, one word each.
func texts(events []schemas.Event) string {
	var out []string
	for _, e := range events {
		if e.Kind == schemas.DeltaKind {
			out = append(out, strings.Split(string(e.Choices), `"`)[7])
		}
	}
	return strings.Join(out, " ")
}

// A worker that had been replaced stores the Result before the one that replaced it.
func TestResultOfAReplacedAttempt(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opening schemas.Kind
		deltas  int // of attempt 2
		ends    int // the attempt that announces the end
	}{
		"text shown":                      {schemas.Restarted, 1, 1},
		"text shown, resumed":             {schemas.Resumed, 1, 1},
		"only restarted":                  {schemas.Restarted, 0, 1},
		"text beyond the end":             {schemas.Restarted, 4, 1},
		"announced by a newer attempt":    {schemas.Restarted, 1, 3},
		"much text, by a newer attempt":   {schemas.Restarted, 4, 3},
		"no text, and by a newer attempt": {schemas.Resumed, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newScene(t, quick())
			x.live(1, 1, schemas.Started, "")
			x.live(1, 2, schemas.DeltaKind, "one")
			x.live(2, 3, tc.opening, "")
			for i := range tc.deltas {
				x.live(2, uint64(4+i), schemas.DeltaKind, "NEW")
			}
			if _, err := x.next(t, x.s, 4+tc.deltas); err != nil {
				t.Fatal(err)
			}
			x.lost(1, 3, schemas.DeltaKind, "two")
			x.lost(1, 4, schemas.DeltaKind, "three")
			x.result(t, schemas.StatusCompleted, 1, 5)
			x.live(tc.ends, 5, schemas.Done, "")
			_, err := read(t, x.s)
			if !errors.Is(err, producer.ErrConflict) {
				t.Errorf("error = %v, want ErrConflict: the text shown is not the result's", err)
			}
			// With the Result at hand the record tells which attempt's text is the job's.
			x.flush()
			x.recorded(x.k.job.ID, 6+tc.deltas)
			for after, want := range []string{"one two three", "one two three", "two three", "three", ""} {
				events, err := read(t, follow(t, x.c, x.k.job.ID, uint64(after)))
				if got := texts(events); err != nil || got != want || events[len(events)-1].Kind != schemas.Done {
					t.Errorf("follow after %d = %v, %v; want the text %q", after, brief(events), err, want)
				}
			}
		})
	}
}

// The text is that of the Result, and a newer attempt only says so.
func TestEndAnnouncedByANewerAttempt(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{true, false} {
		x := newScene(t, quick())
		x.live(1, 1, schemas.Started, "")
		x.live(1, 2, schemas.DeltaKind, "whole")
		if _, err := x.next(t, x.s, 3); err != nil {
			t.Fatal(err)
		}
		if stored { // or expired
			x.result(t, schemas.StatusCompleted, 1, 3)
		}
		x.live(2, 3, schemas.Done, "")
		x.expect(t, x.s, "3 done")
	}
}

func TestEndOfANewerAttemptWithoutResults(t *testing.T) {
	t.Parallel()
	x := newScene(t, quick())
	x.live(1, 1, schemas.Started, "")
	if _, err := x.next(t, x.s, 2); err != nil {
		t.Fatal(err)
	}
	if err := x.js.DeleteStream(t.Context(), schemas.ResultsStream); err != nil {
		t.Fatal(err)
	}
	x.live(2, 2, schemas.Done, "")
	if _, err := read(t, x.s); !errors.Is(err, producer.ErrNotSetUp) {
		t.Errorf("error = %v, want ErrNotSetUp", err)
	}
}

func TestRestartedAfterAGap(t *testing.T) {
	t.Parallel()
	x := newScene(t, producer.Config{GapWait: patience}) // nothing is waited for
	x.live(1, 1, schemas.Started, "")
	x.live(1, 2, schemas.DeltaKind, "a")
	x.live(2, 9, schemas.Restarted, "") // 3 to 8 are nowhere
	x.live(2, 10, schemas.DeltaKind, "whole")
	x.live(2, 11, schemas.Done, "")
	x.expect(t, x.s, "0 accepted, 1 started, 2 delta, 9 restarted, 10 delta, 11 done")
	x.recorded(x.k.job.ID, 5)
	x.expect(t, follow(t, x.c, x.k.job.ID, 0), "1 started, 2 delta, 9 restarted, 10 delta, 11 done")
	x.expect(t, follow(t, x.c, x.k.job.ID, 2), "9 restarted, 10 delta, 11 done")
	x.expect(t, follow(t, x.c, x.k.job.ID, 5), "9 restarted, 10 delta, 11 done")
}

// A worker that had been replaced took places, and the attempt after its successor begins behind them.
func TestHolesOfAReplacedWorker(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind schemas.Kind
		want []string // texts of a reader after 0, 1, ...
	}{
		"restarted": {schemas.Restarted, []string{"half B end", "half B end", "B end", "B end", "end", "end"}},
		"resumed":   {schemas.Resumed, []string{"half B end", "half B end", "B end", "B end", "end", "end"}},
		"failed":    {schemas.Failed, []string{"half B", "half B", "B", "B", "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newScene(t, quick())
			x.lost(1, 1, schemas.Started, "")
			x.lost(1, 2, schemas.DeltaKind, "half")
			x.lost(2, 3, schemas.Resumed, "")
			x.lost(2, 4, schemas.DeltaKind, "B")
			for seq := uint64(3); seq <= 6; seq++ {
				x.lost(1, seq, schemas.DeltaKind, "stale")
			}
			x.lost(3, 7, tc.kind, "")
			n, end, status := 9, uint64(7), schemas.StatusFailed
			if tc.kind.Opens() {
				x.lost(3, 8, schemas.DeltaKind, "end")
				n, end, status = 11, 9, schemas.StatusCompleted
			}
			x.result(t, status, 3, end)
			if tc.kind.Opens() {
				x.lost(3, 9, schemas.Done, "")
			}
			x.recorded(x.k.job.ID, n)
			streams := []*producer.Stream{x.s}
			for after := range tc.want {
				streams = append(streams, follow(t, x.c, x.k.job.ID, uint64(after)))
			}
			for i, s := range streams {
				events, err := read(t, s)
				if got, want := texts(events), tc.want[max(i-1, 0)]; err != nil || got != want || !events[len(events)-1].Kind.Terminal() {
					t.Errorf("reader %d: %v, %v; want the text %q", i, brief(events), err, want)
				}
			}
		})
	}
	t.Run("a real gap", func(t *testing.T) {
		t.Parallel()
		x := newScene(t, quick())
		x.lost(1, 1, schemas.Started, "")
		x.lost(2, 2, schemas.Resumed, "")
		x.lost(1, 3, schemas.DeltaKind, "stale")
		x.live(3, 5, schemas.Resumed, "") // 4 is nobody's
		_, err := read(t, x.s)
		if gap, ok := errors.AsType[*producer.GapError](err); !ok || gap.From != 3 || gap.To != 4 {
			t.Errorf("error = %v, want a gap from 3 to 4", err)
		}
	})
}

func TestBufferIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	word := strings.Repeat("x", 1000)
	c := r.client(producer.Config{BufferBytes: 4500, IdleCheck: 50 * time.Millisecond, GapWait: 150 * time.Millisecond})
	var scenes []*scene
	for range 3 {
		s := submit(t, c, chat())
		job := s.Job()
		x := &scene{rig: r, c: c, s: s, k: &task{r: r, ctx: t.Context(), job: &job, subject: job.ReplyTo, attempt: 1}}
		scenes = append(scenes, x)
		x.live(1, 1, schemas.Started, "")
	}
	for _, x := range scenes[:2] {
		for seq := range uint64(20) {
			x.live(1, seq+2, schemas.DeltaKind, word)
		}
		x.live(1, 22, schemas.Done, "")
		x.recorded(x.k.job.ID, 23-1)
	}
	// The client gets all events in one row, so this one tells that the others have arrived.
	scenes[2].live(1, 2, schemas.Done, "")
	scenes[2].expect(t, scenes[2].s, "0 accepted, 1 started, 2 done")
	events, err := read(t, scenes[0].s)
	if err != nil || len(events) != 23 {
		t.Errorf("%d events, %v; want all 23, those above the bound from the record", len(events), err)
	}
	r.purge(scenes[1].k.job.ID)
	events, err = read(t, scenes[1].s)
	if gap, ok := errors.AsType[*producer.GapError](err); !ok || gap.From > 6 || len(events) > 6 {
		t.Errorf("%d events, %v; want a gap after what 4500 bytes hold", len(events), err)
	}
}

// Nobody answers for the results while a leader is elected or a broker reads its store.
func TestWaitingOutlivesResultsThatAreAway(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(context.Context, *producer.Client, schemas.Job) (*schemas.Result, error){
		"Do": func(ctx context.Context, c *producer.Client, job schemas.Job) (*schemas.Result, error) {
			return c.Do(ctx, job)
		},
		"Wait": func(ctx context.Context, c *producer.Client, job schemas.Job) (*schemas.Result, error) {
			return c.Wait(ctx, job.ID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, small())
			if err := r.js.DeleteStream(t.Context(), schemas.ResultsStream); err != nil {
				t.Fatal(err)
			}
			job := chat()
			job.ID = "given"
			back := make(chan error, 1)
			time.AfterFunc(800*time.Millisecond, func() { // one look takes half a second
				_, err := queue.Ensure(t.Context(), r.js, []string{model}, small())
				back <- errors.Join(err, queue.PutResult(t.Context(), r.js, &schemas.Result{
					ID: job.ID, Tenant: tenant, Model: model, Status: schemas.StatusCompleted, Text: "kept", Attempts: 1, LastSeq: 2,
				}))
			})
			res, err := wait(t.Context(), r.client(producer.Config{IdleCheck: 20 * time.Millisecond, SubmitTimeout: patience}), job)
			if err != nil || res.Text != "kept" {
				t.Errorf("%s = %+v, %v", name, res, err)
			}
			if err := <-back; err != nil {
				t.Fatal(err)
			}
			if err := r.js.DeleteStream(t.Context(), schemas.ResultsStream); err != nil {
				t.Fatal(err)
			}
			// For good: that is said in the end.
			if _, err := wait(t.Context(), r.client(producer.Config{IdleCheck: 20 * time.Millisecond, SubmitTimeout: patience}), job); !errors.Is(err, producer.ErrNotSetUp) {
				t.Errorf("%s without results = %v, want ErrNotSetUp", name, err)
			}
		})
	}
}
