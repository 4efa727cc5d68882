//go:build chaos && linux

package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// report is the outcome of a scenario.
type report struct {
	scenario        string
	jobs            int
	hung, differing int
	tally
	recovery []time.Duration
	broken   bool          // connections were broken, so that what was in flight may come again
	bound    time.Duration // of the recovery's 99th percentile; 0 for none
	extra    []string
	faults   []string // the first few, in words
	notices  []string // what is worth knowing and no fault
}

func (r *report) notice(format string, args ...any) {
	if len(r.notices) < 10 {
		r.notices = append(r.notices, fmt.Sprintf(format, args...))
	}
}

func (r *report) fault(format string, args ...any) {
	if len(r.faults) < 10 {
		r.faults = append(r.faults, fmt.Sprintf(format, args...))
	}
}

func (r *report) note(format string, args ...any) {
	r.extra = append(r.extra, fmt.Sprintf(format, args...))
}

func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(p*float64(len(d))))]
}

// close prints the scenario's line and fails the test if something that was promised was not kept.
func (r *report) close(b *bed) {
	b.t.Helper()
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	fmt.Printf("%s: jobs=%d lost=%d duplicated=%d reordered=%d hung=%d differing=%d restarted=%d recovery p50=%s p99=%s max=%s%s\n",
		r.scenario, r.jobs, r.lost, r.duplicated, r.reordered, r.hung, r.differing, r.restarted,
		ms(percentile(r.recovery, 0.5)), ms(percentile(r.recovery, 0.99)), ms(percentile(r.recovery, 1)), strings.Join(append([]string{""}, r.extra...), " "))
	errorf := func(format string, args ...any) {
		b.t.Helper()
		b.t.Errorf(format, args...)
		b.verdict = append(b.verdict, fmt.Sprintf(format, args...))
	}
	if r.lost+r.duplicated+r.reordered+r.hung+r.differing > 0 {
		errorf("%s: lost=%d duplicated=%d reordered=%d hung=%d differing=%d; want none", r.scenario, r.lost, r.duplicated, r.reordered, r.hung, r.differing)
	}
	if r.repeated+r.after > 0 && !r.broken {
		errorf("%s: repeated=%d after_end=%d although no connection was broken", r.scenario, r.repeated, r.after)
	}
	if p99 := percentile(r.recovery, 0.99); r.bound > 0 && p99 > r.bound {
		errorf("%s: recovery p99 is %s; want at most %s", r.scenario, ms(p99), r.bound)
	}
	for _, n := range r.notices {
		b.t.Logf("%s: %s", r.scenario, n)
	}
	for _, f := range r.faults {
		errorf("%s: %s", r.scenario, f)
	}
}

// stored reads everything that a stream holds, raw. A cluster whose leader was killed a moment ago may still
// take back its last messages, or forget who reads: what is there is asked for again.
func (b *bed) stored(stream string, each func(jetstream.Msg)) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer stop()
	for read := uint64(0); ; {
		var last uint64
		eventually(b.t, 30*time.Second, "look at "+stream, func() bool {
			s, err := b.js.Stream(ctx, stream)
			if err == nil {
				last = s.CachedInfo().State.LastSeq
				if s.CachedInfo().State.Msgs == 0 {
					last = 0
				}
			}
			return err == nil
		})
		if read >= last {
			return
		}
		if err := b.readTo(ctx, stream, &read, last, each); err != nil && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			b.t.Fatalf("read %s after message %d of %d: %v", stream, read, last, err)
		}
	}
}

// readTo reads a stream from the message after read up to last, as far as messages come.
func (b *bed) readTo(ctx context.Context, stream string, read *uint64, last uint64, each func(jetstream.Msg)) error {
	c, err := b.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *read + 1})
	if err != nil {
		return err
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(2000))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for *read < last {
		wait, stop := context.WithTimeout(ctx, 5*time.Second)
		msg, err := messages.Next(jetstream.NextContext(wait))
		stop()
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		each(msg)
		*read = meta.Sequence.Stream
	}
	return nil
}

// record reads the recorded events, by job.
func (b *bed) record() map[string][]schemas.Event {
	b.t.Helper()
	all := map[string][]schemas.Event{}
	b.stored(schemas.EventsStream, func(msg jetstream.Msg) {
		var e schemas.Event
		if err := json.Unmarshal(msg.Data(), &e); err != nil {
			b.t.Errorf("%s holds what is no event: %v: %.200s", schemas.EventsStream, err, msg.Data())
			return
		}
		all[e.ID] = append(all[e.ID], e)
	})
	return all
}

// results reads the results, by job.
func (b *bed) results() map[string][]schemas.Result {
	b.t.Helper()
	all := map[string][]schemas.Result{}
	b.stored(schemas.ResultsStream, func(msg jetstream.Msg) {
		var r schemas.Result
		if err := json.Unmarshal(msg.Data(), &r); err != nil {
			b.t.Errorf("%s holds what is no result: %v: %.200s", schemas.ResultsStream, err, msg.Data())
			return
		}
		all[r.ID] = append(all[r.ID], r)
	})
	return all
}

// judgeStreams reads every job's events by the rule and counts what is not as it has to be.
func (r *report) judgeStreams(from string, list []*task, events map[string][]schemas.Event) {
	for _, task := range list {
		id := task.job.ID
		var rd reader
		for _, e := range events[id] {
			if err := rd.read(e); err != nil {
				r.differing++
				r.fault("%s: %v", from, err)
			}
		}
		if rd.lost+rd.duplicated+rd.reordered > 0 {
			r.fault("%s: job %s: lost=%d duplicated=%d reordered=%d: %s", from, id, rd.lost, rd.duplicated, rd.reordered, brief(events[id]))
		}
		r.add(rd.tally)
		for _, e := range events[id] {
			if e.Kind == schemas.Restarted && from == "live" {
				r.notice("restarted: job %s: %s: %s", id, e.Reason, brief(events[id]))
			}
		}
		switch {
		case rd.end == "":
			r.hung++
			r.fault("%s: job %s has no end: %s", from, id, brief(events[id]))
		case rd.end != schemas.Done:
			r.differing++
			r.fault("%s: job %s ended with %s: %v", from, id, rd.end, rd.last.Error)
		case string(rd.text) != task.want.Text || !slices.Equal(rd.ids, task.want.TokenIDs):
			r.differing++
			r.fault("%s: job %s reads %q %v, want %q %v: %s", from, id, rd.text, rd.ids, task.want.Text, task.want.TokenIDs, brief(events[id]))
		}
	}
}

// brief tells a stream's course: what opens, closes and jumps.
func brief(events []schemas.Event) string {
	var out strings.Builder
	seq := uint64(0)
	for _, e := range events {
		if e.Kind != schemas.DeltaKind || e.Seq != seq+1 {
			fmt.Fprintf(&out, " %d/%d %s", e.Attempt, e.Seq, e.Kind)
			if e.Kind.Opens() {
				fmt.Fprintf(&out, "(%s kept %d %s)", e.Worker, e.Kept, e.Reason)
			}
			if e.Error != nil {
				fmt.Fprintf(&out, "(%s)", e.Error.Message)
			}
		}
		seq = e.Seq
	}
	return out.String()
}

// judgeResults holds that every job has exactly one result, and the right one, and that no job is left over.
func (r *report) judgeResults(b *bed, list []*task) {
	b.t.Helper()
	results := b.results()
	for _, task := range list {
		id := task.job.ID
		got := results[id]
		switch {
		case len(got) == 0:
			r.lost++
			r.fault("job %s has no result", id)
			continue
		case len(got) > 1:
			r.duplicated++
			r.fault("job %s has %d results", id, len(got))
		}
		if g := got[0]; g.Status != schemas.StatusCompleted || g.Text != task.want.Text {
			r.differing++
			r.fault("the result of job %s is %s %v %q, want %q", id, g.Status, g.Error, g.Text, task.want.Text)
		} else if u := g.Usage; u == nil || u.CompletionTokens != len(task.want.TokenIDs) {
			r.differing++
			r.fault("the result of job %s counts %+v, want %d tokens", id, u, len(task.want.TokenIDs))
		}
	}
	// An answered job is acknowledged: nothing is left in the queue.
	left := uint64(0)
	settled := soon(b.t.Context(), b.lease+10*time.Second, func() bool {
		ctx, stop := context.WithTimeout(b.t.Context(), 2*time.Second)
		defer stop()
		s, err := b.js.Stream(ctx, schemas.JobsStream(model))
		if err != nil {
			return false
		}
		left = s.CachedInfo().State.Msgs
		return left == 0
	})
	if !settled {
		r.hung += int(left)
		r.fault("%d jobs are still in the queue", left)
	}
}
