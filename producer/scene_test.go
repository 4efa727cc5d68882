package producer_test

import (
	"context"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// scene is a submitted job without a worker: the test publishes its events by hand.
type scene struct {
	*rig
	c    *producer.Client
	s    *producer.Stream
	k    *task
	side string // a subject that is recorded, but that the submitter does not hear
}

func newScene(t *testing.T, cfg producer.Config) *scene {
	t.Helper()
	r := newRig(t, small())
	c := r.client(cfg)
	s := submit(t, c, chat())
	job := s.Job()
	return &scene{
		rig: r, c: c, s: s, k: &task{r: r, ctx: t.Context(), job: &job, subject: job.ReplyTo, attempt: 1},
		side: schemas.EventSubject(tenant, "side", job.ID),
	}
}

func (x *scene) event(attempt int, seq uint64, kind schemas.Kind, text string) schemas.Event {
	e := schemas.Event{Kind: kind}
	if kind == schemas.DeltaKind {
		e = delta(text)
	}
	e.ID, e.Seq, e.Attempt = x.k.job.ID, seq, attempt
	return e
}

// live publishes an event that is received and recorded, lost one that is only recorded.
func (x *scene) live(attempt int, seq uint64, kind schemas.Kind, text string) {
	x.publish(x.k.subject, x.event(attempt, seq, kind, text))
}

func (x *scene) lost(attempt int, seq uint64, kind schemas.Kind, text string) {
	x.publish(x.side, x.event(attempt, seq, kind, text))
}

func (x *scene) result(t *testing.T, status schemas.Status, attempts int, last uint64) {
	t.Helper()
	x.k.seq, x.k.attempt = last-1, attempts
	if err := x.k.store(status, nil); err != nil {
		t.Fatal(err)
	}
}

// quick makes streams look and give up soon.
func quick() producer.Config {
	return producer.Config{IdleCheck: 50 * time.Millisecond, GapWait: 150 * time.Millisecond}
}

func (x *scene) expect(t *testing.T, s *producer.Stream, want string) []schemas.Event {
	t.Helper()
	events, err := read(t, s)
	if got := kinds(events); err != nil || got != want {
		t.Errorf("events = %s, %v; want %s", got, err, want)
	}
	return events
}

// next pulls events one by one.
func (x *scene) next(t *testing.T, s *producer.Stream, n int) ([]schemas.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var events []schemas.Event
	for e, err := range s.Events(ctx) {
		if err != nil {
			return events, err
		}
		if events = append(events, e); len(events) == n {
			break
		}
	}
	return events, nil
}
