package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// counted runs a simulated vLLM behind real HTTP and counts the generations that arrive there.
func counted(t testing.TB, cfg vllmsim.Config) (*vllmsim.Sim, *vllm.Engine, *atomic.Int64) {
	t.Helper()
	cfg.Model = model
	sim, err := vllmsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	requests := &atomic.Int64{}
	handler := sim.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == string(schemas.Completions) {
			requests.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	engine, err := vllm.New(srv.URL, vllm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sim.ClearFaults()
		srv.CloseClientConnections()
		engine.Close()
		srv.Close()
	})
	return sim, engine, requests
}

// batch is a completion that is in no hurry.
func batch(body string) schemas.Job {
	return schemas.Job{Class: schemas.Batch, Endpoint: schemas.Completions, Stream: true, Body: json.RawMessage(body)}
}

// in is the same broker for a subtest.
func (b *broker) in(t *testing.T) *broker {
	t.Helper()
	sub := *b
	sub.t = t
	return &sub
}

// story is a completion of one shape for every n; they end after different numbers of tokens.
func story(n int) string { return fmt.Sprintf(`{"prompt":"Story number %d:","max_tokens":60}`, n) }

func completed(t testing.TB, body string) vllmsim.Completion {
	t.Helper()
	want, err := vllmsim.Expected(model, []byte(body), string(schemas.Completions))
	if err != nil {
		t.Fatal(err)
	}
	return want[0]
}

// answered compares a job's Result with what the engine gives the job alone.
func (b *broker) answered(job schemas.Job) *schemas.Result {
	b.t.Helper()
	want, got := completed(b.t, string(job.Body)), b.result(job)
	usage := &schemas.Usage{PromptTokens: len(want.PromptTokenIDs), CompletionTokens: len(want.TokenIDs)}
	usage.TotalTokens = usage.PromptTokens + usage.CompletionTokens
	if got.Status != schemas.StatusCompleted || got.Text != want.Text {
		b.t.Errorf("%s: %s, text %q (%v); want %q", job.Body, got.Status, got.Text, got.Error, want.Text)
	}
	if diff := cmp.Diff(usage, got.Usage); diff != "" {
		b.t.Errorf("%s: usage (-want +got):\n%s", job.Body, diff)
	}
	return got
}

// metric returns the value of a series of s.
func metric(t *testing.T, s *started, series string) string {
	t.Helper()
	for line := range strings.Lines(scrape(t, s)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no series %s", series)
	return ""
}

// patient waits for a full group for as long as it takes.
func patient(size int) workers.Config { return workers.Config{GroupSize: size, GroupWait: time.Minute} }

func TestBatchCompletionsShareARequest(t *testing.T) {
	t.Parallel()
	const jobs = 32
	count := make(map[int]int64) // requests, by group size
	results := make(map[int][]*schemas.Result)
	for _, size := range []int{1, jobs} {
		b := newBroker(t, queue.Config{})
		_, engine, requests := counted(t, vllmsim.Config{})
		s := b.run(engine, patient(size))
		l := b.listen(schemas.AllEvents)
		sent := make([]schemas.Job, jobs)
		for i := range sent {
			sent[i] = b.submit(batch(story(i)))
		}
		for _, job := range sent {
			r := b.answered(job)
			r.ID, r.Worker, r.Created, r.Finished, r.Timings = "", "", time.Time{}, time.Time{}, schemas.Timings{}
			r.LastSeq, r.Attempts = 0, 0 // these depend on the clock: how tokens were coalesced, and whether a pull came too late
			results[size] = append(results[size], r)
		}
		streams := make(map[string][]schemas.Event)
		for ended := 0; ended < jobs; {
			e := l.next()
			streams[e.ID] = append(streams[e.ID], e)
			if e.Kind.Terminal() {
				ended++
			}
		}
		for _, job := range sent {
			events, want := streams[job.ID], completed(t, string(job.Body))
			if got := kinds(events); got != "started delta usage done" {
				t.Errorf("kinds = %q", got)
			}
			if textOf(t, events) != want.Text || !cmp.Equal(tokensOf(t, events), want.TokenIDs) {
				t.Errorf("streamed %q with tokens %v, want %q with %v", textOf(t, events), tokensOf(t, events), want.Text, want.TokenIDs)
			}
			for _, e := range events {
				if e.Kind == schemas.DeltaKind {
					if diff := cmp.Diff(mark(want.PromptTokenIDs), e.Prompt); diff != "" {
						t.Errorf("prompt mark (-want +got):\n%s", diff)
					}
					break
				}
			}
		}
		count[size] = requests.Load()
		if size == 1 {
			continue
		}
		if g, one := metric(t, s, `hxp_engine_requests_total{kind="group",model="phi3"}`), metric(t, s, `hxp_engine_requests_total{kind="single",model="phi3"}`); g != "1" || one != "0" {
			t.Errorf("hxp_engine_requests_total: %s of groups, %s single; want 1 and 0", g, one)
		}
		if n, sum := metric(t, s, `hxp_group_size_count{model="phi3"}`), metric(t, s, `hxp_group_size_sum{model="phi3"}`); n != "1" || sum != "32" {
			t.Errorf("hxp_group_size: %s groups of %s jobs together; want 1 of 32", n, sum)
		}
	}
	t.Logf("HTTP requests by group size: %v", count)
	if count[1] < 20*count[jobs] || count[1] != jobs {
		t.Errorf("%d requests for %d jobs in groups, %d without; want at least 20 times fewer", count[jobs], jobs, count[1])
	}
	if diff := cmp.Diff(results[1], results[jobs]); diff != "" {
		t.Errorf("results (-alone +grouped):\n%s", diff)
	}
}

func TestOneBadPromptFailsAlone(t *testing.T) {
	t.Parallel()
	const jobs, bad = 32, 13
	b := newBroker(t, queue.Config{})
	_, engine, requests := counted(t, vllmsim.Config{})
	b.run(engine, patient(jobs))
	sent := make([]schemas.Job, jobs)
	for i := range sent {
		body := fmt.Sprintf(`{"prompt":[300,301,3%02d],"max_tokens":20}`, i)
		if i == bad {
			body = `{"prompt":[300,99999999],"max_tokens":20}` // no such token
		}
		sent[i] = b.submit(batch(body))
	}
	for i, job := range sent {
		if i != bad {
			b.answered(job)
			continue
		}
		r := b.result(job)
		if r.Status != schemas.StatusFailed || r.Error.Code != schemas.CodeInvalidRequest ||
			!strings.Contains(r.Error.Message, "99999999 is out of vocabulary") {
			t.Errorf("result of the bad prompt = %s, %+v", r.Status, r.Error)
		}
	}
	// The group, its halves, and so on to the one: two requests at each of five further sizes.
	if n := requests.Load(); n != 11 {
		t.Errorf("%d requests, want 11", n)
	}
}

// What goes into one group is one shape; the rest goes alone or in a group of its own.
//
//nolint:tparallel // The requests of each are counted at the one engine.
func TestShapes(t *testing.T) {
	t.Parallel()
	b := make(map[int64]*broker)
	count := make(map[int64]*atomic.Int64)
	for n, wait := range map[int64]time.Duration{1: time.Minute, 2: -1} {
		b[n] = newBroker(t, queue.Config{})
		_, engine, requests := counted(t, vllmsim.Config{MaxModelLen: 1 << 17})
		b[n].run(engine, workers.Config{GroupSize: 2, GroupWait: wait})
		count[n] = requests
	}
	for name, c := range map[string]struct {
		bodies   []string
		requests int64
	}{
		"fields in another order": {[]string{`{"prompt":"a","max_tokens":4,"temperature":0.5}`, `{"temperature": 0.5, "max_tokens":4,"prompt":"b"}`}, 1},
		"fields of the transport": {[]string{`{"prompt":"a","max_tokens":4,"model":"x","stream":true}`, `{"prompt":"b","max_tokens":4,"stream_options":{"include_usage":true},"return_token_ids":false}`}, 1},
		"n of 1 and token ids":    {[]string{`{"prompt":[300, 301],"n":1,"max_tokens":4}`, `{"prompt": [ 302],"n":1,"max_tokens":4}`}, 1},
		"shared seed and stop":    {[]string{`{"prompt":"a","seed":7,"stop":["x"],"max_tokens":4}`, `{"prompt":"b","seed":7,"stop":["x"],"max_tokens":4}`}, 1},
		"other values":            {[]string{`{"prompt":"a","max_tokens":4}`, `{"prompt":"b","max_tokens":5}`}, 2},
		"other fields":            {[]string{`{"prompt":"a","max_tokens":4}`, `{"prompt":"b","max_tokens":4,"top_p":1}`}, 2},
		"text and token ids":      {[]string{`{"prompt":"a","max_tokens":4}`, `{"prompt":[300],"max_tokens":4}`}, 2},
		"lists of prompts":        {[]string{`{"prompt":["a"],"max_tokens":4}`, `{"prompt":[[300]],"max_tokens":4}`}, 2},
		"choices":                 {[]string{`{"prompt":"a","n":2,"max_tokens":4}`, `{"prompt":"b","n":2,"max_tokens":4}`}, 2},
		"echo":                    {[]string{`{"prompt":"a","echo":true,"max_tokens":4}`, `{"prompt":"b","echo":true,"max_tokens":4}`}, 2},
		"best of":                 {[]string{`{"prompt":"a","best_of":1,"max_tokens":4}`, `{"prompt":"b","best_of":1,"max_tokens":4}`}, 2},
		"long prompts":            {[]string{longStory("a"), longStory("b")}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b, requests := b[c.requests].in(t), count[c.requests]
			before := requests.Load()
			var jobs []schemas.Job
			for _, body := range c.bodies {
				jobs = append(jobs, b.submit(batch(body)))
			}
			for _, job := range jobs {
				if r := b.result(job); r.Status != schemas.StatusCompleted {
					t.Errorf("%.80s: %s, %v", job.Body, r.Status, r.Error)
				}
			}
			if n := requests.Load() - before; n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}

func longStory(about string) string {
	return fmt.Sprintf(`{"prompt":%q,"max_tokens":4}`, about+strings.Repeat(" and on", 10_000))
}

func TestOnlyBatchCompletionsAreGrouped(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine, requests := counted(t, vllmsim.Config{})
	b.run(engine, patient(2)) // a group of one would wait for a minute
	for _, class := range []schemas.Class{schemas.Interactive, schemas.Standard} {
		job := batch(story(1))
		job.Class = class
		b.answered(b.submit(job))
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
	b.result(b.submit(schemas.Job{Class: schemas.Batch, Body: json.RawMessage(chat("x", 4))}))
}

func TestTenantsDoNotShareARequest(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine, requests := counted(t, vllmsim.Config{})
	b.run(engine, patient(2))
	const other = "globex"
	var ours []schemas.Job
	for i := range 2 {
		id := fmt.Sprintf("theirs-%d", i)
		body := fmt.Sprintf(`{"id":%q,"endpoint":"/v1/completions","body":%s}`, id, story(i))
		b.publish(schemas.JobSubject(model, schemas.Batch, other), schemas.MsgID(other, id), []byte(body))
		ours = append(ours, b.submit(batch(story(i))))
	}
	for i, job := range ours {
		b.answered(job)
		waitFor(t, "the other tenant's result", func() bool {
			r, err := queue.GetResult(t.Context(), b.js, other, fmt.Sprintf("theirs-%d", i))
			return err == nil && r.Text == completed(t, story(i)).Text
		})
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

// A member that was interrupted is continued alone, from its own record.
func TestInterruptedMembersGoOnAlone(t *testing.T) {
	t.Parallel()
	const jobs = 8
	b := newBroker(t, queue.Config{})
	sim, engine, requests := counted(t, vllmsim.Config{})
	b.run(engine, patient(jobs))
	if err := sim.InjectFault(vllmsim.Fault{Kind: vllmsim.EOF, AfterTokens: 9}); err != nil {
		t.Fatal(err)
	}
	listeners := make([]*listener, jobs)
	sent := make([]schemas.Job, jobs)
	for i := range sent {
		job := batch(fmt.Sprintf(`{"prompt":"Story number %d:","max_tokens":40,"ignore_eos":true}`, i))
		job.ReplyTo = fmt.Sprintf("hxp.v1.events.acme.c%d", i)
		listeners[i] = b.listen(schemas.EventsOfClient(tenant, fmt.Sprintf("c%d", i)))
		sent[i] = b.submit(job)
	}
	for i, job := range sent {
		events := listeners[i].end(1)
		if got := kinds(events); got != "started delta interrupted resumed delta usage done" {
			t.Errorf("kinds = %q: %s", got, reasons(events))
		}
		for _, e := range events {
			switch {
			case e.Kind == schemas.Resumed && e.Kept == 0:
				t.Error("resumed from the beginning")
			case e.Kind == schemas.Interrupted && !strings.Contains(e.Error.Message, "in a request of 8 prompts"):
				t.Errorf("interrupted by %v", e.Error)
			}
		}
		if got, want := tokensOf(t, events), completed(t, string(job.Body)).TokenIDs; !cmp.Equal(got, want) {
			t.Errorf("tokens = %v, want %v", got, want)
		}
		b.answered(job)
	}
	if n := requests.Load(); n != 1+jobs {
		t.Errorf("%d requests, want the group and each alone", n)
	}
}

// A worker that falls silent, as one that is killed, takes its group along; another continues each of the jobs.
func TestLostWorkersGroupIsContinued(t *testing.T) {
	t.Parallel()
	const jobs = 4
	b := newBroker(t, queue.Config{Lease: 2 * time.Second})
	sim, engine, _ := counted(t, vllmsim.Config{ITL: 20 * time.Millisecond})
	nc, js := b.connect()
	cfg := patient(jobs)
	cfg.DrainTimeout, cfg.HealthInterval = -1, 40*time.Millisecond
	lost, err := workers.New(js, model, engine, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- lost.Run(ctx) }()
	l := b.listen(schemas.AllEvents)
	sent := make([]schemas.Job, jobs)
	for i := range sent {
		sent[i] = b.submit(batch(fmt.Sprintf(`{"prompt":"Story number %d:","max_tokens":400,"ignore_eos":true}`, i)))
	}
	seen := make(map[string]bool)
	for len(seen) < jobs {
		if e := l.next(); e.Kind == schemas.DeltaKind {
			seen[e.ID] = true
		}
	}
	nc.Close()
	cancel()
	if err := <-done; err == nil {
		t.Error("Run = nil on a closed connection")
	}
	waitFor(t, "the abort", func() bool { return sim.Stats().Aborted == jobs })
	_, engine, requests := counted(t, vllmsim.Config{})
	b.run(engine, patient(jobs))
	for _, job := range sent {
		b.answered(job)
	}
	resumed := 0
	for ended := 0; ended < jobs; {
		switch e := l.next(); {
		case e.Kind == schemas.Restarted || e.Kind == schemas.Interrupted || e.Kind == schemas.Resumed && e.Kept == 0:
			t.Errorf("%s with %d tokens kept: %s", e.Kind, e.Kept, e.Reason)
		case e.Kind == schemas.Resumed:
			resumed++
		case e.Kind.Terminal():
			ended++
		}
	}
	if n := requests.Load(); n != jobs || resumed != jobs {
		t.Errorf("%d requests and %d resumed, want each of %d alone", n, resumed, jobs)
	}
}

// Members leave one by one; with the last the engine's request is aborted.
func TestCancelledMembersLeave(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine, _ := counted(t, vllmsim.Config{ITL: time.Millisecond})
	b.run(engine, patient(3))
	l := b.listen(schemas.AllEvents)
	endless := func(prompt string) schemas.Job {
		return b.submit(batch(fmt.Sprintf(`{"prompt":%q,"max_tokens":3000,"ignore_eos":true}`, prompt)))
	}
	one, two, three := endless("one"), endless("two"), endless("three")
	seen := make(map[string]bool)
	for len(seen) < 3 {
		if e := l.next(); e.Kind == schemas.DeltaKind {
			seen[e.ID] = true
		}
	}
	for _, job := range []schemas.Job{one, two} {
		b.cancel(job)
		if r := b.result(job); r.Status != schemas.StatusCancelled {
			t.Errorf("status = %s, want cancelled", r.Status)
		}
	}
	for got := 0; got < 20; { // the third goes on
		if e := l.next(); e.ID == three.ID && e.Kind == schemas.DeltaKind {
			got++
		}
	}
	if st := sim.Stats(); st.Aborted != 0 || st.Running != 3 {
		t.Errorf("stats = %+v while a member is left", st)
	}
	b.cancel(three)
	b.result(three)
	waitFor(t, "the abort", func() bool { st := sim.Stats(); return st.Aborted == 3 && st.Running == 0 })
}

// The engine is stopped as well when the members that are left have all had their end.
func TestRequestOfOneThatLeftEndsWithTheOthers(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	sim, engine, _ := counted(t, vllmsim.Config{ITL: 4 * time.Millisecond})
	b.run(engine, patient(2))
	l := b.listen(schemas.AllEvents)
	// Same shape: what makes one of them end early is its prompt.
	short, long := "", ""
	for i := 0; short == "" || long == ""; i++ {
		body := fmt.Sprintf(`{"prompt":"Tale %d","max_tokens":2000}`, i)
		switch n := len(completed(t, body).TokenIDs); {
		case n > 20 && n < 80:
			short = body
		case n >= 400:
			long = body
		}
		if i > 2000 {
			t.Fatal("the simulator has no prompts of such lengths")
		}
	}
	ends, leaves := b.submit(batch(short)), b.submit(batch(long))
	for e := l.next(); e.ID != leaves.ID || e.Kind != schemas.DeltaKind; {
		e = l.next()
	}
	b.cancel(leaves)
	b.result(leaves)
	b.answered(ends)
	waitFor(t, "the abort", func() bool { st := sim.Stats(); return st.Aborted == 1 && st.Running == 0 })
}

func TestGroupIsAbandonedBeforeItWasSent(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine, requests := counted(t, vllmsim.Config{})
	b.run(engine, patient(3))
	l := b.listen(schemas.AllEvents)
	one := b.submit(batch(story(1)))
	l.until(schemas.Started)
	b.cancel(one)
	if r := b.result(one); r.Status != schemas.StatusCancelled {
		t.Errorf("status = %s, want cancelled", r.Status)
	}
	l.until(schemas.Cancelled)
	// Its place in a group is taken by nobody, and its group by nobody either.
	two := b.submit(batch(story(2)))
	l.until(schemas.Started)
	three := b.submit(batch(story(3)))
	l.until(schemas.Started)
	b.cancel(three)
	b.result(three)
	four := b.submit(batch(story(4)))
	b.answered(two)
	b.answered(four)
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestLoneMemberGoesAfterAWhile(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine, _ := counted(t, vllmsim.Config{})
	s := b.run(engine, workers.Config{})
	b.answered(b.submit(batch(story(1))))
	if n := metric(t, s, `hxp_engine_requests_total{kind="single",model="phi3"}`); n != "1" {
		t.Errorf("%s single requests, want 1", n)
	}
}

// An engine that sends no token ids after all gets each job by itself before anything was said of it.
func TestEngineThatTellsNoTokenIDsGetsEachAlone(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{})
	_, engine, requests := counted(t, vllmsim.Config{NoTokenIDs: true})
	b.run(engine, patient(4))
	l := b.listen(schemas.AllEvents)
	var jobs []schemas.Job
	for i := range 4 {
		jobs = append(jobs, b.submit(batch(story(i))))
	}
	for _, job := range jobs {
		b.answered(job)
	}
	for ended := 0; ended < 4; {
		e := l.next()
		if e.Kind == schemas.Interrupted {
			t.Errorf("interrupted: %v", e.Error)
		}
		if e.Kind.Terminal() {
			ended++
		}
	}
	if n := requests.Load(); n != 5 {
		t.Errorf("%d requests, want the group and each alone", n)
	}
	waitFor(t, "the worker to know", func() bool {
		h, err := engine.Health(t.Context())
		return err == nil && !h.TokenIDs
	})
}
