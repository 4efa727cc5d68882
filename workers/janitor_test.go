package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

// brisk has leases and locks that end within a test.
var brisk = queue.Config{Lease: 150 * time.Millisecond, LockTTL: 600 * time.Millisecond}

// caretaker is a janitor that runs until stop.
type caretaker struct {
	t    testing.TB
	nc   *nats.Conn
	reg  *prometheus.Registry
	log  *lockedBuffer
	stop func() error
}

func (b *broker) janitor(cfg workers.JanitorConfig) *caretaker {
	b.t.Helper()
	nc, js := b.connect()
	c := &caretaker{t: b.t, nc: nc, reg: prometheus.NewRegistry(), log: &lockedBuffer{}}
	if cfg.Interval == 0 {
		cfg.Interval = 50 * time.Millisecond
	}
	cfg.Logger, cfg.Registry = zerolog.New(c.log), c.reg
	j, err := workers.NewJanitor(js, cfg)
	if err != nil {
		b.t.Fatalf("NewJanitor: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	c.stop = sync.OnceValue(func() error { cancel(); return <-done })
	b.t.Cleanup(func() {
		if err := c.stop(); err != nil {
			b.t.Errorf("Run = %v, want nil", err)
		}
		if b.t.Failed() {
			b.t.Logf("log of the janitor:\n%s", c.log.String())
		}
	})
	return c
}

// metric returns a sample of the janitor's, 0 if there is none.
func (c *caretaker) metric(name string) float64 {
	c.t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func (c *caretaker) active() bool { return c.metric("hxp_janitor_active") == 1 }

func soon(d time.Duration) time.Time { return time.Now().Add(d).UTC() }

func (b *broker) tombstone(id, reason string) {
	b.t.Helper()
	err := queue.PutTombstone(b.t.Context(), b.js, &schemas.Cancel{ID: id, Tenant: tenant, Reason: reason, Requested: time.Now().UTC()})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestJanitorEndsAJobPastItsDeadlineThatNoWorkerServes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	own := b.listen(schemas.EventsOfClient(tenant, "me"))
	inbox := nats.NewInbox()
	direct := b.listen(inbox)
	first := b.submit(schemas.Job{Deadline: soon(50 * time.Millisecond), ReplyTo: "hxp.v1.events.acme.me", Metadata: map[string]string{"k": "v"}})
	second := b.submit(schemas.Job{Deadline: soon(400 * time.Millisecond), ReplyTo: inbox})
	b.submit(schemas.Job{}) // without a deadline it stays
	c := b.janitor(workers.JanitorConfig{})

	for job, l := range map[*schemas.Job]*listener{&first: own, &second: direct} {
		r := b.result(*job)
		if r.Status != schemas.StatusExpired || r.Error.Code != schemas.CodeDeadlineExceeded || r.LastSeq != 1 || r.Attempts != 0 {
			t.Errorf("result = %+v", r)
		}
		if late := r.Finished.Sub(job.Deadline); late < 2*brisk.Lease {
			t.Errorf("ended %s after the deadline; a worker has two leases, %s", late, 2*brisk.Lease)
		}
		if e := l.next(); e.Kind != schemas.Expired || e.Seq != 1 || e.Attempt != 1 || e.ID != job.ID || e.Error.Code != schemas.CodeDeadlineExceeded {
			t.Errorf("event = %+v", e)
		}
		if e, err := queue.LastEvent(t.Context(), b.js, tenant, job.ID); err != nil || e.Kind != schemas.Expired {
			t.Errorf("recorded: %+v, %v", e, err)
		}
	}
	if r := b.result(first); r.Metadata["k"] != "v" || r.Endpoint != schemas.ChatCompletions || r.Timings.Total <= 0 {
		t.Errorf("result = %+v", r)
	}
	b.settled(1)
	waitFor(t, "both to be counted", func() bool { return c.metric("hxp_janitor_expired_total") == 2 })
	if got := c.metric("hxp_janitor_removed_total"); got != 0 {
		t.Errorf("removed = %v, want 0", got)
	}
	if n := strings.Count(c.log.String(), "queued job ended and removed"); n != 2 {
		t.Errorf("%d lines of jobs that ended, want 2", n)
	}
}

func TestJanitorLeavesWhatIsNoJobToAWorker(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	past := `"deadline":"2026-01-01T00:00:00Z"`
	subject := schemas.JobSubject(model, schemas.Batch, tenant)
	for _, bad := range []string{`{` + past + `}`, `{"id":7,` + past + `}`, `{"id":"a b",` + past + `}`, `no JSON`, `{"deadline":"soon","body":{}}`} {
		b.publish(subject, "", []byte(bad))
	}
	nameless := `{` + past + `,"body":{"prompt":"hi"}}`
	b.publish(subject, "by-message-id", []byte(nameless))
	b.publish(subject, "", []byte(nameless))
	c := b.janitor(workers.JanitorConfig{})
	b.result(schemas.Job{ID: "by-message-id"})
	waitFor(t, "both jobs to end", func() bool { return c.metric("hxp_janitor_expired_total") == 2 })
	b.settled(5)
}

func TestOneJanitorWorksAndAnotherTakesOver(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	one := b.janitor(workers.JanitorConfig{ID: "one"})
	waitFor(t, "the first to be active", one.active)
	two, three := b.janitor(workers.JanitorConfig{ID: "two"}), b.janitor(workers.JanitorConfig{ID: "three"})
	job := b.submit(schemas.Job{Deadline: soon(0)})
	b.result(job)
	waitFor(t, "the first to end the job", func() bool { return one.metric("hxp_janitor_expired_total") == 1 })
	if two.active() || three.active() {
		t.Error("another janitor is active as well")
	}

	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	if one.active() {
		t.Error("active after its end")
	}
	waitFor(t, "another to take over", func() bool { return two.active() || three.active() })
	holder, other := two, three
	if three.active() {
		holder, other = three, two
	}
	b.result(b.submit(schemas.Job{Deadline: soon(0)}))
	waitFor(t, "the job to be counted", func() bool { return holder.metric("hxp_janitor_expired_total") == 1 })

	holder.nc.Close()
	waitFor(t, "the last to take over", other.active)
	waitFor(t, "the cut off one to notice", func() bool { return !holder.active() })
	b.result(b.submit(schemas.Job{Deadline: soon(0)}))
	waitFor(t, "the job to be counted", func() bool { return other.metric("hxp_janitor_expired_total") == 1 })
	if n := holder.metric("hxp_janitor_expired_total"); n != 1 {
		t.Errorf("the cut off one has ended %v jobs, want 1", n)
	}
	if !strings.Contains(holder.log.String(), "lock was lost") {
		t.Errorf("nothing said of the lost lock:\n%s", holder.log.String())
	}
}

func TestRunningJobAtItsDeadlineIsItsWorkers(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	c := b.janitor(workers.JanitorConfig{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("a")
		<-ctx.Done()
		return context.Cause(ctx)
	})
	b.run(engine, workers.Config{ID: "w1", Coalesce: -1})
	l := b.listen(schemas.EventsOfClient(tenant, "me"))
	job := b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.me", Deadline: soon(500 * time.Millisecond)})
	events := l.end(1)
	if got := kinds(events); got != "started delta expired" {
		t.Errorf("kinds = %q", got)
	}
	if r := b.result(job); r.Worker != "w1" || r.Status != schemas.StatusExpired {
		t.Errorf("result = %+v", r)
	}
	b.settled(0)
	// The janitor has gone past the point at which it would have acted.
	marker := b.submit(schemas.Job{Class: schemas.Batch, Deadline: job.Deadline})
	b.result(marker)
	if c.metric("hxp_janitor_expired_total") != 0 {
		t.Error("the janitor ended a job as well")
	}
	select {
	case msg := <-l.ch:
		if !strings.Contains(string(msg.Data), marker.ID) {
			t.Errorf("an event after the end: %s", msg.Data)
		}
	default:
	}
}

// requests counts what a connection asks of the broker's JetStream.
func (c *caretaker) requests() uint64 { return c.nc.Stats().OutMsgs }

func TestJanitorAsksLittleForManyJobs(t *testing.T) {
	t.Parallel()
	cfg := brisk
	cfg.LockTTL = time.Minute
	b := newBroker(t, cfg)
	const n = 2000
	for i := range n {
		body := fmt.Appendf(nil, `{"id":"job-%d","body":{"prompt":"hi"}}`, i)
		if _, err := b.js.PublishAsync(schemas.JobSubject(model, schemas.Batch, tenant), body); err != nil {
			t.Fatal(err)
		}
	}
	<-b.js.PublishAsyncComplete()
	c := b.janitor(workers.JanitorConfig{Interval: 20 * time.Millisecond})
	// The last of them has been looked at when one behind it with a deadline has ended.
	b.result(b.submit(schemas.Job{Class: schemas.Batch, Deadline: soon(0)}))
	b.settled(n)
	looked := c.requests()
	// Three requests each round once all are known, and two for the lock.
	rounds := uint64(2*brisk.Lease/(20*time.Millisecond)) + 40
	if most := 60 + 4*rounds; looked > most {
		t.Errorf("%d requests for %d jobs, want at most %d", looked, n, most)
	}
	t.Logf("%d requests for %d jobs", looked, n)

	// When most have left it forgets them, and knows the others still.
	stream, err := b.js.Stream(t.Context(), schemas.JobsStream(model))
	if err != nil {
		t.Fatal(err)
	}
	last := b.submit(schemas.Job{Class: schemas.Batch, Deadline: soon(400 * time.Millisecond)})
	b.result(b.submit(schemas.Job{Class: schemas.Batch, Deadline: soon(0)}))
	if err := stream.Purge(t.Context(), jetstream.WithPurgeKeep(10)); err != nil {
		t.Fatal(err)
	}
	b.result(last)
}

func TestJanitorRemovesWhatWasCancelled(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	l := b.listen(schemas.EventsOfClient(tenant, "me"))
	job := func(id string) schemas.Job {
		return b.submit(schemas.Job{ID: id, ReplyTo: "hxp.v1.events.acme.me"})
	}
	// Cancelled by a client: tombstone, Result and event are there.
	whole := job("whole")
	b.tombstone("whole", "")
	ended := &schemas.Result{ID: "whole", Tenant: tenant, Model: model, Class: schemas.Standard, Endpoint: schemas.ChatCompletions,
		Status: schemas.StatusCancelled, Error: schemas.Errorf(schemas.CodeCancelled, "by its client"), LastSeq: 1, Finished: time.Now().UTC()}
	if err := queue.PutResult(t.Context(), b.js, ended); err != nil {
		t.Fatal(err)
	}
	said := schemas.Event{ID: "whole", Seq: 1, Attempt: 1, Kind: schemas.Cancelled, TS: 1, Error: ended.Error}
	if err := b.nc.Publish(schemas.EventSubject(tenant, "me", "whole"), said.Append(nil)); err != nil {
		t.Fatal(err)
	}
	// Its client died after the tombstone.
	half := job("half")
	b.tombstone("half", "changed my mind")
	// It ended without the event, and without a tombstone.
	silent := job("silent")
	mute := *ended
	mute.ID, mute.Status, mute.Error, mute.LastSeq, mute.Attempts = "silent", schemas.StatusCompleted, nil, 9, 2
	if err := queue.PutResult(t.Context(), b.js, &mute); err != nil {
		t.Fatal(err)
	}
	job("stays")
	c := b.janitor(workers.JanitorConfig{})
	b.settled(1)

	if r := b.result(whole); r.Error.Message != "by its client" {
		t.Errorf("result = %+v", r)
	}
	if r := b.result(half); r.Status != schemas.StatusCancelled || r.Error.Code != schemas.CodeCancelled || !strings.Contains(r.Error.Message, "changed my mind") {
		t.Errorf("result = %+v", r)
	}
	b.result(silent)
	got := map[string]schemas.Event{}
	for range 3 {
		e := l.next()
		got[e.ID] = e
	}
	if e := got["whole"]; e.TS != 1 {
		t.Errorf("said again: %+v", e)
	}
	if e := got["half"]; e.Kind != schemas.Cancelled || e.Seq != 1 {
		t.Errorf("event = %+v", e)
	}
	if e := got["silent"]; e.Kind != schemas.Done || e.Seq != 9 || e.Attempt != 2 {
		t.Errorf("event = %+v", e)
	}
	waitFor(t, "three to be counted", func() bool { return c.metric("hxp_janitor_removed_total") == 3 })

	// One that is cancelled after it was looked at.
	b.tombstone("stays", "")
	b.settled(0)
	if e := l.next(); e.ID != "stays" || e.Kind != schemas.Cancelled {
		t.Errorf("event = %+v", e)
	}
	if c.metric("hxp_janitor_expired_total") != 0 {
		t.Error("counted as expired")
	}
	if strings.Contains(c.log.String(), "was lost") {
		t.Errorf("the lock was not renewed in time:\n%s", c.log.String())
	}
}

func TestJanitorLooksAgainBeforeItActs(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	c := b.janitor(workers.JanitorConfig{})
	free, later, odd, late := b.submit(schemas.Job{}), b.submit(schemas.Job{Deadline: soon(1500 * time.Millisecond)}), b.submit(schemas.Job{}), b.submit(schemas.Job{})
	b.result(b.submit(schemas.Job{Deadline: soon(0)})) // those before it have been looked at
	began := time.Now()
	for _, job := range []schemas.Job{free, later, odd, late} {
		b.tombstone(job.ID, "")
	}
	waitFor(t, "the tombstones to be seen", func() bool { return time.Since(began) > brisk.Lease })
	kv, err := b.js.KeyValue(t.Context(), schemas.CancelsBucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range []schemas.Job{free, later} { // taken back
		if err := kv.Delete(t.Context(), schemas.CancelKey(tenant, job.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.PutString(t.Context(), schemas.CancelKey(tenant, odd.ID), "no JSON"); err != nil {
		t.Fatal(err)
	}
	// Only just ended by a worker, which has two leases to say so.
	r := &schemas.Result{ID: late.ID, Tenant: tenant, Model: model, Status: schemas.StatusCompleted, LastSeq: 1, Finished: time.Now().UTC()}
	if err := queue.PutResult(t.Context(), b.js, r); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the odd tombstone to be said", func() bool { return strings.Contains(c.log.String(), "get tombstone of job "+odd.ID) })
	if got := b.result(later); got.Status != schemas.StatusExpired {
		t.Errorf("result = %+v", got)
	}
	b.settled(2)
	for _, job := range []schemas.Job{free, odd} {
		if _, err := queue.GetResult(t.Context(), b.js, tenant, job.ID); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("a job was ended that nobody cancelled: %v", err)
		}
	}
}

// A worker that runs a cancelled job and did not hear of the cancel is told again, and ends it.
func TestJanitorTellsAWorkerOfACancelItMissed(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	b.janitor(workers.JanitorConfig{})
	engine := newScript(func(ctx context.Context, _ int, _ *workers.Request, emit func(...string) bool) error {
		emit("a")
		<-ctx.Done()
		return context.Cause(ctx)
	})
	b.run(engine, workers.Config{ID: "w1", Coalesce: -1})
	l := b.listen(schemas.EventsOfClient(tenant, "me"))
	job := b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.me"})
	l.until(schemas.DeltaKind)
	b.tombstone(job.ID, "")
	if got := kinds(l.end(3)); got != "cancelled" {
		t.Errorf("kinds = %q", got)
	}
	if r := b.result(job); r.Worker != "w1" || r.Status != schemas.StatusCancelled {
		t.Errorf("result = %+v", r)
	}
	b.settled(0)
}

// What earlier attempts have said comes before the end; a duplicate's deadline is not the job's.
func TestJanitorGoesOnFromTheRecord(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	tried, other := b.submit(schemas.Job{ID: "tried", Deadline: soon(0)}), b.submit(schemas.Job{ID: "other", Deadline: soon(0)})
	// Its Result has expired, which its record contradicts for as long as that is kept.
	ended := b.submit(schemas.Job{ID: "ended", Deadline: soon(0)})
	done := schemas.Event{ID: ended.ID, Seq: 1, Attempt: 1, Kind: schemas.Done, TS: 1}
	if err := b.nc.Publish(schemas.EventSubject(tenant, schemas.NoClient, ended.ID), done.Append(nil)); err != nil {
		t.Fatal(err)
	}
	for i, job := range []schemas.Job{tried, other} {
		for seq, e := range []schemas.Event{
			{Kind: schemas.Started, Worker: "w9", Source: fmt.Sprintf("%s/%d", schemas.JobsStream(model), 1+8*i)},
			{Kind: schemas.Interrupted, Error: schemas.Errorf(schemas.CodeEngineUnavailable, "gone")},
		} {
			e.ID, e.Seq, e.Attempt, e.TS = job.ID, uint64(seq+1), 4, 1
			if err := b.nc.Publish(schemas.EventSubject(tenant, schemas.NoClient, job.ID), e.Append(nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	b.janitor(workers.JanitorConfig{})
	if r := b.result(tried); r.LastSeq != 3 || r.Attempts != 4 || r.Status != schemas.StatusExpired {
		t.Errorf("result = %+v", r)
	}
	b.settled(2)
	for _, id := range []string{other.ID, ended.ID} {
		if _, err := queue.GetResult(t.Context(), b.js, tenant, id); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("%s has a Result: %v", id, err)
		}
	}
}

// A broker that cannot answer is asked again; nothing is forgotten.
func TestJanitorGoesOnAfterTrouble(t *testing.T) {
	t.Parallel()
	for _, missing := range []string{schemas.ResultsStream, schemas.EventsStream, "KV_" + schemas.CancelsBucket} {
		t.Run(missing, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t, brisk)
			c := b.janitor(workers.JanitorConfig{})
			first, waiting, gone := b.submit(schemas.Job{}), b.submit(schemas.Job{Deadline: soon(time.Second)}), b.submit(schemas.Job{Deadline: soon(time.Second)})
			answered := b.submit(schemas.Job{})
			b.result(b.submit(schemas.Job{Deadline: soon(0)})) // those before it have been looked at
			b.settled(4)
			for place := range uint64(4) {
				q, err := queue.GetJob(t.Context(), b.js, model, place+1)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(q.Data), first.ID) || strings.Contains(string(q.Data), gone.ID) { // a worker has had them
					if err := queue.DeleteJob(t.Context(), b.js, model, q.Stored); err != nil {
						t.Fatal(err)
					}
				}
			}
			if missing == schemas.EventsStream {
				r := &schemas.Result{ID: answered.ID, Tenant: tenant, Model: model, Status: schemas.StatusCompleted, LastSeq: 5, Finished: time.Now().Add(-time.Minute)}
				if err := queue.PutResult(t.Context(), b.js, r); err != nil {
					t.Fatal(err)
				}
			}
			b.tombstone(answered.ID, "")
			if err := b.js.DeleteStream(t.Context(), missing); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the fault to be said", func() bool { return strings.Contains(c.log.String(), "could not look after every queue") })
			if missing != schemas.EventsStream {
				// Looked at while nothing can be looked up.
				b.submit(schemas.Job{ID: "later", Deadline: soon(0)})
			}
			waitFor(t, "the deadline to pass", func() bool { return time.Since(waiting.Deadline) > 3*brisk.Lease })
			if _, err := queue.Ensure(t.Context(), b.js, []string{model}, b.cfg); err != nil {
				t.Fatal(err)
			}
			if r := b.result(waiting); r.Status != schemas.StatusExpired {
				t.Errorf("result = %+v", r)
			}
			if missing == "KV_"+schemas.CancelsBucket { // the cancel has gone with its bucket
				b.settled(1)
				return
			}
			b.settled(0)
		})
	}
}

func TestJanitorRemembersOnlySoMany(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	var jobs []schemas.Job
	for range 7 {
		jobs = append(jobs, b.submit(schemas.Job{Deadline: soon(0)}))
	}
	c := b.janitor(workers.JanitorConfig{MaxTracked: 2})
	for _, job := range jobs {
		b.result(job)
	}
	b.settled(0)
	if !strings.Contains(c.log.String(), "as many queued jobs as it may") {
		t.Errorf("nothing said of the bound:\n%s", c.log.String())
	}
}

func TestJanitorFollowsTheStreams(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	c := b.janitor(workers.JanitorConfig{})
	for range 3 {
		b.result(b.submit(schemas.Job{Deadline: soon(0)}))
	}
	b.settled(0)
	// A model that comes later, and one that goes and comes back with its places counted from one.
	if err := b.js.DeleteStream(t.Context(), schemas.JobsStream(model)); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Ensure(t.Context(), b.js, []string{model, "later"}, b.cfg); err != nil {
		t.Fatal(err)
	}
	b.result(b.submit(schemas.Job{Deadline: soon(0)}))
	late := schemas.Job{ID: "late", Deadline: soon(0), Body: json.RawMessage(`{"prompt":"hi"}`)}
	data, err := json.Marshal(late)
	if err != nil {
		t.Fatal(err)
	}
	b.publish(schemas.JobSubject("later", schemas.Interactive, tenant), "", data)
	if r := b.result(late); r.Model != "later" {
		t.Errorf("result = %+v", r)
	}
	// A queue without consumers is said once, and does not keep the others from being looked after.
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: schemas.JobsStream("half"), Subjects: []string{schemas.JobsOfModel("half")}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the fault to be said", func() bool { return strings.Contains(c.log.String(), "could not look after every queue") })
	b.result(b.submit(schemas.Job{Deadline: soon(0)}))
}

func TestJanitorWaitsForItsLockToExist(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	if err := b.js.DeleteKeyValue(t.Context(), schemas.LocksBucket); err != nil {
		t.Fatal(err)
	}
	c := b.janitor(workers.JanitorConfig{})
	waitFor(t, "the fault to be said", func() bool { return strings.Contains(c.log.String(), "could not be asked for") })
	if _, err := queue.Ensure(t.Context(), b.js, []string{model}, b.cfg); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the janitor to be active", c.active)
}

func TestJanitorConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := workers.NewJanitor(nil, workers.JanitorConfig{ID: "a b", Interval: -1, MaxTracked: -1})
	for _, want := range []string{"ID ", "Interval is -1ns", "MaxTracked is -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if _, err := workers.NewJanitor(nil, workers.JanitorConfig{}); err != nil {
		t.Errorf("the zero value: %v", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "hxp_janitor_active", Help: "another"}))
	if _, err := workers.NewJanitor(nil, workers.JanitorConfig{Registry: reg}); err == nil {
		t.Error("a metric of another kind is not told of")
	}
}

func TestJanitorRemovesTheBodyOfWhatItEnds(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brisk)
	body := []byte(`{"prompt":"long"}`)
	ref := schemas.RefTo(body)
	if _, err := queue.PutBody(t.Context(), b.js, tenant, "large", body); err != nil {
		t.Fatal(err)
	}
	data, err := (&schemas.Job{ID: "large", BodyRef: &ref, Deadline: soon(50 * time.Millisecond)}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.publish(schemas.JobSubject(model, schemas.Standard, tenant), "", data)
	b.janitor(workers.JanitorConfig{})
	if r := b.result(schemas.Job{ID: "large"}); r.Status != schemas.StatusExpired {
		t.Errorf("result = %+v", r)
	}
	waitFor(t, "the body to go", func() bool {
		_, _, err := queue.GetBody(t.Context(), b.js, tenant, "large", 1<<20)
		return errors.Is(err, queue.ErrNotFound)
	})
}
