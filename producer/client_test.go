package producer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestConfigFaultsAreAllNamed(t *testing.T) {
	t.Parallel()
	_, err := producer.New(nil, producer.Config{
		Tenant: "a.b", Name: "*", Domain: "d", APIPrefix: "p", SubmitTimeout: -1, AttemptTimeout: -1, IdleCheck: -1,
		GapWait: -1, CancelWait: -1, UnknownAfter: -1, Buffer: -1, BufferBytes: -1,
	})
	for _, field := range []string{
		"Tenant", "Name", "Domain", "SubmitTimeout", "AttemptTimeout", "IdleCheck", "GapWait", "CancelWait", "UnknownAfter", "Buffer is", "BufferBytes",
	} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("New = %v; want %s named", err, field)
		}
	}
}

func TestConfigOfTheJetStreamAPI(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(say("x"))
	c := r.client(producer.Config{APIPrefix: "$JS.API"})
	if _, err := c.Do(t.Context(), chat()); err != nil {
		t.Errorf("with the default prefix by name: %v", err)
	}
	far := r.client(producer.Config{Domain: "elsewhere", SubmitTimeout: 300 * time.Millisecond})
	if _, err := far.Status(t.Context(), "x"); err == nil {
		t.Error("a domain that is not there answers")
	}
	if _, err := producer.New(r.nc, producer.Config{APIPrefix: "a b"}); err != nil && !strings.Contains(err.Error(), "producer:") {
		t.Errorf("New = %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	a, b := r.client(producer.Config{}), r.client(producer.Config{})
	if a.Name() == b.Name() || schemas.CheckToken(a.Name()) != nil || a.Tenant() != tenant {
		t.Errorf("names %q and %q of tenant %q", a.Name(), b.Name(), a.Tenant())
	}
	c, err := producer.New(r.nc, producer.Config{})
	if err != nil || c.Tenant() != "default" {
		t.Errorf("tenant = %q, %v; want default", c.Tenant(), err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestOneSubscriptionForAllStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	r.work(say("x"))
	nc := r.connect()
	c, err := producer.New(nc, producer.Config{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	if n := nc.NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions before anything was asked for", n)
	}
	var streams []*producer.Stream
	for range 20 {
		streams = append(streams, submit(t, c, chat()))
	}
	// Events, cancels, and the connection's own inbox for requests.
	if n := nc.NumSubscriptions(); n != 3 {
		t.Errorf("%d subscriptions for 20 streams, want 3", n)
	}
	for _, s := range streams {
		if _, err := read(t, s); err != nil {
			t.Error(err)
		}
	}
	f := follow(t, c, streams[0].Job().ID, 0)
	if _, err := read(t, f); err != nil {
		t.Error(err)
	}
	if n := nc.NumSubscriptions(); n != 3 {
		t.Errorf("%d subscriptions after a followed stream has ended, want 3", n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := nc.NumSubscriptions(); n != 1 {
		t.Errorf("%d subscriptions after Close, want the connection's own", n)
	}
}

func TestCloseWithoutAServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, small())
	nc := r.connect()
	c, err := producer.New(nc, producer.Config{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	submit(t, c, chat())
	gone := make(chan struct{}, 1)
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { gone <- struct{}{} })
	r.server.Close()
	<-gone
	began := time.Now()
	if err := c.Close(); err != nil || time.Since(began) > time.Second {
		t.Errorf("Close = %v after %v", err, time.Since(began))
	}
}
