package workers_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

const other = "openchat"

// standIn is how the worker of the other model is set up: to cover the tests' own quickly.
func standIn(cfg workers.Config) workers.Config {
	cfg.Covers = []workers.Cover{{Model: model, After: 80 * time.Millisecond}}
	cfg.Heartbeat = 30 * time.Millisecond
	return cfg
}

func newBrokerOfTwo(t *testing.T, cfg queue.Config) *broker {
	t.Helper()
	b := newBroker(t, cfg)
	b.declare(other, b.cfg)
	return b
}

func (b *broker) declare(name string, cfg queue.Config) {
	b.t.Helper()
	if _, err := queue.Ensure(b.t.Context(), b.js, []string{name}, cfg); err != nil {
		b.t.Fatalf("Ensure: %v", err)
	}
}

func (b *broker) runOther(engine workers.Engine, cfg workers.Config) *started {
	b.t.Helper()
	s := b.runAs(other, engine, standIn(cfg))
	waitFor(b.t, "the worker to be ready", func() bool { return s.Info().State == schemas.WorkerReady })
	return s
}

func covering(s *started, names ...string) func() bool {
	return func() bool { return slices.Equal(s.Info().Covering, names) }
}

// submitOther submits a job for the other model.
func (b *broker) submitOther(id string, class schemas.Class) {
	b.t.Helper()
	b.publish(schemas.JobSubject(other, class, tenant), id, []byte(`{"id":"`+id+`","body":{"prompt":"hi"}}`))
}

func TestModelIsCoveredUntilItsWorkerIsBack(t *testing.T) {
	t.Parallel()
	b := newBrokerOfTwo(t, queue.Config{})
	l := b.listen(schemas.AllEvents)
	job := b.submit(schemas.Job{Stream: true})
	s := b.runOther(says("by the other"), workers.Config{ID: "o1"})
	events := l.end(1)
	if e := events[0]; e.Kind != schemas.Started || e.ServedBy != other || e.Reason != "no worker of phi3 was there for 80ms: openchat answers" {
		t.Errorf("opening event = %+v", e)
	}
	if e := events[1]; e.ServedBy != "" {
		t.Errorf("delta = %+v, want served_by on opening events alone", e)
	}
	if r := b.result(job); r.Model != model || r.ServedBy != other || r.Text != "by the other" || r.Worker != "o1" {
		t.Errorf("result = %+v", r)
	}
	waitFor(t, "the job to be accounted for", func() bool {
		return strings.Contains(scrape(t, s), `hxp_jobs_total{class="standard",model="phi3",outcome="completed"} 1`)
	})
	wantMetrics(t, s, `hxp_fallback_active{model="phi3",served_by="openchat"} 1`, `hxp_fallback_jobs_total{model="phi3",served_by="openchat"} 1`,
		`hxp_jobs_total{class="standard",model="phi3",outcome="completed"} 1`, `hxp_jobs_total{class="standard",model="openchat",outcome="completed"} 0`)
	if m := scrape(t, s); strings.Contains(m, `hxp_engine_up{model="phi3"}`) || strings.Contains(m, `hxp_slots{model="phi3"}`) {
		t.Error("the worker speaks for an engine that is not its own")
	}
	waitFor(t, "the registry to say so", func() bool {
		all, err := queue.Workers(t.Context(), b.js)
		return err == nil && len(all) == 1 && slices.Equal(all[0].Covering, []string{model})
	})
	own := b.run(says("by its own"), workers.Config{})
	waitFor(t, "the covering to stop", covering(s))
	for range 5 {
		if r := b.result(b.submit(schemas.Job{})); r.ServedBy != "" || r.Worker != own.ID() {
			t.Errorf("result = %+v", r)
		}
	}
	if err := own.stop(); err != nil {
		t.Error(err)
	}
	waitFor(t, "the covering to begin again", covering(s, model))
}

func TestOnlyALiveWorkerKeepsItsModel(t *testing.T) {
	t.Parallel()
	b := newBrokerOfTwo(t, queue.Config{})
	info := schemas.WorkerInfo{ID: "w", Model: model, Started: dawn, Updated: dawn}
	announce := func(state schemas.WorkerState, pulling bool) {
		info.State, info.Pulling = state, pulling
		if err := queue.Announce(t.Context(), b.js, &info); err != nil {
			t.Fatal(err)
		}
	}
	announce(schemas.WorkerReady, true)
	s := b.runOther(says("x"), workers.Config{})
	for _, c := range []struct {
		state   schemas.WorkerState
		pulling bool
	}{{schemas.WorkerDown, false}, {schemas.WorkerStarting, false}, {schemas.WorkerDraining, true}, {schemas.WorkerDegraded, false}} {
		announce(c.state, c.pulling)
		waitFor(t, "cover for a worker that is "+string(c.state), covering(s, model))
		announce(schemas.WorkerDegraded, true)
		waitFor(t, "a degraded worker that pulls to be seen", covering(s))
	}
}

func TestTextOfAnotherModelIsNotContinued(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		by   string // the model of the interrupted text
		next string // the model that goes on
		want string
	}{
		"the own model's by another": {"", other, "the text so far is by phi3; no worker of phi3 was there for 80ms: openchat answers"},
		"another's by the own model": {other, model, "the text so far is by openchat"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBrokerOfTwo(t, queue.Config{Lease: 500 * time.Millisecond})
			l := b.listen(schemas.AllEvents)
			job := b.submit(schemas.Job{Stream: true})
			b.pullOne(job.Class)
			b.says(job, schemas.Event{Seq: 1, Attempt: 1, Kind: schemas.Started, Worker: "ghost", ServedBy: c.by},
				schemas.Event{Seq: 2, Attempt: 1, Kind: schemas.DeltaKind, Prompt: mark([]int{1, 2}),
					Choices: json.RawMessage(`[{"index":0,"delta":{"content":"half"},"token_ids":[7]}]`)})
			waitFor(t, "the record", func() bool {
				e, err := queue.LastEvent(t.Context(), b.js, tenant, job.ID)
				return err == nil && e.Seq == 2
			})
			if c.next == other {
				b.runOther(says("whole"), workers.Config{})
			} else {
				b.run(says("whole"), workers.Config{})
			}
			events := l.end(1)
			if got, want := kinds(events), "started delta restarted delta usage done"; got != want {
				t.Fatalf("kinds = %q, want %q", got, want)
			}
			if e := events[2]; !strings.HasSuffix(e.Reason, c.want) {
				t.Errorf("reason = %q, want %q at its end", e.Reason, c.want)
			}
			if r := b.result(job); r.Text != "whole" || (r.ServedBy == other) != (c.next == other) {
				t.Errorf("result = %+v", r)
			}
		})
	}
}

func TestWhatTheOtherModelCannotRunWaitsForItsOwn(t *testing.T) {
	t.Parallel()
	long := json.RawMessage(`{"prompt":"` + strings.Repeat("long ", 100) + `"}`)
	for name, c := range map[string]struct {
		engine *script
		limits workers.Limits
		kinds  string
		why    string
	}{
		"too long for its window": {says("never"), workers.Limits{MaxModelLen: 16}, "started interrupted", "window is 16"},
		"beyond its limits":       {says("never"), workers.Limits{MaxTokens: [2]int{1, 4}}, "started interrupted", "max_tokens"},
		"refused by its engine": {newScript(func(context.Context, int, *workers.Request, func(...string) bool) error {
			return schemas.Errorf(schemas.CodeInvalidRequest, "no such template")
		}), workers.Limits{}, "started interrupted", "no such template"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBrokerOfTwo(t, queue.Config{})
			l := b.listen(schemas.AllEvents)
			body := long
			if c.limits.MaxTokens[1] > 0 {
				body = json.RawMessage(`{"prompt":"x","max_tokens":100}`)
			}
			c.engine.count = func([]byte) (int, error) { return 101, nil }
			s := b.runOther(c.engine, workers.Config{Limits: c.limits, MaxRetryDelay: 20 * time.Millisecond, MaxDeliveries: 3})
			job := b.submit(schemas.Job{Stream: true, Body: body})
			waitFor(t, "some deliveries", func() bool { return len(deferred(s)) > 0 })
			waitFor(t, "many deliveries", func() bool { return deferred(s) > "4" })
			b.run(says("by its own"), workers.Config{MaxDeliveries: 3})
			events := l.end(1)
			if got := kinds(events); !strings.HasPrefix(got, c.kinds) || !strings.HasSuffix(got, "resumed delta usage done") {
				t.Errorf("kinds = %q", got)
			}
			if e := events[1]; !e.Handback || !strings.Contains(e.Error.Message, "openchat cannot answer for phi3") || !strings.Contains(e.Error.Message, c.why) {
				t.Errorf("interrupted = %+v %v", e, e.Error)
			}
			if got := strings.Count(kinds(events), "interrupted"); c.why != "no such template" && got != 1 {
				t.Errorf("the refusal was said %d times, want once: %s", got, kinds(events))
			}
			if r := b.result(job); r.Status != schemas.StatusCompleted || r.Text != "by its own" || r.ServedBy != "" {
				t.Errorf("result = %+v", r)
			}
			b.deadLetters(0)
		})
	}
}

// deferred returns how many deliveries were handed back, in one digit; "" for none.
func deferred(s *started) string {
	rec := get(s, "/metrics").Body.String()
	_, rest, _ := strings.Cut(rec, `hxp_jobs_total{class="standard",model="phi3",outcome="deferred"} `)
	n, _, _ := strings.Cut(rest, "\n")
	return strings.TrimPrefix(n[:min(len(n), 1)], "0")
}

func TestHalfOfAReplyIsKeptFromAModelThatRefuses(t *testing.T) {
	t.Parallel()
	b := newBrokerOfTwo(t, queue.Config{Lease: 500 * time.Millisecond})
	job := b.lostAttempt(schemas.Job{Stream: true, Body: json.RawMessage(`{"prompt":"x","max_tokens":100}`)}, "half")
	l := b.listen(schemas.AllEvents)
	b.runOther(says("never"), workers.Config{Limits: workers.Limits{MaxTokens: [2]int{1, 4}}})
	events := []schemas.Event{l.next(), l.next()}
	if got, want := kinds(events), "resumed interrupted"; got != want || events[0].ServedBy != other {
		t.Errorf("events = %q %+v, want %q: the text stays as it is", got, events, want)
	}
	if _, err := queue.GetResult(t.Context(), b.js, tenant, job.ID); err == nil {
		t.Error("the job was ended")
	}
}

func TestOwnJobsComeFirst(t *testing.T) {
	t.Parallel()
	b := newBrokerOfTwo(t, queue.Config{})
	engine := newTurnstile()
	s := b.runOther(engine, workers.Config{Slots: 1})
	waitFor(t, "cover", covering(s, model))
	b.submitOther("own-1", schemas.Standard)
	engine.await(t, 1)
	b.submit(schemas.Job{Class: schemas.Interactive, Body: json.RawMessage(`{"prompt":"x"}`)})
	b.submitOther("own-2", schemas.Batch)
	close(engine.pass)
	if got, want := engine.await(t, 3), []schemas.Class{schemas.Standard, schemas.Batch, schemas.Interactive}; !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v: the worker's own, though less urgent, first", got, want)
	}
}

func TestUncoverableModelIsSaidOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, queue.Config{Lease: 2 * time.Second})
	cfg := standIn(workers.Config{})
	cfg.Covers = append(cfg.Covers, workers.Cover{Model: "missing", After: time.Millisecond}, workers.Cover{Model: "hasty", After: time.Millisecond})
	quick := b.cfg
	quick.Lease = 500 * time.Millisecond
	b.declare("hasty", quick)
	b.declare(other, b.cfg)
	s := b.runAs(other, says("x"), cfg)
	waitFor(t, "cover", covering(s, model))
	waitFor(t, "the refusals", func() bool {
		return strings.Contains(s.log.String(), "consumer") && strings.Contains(s.log.String(), "the lease of its")
	})
	if n := strings.Count(s.log.String(), `"covers":"missing","message":"a model without workers cannot be covered"`); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	b.declare("missing", b.cfg)
	waitFor(t, "cover of what is there now", covering(s, model, "missing"))
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if got := s.Info().Covering; got != nil {
		t.Errorf("covering %v after its end", got)
	}
}

func TestRegistryThatCannotBeReadIsNoSign(t *testing.T) {
	t.Parallel()
	b := newBrokerOfTwo(t, queue.Config{})
	if err := b.js.DeleteKeyValue(t.Context(), schemas.WorkersBucket); err != nil {
		t.Fatal(err)
	}
	s := b.runOther(says("x"), workers.Config{})
	waitFor(t, "some looks", func() bool { return strings.Count(s.log.String(), "look for workers of phi3") >= 3 })
	if got := s.Info().Covering; got != nil {
		t.Errorf("covering %v", got)
	}
	b.ensure()
	waitFor(t, "cover, when the registry can be read", covering(s, model))
}
