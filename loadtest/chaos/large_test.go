//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

// largeWindow is the context window of the models here: a prompt of 10 MiB is a million tokens.
const largeWindow = 2 << 20

// large makes a job whose body is so long.
func large(t *testing.T, id string, size int) *task {
	t.Helper()
	const word, tokens = " neighbour", 60
	raw, err := json.Marshal(map[string]any{"prompt": strings.Repeat(word, size/len(word)+1), "max_tokens": tokens, "min_tokens": tokens, "stream": true})
	if err != nil {
		t.Fatal(err)
	}
	return &task{job: schemas.Job{
		ID: id, Model: model, Class: schemas.Standard, Tenant: tenant, Endpoint: schemas.Completions, Body: raw, Stream: true,
	}}
}

// hand submits a job by `hxp submit`, in a process of its own, and returns what it said and how it ended.
func (b *bed) hand(name string, task *task) (string, error) {
	b.t.Helper()
	file := filepath.Join(b.dir, name+".json")
	if err := os.WriteFile(file, task.job.Body, 0o600); err != nil {
		b.t.Fatal(err)
	}
	var said bytes.Buffer
	p := &program{t: b.t, dir: b.dir, name: name, out: &said, args: func() []string {
		return []string{hxpBinary, "submit", model, "-f", file, "--id", task.job.ID, "--server", b.url(), "--tenant", tenant}
	}}
	p.start()
	<-p.done
	return said.String() + p.tail(1<<10), p.err
}

// bodies counts the messages and bytes in which the object store keeps bodies.
func (b *bed) bodies() (messages, size uint64) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer stop()
	s, err := b.js.Stream(ctx, "OBJ_"+schemas.BodiesBucket)
	if err != nil {
		b.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs, s.CachedInfo().State.Bytes
}

// TestLarge kills the worker that runs a job with a prompt of 10 MiB, which another then finishes, and
// submits one with more than is taken.
func TestLarge(t *testing.T) {
	const scenario, body, tooMuch = "large", 10 << 20, 17 << 20
	lease := size(2*time.Second, 4*time.Second)
	window := fmt.Sprintf("ai_model_services.%s.max_model_len=%d", model, largeWindow)
	b := newBed(t, 1, lease, window, "queue.max_bodies_bytes=64MiB")
	e := b.engine("e1", 40*time.Millisecond, window)
	workers := []*worker{b.worker("w1", e, 8), b.worker("w2", e, 8)}
	w := b.watch()
	r := &report{scenario: scenario, bound: lease + 5*time.Second} // the body is fetched and its tokens counted again

	sim, err := vllmsim.New(vllmsim.Config{Model: model, MaxModelLen: largeWindow})
	if err != nil {
		t.Fatal(err)
	}
	var list []*task
	var most uint64
	for i := range size(1, 5) {
		job := large(t, fmt.Sprintf("%s-%d", scenario, i), body)
		want, err := sim.Expected(job.job.Body, string(job.job.Endpoint))
		if err != nil {
			t.Fatal(err)
		}
		job.want = want[0]
		if said, err := b.hand(fmt.Sprintf("submit-%d", i), job); err != nil {
			t.Fatalf("hxp submit of %d bytes: %v: %s", len(job.job.Body), err, said)
		}
		list = append(list, job)
		var victim *worker
		eventually(t, 30*time.Second, "a worker runs the job", func() bool {
			for _, candidate := range workers {
				if w.count(on(candidate.id())) == 1 {
					victim = candidate
				}
			}
			return victim != nil
		})
		_, stored := b.bodies()
		most = max(most, stored)
		at := time.Now()
		victim.kill()
		w.strike(victim.id(), at)
		eventually(t, time.Minute, "the job ends", func() bool { return w.count(func(s *seen) bool { return s.ended }) == len(list) })
		victim.start()
		victim.ready()
	}
	r.jobs = len(list)

	said, err := b.hand("submit-too-much", large(t, "too-much", tooMuch))
	if err == nil || !strings.Contains(said, string(schemas.CodePayloadTooLarge)) {
		r.fault("hxp submit of %d bytes ended with %v and said %q; want %s", tooMuch, err, said, schemas.CodePayloadTooLarge)
	}
	r.judgeAll(b, w, list)
	var left uint64
	if !soon(t.Context(), 10*time.Second, func() bool { left, _ = b.bodies(); return left == 0 }) {
		r.fault("the object store still holds %d messages; want none", left)
	}
	r.note("body=%d stored=%d left=%d resumed=%d refused=%d", body, most, left, r.resumed, tooMuch)
	if most < body {
		r.fault("the object store held %d bytes while the job ran; want at least %d", most, body)
	}
	if len(r.recovery) != len(list) {
		r.fault("%d of %d jobs went on elsewhere", len(r.recovery), len(list))
	}
	r.close(b)
}
