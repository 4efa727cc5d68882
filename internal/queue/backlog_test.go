package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestBacklogIsReadWithoutTakingIt(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	for i := range 5 {
		if err := submit(t, js, schemas.Batch, "acme", string(rune('a'+i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := queue.DeleteJob(t.Context(), js, "phi3", 3); err != nil {
		t.Fatal(err)
	}
	places := func(from, to uint64) (got []uint64) {
		for q, err := range queue.Backlog(t.Context(), js, "phi3", from, to) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, q.Stored); q.Stored == 5 {
				break
			}
		}
		return got
	}
	for _, c := range []struct {
		from, to uint64
		want     string
	}{{0, 4, "[1 2 4]"}, {2, 3, "[2]"}, {3, 3, "[]"}, {4, 99, "[4 5]"}, {6, 9, "[]"}, {2, 1, "[]"}} {
		if got := places(c.from, c.to); fmt.Sprint(got) != c.want {
			t.Errorf("places %d to %d = %v, want %s", c.from, c.to, got, c.want)
		}
	}
	q, err := queue.GetJob(t.Context(), js, "phi3", 2)
	if err != nil || q.Stored != 2 || q.Time.IsZero() || q.Header.Get(schemas.HeaderMsgID) != "acme.b" || !strings.Contains(string(q.Data), `"b"`) ||
		q.Subject != schemas.JobSubject("phi3", schemas.Batch, "acme") {
		t.Errorf("GetJob = %+v, %v", q, err)
	}
	if _, err := queue.GetJob(t.Context(), js, "phi3", 3); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetJob of one that has left = %v", err)
	}
	if e, err := queue.Extent(t.Context(), js, "phi3"); err != nil || e != (queue.Span{First: 1, Last: 5, Jobs: 4}) {
		t.Errorf("Extent = %+v, %v", e, err)
	}
	if lease, err := queue.Lease(t.Context(), js, "phi3"); err != nil || lease != 4*time.Second {
		t.Errorf("Lease = %s, %v", lease, err)
	}

	for q, err := range queue.Backlog(t.Context(), js, "none", 1, 9) {
		if !errors.Is(err, queue.ErrNotSetUp) {
			t.Errorf("Backlog of no model = %v, %v", q, err)
		}
	}
	for q, err := range queue.Backlog(t.Context(), js, "*", 1, 9) {
		if err == nil {
			t.Errorf("Backlog of * = %v", q)
		}
	}
	if _, err := queue.GetJob(t.Context(), js, "*", 1); err == nil {
		t.Error("GetJob of * is nil")
	}
	if _, err := queue.Extent(t.Context(), js, "*"); err == nil {
		t.Error("Extent of * is nil")
	}
	if _, err := queue.Extent(t.Context(), js, "none"); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("Extent of no model = %v", err)
	}
	if _, err := queue.Lease(t.Context(), js, "none"); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("Lease of no model = %v", err)
	}
}

func TestOverFindsResultsAndTombstones(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	if _, next, err := queue.Tombstones(t.Context(), js, 0); err != nil || next != 1 {
		t.Fatalf("Tombstones = %d, %v", next, err)
	}
	var jobs []queue.JobKey
	want := 0
	for i := range 1100 { // more than one request takes
		id := "job-" + fmt.Sprint(i)
		jobs = append(jobs, queue.JobKey{Tenant: "acme", ID: id})
		switch i % 100 {
		case 7: // large enough that not all come in one batch
			r := &schemas.Result{ID: id, Tenant: "acme", Status: schemas.StatusCompleted, Text: strings.Repeat("x", 300<<10)}
			if err := queue.PutResult(t.Context(), js, r); err != nil {
				t.Fatal(err)
			}
			want++
		case 8:
			if err := queue.PutTombstone(t.Context(), js, &schemas.Cancel{ID: id, Tenant: "acme"}); err != nil {
				t.Fatal(err)
			}
			want++
		}
	}
	over, err := queue.Over(t.Context(), js, jobs)
	if err != nil || len(over) != want || !over[jobs[1007]] || !over[jobs[508]] || over[jobs[9]] {
		t.Errorf("%d are over, want %d; %v", len(over), want, err)
	}
	names, next, err := queue.Tombstones(t.Context(), js, 1)
	if err != nil || len(names) != 11 || next != 12 || names[0] != jobs[8] {
		t.Errorf("Tombstones = %v, %d, %v", names, next, err)
	}
	if names, next, err := queue.Tombstones(t.Context(), js, next); err != nil || len(names) != 0 || next != 12 {
		t.Errorf("Tombstones = %v, %d, %v", names, next, err)
	}
	kv, err := js.KeyValue(t.Context(), schemas.CancelsBucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), schemas.CancelKey("acme", jobs[8].ID)); err != nil {
		t.Fatal(err)
	}
	if over, err := queue.Over(t.Context(), js, jobs[8:9]); err != nil || len(over) != 0 {
		t.Errorf("a tombstone that was taken back: %v, %v", over, err)
	}
	if names, _, err := queue.Tombstones(t.Context(), js, 12); err != nil || len(names) != 0 {
		t.Errorf("a tombstone that was taken back: %v, %v", names, err)
	}

	missing := bare(t, embedded.Config{})
	if _, err := queue.Over(t.Context(), missing, jobs[:1]); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("Over = %v", err)
	}
	for _, from := range []uint64{0, 1} {
		if _, _, err := queue.Tombstones(t.Context(), missing, from); !errors.Is(err, queue.ErrNotSetUp) {
			t.Errorf("Tombstones from %d = %v", from, err)
		}
	}
}
