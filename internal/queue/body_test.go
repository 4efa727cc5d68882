package queue_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const most = 16 << 20

// noise is a body of n bytes that no two chunks of which are alike.
func noise(n int) []byte {
	body := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(body) // never fails
	return body
}

func putBody(t *testing.T, js jetstream.JetStream, tenant, job string, body []byte) {
	t.Helper()
	if stored, err := queue.PutBody(t.Context(), js, tenant, job, body); err != nil || !stored {
		t.Fatalf("PutBody = %v, %v; want it stored", stored, err)
	}
}

// left is how many messages the object store holds.
func left(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	return stored(t, js, "OBJ_"+schemas.BodiesBucket).Msgs
}

func bodies(t *testing.T, js jetstream.JetStream) jetstream.ObjectStore {
	t.Helper()
	store, err := js.ObjectStore(t.Context(), schemas.BodiesBucket)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestBodyIsStoredReadAndDeleted(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	body := noise(10<<20 + 17)
	putBody(t, js, "acme", "job-1", body)
	got, ref, err := queue.GetBody(t.Context(), js, "acme", "job-1", most)
	if err != nil || !bytes.Equal(got, body) || ref != schemas.RefTo(body) {
		t.Fatalf("GetBody = %d bytes, %+v, %v; want the %d that were stored", len(got), ref, err, len(body))
	}
	// What is stored is an object to everybody else.
	theirs, err := bodies(t, js).GetBytes(t.Context(), schemas.BodyName("acme", "job-1"))
	if err != nil || !bytes.Equal(theirs, body) {
		t.Errorf("the library reads %d bytes, %v; want the %d that were stored", len(theirs), err, len(body))
	}
	if _, _, err := queue.GetBody(t.Context(), js, "acme", "job-1", len(body)-1); schemas.ErrorCode(err) != schemas.CodePayloadTooLarge || !strings.Contains(err.Error(), "is 10485777 bytes; want at most 10485776") {
		t.Errorf("GetBody with too small a bound = %v, want payload_too_large with both", err)
	}
	for range 2 {
		if err := queue.DeleteBody(t.Context(), js, "acme", "job-1"); err != nil {
			t.Error(err)
		}
	}
	if n := left(t, js); n != 0 {
		t.Errorf("%d messages are left in the object store", n)
	}
	if _, _, err := queue.GetBody(t.Context(), js, "acme", "job-1", most); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetBody of what was deleted = %v, want ErrNotFound", err)
	}
}

func TestFirstBodyOfAJobStays(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	first, second := noise(700<<10), noise(800<<10)
	putBody(t, js, "acme", "job-1", first)
	if stored, err := queue.PutBody(t.Context(), js, "acme", "job-1", first); stored || err != nil {
		t.Errorf("PutBody of the same body = %v, %v; want nothing done", stored, err)
	}
	if stored, err := queue.PutBody(t.Context(), js, "acme", "job-1", second); stored || !errors.Is(err, queue.ErrBodyExists) {
		t.Errorf("PutBody of another body = %v, %v; want ErrBodyExists", stored, err)
	}
	putBody(t, js, "beta", "job-1", second)
	for tenant, want := range map[string][]byte{"acme": first, "beta": second} {
		if got, _, err := queue.GetBody(t.Context(), js, tenant, "job-1", most); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s's body has %d bytes, %v; want its own, %d", tenant, len(got), err, len(want))
		}
	}
}

func TestOneOfManyBodiesStays(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var winners, losers int
	for i := range 8 {
		wg.Go(func() {
			stored, err := queue.PutBody(t.Context(), js, "acme", "job-1", noise(600<<10+i/2))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case stored:
				winners++
			case errors.Is(err, queue.ErrBodyExists):
				losers++
			case err != nil:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if winners != 1 || losers < 6 {
		t.Errorf("%d were stored and %d refused, want 1 and the 6 that differ from it", winners, losers)
	}
	if _, _, err := queue.GetBody(t.Context(), js, "acme", "job-1", most); err != nil {
		t.Error(err)
	}
	if n := left(t, js); n != 3 {
		t.Errorf("%d messages are stored, want two chunks and what is known of them", n)
	}
}

// A tenant that can write to the object store must not be able to read another's bodies through it.
func TestForgedObjectsLeadNowhere(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	secret := noise(600 << 10)
	putBody(t, js, "acme", "secret", secret)
	info, err := bodies(t, js).GetInfo(t.Context(), schemas.BodyName("acme", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	digest := schemas.RefTo([]byte("x")).Digest
	for name, forged := range map[string]any{
		"link":         jetstream.ObjectInfo{ObjectMeta: jetstream.ObjectMeta{Opts: &jetstream.ObjectMetaOptions{Link: &jetstream.ObjectLink{Bucket: schemas.BodiesBucket, Name: info.Name}}}, NUID: "x"},
		"wildcard":     jetstream.ObjectInfo{NUID: "*", Size: info.Size, Digest: info.Digest},
		"no chunks":    jetstream.ObjectInfo{NUID: "none", Size: 5, Digest: digest},
		"other digest": jetstream.ObjectInfo{NUID: info.NUID, Size: info.Size, Digest: digest},
		"other size":   jetstream.ObjectInfo{NUID: info.NUID, Size: 100, Digest: info.Digest},
		"not JSON":     "x",
	} {
		data, err := json.Marshal(forged)
		if err != nil {
			t.Fatal(err)
		}
		id := strings.ReplaceAll(name, " ", "-")
		meta := "$O." + schemas.BodiesBucket + ".M." + base64.URLEncoding.EncodeToString([]byte(schemas.BodyName("beta", id)))
		if _, err := js.Publish(t.Context(), meta, data); err != nil {
			t.Fatal(err)
		}
		if got, _, err := queue.GetBody(t.Context(), js, "beta", id, most); !errors.Is(err, queue.ErrBadBody) || got != nil {
			t.Errorf("%s: GetBody = %d bytes, %v; want ErrBadBody", name, len(got), err)
		}
		if name == "other digest" || name == "other size" {
			continue // deleting it would take the chunks that it names along
		}
		if err := queue.DeleteBody(t.Context(), js, "beta", id); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, _, err := queue.GetBody(t.Context(), js, "acme", "secret", most); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the other tenant's body: %v", err)
	}
	if err := bodies(t, js).Delete(t.Context(), info.Name); err != nil {
		t.Fatal(err)
	}
	if _, _, err := queue.GetBody(t.Context(), js, "acme", "secret", most); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetBody of what the library deleted = %v, want ErrNotFound", err)
	}
}

func TestFullObjectStoreSaysSo(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{MaxBodiesBytes: 2 << 20})
	putBody(t, js, "acme", "job-1", noise(1<<20))
	_, err := queue.PutBody(t.Context(), js, "acme", "job-2", noise(2<<20))
	if schemas.ErrorCode(err) != schemas.CodeQueueFull || !strings.Contains(err.Error(), "store for large bodies") {
		t.Errorf("PutBody = %v, want queue_full", err)
	}
	if n := left(t, js); n != 3 {
		t.Errorf("%d messages are stored, want those of the first body", n)
	}
}

func TestBodiesWithoutAnObjectStore(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	if err := js.DeleteStream(t.Context(), "OBJ_"+schemas.BodiesBucket); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.PutBody(t.Context(), js, "acme", "job-1", noise(1<<20)); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("PutBody = %v, want ErrNotSetUp", err)
	}
	if _, _, err := queue.GetBody(t.Context(), js, "acme", "job-1", most); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("GetBody = %v, want ErrNotSetUp", err)
	}
	if err := queue.DeleteBody(t.Context(), js, "acme", "job-1"); !errors.Is(err, queue.ErrNotSetUp) {
		t.Errorf("DeleteBody = %v, want ErrNotSetUp", err)
	}
}

func TestBodyNamesAreTokens(t *testing.T) {
	t.Parallel()
	js := broken(t, server.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for name, call := range map[string]func() error{
		"PutBody":    func() error { _, err := queue.PutBody(ctx, js, "acme", "a.b", nil); return err },
		"GetBody":    func() error { _, _, err := queue.GetBody(ctx, js, "*", "job", most); return err },
		"DeleteBody": func() error { return queue.DeleteBody(ctx, js, "acme", ">") },
	} {
		if err := call(); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
			t.Errorf("%s = %v, want %s", name, err, schemas.CodeInvalidRequest)
		}
	}
}
