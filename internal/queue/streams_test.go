package queue_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestEnsureSetsUpEverything(t *testing.T) {
	t.Parallel()
	js := bare(t, embedded.Config{})
	models := []string{"phi3", "hermes-2", "phi3"}
	for range 2 {
		diffs, err := queue.Ensure(t.Context(), js, models, queue.Config{})
		if err != nil || len(diffs) > 0 {
			t.Fatalf("Ensure = %v, %v; want nothing to report", diffs, err)
		}
	}
	got, err := queue.Models(t.Context(), js)
	if err != nil || !slices.Equal(got, []string{"hermes-2", "phi3"}) {
		t.Errorf("Models = %q, %v", got, err)
	}

	stream, err := js.Stream(t.Context(), schemas.JobsStream("phi3"))
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	if c.Retention != jetstream.WorkQueuePolicy || c.Discard != jetstream.DiscardNew || !c.DiscardNewPerSubject ||
		c.MaxMsgs != 100_000 || c.MaxBytes != 2<<30 || c.MaxMsgsPerSubject != 10_000 || c.MaxMsgSize != 1<<20 ||
		c.Duplicates != 10*time.Minute || !c.AllowDirect || c.Storage != jetstream.FileStorage {
		t.Errorf("jobs stream = %+v", c)
	}
	consumers, err := queue.Consumers(t.Context(), js, "phi3")
	if err != nil {
		t.Fatal(err)
	}
	for _, class := range schemas.Classes() {
		c := consumers[class].CachedInfo().Config
		if c.FilterSubject != schemas.JobsOfClass("phi3", class) || c.AckWait != 4*time.Second || c.MaxDeliver != -1 ||
			c.MaxAckPending != -1 || c.MaxWaiting != 4096 || len(c.BackOff) > 0 || c.AckPolicy != jetstream.AckExplicitPolicy {
			t.Errorf("consumer %s = %+v", class, c)
		}
	}
	events, err := js.Stream(t.Context(), schemas.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	if c := events.CachedInfo().Config; !c.NoAck || c.Discard != jetstream.DiscardOld || c.MaxAge != time.Hour || c.MaxBytes != 1<<30 {
		t.Errorf("events stream = %+v", c)
	}
	for name, ttl := range map[string]time.Duration{schemas.WorkersBucket: 10 * time.Second, schemas.CancelsBucket: 14 * 24 * time.Hour} {
		kv, err := js.KeyValue(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if status, err := kv.Status(t.Context()); err != nil || status.TTL() != ttl || status.History() != 1 {
			t.Errorf("bucket %s: TTL %v, history %d, %v", name, status.TTL(), status.History(), err)
		}
	}
}

// A bucket made here is the one that the client library itself would make.
func TestBucketsAreTheLibrarysOwn(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	for _, c := range []jetstream.KeyValueConfig{
		{Bucket: schemas.WorkersBucket, Description: "hxp: live workers", TTL: 10 * time.Second, LimitMarkerTTL: time.Second},
		{Bucket: schemas.CancelsBucket, Description: "hxp: cancel requests", TTL: 14 * 24 * time.Hour},
	} {
		if _, err := js.CreateKeyValue(t.Context(), c); err != nil {
			t.Errorf("the server takes %s for another bucket: %v", c.Bucket, err)
		}
	}
	bodies := jetstream.ObjectStoreConfig{
		Bucket: schemas.BodiesBucket, Description: "hxp: bodies that are too large for a message", TTL: 14 * 24 * time.Hour, MaxBytes: 4 << 30,
	}
	if _, err := js.CreateObjectStore(t.Context(), bodies); err != nil {
		t.Errorf("the server takes %s for another object store: %v", bodies.Bucket, err)
	}
}

func TestEnsureByManyAtOnce(t *testing.T) {
	t.Parallel()
	js := bare(t, embedded.Config{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if diffs, err := queue.Ensure(t.Context(), js, []string{"a", "b"}, queue.Config{MaxBytes: 1 << 20}); err != nil || len(diffs) > 0 {
				t.Errorf("Ensure = %v, %v", diffs, err)
			}
		})
	}
	wg.Wait()
}

func TestEnsureReportsAndApplyChanges(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{Lease: time.Second})
	if err := submit(t, js, schemas.Batch, "acme", "job-1"); err != nil {
		t.Fatal(err)
	}
	cfg := queue.Config{
		MaxJobs: 7, MaxBytes: 3 << 20, MaxJobsPerTenant: 5, MaxJobBytes: 1000, DuplicateWindow: time.Minute, Lease: 2 * time.Second,
		EventsMaxAge: 30 * time.Second, ResultsMaxAge: time.Hour, DeadMaxAge: 20 * time.Second, WorkerTTL: 3 * time.Second, CancelTTL: time.Hour,
		MaxBodiesBytes: 5 << 20, BodiesMaxAge: 48 * time.Hour,
	}
	want := []queue.Difference{
		{"HXP_EVENTS", "max_age", "1h0m0s", "30s"},
		{"HXP_RESULTS", "max_age", "24h0m0s", "1h0m0s"},
		{"HXP_DEAD", "max_age", "336h0m0s", "20s"},
		{"HXP_DEAD", "duplicate_window", "10m0s", "20s"},
		{"KV_hxp_workers", "max_age", "10s", "3s"},
		{"KV_hxp_workers", "duplicate_window", "10s", "3s"},
		{"KV_hxp_cancels", "max_age", "336h0m0s", "1h0m0s"},
		{"OBJ_hxp_bodies", "max_bytes", "4 GiB", "5 MiB"},
		{"OBJ_hxp_bodies", "max_age", "336h0m0s", "48h0m0s"},
		{"HXP_JOBS_phi3", "max_msgs", "100000", "7"},
		{"HXP_JOBS_phi3", "max_bytes", "2 GiB", "3 MiB"},
		{"HXP_JOBS_phi3", "max_msgs_per_subject", "10000", "5"},
		{"HXP_JOBS_phi3", "max_msg_size", "1 MiB", "1000 bytes"},
		{"HXP_JOBS_phi3", "duplicate_window", "10m0s", "1m0s"},
		{"HXP_JOBS_phi3/interactive", "ack_wait", "1s", "2s"},
		{"HXP_JOBS_phi3/standard", "ack_wait", "1s", "2s"},
		{"HXP_JOBS_phi3/batch", "ack_wait", "1s", "2s"},
	}
	for range 2 { // reporting changes nothing
		got, err := queue.Ensure(t.Context(), js, []string{"phi3"}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("Ensure (-want +got):\n%s", d)
		}
	}
	if s, want := want[9].String(), "HXP_JOBS_phi3: max_msgs is 100000, configured 7"; s != want {
		t.Errorf("String() = %q, want %q", s, want)
	}
	got, err := queue.Apply(t.Context(), js, []string{"phi3"}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Apply (-want +got):\n%s", d)
	}
	if got, err := queue.Apply(t.Context(), js, []string{"phi3"}, cfg); err != nil || len(got) > 0 {
		t.Errorf("second Apply = %v, %v", got, err)
	}
	if n := stored(t, js, schemas.JobsStream("phi3")).Msgs; n != 1 {
		t.Errorf("%d jobs are stored after Apply, want 1", n)
	}
}

func TestApplySaysWhatCannotBeChanged(t *testing.T) {
	t.Parallel()
	js := bare(t, embedded.Config{})
	cfg := queue.Config{MaxBytes: 1 << 20}
	foreign := jetstream.StreamConfig{
		Name: schemas.JobsStream("phi3"), Subjects: []string{schemas.JobsOfModel("phi3"), "other"},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage,
	}
	if _, err := js.CreateStream(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), foreign.Name, jetstream.ConsumerConfig{
		Durable: "batch", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "other", MaxAckPending: 3, MaxDeliver: 4,
		BackOff: []time.Duration{time.Second, 2 * time.Second},
	}); err != nil {
		t.Fatal(err)
	}
	events := jetstream.StreamConfig{Name: schemas.EventsStream, Subjects: []string{schemas.AllEvents}, Retention: jetstream.WorkQueuePolicy}
	if _, err := js.CreateStream(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	dead := jetstream.StreamConfig{Name: schemas.DeadStream, Subjects: []string{schemas.AllDead}, Retention: jetstream.InterestPolicy}
	if _, err := js.CreateStream(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	done, err := queue.Apply(t.Context(), js, []string{"phi3"}, cfg)
	if err == nil {
		t.Fatal("Apply = nil, want what could not be changed")
	}
	for _, text := range []string{
		"HXP_EVENTS: retention is WorkQueue, configured Limits", "HXP_JOBS_phi3: storage is memory, configured file",
		"HXP_JOBS_phi3/batch: max_waiting is 512, configured 4096", "cannot be changed in place",
	} {
		if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(text)) {
			t.Errorf("error = %q, want %q in it", err, text)
		}
	}
	var fields []string
	for _, d := range done {
		if d.Object != schemas.EventsStream {
			fields = append(fields, d.Object+" "+d.Field+" "+d.Have+" "+d.Want)
		}
	}
	for _, want := range []string{
		"HXP_JOBS_phi3 subjects hxp.v1.jobs.phi3.*.* other hxp.v1.jobs.phi3.interactive.* hxp.v1.jobs.phi3.standard.* hxp.v1.jobs.phi3.batch.*",
		"HXP_DEAD retention Interest Limits",
		"HXP_JOBS_phi3 max_msgs unlimited 100000",
		"HXP_JOBS_phi3 allow_direct false true",
		"HXP_JOBS_phi3/batch max_deliver 4 unlimited",
		`HXP_JOBS_phi3/batch filter_subject "other" "hxp.v1.jobs.phi3.batch.*"`,
		"HXP_JOBS_phi3/batch backoff [1s 2s] none",
	} {
		if !slices.Contains(fields, want) {
			t.Errorf("Apply changed %q, want %q among them", fields, want)
		}
	}
	again, err := queue.Ensure(t.Context(), js, []string{"phi3"}, cfg)
	if err != nil || len(again) != 3 {
		t.Errorf("afterwards Ensure = %v, %v; want only the three that cannot be changed", again, err)
	}
	if again, err := queue.Apply(t.Context(), js, []string{"phi3"}, cfg); err == nil || len(again) > 0 {
		t.Errorf("second Apply = %v, %v; want the error and no change", again, err)
	}
}

func TestEnsureRefuses(t *testing.T) {
	t.Parallel()
	t.Run("jobs stream that is no work queue", func(t *testing.T) {
		t.Parallel()
		js := bare(t, embedded.Config{})
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: schemas.JobsStream("phi3"), Subjects: []string{schemas.JobsOfModel("phi3")}}); err != nil {
			t.Fatal(err)
		}
		_, err := queue.Ensure(t.Context(), js, []string{"phi3"}, queue.Config{})
		if err == nil || !strings.Contains(err.Error(), "HXP_JOBS_phi3 has retention Limits; want a work queue") {
			t.Errorf("Ensure = %v", err)
		}
	})
	t.Run("subjects of another stream", func(t *testing.T) {
		t.Parallel()
		js := bare(t, embedded.Config{})
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"hxp.v1.results.>"}}); err != nil {
			t.Fatal(err)
		}
		_, err := queue.Ensure(t.Context(), js, nil, queue.Config{})
		if err == nil || !strings.Contains(err.Error(), "another stream already takes hxp.v1.results.>") {
			t.Errorf("Ensure = %v", err)
		}
	})
	t.Run("too little room", func(t *testing.T) {
		t.Parallel()
		js := bare(t, embedded.Config{MaxStore: 4 << 30})
		models := []string{"a", "b"}
		_, err := queue.Ensure(t.Context(), js, models, queue.Config{})
		if err == nil || !strings.Contains(err.Error(), "4 GiB for this stream, 12 GiB for 2 models in all") {
			t.Errorf("Ensure = %v", err)
		}
		js = bare(t, embedded.Config{MaxStore: 4 << 30})
		if _, err := queue.Ensure(t.Context(), js, models, queue.Config{}.Fit(len(models), 4<<30)); err != nil {
			t.Errorf("Ensure of a fitted configuration = %v", err)
		}
	})
	t.Run("configuration", func(t *testing.T) {
		t.Parallel()
		js := broken(t, server.Options{})
		_, err := queue.Ensure(t.Context(), js, nil, queue.Config{Replicas: 6, Storage: 9, MaxJobs: -1, Lease: time.Millisecond})
		for _, text := range []string{"Replicas is 6; want 1 to 5", "Storage is 9", "MaxJobs is -1; want at least 1", "Lease is 1ms; want at least 100ms"} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("Ensure = %v, want %q in it", err, text)
			}
		}
		if _, err := queue.Ensure(t.Context(), js, []string{"a.b", "x y"}, queue.Config{}); err == nil || strings.Count(err.Error(), "model") != 2 {
			t.Errorf("Ensure of bad names = %v, want both named", err)
		}
	})
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	servers := map[string]server.Options{
		"server": {},
		"account": {
			JetStream: true, StoreDir: t.TempDir(),
			Accounts: []*server.Account{server.NewAccount("with"), server.NewAccount("without")},
		},
	}
	for name, opts := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, a := range opts.Accounts {
				opts.Users = []*server.User{{Username: "u", Password: "p", Account: a}}
			}
			js := broken(t, opts)
			began := time.Now()
			if _, err := queue.Ensure(t.Context(), js, []string{"phi3"}, queue.Config{}); !errors.Is(err, queue.ErrNoJetStream) {
				t.Errorf("Ensure = %v, want %v", err, queue.ErrNoJetStream)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("it took %s to see that there is no JetStream", d)
			}
			if _, err := queue.Models(t.Context(), js); !errors.Is(err, queue.ErrNoJetStream) {
				t.Errorf("Models = %v, want %v", err, queue.ErrNoJetStream)
			}
			if _, err := queue.PurgeDead(t.Context(), js, queue.DeadFilter{}); !errors.Is(err, queue.ErrNoJetStream) {
				t.Errorf("PurgeDead = %v, want %v", err, queue.ErrNoJetStream)
			}
		})
	}
}

// What nobody has set up is told apart from what does not exist.
func TestNotSetUp(t *testing.T) {
	t.Parallel()
	js := bare(t, embedded.Config{})
	ctx := t.Context()
	calls := map[string]func() error{
		"Consumers":     func() error { _, err := queue.Consumers(ctx, js, "phi3"); return err },
		"Stats":         func() error { _, err := queue.Stats(ctx, js, "phi3"); return err },
		"ReadRecord":    func() error { _, err := queue.ReadRecord(ctx, js, "acme", "j", 0); return err },
		"LastEvent":     func() error { _, err := queue.LastEvent(ctx, js, "acme", "j"); return err },
		"PutResult":     func() error { return queue.PutResult(ctx, js, result("j", "x")) },
		"GetResult":     func() error { _, err := queue.GetResult(ctx, js, "acme", "j"); return err },
		"PutTombstone":  func() error { return queue.PutTombstone(ctx, js, &schemas.Cancel{ID: "j", Tenant: "acme"}) },
		"GetTombstone":  func() error { _, err := queue.GetTombstone(ctx, js, "acme", "j"); return err },
		"PutDeadLetter": func() error { return queue.PutDeadLetter(ctx, js, letter("phi3", "acme", "j")) },
		"PurgeDead":     func() error { _, err := queue.PurgeDead(ctx, js, queue.DeadFilter{}); return err },
		"Workers":       func() error { _, err := queue.Workers(ctx, js); return err },
		"Announce":      func() error { return queue.Announce(ctx, js, &schemas.WorkerInfo{ID: "w"}) },
		"Withdraw":      func() error { return queue.Withdraw(ctx, js, "w") },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := call(); !errors.Is(err, queue.ErrNotSetUp) || errors.Is(err, queue.ErrNotFound) {
				t.Errorf("%s = %v, want %v", name, err, queue.ErrNotSetUp)
			}
		})
	}
}

// A name that is not one token could reach the subjects of others.
func TestNamesAreChecked(t *testing.T) {
	t.Parallel()
	js := broken(t, server.Options{})
	ctx := t.Context()
	for _, bad := range []string{"", "*", ">", "a.b", strings.Repeat("x", 65)} {
		for name, call := range map[string]func() error{
			"Consumers":        func() error { _, err := queue.Consumers(ctx, js, bad); return err },
			"Stats":            func() error { _, err := queue.Stats(ctx, js, bad); return err },
			"ReadRecord":       func() error { _, err := queue.ReadRecord(ctx, js, "acme", bad, 0); return err },
			"ReadRecord other": func() error { _, err := queue.ReadRecord(ctx, js, bad, "j", 0); return err },
			"LastEvent":        func() error { _, err := queue.LastEvent(ctx, js, "acme", bad); return err },
			"PutResult":        func() error { return queue.PutResult(ctx, js, result(bad, "x")) },
			"GetResult":        func() error { _, err := queue.GetResult(ctx, js, bad, "j"); return err },
			"PutTombstone":     func() error { return queue.PutTombstone(ctx, js, &schemas.Cancel{ID: bad, Tenant: "acme"}) },
			"GetTombstone":     func() error { _, err := queue.GetTombstone(ctx, js, "acme", bad); return err },
			"PutDeadLetter":    func() error { return queue.PutDeadLetter(ctx, js, letter("phi3", "acme", bad)) },
			"Announce":         func() error { return queue.Announce(ctx, js, &schemas.WorkerInfo{ID: bad}) },
			"Withdraw":         func() error { return queue.Withdraw(ctx, js, bad) },
		} {
			if err := call(); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
				t.Errorf("%s of %q = %v, want %s", name, bad, err, schemas.CodeInvalidRequest)
			}
		}
	}
}

func TestFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		models int
		store  int64
		want   int64
	}{
		{4, 16 << 30, 2 << 30},
		{4, 15 << 30, 1 << 30},
		{4, 11 << 30, 1 << 30},
		{4, 8 << 30, 1 << 30},
		{4, 1 << 30, 128 << 20},
		{100, 1, 2 << 20}, // not below a megabyte of events
	} {
		t.Run(fmt.Sprint(c.models, " in ", c.store), func(t *testing.T) {
			t.Parallel()
			got := queue.Config{}.Fit(c.models, c.store)
			if want := max(2*c.want, 64<<20); got.MaxBodiesBytes != want {
				t.Errorf("Fit leaves %d bytes for bodies, want %d", got.MaxBodiesBytes, want)
			}
			if got.MaxBytes != c.want || got.ResultsMaxBytes != c.want || got.EventsMaxBytes != c.want/2 {
				t.Errorf("Fit = %d, %d, %d; want jobs and results of %d, events of half", got.MaxBytes, got.ResultsMaxBytes, got.EventsMaxBytes, c.want)
			}
		})
	}
}

// A job whose worker falls silent is delivered again after one lease, to any worker.
func TestLease(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{Lease: 200 * time.Millisecond})
	if err := submit(t, js, schemas.Interactive, "acme", "job-1"); err != nil {
		t.Fatal(err)
	}
	consumers, err := queue.Consumers(t.Context(), js, "phi3")
	if err != nil {
		t.Fatal(err)
	}
	var first time.Time
	for n := uint64(1); n <= 2; n++ {
		msg, err := consumers[schemas.Interactive].Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := msg.Metadata()
		if err != nil || meta.NumDelivered != n {
			t.Fatalf("delivery %d says it is %d, %v", n, meta.NumDelivered, err)
		}
		if n == 1 {
			first = time.Now()
		} else if d := time.Since(first); d < 150*time.Millisecond {
			t.Errorf("delivered again after %s, before the lease of 200ms ended", d)
		}
	}
}

func TestWithDomainAndPrefix(t *testing.T) {
	t.Parallel()
	js := broken(t, server.Options{JetStream: true, StoreDir: t.TempDir(), JetStreamDomain: "edge", JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 16 << 30})
	nc := js.Conn()
	inDomain, err := jetstream.NewWithDomain(nc, "edge")
	if err != nil {
		t.Fatal(err)
	}
	prefixed, err := jetstream.NewWithAPIPrefix(nc, "$JS.edge.API")
	if err != nil {
		t.Fatal(err)
	}
	for i, js := range []jetstream.JetStream{inDomain, prefixed} {
		if _, err := queue.Ensure(t.Context(), js, []string{"phi3"}, queue.Config{}); err != nil {
			t.Fatal(err)
		}
		r := result(fmt.Sprint("job-", i), "x")
		if err := queue.PutResult(t.Context(), js, r); err != nil {
			t.Fatal(err)
		}
		if _, err := queue.GetResult(t.Context(), js, r.Tenant, r.ID); err != nil {
			t.Errorf("GetResult = %v", err)
		}
		if err := queue.PutTombstone(t.Context(), js, &schemas.Cancel{ID: r.ID, Tenant: r.Tenant}); err != nil {
			t.Fatal(err)
		}
		if _, err := queue.GetTombstone(t.Context(), js, r.Tenant, r.ID); err != nil {
			t.Errorf("GetTombstone = %v", err)
		}
	}
}

// An answer that is lost, or that a leader change explains, is asked for again.
func TestAsksAgain(t *testing.T) {
	t.Parallel()
	js := broken(t, server.Options{})
	answer(t, js, "$JS.API.INFO", func(n int, _ *nats.Msg) []*nats.Msg {
		if n < 3 {
			return []*nats.Msg{{Data: []byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`)}}
		}
		return []*nats.Msg{{Data: []byte(`{"error":{"code":500,"err_code":10999,"description":"beyond repair"}}`)}}
	})
	_, err := queue.Ensure(t.Context(), js, nil, queue.Config{})
	if err == nil || !strings.Contains(err.Error(), "beyond repair") {
		t.Errorf("Ensure = %v, want the answer that is final", err)
	}
}
