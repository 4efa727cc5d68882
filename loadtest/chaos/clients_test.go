//go:build chaos && linux

package chaos_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// client is an `hxp watch` of one job that is killed after so many events; 0 lets it read to the end.
// It returns every whole event that the process had written.
func (b *bed) client(name, job string, after uint64, events int) ([]schemas.Event, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	p := &program{t: b.t, dir: b.dir, name: name, out: out, args: func() []string {
		return []string{
			hxpBinary, "watch", job, "--after", fmt.Sprint(after), "-o", "ndjson", "--server", b.url(), "--tenant", tenant, "--timeout", "60s",
		}
	}}
	p.start()
	out.Close()
	defer func() { <-p.done }()
	var all []schemas.Event
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return all, nil // half a line was never read by anyone
		}
		if err != nil {
			return all, err
		}
		var e schemas.Event
		if err := json.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return all, fmt.Errorf("%s wrote %q: %w", name, line, err)
		}
		if all = append(all, e); len(all) == events {
			p.signal(syscall.SIGKILL)
		}
	}
}

// TestClients kills clients in mid-stream; another process goes on at the last seq of each.
func TestClients(t *testing.T) {
	const scenario = "clients"
	b := newBed(t, 1, 2*time.Second)
	b.worker("w1", b.engine("e1", 20*time.Millisecond), 64)
	list := tasks(t, scenario, size(30, 500), 150)
	w := b.watch()
	rng := random(scenario)
	type plan struct {
		*task
		cuts []int
	}
	plans := make(chan plan)
	go func() {
		defer close(plans)
		for _, task := range list {
			p := plan{task: task}
			for range 1 + rng.IntN(2) {
				p.cuts = append(p.cuts, 1+rng.IntN(50))
			}
			plans <- p
		}
	}()
	var mu sync.Mutex
	union := map[string][]schemas.Event{}
	kills := 0
	var reading sync.WaitGroup
	for i := range 10 {
		reading.Go(func() {
			for p := range plans {
				if err := b.submit(t.Context(), &p.job, 30*time.Second); err != nil {
					t.Error(err)
					continue
				}
				var all []schemas.Event
				var last uint64
				for _, cut := range append(p.cuts, 0) {
					got, err := b.client(fmt.Sprintf("client-%d", i), p.job.ID, last, cut)
					if err != nil {
						t.Error(err)
					}
					if all = append(all, got...); len(all) > 0 {
						last = all[len(all)-1].Seq
					}
				}
				mu.Lock()
				union[p.job.ID] = all
				kills += len(p.cuts)
				mu.Unlock()
			}
		})
	}
	reading.Wait()
	r := &report{scenario: scenario, jobs: len(list)}
	r.judgeStreams("union", list, union)
	seen := w.events()
	for id, got := range union {
		if len(got) != len(seen[id]) {
			r.differing++
			r.fault("job %s: the clients read %d events; %d were published", id, len(got), len(seen[id]))
		}
	}
	r.judgeResults(b, list)
	r.note("clients_killed=%d", kills)
	r.close(b)
}
