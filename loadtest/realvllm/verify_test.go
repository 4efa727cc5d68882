//go:build vllm && linux

package realvllm_test

import "testing"

// together is how many models are checked at a time. An engine takes 2 GB, and a start half a minute of a core.
const together = 2

// TestVerify checks one model after the other, some at a time.
func TestVerify(t *testing.T) {
	slots := make(chan struct{}, together)
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			m.verify(t)
		})
	}
}

func (m model) verify(t *testing.T) {
	e := newEngine(t, m.name, t.TempDir(), m.flags...)
	check(t, "vllm_starts", m.name, func(*testing.T) string { return seconds(e.run(t)) })
	if t.Failed() {
		return
	}
	b := newBed(t, m, e)
	b.direct(t)
	b.client(t)
	b.shapes(t)
	b.queued(t)
	stop(t, b.worker)
	b.talks(t)
	left, want := b.end(t)
	b.deaths(t, left, want)
}
