package vllmsim_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

func TestAbortFreesTheSlot(t *testing.T) {
	t.Parallel()
	for phase, cfg := range map[vllmsim.Phase]vllmsim.Config{
		vllmsim.Waiting: {MaxNumSeqs: 1, ITL: time.Hour},
		vllmsim.Prefill: {Prefill: time.Hour},
		vllmsim.Decode:  {ITL: time.Hour},
	} {
		for _, stream := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, stream %t", phase, stream), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, cfg)
				running := 1
				if phase == vllmsim.Waiting {
					r.open(t.Context(), t, completions, obj{"prompt": "first", "request_id": "first"})
					r.until(t, "the first", func(st vllmsim.Stats) bool { return st.GenerationTokens == 1 })
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				gone := make(chan error, 1)
				go func() {
					resp, err := r.send(ctx, t, http.MethodPost, completions, obj{"prompt": "x", "request_id": "x", "stream": stream})
					if err == nil {
						<-ctx.Done()
						err = resp.Body.Close()
					}
					gone <- err
				}()
				before := r.until(t, "the request", func(st vllmsim.Stats) bool {
					return st.Running+st.Waiting == running+min(1, st.Waiting) && (phase != vllmsim.Waiting || st.Waiting == 1) &&
						(phase != vllmsim.Decode || st.GenerationTokens == 1)
				})
				start := time.Now()
				cancel()
				if err := <-gone; err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("the aborted call = %v, want it cancelled", err)
				}
				st := r.until(t, "the abort", func(st vllmsim.Stats) bool { return st.Aborted == 1 })
				if st.Running+st.Waiting != before.Running+before.Waiting-1 {
					t.Errorf("before %+v, after %+v", before, st)
				}
				a := st.Aborts[0]
				if a.ID != "cmpl-x" || a.Phase != phase || a.At.Before(start) || a.At.Sub(start) > 5*time.Second {
					t.Errorf("abort = %+v, asked at %v; want phase %s", a, start, phase)
				}
			})
		}
	}
}

func TestWaitingIsFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		priority bool
		of       []int // priorities in the order of arrival
		want     []string
	}{
		"fcfs":     {false, []int{0, 0, 0, 0}, []string{"0", "1", "2", "3"}},
		"priority": {true, []int{5, 0, -1, 5}, []string{"2", "1", "0", "3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Whoever runs gets one token and then stays, until its client goes away.
			r := newRig(t, vllmsim.Config{MaxNumSeqs: 1, ITL: time.Hour, Priority: c.priority})
			leave := map[string]context.CancelFunc{}
			first := make(chan string)
			enter := func(name string, priority int) {
				ctx, cancel := context.WithCancel(t.Context())
				leave[name] = cancel
				l := r.open(ctx, t, completions, obj{"prompt": name, "priority": priority})
				go func() {
					if _, err := l.next(); err == nil {
						first <- name
					}
				}()
			}
			enter("blocker", 0)
			last := <-first
			for i, p := range c.of {
				enter(fmt.Sprint(i), p)
				r.until(t, "its place", func(st vllmsim.Stats) bool { return st.Waiting == i+1 })
			}
			var got []string
			for range c.of {
				leave[last]()
				last = <-first
				got = append(got, last)
			}
			leave[last]()
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("order (-want +got):\n%s", d)
			}
			r.until(t, "the last abort", func(st vllmsim.Stats) bool { return st.Aborted == len(c.of)+1 })
		})
	}
}

func TestQueueLimitCountsEverySequence(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{MaxNumSeqs: 1, MaxQueued: 3, ITL: time.Hour})
	r.open(t.Context(), t, completions, obj{"prompt": "x", "n": 2})
	code, body := r.do(t, http.MethodPost, completions, obj{"prompt": "x", "n": 2})
	if code != http.StatusServiceUnavailable || body["error"].(obj)["type"] != "Service Unavailable" {
		t.Errorf("two over a limit of three: %d %v", code, body)
	}
	r.open(t.Context(), t, completions, obj{"prompt": "x"})
	if code, _ := r.do(t, http.MethodPost, completions, obj{"prompt": "x"}); code != http.StatusServiceUnavailable {
		t.Errorf("one over: %d", code)
	}
}

// TestLatencies holds the set times from below: a busy machine may only be slower.
func TestLatencies(t *testing.T) {
	t.Parallel()
	const ttft, prefill, itl = 20 * time.Millisecond, time.Millisecond, 5 * time.Millisecond
	r := newRig(t, vllmsim.Config{TTFT: ttft, Prefill: prefill, ITL: itl, LoadFactor: 1, MaxNumSeqs: 1})
	start := time.Now()
	l := r.open(t.Context(), t, completions, obj{"prompt": make([]int, 30), "max_tokens": 6, "ignore_eos": true})
	if _, err := l.next(); err != nil {
		t.Fatal(err)
	}
	first := time.Since(start)
	if first < ttft+30*prefill {
		t.Errorf("first token after %v, want %v or more", first, ttft+30*prefill)
	}
	if res := l.rest(); res.end != errDone {
		t.Fatal(res.end)
	}
	// Five more tokens, at a load of 1 with LoadFactor 1: ITL doubles. The first tick may come early.
	if all := time.Since(start) - first; all < 4*2*itl {
		t.Errorf("five tokens more took %v, want %v or more", all, 4*2*itl)
	}
}

// What the cache has no room for waits, and what it never will have room for blocks all behind it.
func TestCacheBoundsWhatRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t, vllmsim.Config{KVTokens: 50, ITL: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.open(ctx, t, completions, obj{"prompt": []int{5, 6}, "max_tokens": 30})
	next, end := context.WithCancel(t.Context())
	defer end()
	gone := make(chan struct{})
	enter := func(ctx context.Context, tokens int) {
		go func() {
			defer func() { gone <- struct{}{} }()
			if resp, err := r.send(ctx, t, http.MethodPost, completions, obj{"prompt": []int{5}, "max_tokens": tokens}); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}
	enter(next, 20)
	enter(next, 20)
	r.until(t, "the others to wait", func(st vllmsim.Stats) bool { return st.Running == 1 && st.Waiting == 2 })
	cancel()
	r.until(t, "both to run", func(st vllmsim.Stats) bool { return st.Running == 2 && st.Waiting == 0 })
	end()
	<-gone
	<-gone

	too, leave := context.WithCancel(t.Context())
	defer leave()
	for i, tokens := range []int{60, 1} {
		r.until(t, "the last to arrive", func(st vllmsim.Stats) bool { return st.Running == 0 && st.Waiting == i })
		enter(too, tokens)
	}
	r.until(t, "both to wait", func(st vllmsim.Stats) bool { return st.Waiting == 2 && st.Running == 0 })
	leave()
	<-gone
	<-gone
}

func TestSlow(t *testing.T) {
	t.Parallel()
	const ttft = 10 * time.Millisecond
	r := newRig(t, vllmsim.Config{TTFT: ttft})
	first := func() time.Duration {
		from := time.Now()
		r.stream(t, completions, obj{"prompt": "x", "max_tokens": 1})
		return time.Since(from)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Slow, Factor: 5})
	if d := first(); d < 5*ttft {
		t.Errorf("first token after %v, want %v or more", d, 5*ttft)
	}
	r.inject(t, vllmsim.Fault{Kind: vllmsim.Slow, Factor: 1000, Duration: time.Hour})
	r.ClearFaults()
	if d := first(); d > 500*ttft {
		t.Errorf("first token after %v when the fault is over", d)
	}
}
