package batch_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

// phi3 are n lines of one model.
func phi3(name string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(chat(fmt.Sprint(name, "-", i), "phi3", fmt.Sprint(name, " ", i)) + "\n")
	}
	return b.String()
}

// TestSmallBatchDoesNotWaitForALargeOne has a tenant with few lines come while another's many are being worked on.
func TestSmallBatchDoesNotWaitForALargeOne(t *testing.T) {
	t.Parallel()
	const large, small, slots, room = 1500, 150, 8, 32
	r := newRig(t)
	crew := r.work(slots, func(*schemas.Job) *schemas.Error {
		<-time.After(2 * time.Millisecond)
		return nil
	})
	a, b := r.batches("large"), r.batches("small")
	r.coordinate(batch.CoordinatorConfig{})
	first := submit(t, a, phi3("large", large), batch.Submission{})
	r.until("the large one is under way", func() bool { _, jobs := crew.most(); return jobs > 200 })
	second := submit(t, b, phi3("small", small), batch.Submission{})
	over(t, b, second.ID, schemas.BatchCompleted)
	tenants, _ := crew.begun()
	from := slices.Index(tenants, "small")
	others := 0
	for seen := 0; seen < small; from++ {
		if tenants[from] == "small" {
			seen++
		} else {
			others++
		}
	}
	// A half each would be as many others; it is fewer, since a tenant that comes has some in advance.
	if others > small+room {
		t.Errorf("%d lines of the other tenant were begun between the first and the last of %d; want at most %d", others, small, small+room)
	}
	if got, err := a.Get(t.Context(), first.ID); err != nil || got.Status != schemas.BatchInProgress {
		t.Errorf("the large batch is %+v, %v", got, err)
	}
}

func TestWeightsAndPriorities(t *testing.T) {
	t.Parallel()
	const n = 400
	r := newRig(t)
	gate := make(chan struct{})
	crew := r.work(4, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	a, b := r.batches("heavy"), r.batches("light")
	low := submit(t, a, phi3("low", n), batch.Submission{Priority: -1})
	high := submit(t, a, phi3("high", n), batch.Submission{Priority: 1})
	submit(t, b, phi3("light", n), batch.Submission{})
	r.coordinate(batch.CoordinatorConfig{Weights: map[string]float64{"heavy": 3}, Burst: 1})
	r.until("all three are worked on", func() bool {
		list, err := a.List(t.Context())
		return err == nil && !slices.ContainsFunc(list, func(b *schemas.BatchState) bool { return b.Status != schemas.BatchInProgress })
	})
	close(gate)
	for _, id := range []string{high.ID, low.ID} {
		over(t, a, id, schemas.BatchCompleted)
	}
	tenants, prompts := crew.begun()
	heavy, light, early := 0, 0, 0
	for i, name := range tenants[:400] { // whoever had some before the others were there waits for them
		if name == "heavy" {
			heavy++
			if i >= 64 && strings.HasPrefix(prompts[i], "low") {
				early++
			}
		} else {
			light++
		}
	}
	if heavy < 2*light || heavy > 4*light {
		t.Errorf("%d lines of the tenant with weight 3, %d of the one with 1", heavy, light)
	}
	if early > 0 {
		t.Errorf("%d lines of the batch of low priority were begun before the other was done", early)
	}
}

func TestSetPriority(t *testing.T) {
	t.Parallel()
	const n = 400
	r := newRig(t)
	gate := make(chan struct{}, 4*n)
	crew := r.work(4, func(*schemas.Job) *schemas.Error { <-gate; return nil })
	t.Cleanup(func() { close(gate) })
	c := r.batches(tenant)
	r.coordinate(batch.CoordinatorConfig{})
	submit(t, c, phi3("first", n), batch.Submission{Priority: 1})
	r.until("it is begun", func() bool { _, jobs := crew.most(); return jobs > 0 })
	second := submit(t, c, phi3("second", n), batch.Submission{})
	r.until("the second is known", func() bool {
		b, err := c.Get(t.Context(), second.ID)
		return err == nil && b.Status == schemas.BatchInProgress
	})
	if _, err := c.SetPriority(t.Context(), second.ID, 2); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		gate <- struct{}{}
	}
	r.until("the second goes first", func() bool {
		select {
		case gate <- struct{}{}:
		default:
		}
		_, prompts := crew.begun()
		return slices.ContainsFunc(prompts, func(p string) bool { return strings.HasPrefix(p, "second") })
	})
	if _, err := c.SetPriority(t.Context(), second.ID, 1000); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("SetPriority = %v", err)
	}
}

// TestLinesOfOnePrefixComeTogether mixes three system prompts.
func TestLinesOfOnePrefixComeTogether(t *testing.T) {
	t.Parallel()
	const n = 300
	var in strings.Builder
	for i := range n {
		fmt.Fprintf(&in, `{"custom_id":"c-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"phi3","messages":[{"role":"system","content":"system %d"},{"role":"user","content":"%d"}]}}`+"\n", i, i%3, i%3)
	}
	r := newRig(t)
	crew := r.work(1, echo)
	p := newPlace(t, in.String())
	cfg := p.config()
	cfg.InFlight = 1
	run(t, r.js, cfg)
	_, prompts := crew.begun()
	changes := 0
	for i := 1; i < len(prompts); i++ {
		if prompts[i] != prompts[i-1] {
			changes++
		}
	}
	if changes != 2 {
		t.Errorf("the system prompt changed %d times over %d lines, want 2", changes, len(prompts))
	}
}
