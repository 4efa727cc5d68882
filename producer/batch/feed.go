package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// windowLines and windowBytes bound how far ahead an input is read: that much is ordered by prefix, and
	// held in memory up to three times for each batch.
	windowLines = 1024
	windowBytes = 1 << 20
	// againAfter is the wait before something is tried again that a broker did not do.
	againAfter = 200 * time.Millisecond
)

// window is a part of an input that has been read.
type window struct {
	w      *work
	items  []*item
	faults []*LineError
	// stored are lines that have a Result: they ran before.
	stored []outcome
	ended  bool
	err    error
}

// feeder reads the input of one batch, a window at a time, ahead of the engine.
type feeder struct {
	js    jetstream.JetStream
	w     *work
	out   chan<- *window
	fault func(error)
}

// run reads until the input ends, or ctx. Why it ended is in the last window.
func (f *feeder) run(ctx context.Context) {
	win := f.read(ctx)
	if win != nil && ctx.Err() == nil {
		f.send(ctx, win)
	}
}

// read sends all windows but the last, which it returns.
func (f *feeder) read(ctx context.Context) *window {
	in, err := f.w.open(ctx)
	if err != nil {
		return &window{w: f.w, err: err}
	}
	defer in.Close()
	check := newChecker(f.w.rules)
	src := newLines(in, check.rules.MaxLine)
	for {
		win := f.fill(src, check)
		if win.err != nil {
			return win
		}
		together(win.items)
		if !f.lookUp(ctx, win) {
			return nil
		}
		if win.ended {
			return win
		}
		if !f.send(ctx, win) {
			return nil
		}
	}
}

func (f *feeder) send(ctx context.Context, win *window) bool {
	select {
	case <-f.w.want:
	case <-ctx.Done():
		return false
	}
	select {
	case f.out <- win:
		return true
	case <-ctx.Done():
		return false
	}
}

// fill reads one window.
func (f *feeder) fill(src *lines, check *checker) *window {
	win := &window{w: f.w}
	size := 0
	for len(win.items)+len(win.faults) < windowLines && size < windowBytes {
		if f.w.live && src.r.Buffered() == 0 && len(win.items)+len(win.faults) > 0 {
			break
		}
		raw, n, fault, err := src.next()
		if errors.Is(err, io.EOF) {
			win.ended = true
			break
		}
		if err != nil {
			win.err = err
			break
		}
		recorded := f.w.skip.has(n)
		if recorded && check.rules.Endpoint != "" {
			continue
		}
		var x *item
		if fault == nil {
			x, fault = check.check(raw, n) // also of a recorded line, which may decide the endpoint
		}
		if recorded {
			continue
		}
		if fault == nil && f.w.repeated.has(n) {
			fault = repeats(n, x.customID, 0)
		}
		if fault != nil {
			win.faults = append(win.faults, fault)
			continue
		}
		x.job = JobID(f.w.batch, n, f.w.round, raw)
		x.body = bytes.Clone(x.body)
		size += len(x.body)
		win.items = append(win.items, x)
	}
	return win
}

// lookUp takes the lines out of a window that have a Result, until the broker has answered.
func (f *feeder) lookUp(ctx context.Context, win *window) bool {
	keys, by := make([]queue.JobKey, 0, len(win.items)), make(map[string]*item, len(win.items))
	for _, x := range win.items {
		keys = append(keys, queue.JobKey{Tenant: f.w.tenant, ID: x.job})
		by[x.job] = x
	}
	for {
		win.stored = win.stored[:0]
		found := make(map[string]bool)
		err := queue.Results(ctx, f.js, keys, func(k queue.JobKey, r *schemas.Result) {
			if !found[k.ID] {
				found[k.ID] = true
				win.stored = append(win.stored, outcome{&pending{w: f.w, x: by[k.ID], key: k}, r})
			}
		})
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			f.fault(nil)
			rest := win.items[:0]
			for _, x := range win.items {
				if !found[x.job] {
					rest = append(rest, x)
				}
			}
			win.items = rest
			return true
		}
		f.fault(fmt.Errorf("look for results: %w", err))
		select {
		case <-ctx.Done():
			return false
		case <-time.After(againAfter):
		}
	}
}
