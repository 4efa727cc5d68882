package queue_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bare starts a server of the test's own that has JetStream and nothing in it.
func bare(t testing.TB, cfg embedded.Config) jetstream.JetStream {
	t.Helper()
	cfg.Dir, cfg.Listen, cfg.Logger = t.TempDir(), "127.0.0.1:0", zerolog.New(os.Stderr).Level(zerolog.ErrorLevel)
	n, err := embedded.StartNATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	nc, err := n.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return newJS(t, nc)
}

func newJS(t testing.TB, nc *nats.Conn, opts ...jetstream.JetStreamOpt) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// start returns a server on which the queue of model phi3 is set up.
func start(t testing.TB, cfg queue.Config) jetstream.JetStream {
	t.Helper()
	js := bare(t, embedded.Config{})
	if diffs, err := queue.Ensure(t.Context(), js, []string{"phi3"}, cfg); err != nil || len(diffs) > 0 {
		t.Fatalf("Ensure = %v, %v", diffs, err)
	}
	return js
}

// broken starts a server without JetStream, so that a test can answer in JetStream's place.
func broken(t *testing.T, opts server.Options) jetstream.JetStream {
	t.Helper()
	opts.DontListen, opts.NoSigs, opts.NoLog = true, true, true
	s, err := server.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("server is not ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo("u", "p"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return newJS(t, nc)
}

// answer replies to one subject with what reply returns for the nth request; nil is no answer.
func answer(t *testing.T, js jetstream.JetStream, subject string, reply func(n int, m *nats.Msg) []*nats.Msg) {
	t.Helper()
	n := 0
	if _, err := js.Conn().Subscribe(subject, func(m *nats.Msg) {
		n++
		for _, r := range reply(n, m) {
			r.Subject = m.Reply
			if err := js.Conn().PublishMsg(r); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// direct makes an answer to a direct get, as the server writes it.
func direct(subject string, seq, before uint64, data []byte) *nats.Msg {
	return &nats.Msg{Data: data, Header: nats.Header{
		"Nats-Subject": {subject}, "Nats-Sequence": {strconv.FormatUint(seq, 10)}, "Nats-Time-Stamp": {"2026-01-02T03:04:05Z"},
		"Nats-Last-Sequence": {strconv.FormatUint(before, 10)}, "Nats-Num-Pending": {"0"},
	}}
}

func status(code string, last uint64) *nats.Msg {
	return &nats.Msg{Header: nats.Header{"Status": {code}, "Nats-Last-Sequence": {strconv.FormatUint(last, 10)}, "Nats-Num-Pending": {"0"}}}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("after 10 s it is still not so that %s", what)
		}
	}
}

func stored(t testing.TB, js jetstream.JetStream, stream string) jetstream.StreamState {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State
}

// record publishes events as workers do and waits until they are stored.
func record(t *testing.T, js jetstream.JetStream, client string, events ...schemas.Event) {
	t.Helper()
	want := stored(t, js, schemas.EventsStream).LastSeq + uint64(len(events))
	for _, e := range events {
		if err := js.Conn().Publish(schemas.EventSubject("acme", client, e.ID), e.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the events are stored", func() bool { return stored(t, js, schemas.EventsStream).LastSeq >= want })
}

func event(job string, seq uint64) schemas.Event {
	return schemas.Event{
		ID: job, Seq: seq, Attempt: 1, Kind: schemas.DeltaKind, TS: 1_767_000_000_000_000,
		Choices: json.RawMessage(fmt.Sprintf(`[{"index":0,"delta":{"content":"token %d"}}]`, seq)),
	}
}

func submit(t *testing.T, js jetstream.JetStream, class schemas.Class, tenant, id string) error {
	t.Helper()
	return submitBody(t, js, class, tenant, id, `{"prompt":"hi"}`)
}

func submitBody(t *testing.T, js jetstream.JetStream, class schemas.Class, tenant, id, body string) error {
	t.Helper()
	job := schemas.Job{ID: id, Body: json.RawMessage(body)}
	data, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.Publish(t.Context(), schemas.JobSubject("phi3", class, tenant), data, jetstream.WithMsgID(schemas.MsgID(tenant, id)))
	return err
}
