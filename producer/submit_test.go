package producer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func kinds(events []schemas.Event) string {
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprintf("%d %s", e.Seq, e.Kind))
	}
	return strings.Join(out, ", ")
}

func TestSubmitStreamsFromAcceptedToDone(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(say("Hel", "lo"))
	c := r.client(producer.Config{Name: "gw1"})
	s := submit(t, c, chat())
	events, err := read(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := kinds(events), "0 accepted, 1 started, 2 delta, 3 delta, 4 done"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
	job := s.Job()
	if got, want := job.ReplyTo, schemas.EventSubject(tenant, "gw1", job.ID); got != want {
		t.Errorf("reply_to = %q, want %q", got, want)
	}
	if job.Class != schemas.Standard || job.Endpoint != schemas.ChatCompletions || !job.Stream || job.Created.IsZero() {
		t.Errorf("defaults are not filled in: %+v", job)
	}
	if s.Duplicate() {
		t.Error("a new job is reported as a duplicate")
	}
	again, err := read(t, s)
	if err != nil || len(again) != 0 {
		t.Errorf("after the end = %s, %v; want nothing", kinds(again), err)
	}
	res, err := s.Result(t.Context())
	if err != nil || res.Text != "Hello" {
		t.Errorf("result = %+v, %v; want the text Hello", res, err)
	}
}

func TestSubmittedMessageIsVerbatim(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{})
	job := chat()
	job.Body = []byte("{\"prompt\": \"<b>\",\n  \"x\": 1e2}")
	s := submit(t, c, job)
	stream, err := r.js.Stream(t.Context(), schemas.JobsStream(model))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "job", msg.Data)
	got, err := schemas.DecodeJob(msg.Subject, msg.Data, "none")
	if err != nil {
		t.Fatal(err)
	}
	want := s.Job()
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("stored job (-want +got):\n%s", diff)
	}
	if string(got.Body) != string(job.Body) {
		t.Errorf("body = %s, want %s", got.Body, job.Body)
	}
	for header, want := range map[string]string{
		schemas.HeaderMsgID: schemas.MsgID(tenant, want.ID), schemas.HeaderJobID: want.ID, schemas.HeaderContentType: schemas.ContentTypeJSON,
	} {
		if got := msg.Header.Get(header); got != want {
			t.Errorf("header %s = %q, want %q", header, got, want)
		}
	}
}

//nolint:tparallel // The cases need the queue as it is at this moment.
func TestSubmitRefusals(t *testing.T) {
	t.Parallel()
	cfg := small()
	cfg.MaxJobs, cfg.MaxJobBytes = 1, 2048
	r := newRig(t, cfg)
	c := r.client(producer.Config{})
	submit(t, c, chat()) // fills the queue

	big := func(n int) schemas.Job {
		j := chat()
		j.Body = fmt.Appendf(nil, `{"prompt":"%s"}`, strings.Repeat("x", n))
		return j
	}
	other := chat()
	other.Model = "nosuch"
	foreign := chat()
	foreign.Tenant = "umbrella"
	empty := schemas.Job{Model: model, Body: []byte("[]")}
	for name, tc := range map[string]struct {
		job  schemas.Job
		want schemas.Code
	}{
		"full":             {chat(), schemas.CodeQueueFull},
		"above the bound":  {big(17 << 20), schemas.CodePayloadTooLarge},
		"above stream max": {big(4096), schemas.CodePayloadTooLarge},
		"no such model":    {other, schemas.CodeModelNotFound},
		"other tenant":     {foreign, schemas.CodeInvalidRequest},
		"body not object":  {empty, schemas.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := c.Submit(t.Context(), tc.job)
			if got := schemas.ErrorCode(err); got != tc.want || s != nil {
				t.Errorf("Submit = %v, %v; want code %s", s, err, tc.want)
			}
			if errors.Is(err, producer.ErrNoJetStream) || errors.Is(err, producer.ErrTimeout) {
				t.Errorf("%v matches a sentinel that it is not", err)
			}
		})
	}
}

// plainServer is a NATS server without JetStream.
func plainServer(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("server not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestSubmitWithoutJetStream(t *testing.T) {
	t.Parallel()
	c, err := producer.New(plainServer(t), producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	job := chat()
	if _, err := c.Submit(t.Context(), job); !errors.Is(err, producer.ErrNoJetStream) {
		t.Errorf("Submit = %v, want ErrNoJetStream", err)
	}
	job.ID = "given"
	if _, err := c.Submit(t.Context(), job); !errors.Is(err, producer.ErrNoJetStream) {
		t.Errorf("Submit with an id = %v, want ErrNoJetStream", err)
	}
}

func TestSubmitGivenIDWithoutQueues(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	c := r.client(producer.Config{SubmitTimeout: patience})
	job := chat()
	job.ID = "given"
	if _, err := c.Submit(t.Context(), job); schemas.ErrorCode(err) != schemas.CodeModelNotFound {
		t.Errorf("Submit = %v, want model_not_found", err)
	}
	// A queue, but nowhere to look for results: the job must not be stored unseen.
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: schemas.JobsStream(model), Subjects: []string{schemas.JobsOfModel(model)}, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Submit(t.Context(), job); !errors.Is(err, producer.ErrNotSetUp) {
		t.Errorf("Submit = %v, want ErrNotSetUp", err)
	}
}

// deaf answers JetStream's questions about the queue but drops the first n acknowledgements of jobs.
func deaf(t *testing.T, drop int) (nc *nats.Conn, ids <-chan string) {
	t.Helper()
	nc = plainServer(t)
	seen := make(chan string, 16)
	handle := func(m *nats.Msg) {
		seen <- m.Header.Get(schemas.HeaderMsgID)
		if drop--; drop < 0 {
			_ = m.Respond([]byte(`{"stream":"HXP_JOBS_phi3","seq":1,"duplicate":true}`))
		}
	}
	if _, err := nc.Subscribe("hxp.v1.jobs.>", handle); err != nil {
		t.Fatal(err)
	}
	return nc, seen
}

func TestSubmitIsSentAgainUnderTheSameID(t *testing.T) {
	t.Parallel()
	nc, ids := deaf(t, 2)
	c, err := producer.New(nc, producer.Config{AttemptTimeout: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Submit(t.Context(), chat())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if id := <-ids; id != schemas.MsgID("default", s.Job().ID) {
			t.Errorf("sent under id %q, want that of job %q", id, s.Job().ID)
		}
	}
	if s.Duplicate() {
		t.Error("a job of a new id is a duplicate because its own first attempt was stored")
	}
}

func TestSubmitTimeout(t *testing.T) {
	t.Parallel()
	nc, _ := deaf(t, 1000)
	c, err := producer.New(nc, producer.Config{SubmitTimeout: 80 * time.Millisecond, AttemptTimeout: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Submit(t.Context(), chat())
	timeout, ok := errors.AsType[*producer.TimeoutError](err)
	if !ok || !errors.Is(err, producer.ErrTimeout) || schemas.CheckToken(timeout.Job) != nil || !strings.Contains(err.Error(), timeout.Job) {
		t.Fatalf("Submit = %v, want a TimeoutError that names the job", err)
	}
	if schemas.ErrorCode(err) != "" {
		t.Errorf("%v has a code", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("gave up")
	cancel(why)
	if _, err := c.Submit(ctx, chat()); !errors.Is(err, why) || errors.Is(err, producer.ErrTimeout) {
		t.Errorf("Submit with a cancelled context = %v, want %v", err, why)
	}
}

func TestSubmitWaitsForAQueueWithoutLeader(t *testing.T) {
	t.Parallel()
	nc := plainServer(t)
	// The queue exists but nobody listens on it, as while its leader is elected; then somebody does.
	if _, err := nc.Subscribe("$JS.API.STREAM.INFO.HXP_JOBS_phi3", func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"name":"HXP_JOBS_phi3"},"state":{}}`))
		_, _ = nc.Subscribe("hxp.v1.jobs.>", func(m *nats.Msg) { _ = m.Respond([]byte(`{"stream":"HXP_JOBS_phi3","seq":1}`)) })
	}); err != nil {
		t.Fatal(err)
	}
	c, err := producer.New(nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Submit(t.Context(), chat()); err != nil {
		t.Errorf("Submit = %v, want it stored when the leader is back", err)
	}
}

func TestSubmitOnAClosedConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	nc := r.connect()
	c, err := producer.New(nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if _, err := c.Submit(t.Context(), chat()); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Submit = %v, want ErrConnectionClosed", err)
	}
	if _, err := c.Follow(t.Context(), "x", 0); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Follow = %v, want ErrConnectionClosed", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestGivenIDRunsOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	runs := make(chan string, 8)
	hold := make(chan struct{})
	r.work(func(k *task) {
		runs <- k.job.ID
		k.emit(schemas.Event{Kind: schemas.Started})
		k.delta("once")
		<-hold
		k.end(schemas.StatusCompleted, nil)
	})
	job := chat()
	job.ID = "order-7"
	first := submit(t, r.client(producer.Config{}), job)
	r.recorded(job.ID, 2)
	// Another client, while it runs: the record says so.
	second := submit(t, r.client(producer.Config{}), job)
	close(hold)
	want := "0 accepted, 1 started, 2 delta, 3 done"
	for name, s := range map[string]*producer.Stream{"first": first, "second": second} {
		events, err := read(t, s)
		if err != nil || kinds(events) != want {
			t.Errorf("%s: %s, %v; want %s", name, kinds(events), err, want)
		}
	}
	// After the end, even when the broker has forgotten the id.
	r.purge(job.ID)
	third := submit(t, r.client(producer.Config{}), job)
	if _, err := third.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.Duplicate() || !second.Duplicate() || !third.Duplicate() {
		t.Errorf("duplicates = %v %v %v, want false true true", first.Duplicate(), second.Duplicate(), third.Duplicate())
	}
	if len(runs) != 1 {
		t.Errorf("the job ran %d times", len(runs))
	}
}

func TestGivenIDQueuedTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	job := chat()
	job.ID = "order-8"
	a := submit(t, r.client(producer.Config{}), job)
	b := submit(t, r.client(producer.Config{}), job) // known to the broker alone
	if a.Duplicate() || !b.Duplicate() {
		t.Errorf("duplicates = %v %v, want false true", a.Duplicate(), b.Duplicate())
	}
	r.work(say("hi"))
	for name, s := range map[string]*producer.Stream{"a": a, "b": b} {
		events, err := read(t, s)
		if want := "0 accepted, 1 started, 2 delta, 3 done"; err != nil || kinds(events) != want {
			t.Errorf("%s: %s, %v; want %s", name, kinds(events), err, want)
		}
	}
}

func TestTenantsDoNotShareIDs(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	job := chat()
	job.ID = "order-1"
	for _, name := range []string{tenant, "other"} {
		if s := submit(t, r.client(producer.Config{Tenant: name}), job); s.Duplicate() {
			t.Errorf("the job of tenant %s was taken for another tenant's", name)
		}
	}
	stream, err := r.js.Stream(t.Context(), schemas.JobsStream(model))
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("two tenants submitted one job each; the queue holds %d", n)
	}
}

// A queue of several copies that is asked again while it stores, or elects, says so in an answer.
func TestSubmitOutlivesPassingAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"its own first copy": `{"code":409,"err_code":10158,"description":"duplicate message id is in process"}`,
		"no leader":          `{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}`,
		"not the leader":     `{"code":500,"err_code":10009,"description":"JetStream cluster can not handle request"}`,
		"overrun":            `{"code":429,"err_code":10167,"description":"too many requests"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := plainServer(t)
			asked := 0
			if _, err := nc.Subscribe("hxp.v1.jobs.>", func(m *nats.Msg) {
				switch asked++; asked {
				case 1: // stored, and not acknowledged in time
				case 2, 3:
					_ = m.Respond([]byte(`{"error":` + answer + `,"stream":"HXP_JOBS_phi3","seq":0}`))
				default:
					_ = m.Respond([]byte(`{"stream":"HXP_JOBS_phi3","seq":7,"duplicate":true}`))
				}
			}); err != nil {
				t.Fatal(err)
			}
			c, err := producer.New(nc, producer.Config{SubmitTimeout: patience, AttemptTimeout: 50 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Submit(t.Context(), chat()); err != nil {
				t.Errorf("Submit = %v; want it stored, as it is", err)
			}
		})
	}
}

func TestReplyToAnInbox(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(say("x"))
	job := chat()
	job.ReplyTo = "_INBOX.elsewhere"
	s := submit(t, r.client(producer.Config{}), job)
	events, err := read(t, s)
	if want := "0 accepted, 1 started, 2 delta, 3 done"; err != nil || kinds(events) != want {
		t.Errorf("%s, %v; want %s", kinds(events), err, want)
	}
}

func TestSubmitWithoutAServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	c := r.client(producer.Config{SubmitTimeout: 40 * time.Millisecond})
	r.server.Close()
	for range 2 {
		if _, err := c.Submit(t.Context(), chat()); !errors.Is(err, producer.ErrTimeout) {
			t.Errorf("Submit = %v, want ErrTimeout", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Submit(t.Context(), chat()); !errors.Is(err, producer.ErrClosed) {
		t.Errorf("Submit after Close = %v, want ErrClosed", err)
	}
}

func TestSubmitATimeThatJSONCannotHold(t *testing.T) {
	t.Parallel()
	c := newServer(t).client(producer.Config{})
	job := chat()
	job.Deadline = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := c.Submit(t.Context(), job); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("Submit = %v, want invalid_request", err)
	}
}
