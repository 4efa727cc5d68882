package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// clocks compares this machine's clock, and those of the workers, with the server's.
func (d *doctor) clocks(ctx context.Context) {
	stream, err := d.c.JS.Stream(ctx, schemas.EventsStream)
	if err != nil {
		d.cannot("ask the server for the time", err)
		return
	}
	before := d.now()
	info, err := stream.Info(ctx)
	if err != nil {
		d.cannot("ask the server for the time", err)
		return
	}
	if !info.TimeStamp.IsZero() {
		middle := before.Add(d.now().Sub(before) / 2)
		d.skew("this machine", middle.Sub(info.TimeStamp))
	}
	kv, err := d.c.JS.KeyValue(ctx, schemas.WorkersBucket)
	if err != nil {
		d.cannot("read the worker registry", err)
		return
	}
	ids, err := kv.Keys(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		d.cannot("read the worker registry", err)
	}
	for _, id := range ids {
		e, err := kv.Get(ctx, id)
		if err != nil {
			continue // it has gone meanwhile
		}
		var w schemas.WorkerInfo
		if json.Unmarshal(e.Value(), &w) == nil {
			d.skew("the machine of worker "+id, w.Updated.Sub(e.Created()))
		}
	}
}

func (d *doctor) skew(who string, by time.Duration) {
	if by.Abs() < skewAllowed {
		return
	}
	direction := "ahead of"
	if by < 0 {
		direction = "behind"
	}
	d.add(Warning, fmt.Sprintf("the clock of %s is %s %s the server's", who, by.Abs().Round(100*time.Millisecond), direction),
		"deadlines pass too early or too late, and queue times come out wrong", "synchronise the clocks (NTP)")
}

// dead says what was given up lately.
func (d *doctor) dead(ctx context.Context) {
	stream, err := d.c.JS.Stream(ctx, schemas.DeadStream)
	if err != nil {
		d.cannot("look at the dead letters", err)
		return
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return
	}
	from := state.FirstSeq
	if state.LastSeq > deadLooked {
		from = max(from, state.LastSeq-deadLooked+1)
	}
	groups := map[string]int{}
	var n int
	for l, err := range queue.DeadLetters(ctx, d.c.JS, queue.DeadFilter{From: from}) {
		if err != nil {
			d.cannot("read the dead letters", err)
			return
		}
		if d.now().Sub(l.Time) < recently {
			n++
			code := schemas.CodeInternal
			if l.Reason != nil {
				code = l.Reason.Code
			}
			groups[fmt.Sprintf("%s %s", l.Model, code)]++
		}
	}
	if n == 0 {
		return
	}
	var kinds []string
	for k, c := range groups {
		kinds = append(kinds, fmt.Sprintf("%s (%d)", k, c))
	}
	slices.Sort(kinds)
	d.add(Warning, fmt.Sprintf("jobs given up within the last hour: %d", n), strings.Join(kinds, ", "), "hxp dead ls, and hxp dead replay once the cause is gone")
}

// stores says whether the shared streams are about to refuse or forget something.
func (d *doctor) stores(ctx context.Context) {
	for _, name := range []string{schemas.ResultsStream, schemas.EventsStream} {
		stream, err := d.c.JS.Stream(ctx, name)
		if err != nil {
			d.cannot("look at stream "+name, err)
			continue
		}
		d.store(name, stream.CachedInfo())
	}
}

func (d *doctor) store(name string, info *jetstream.StreamInfo) {
	used := share(info.State.Bytes, info.Config.MaxBytes)
	what := fmt.Sprintf("%s holds %s of %s", name, Bytes(info.State.Bytes), Bytes(info.Config.MaxBytes))
	reach := d.now().Sub(info.State.FirstTime)
	switch {
	case used < nearly:
	case name == schemas.ResultsStream:
		level := Warning
		if used >= 0.98 {
			level = Problem
		}
		d.add(level, what, "when it is full no job can end: the one Result of a job has to be stored", "raise queue.results_max_bytes, or lower queue.results_max_age, and run hxp queue apply")
	case info.Config.MaxAge > 0 && reach < shortReplay && reach < info.Config.MaxAge:
		d.add(Warning, what, fmt.Sprintf("it reaches back only %s: a job that takes longer cannot be followed from its start", reach.Round(time.Second)),
			"raise queue.events_max_bytes and run hxp queue apply")
	}
}

// older reports whether version is before least, by their three numbers. What is no version is not older.
func older(version, least string) bool {
	have, want := numbers(version), numbers(least)
	return have != nil && slices.Compare(have, want) < 0
}

func numbers(version string) []int {
	version, _, _ = strings.Cut(version, "-")
	var out []int
	for part := range strings.SplitSeq(strings.TrimPrefix(version, "v"), ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}
