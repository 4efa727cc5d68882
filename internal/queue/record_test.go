package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestReadRecord(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	const n = 1300 // more than two batches
	var want []schemas.Event
	for seq := range uint64(n) {
		e := event("job-1", seq+1)
		client := "cli-a"
		if seq > n/2 {
			client = "cli-b" // submitted again by another client
		}
		want = append(want, e)
		if err := js.Conn().Publish(schemas.EventSubject("acme", client, "job-1"), e.Append(nil)); err != nil {
			t.Fatal(err)
		}
		other := event("job-2", seq+1)
		if err := js.Conn().Publish(schemas.EventSubject("acme", "cli-a", "job-2"), other.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	schematest.Validate(t, "event", want[0].Append(nil))
	eventually(t, "the events are stored", func() bool { return stored(t, js, schemas.EventsStream).LastSeq == 2*n })

	// Others go on publishing while it is read.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
				e := event("job-3", i)
				err := js.Conn().Publish(schemas.EventSubject("acme", "cli-c", "job-3"), e.Append(nil))
				if i%64 == 0 { // as fast as the server reads, and no faster
					err = errors.Join(err, js.Conn().Flush())
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	got, err := queue.ReadRecord(t.Context(), js, "acme", "job-1", 0)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("record (-want +got):\n%s", d)
	}
	tailOf, err := queue.ReadRecord(t.Context(), js, "acme", "job-1", n-2)
	if err != nil || len(tailOf) != 2 || tailOf[0].Seq != n-1 {
		t.Errorf("ReadRecord after %d = %d events, %v", n-2, len(tailOf), err)
	}
	for _, c := range [][2]string{{"acme", "job-9"}, {"other", "job-1"}} {
		if got, err := queue.ReadRecord(t.Context(), js, c[0], c[1], 0); err != nil || len(got) != 0 {
			t.Errorf("ReadRecord(%s, %s) = %d events, %v; want none", c[0], c[1], len(got), err)
		}
		if _, err := queue.LastEvent(t.Context(), js, c[0], c[1]); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("LastEvent(%s, %s) = %v, want %v", c[0], c[1], err, queue.ErrNotFound)
		}
	}
	last, err := queue.LastEvent(t.Context(), js, "acme", "job-1")
	if err != nil || last.Seq != n {
		t.Errorf("LastEvent = %+v, %v; want seq %d", last, err, n)
	}
	if c := stored(t, js, schemas.EventsStream).Consumers; c != 0 {
		t.Errorf("%d consumers were left behind", c)
	}
	if s := js.Conn().NumSubscriptions(); s > 1 { // the connection's own for replies
		t.Errorf("%d subscriptions were left behind", s)
	}
}

func TestBadRecord(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	record(t, js, "cli", event("job-1", 1))
	for _, data := range [][]byte{[]byte("junk"), []byte(`{"id":"job-2","seq":2,"attempt":1,"kind":"delta","ts":1}`)} {
		before := stored(t, js, schemas.EventsStream).LastSeq
		if err := js.Conn().Publish(schemas.EventSubject("acme", "cli", "job-1"), data); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is stored", func() bool { return stored(t, js, schemas.EventsStream).LastSeq > before })
		if _, err := queue.LastEvent(t.Context(), js, "acme", "job-1"); !errors.Is(err, queue.ErrBadRecord) {
			t.Errorf("LastEvent = %v, want %v", err, queue.ErrBadRecord)
		}
	}
	record(t, js, "cli", event("job-1", 2))
	got, err := queue.ReadRecord(t.Context(), js, "acme", "job-1", 0)
	if !errors.Is(err, queue.ErrBadRecord) || !strings.Contains(err.Error(), "2 of them") || len(got) != 2 || got[1].Seq != 2 {
		t.Errorf("ReadRecord = %d events, %v; want the two good ones and %v", len(got), err, queue.ErrBadRecord)
	}
}

func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	data := bytes.Repeat([]byte("x"), 7<<20)
	n := queue.MaxRecordBytes/len(data) + 1
	for range n {
		if err := js.Conn().Publish(schemas.EventSubject("acme", "cli", "job-1"), data); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the events are stored", func() bool { return stored(t, js, schemas.EventsStream).LastSeq == uint64(n) })
	if got, err := queue.ReadRecord(t.Context(), js, "acme", "job-1", 0); !errors.Is(err, queue.ErrRecordTooLarge) || got != nil {
		t.Errorf("ReadRecord = %d events, %v; want %v", len(got), err, queue.ErrRecordTooLarge)
	}
}

// What is lost between server and client is noticed and asked for again; what is beyond repair is said.
func TestReadRecordFromABrokenServer(t *testing.T) {
	t.Parallel()
	subject := schemas.EventSubject("acme", "cli", "job-1")
	one, two := event("job-1", 1), event("job-1", 2)
	m1 := func() *nats.Msg { return direct(subject, 10, 0, one.Append(nil)) }
	m2 := func() *nats.Msg { return direct(subject, 20, 10, two.Append(nil)) }
	noSeq := func() *nats.Msg { m := m1(); m.Header.Del("Nats-Sequence"); return m }
	noTime := func() *nats.Msg { m := m1(); m.Header.Set("Nats-Time-Stamp", "noon"); return m }
	whole := func() []*nats.Msg { return []*nats.Msg{m1(), m2(), status("204", 20)} }
	for _, c := range []struct {
		name  string
		first []*nats.Msg
		want  string // in the error; "" is success
	}{
		{"a message is lost", []*nats.Msg{m2(), status("204", 20)}, ""},
		{"the last message is lost", []*nats.Msg{m1(), status("204", 20)}, ""},
		{"the end is lost", []*nats.Msg{m1(), m2()}, ""},
		{"the leader is away", []*nats.Msg{status("503", 0)}, ""},
		{"refused", []*nats.Msg{status("408", 0)}, "status 408"},
		{"no sequence", []*nats.Msg{noSeq()}, "without a sequence number"},
		{"no time", []*nats.Msg{noTime()}, "without a time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			js := broken(t, server.Options{})
			answer(t, js, "$JS.API.DIRECT.GET.HXP_EVENTS", func(n int, m *nats.Msg) []*nats.Msg {
				if !bytes.Contains(m.Data, []byte(`"next_by_subj":"hxp.v1.events.acme.*.job-1"`)) {
					t.Errorf("request = %s", m.Data)
				}
				if n == 1 {
					return c.first
				}
				return whole()
			})
			got, err := queue.ReadRecord(t.Context(), js, "acme", "job-1", 0)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("ReadRecord = %v, want %q in the error", err, c.want)
				}
				return
			}
			if err != nil || len(got) != 2 || got[0].Seq != 1 || got[1].Seq != 2 {
				t.Errorf("ReadRecord = %v, %v; want two events", got, err)
			}
		})
	}
	t.Run("end instead of a message", func(t *testing.T) {
		t.Parallel()
		js := broken(t, server.Options{})
		answer(t, js, "$JS.API.DIRECT.GET.HXP_EVENTS", func(int, *nats.Msg) []*nats.Msg { return []*nats.Msg{status("204", 0)} })
		if _, err := queue.LastEvent(t.Context(), js, "acme", "job-1"); err == nil || !strings.Contains(err.Error(), "end of batch") {
			t.Errorf("LastEvent = %v", err)
		}
	})
}

func TestClosedConnection(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	js.Conn().Close()
	for name, call := range map[string]func() error{
		"ReadRecord": func() error { _, err := queue.ReadRecord(t.Context(), js, "acme", "j", 0); return err },
		"Models":     func() error { _, err := queue.Models(t.Context(), js); return err },
		"Ensure":     func() error { _, err := queue.Ensure(t.Context(), js, nil, queue.Config{}); return err },
		"PurgeDead":  func() error { _, err := queue.PurgeDead(t.Context(), js, queue.DeadFilter{}); return err },
		"Announce":   func() error { return queue.Announce(t.Context(), js, &schemas.WorkerInfo{ID: "w"}) },
		"Consumers":  func() error { _, err := queue.Consumers(t.Context(), js, "phi3"); return err },
		"Stats":      func() error { _, err := queue.Stats(t.Context(), js, "phi3"); return err },
		"Letters":    func() error { _, err := queue.FindDeadLetter(t.Context(), js, "j", queue.DeadFilter{}); return err },
	} {
		if err := call(); !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("%s = %v, want %v", name, err, nats.ErrConnectionClosed)
		}
	}
}

func BenchmarkReadRecord(b *testing.B) {
	for _, c := range []struct {
		name        string
		jobs, inRow int
	}{{"interleaved", 500, 1}, {"one after the other", 500, 200}} {
		b.Run(c.name, func(b *testing.B) {
			js := start(b, queue.Config{})
			const each = 200
			for from := 0; from < each; from += c.inRow {
				for j := range c.jobs {
					for k := range c.inRow {
						e := event(fmt.Sprint("job-", j), uint64(from+k+1))
						if err := js.Conn().Publish(schemas.EventSubject("acme", "cli", e.ID), e.Append(nil)); err != nil {
							b.Fatal(err)
						}
					}
				}
				if err := js.Conn().Flush(); err != nil {
					b.Fatal(err)
				}
			}
			eventually(b, "the events are stored", func() bool { return stored(b, js, schemas.EventsStream).Msgs == uint64(each*c.jobs) })
			b.ReportAllocs()
			for b.Loop() {
				got, err := queue.ReadRecord(b.Context(), js, "acme", "job-250", 0)
				if err != nil || len(got) != each {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
