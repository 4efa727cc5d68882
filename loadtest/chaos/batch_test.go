//go:build chaos && linux

package chaos_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// lines writes a batch of n requests and returns its path.
func (b *bed) lines(name string, n int) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name+".jsonl")
	f, err := os.Create(path)
	if err != nil {
		b.t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range n {
		fmt.Fprintf(w, `{"custom_id":"%s-%d","method":"POST","url":"/v1/chat/completions","body":{"model":%q,"max_tokens":16,"messages":[{"role":"system","content":"You are number %d."},{"role":"user","content":"Count to %d"}]}}`+"\n",
			name, i, model, i%5, i)
	}
	if err := w.Flush(); err != nil {
		b.t.Fatal(err)
	}
	f.Close()
	return path
}

// once reports how many lines of a file of records there are, and how many custom_ids.
func once(t *testing.T, path string) (lines, ids int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range bytes.Lines(data) {
		var r struct {
			CustomID string `json:"custom_id"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		lines++
		seen[r.CustomID] = true
	}
	return lines, len(seen)
}

// rss is the memory of a process in MiB, 0 if it has ended.
func rss(pid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb >> 10
		}
	}
	return 0
}

// memory is what the processes of a scenario hold, in the order of their names.
func memory(names []string, programs ...*program) string {
	var out []string
	for i, p := range programs {
		out = append(out, fmt.Sprintf("%s=%dMiB", names[i], rss(p.pid)))
	}
	return strings.Join(out, " ")
}

// requests is how often workers have asked the engine to generate.
func requests(t *testing.T, workers ...*worker) (n int) {
	t.Helper()
	for _, w := range workers {
		r, err := http.Get(strings.TrimSuffix(w.health, "/readyz") + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			var count int
			if strings.HasPrefix(line, "hxp_engine_requests_total{") {
				_, _ = fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &count)
				n += count
			}
		}
	}
	return n
}

// newBatchBed is a bed with room for many results, an engine and two workers.
func newBatchBed(t *testing.T, itl time.Duration) (b *bed, e *engine, workers []*worker) {
	t.Helper()
	b = newBed(t, 1, 2*time.Second, "queue.results_max_bytes=1GiB", "queue.events_max_bytes=256MiB")
	e = b.engine("e1", itl)
	return b, e, []*worker{b.worker("w1", e, 64), b.worker("w2", e, 64)}
}

// command runs hxp to its end and returns what it wrote.
func (b *bed) command(name string, args ...string) string {
	b.t.Helper()
	var said bytes.Buffer
	p := &program{t: b.t, dir: b.dir, name: name, out: &said, args: func() []string {
		return append([]string{hxpBinary, "batch"}, append(args, "--server", b.url())...)
	}}
	p.start()
	<-p.done
	if p.err != nil {
		b.t.Fatalf("hxp batch %s: %v: %s", strings.Join(args, " "), p.err, p.tail(1<<10))
	}
	return strings.TrimSpace(said.String())
}

// TestBatchRun kills a run five times, at random moments, and goes on with it.
func TestBatchRun(t *testing.T) {
	n := size(3000, 100_000)
	const kills = 5
	b, e, workers := newBatchBed(t, time.Millisecond)
	in, out := b.lines("run", n), filepath.Join(b.dir, "out.jsonl")
	p := &program{t: t, dir: b.dir, name: "run", args: func() []string {
		return []string{hxpBinary, "batch", "run", "-i", in, "-o", out, "--server", b.url(), "--tenant", tenant}
	}}
	p.run()
	random := rand.New(rand.NewPCG(*seed, 7))
	written := func() int {
		data, _ := os.ReadFile(out)
		return bytes.Count(data, []byte("\n"))
	}
	next := func(at int) {
		eventually(t, time.Hour, fmt.Sprintf("%d lines are done", at), func() bool { return written() >= at })
	}
	began := time.Now()
	var held []string
	names := []string{"run", "worker1", "worker2", "engine", "broker"}
	note := func(share string) {
		held = append(held, share+": "+memory(names, p, &workers[0].program, &workers[1].program, &e.program, &b.brokers[0].program))
	}
	next(n / 10)
	note("10%")
	for i := range kills {
		next(n/10 + i*n/10 + random.IntN(n/20+1))
		p.kill()
		p.start()
	}
	next(n * 7 / 10)
	note("70%")
	next(n - n/100)
	note("99%")
	<-p.done
	took := time.Since(began)
	lines, ids := once(t, out)
	results := 0
	b.stored(schemas.ResultsStream, func(jetstream.Msg) { results++ })
	asked := requests(t, workers...)
	fmt.Printf("batch run: lines=%d killed=%d records=%d custom_ids=%d results=%d generated=%d seconds=%.1f lines_per_second=%.0f\n  %s\n",
		n, kills, lines, ids, results, asked, took.Seconds(), float64(n)/took.Seconds(), strings.Join(held, "\n  "))
	if p.err != nil || lines != n || ids != n || results != n || asked != n {
		t.Errorf("run ended with %v: %s", p.err, p.tail(1<<10))
	}
}

// TestBatchSubmitted kills the worker that has the coordinator, and the other one, again and again.
func TestBatchSubmitted(t *testing.T) {
	n := size(3000, 100_000)
	const kills = 5
	b, e, workers := newBatchBed(t, time.Millisecond)
	began := time.Now()
	id := b.command("submit", "submit", b.lines("submitted", n), "--tenant", tenant)
	completed := func() (done int) {
		var state schemas.BatchState
		if err := json.Unmarshal([]byte(b.command("show", "show", id, "-o", "json", "--tenant", tenant)), &state); err != nil {
			t.Fatal(err)
		}
		return int(state.RequestCounts.Completed)
	}
	next := func(at int) {
		eventually(t, time.Hour, fmt.Sprintf("%d lines are done", at), func() bool { return completed() >= at })
	}
	var held []string
	for i := range kills {
		next((i + 1) * n / (kills + 2))
		held = append(held, fmt.Sprintf("%d%%: %s", 100*(i+1)/(kills+2),
			memory([]string{"worker1", "worker2", "engine", "broker"}, &workers[0].program, &workers[1].program, &e.program, &b.brokers[0].program)))
		workers[i%2].kill()
		workers[i%2].start()
	}
	b.command("watch", "watch", id, "--tenant", tenant)
	took := time.Since(began)
	out := filepath.Join(b.dir, "submitted-out.jsonl")
	b.command("results", "results", id, "-o", out, "--tenant", tenant)
	lines, ids := once(t, out)
	results := 0
	b.stored(schemas.ResultsStream, func(jetstream.Msg) { results++ })
	fmt.Printf("batch submitted: lines=%d killed=%d records=%d custom_ids=%d results=%d seconds=%.1f lines_per_second=%.0f\n  %s\n",
		n, kills, lines, ids, results, took.Seconds(), float64(n)/took.Seconds(), strings.Join(held, "\n  "))
	if lines != n || ids != n || results != n {
		t.Error("a line was lost, or recorded twice")
	}
}

// TestBatchShares has a small batch of one tenant come while a large one of another is being worked on.
func TestBatchShares(t *testing.T) {
	large, small := size(8000, 50_000), 500
	b, _, _ := newBatchBed(t, 20*time.Millisecond)
	run := func(name string) time.Duration {
		began := time.Now()
		b.command(name, "submit", b.lines(name, small), "--tenant", "small", "--watch")
		return time.Since(began)
	}
	alone := run("alone")
	id := b.command("large", "submit", b.lines("large", large), "--tenant", "large")
	eventually(t, time.Minute, "the large one is under way", func() bool {
		var state schemas.BatchState
		err := json.Unmarshal([]byte(b.command("show", "show", id, "-o", "json", "--tenant", "large")), &state)
		return err == nil && state.RequestCounts.Completed > 200
	})
	beside := run("beside")
	fmt.Printf("batch shares: large=%d small=%d alone=%.1fs beside=%.1fs ratio=%.2f\n", large, small, alone.Seconds(), beside.Seconds(), beside.Seconds()/alone.Seconds())
	if beside > 2*alone {
		t.Errorf("the small batch took %s beside a large one; want at most twice the %s that it takes alone", beside, alone)
	}
}
