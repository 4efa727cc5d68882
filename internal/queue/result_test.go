package queue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

func result(id, worker string) *schemas.Result {
	return &schemas.Result{
		ID: id, Model: "phi3", Class: schemas.Standard, Tenant: "acme", Endpoint: schemas.Completions, Status: schemas.StatusCompleted,
		Text: "an answer", Choices: json.RawMessage(`[{"index":0,"text":"an answer","finish_reason":"stop"}]`),
		Usage: &schemas.Usage{PromptTokens: 2, CompletionTokens: 3, TotalTokens: 5}, Attempts: 1, Worker: worker,
		Metadata: map[string]string{"b": "2", "a": "1"}, Finished: time.Unix(1_767_000_000, 0).UTC(), LastSeq: 4,
	}
}

func TestResult(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	ctx := t.Context()
	want := result("job-1", "w1")
	if _, err := queue.GetResult(ctx, js, "acme", "job-1"); !errors.Is(err, queue.ErrNotFound) {
		t.Fatalf("GetResult = %v, want %v", err, queue.ErrNotFound)
	}
	if err := queue.PutResult(ctx, js, want); err != nil {
		t.Fatal(err)
	}
	got, err := queue.GetResult(ctx, js, "acme", "job-1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("result (-want +got):\n%s", d)
	}
	if _, err := queue.GetResult(ctx, js, "other", "job-1"); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("another tenant's GetResult = %v, want %v", err, queue.ErrNotFound)
	}
	if err := queue.PutResult(ctx, js, result("job-1", "w2")); !errors.Is(err, queue.ErrResultExists) {
		t.Errorf("second writer's PutResult = %v, want %v", err, queue.ErrResultExists)
	}
	if err := queue.PutResult(ctx, js, result("job-1", "w1")); err != nil {
		t.Errorf("the first writer's repeated PutResult = %v, want nil", err)
	}
	stream, err := js.Stream(ctx, schemas.ResultsStream)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, schemas.ResultSubject("acme", "job-1"))
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "result", msg.Data)
	if id := msg.Header.Get(schemas.HeaderJobID); id != "job-1" || msg.Header.Get(schemas.HeaderContentType) != schemas.ContentTypeJSON {
		t.Errorf("headers = %v", msg.Header)
	}
}

func TestOneOfManyWritersWins(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			switch err := queue.PutResult(t.Context(), js, result("job-1", string(rune('a'+i)))); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, queue.ErrResultExists):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 15 {
		t.Errorf("%d writers won and %d lost, want 1 and 15", won.Load(), lost.Load())
	}
}

// The stream itself keeps the first result, even from a writer that expects nothing.
func TestPlainWriterCannotReplaceAResult(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	subject := schemas.ResultSubject("acme", "job-1")
	if err := queue.PutResult(t.Context(), js, result("job-1", "w1")); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), subject, []byte("{}")); err == nil {
		t.Error("a plain publish replaced a result")
	}
	if r, err := queue.GetResult(t.Context(), js, "acme", "job-1"); err != nil || r.Worker != "w1" {
		t.Errorf("GetResult = %+v, %v; want w1's", r, err)
	}
}

// A full stream refuses the new and keeps the old.
func TestFullResultsRefuse(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{ResultsMaxBytes: 3000})
	ctx := t.Context()
	var err error
	n := 0
	for ; err == nil && n < 50; n++ {
		err = queue.PutResult(ctx, js, result("job-"+string(rune('a'+n)), "w1"))
	}
	if err == nil || errors.Is(err, queue.ErrResultExists) || !strings.Contains(err.Error(), "maximum bytes exceeded") {
		t.Fatalf("after %d results PutResult = %v, want a full stream", n, err)
	}
	for i := range n - 1 {
		if _, err := queue.GetResult(ctx, js, "acme", "job-"+string(rune('a'+i))); err != nil {
			t.Errorf("result %d was lost: %v", i, err)
		}
	}
}

func TestResultExpires(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{ResultsMaxAge: 150 * time.Millisecond})
	if err := queue.PutResult(t.Context(), js, result("job-1", "w1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the result has expired", func() bool {
		_, err := queue.GetResult(t.Context(), js, "acme", "job-1")
		return errors.Is(err, queue.ErrNotFound)
	})
	if err := queue.PutResult(t.Context(), js, result("job-1", "w2")); err != nil {
		t.Errorf("PutResult after that = %v", err)
	}
}

func TestResultTooLarge(t *testing.T) {
	t.Parallel()
	js := bare(t, embedded.Config{MaxPayload: 4096})
	if _, err := queue.Ensure(t.Context(), js, nil, queue.Config{}); err != nil {
		t.Fatal(err)
	}
	r := result("job-1", "w1")
	r.Text = strings.Repeat("x", 5000)
	err := queue.PutResult(t.Context(), js, r)
	if schemas.ErrorCode(err) != schemas.CodePayloadTooLarge || !errors.Is(err, nats.ErrMaxPayload) || !strings.Contains(err.Error(), "at most 4096") {
		t.Errorf("PutResult = %v, want %s", err, schemas.CodePayloadTooLarge)
	}
	r = result("job-1", "w1")
	r.Choices = json.RawMessage("{")
	if err := queue.PutResult(t.Context(), js, r); err == nil {
		t.Error("a result with broken JSON was stored")
	}
}

func TestDamagedResult(t *testing.T) {
	t.Parallel()
	js := start(t, queue.Config{})
	if _, err := js.Publish(t.Context(), schemas.ResultSubject("acme", "job-1"), []byte("junk")); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.GetResult(t.Context(), js, "acme", "job-1"); err == nil || errors.Is(err, queue.ErrNotFound) {
		t.Errorf("GetResult = %v, want an error that is not %v", err, queue.ErrNotFound)
	}
}

// The acknowledgement of the first write is lost. The same message id goes out again, and the
// server's "duplicate" is a success.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	js := broken(t, server.Options{})
	ids := make(chan string, 2)
	answer(t, js, schemas.AllResults, func(n int, m *nats.Msg) []*nats.Msg {
		ids <- m.Header.Get(jetstream.MsgIDHeader)
		if n == 1 {
			return nil
		}
		return []*nats.Msg{{Data: []byte(`{"stream":"HXP_RESULTS","seq":1,"duplicate":true}`)}}
	})
	if err := queue.PutResult(t.Context(), js, result("job-1", "w1")); err != nil {
		t.Fatal(err)
	}
	if a, b := <-ids, <-ids; a != b || a == "" {
		t.Errorf("message ids = %q, %q; want the same twice", a, b)
	}
}

// The server has forgotten the message id, and says on a replicated stream that there is a result:
// what is stored tells whose it is.
func TestOwnResultIsRecognised(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		store        string
		want         error
	}{
		{"own", `{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"}}`, "w1", nil},
		{"other's", `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"}}`, "w2", queue.ErrResultExists},
		{"unknown", `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"}}`, "", queue.ErrResultExists},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			js := broken(t, server.Options{})
			answer(t, js, schemas.AllResults, func(int, *nats.Msg) []*nats.Msg { return []*nats.Msg{{Data: []byte(c.answer)}} })
			subject := schemas.ResultSubject("acme", "job-1")
			answer(t, js, "$JS.API.DIRECT.GET.HXP_RESULTS."+subject, func(int, *nats.Msg) []*nats.Msg {
				if c.store == "" {
					return []*nats.Msg{status("404", 0)}
				}
				data, err := json.Marshal(result("job-1", c.store))
				if err != nil {
					t.Error(err)
				}
				return []*nats.Msg{direct(subject, 5, 0, bytes.Clone(data))}
			})
			if err := queue.PutResult(t.Context(), js, result("job-1", "w1")); !errors.Is(err, c.want) {
				t.Errorf("PutResult = %v, want %v", err, c.want)
			}
		})
	}
}

// Nobody answers: the error says so, and how long it waited.
func TestSilence(t *testing.T) {
	t.Parallel()
	js := broken(t, server.Options{})
	if _, err := js.Conn().SubscribeSync(">"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"PutResult":  func() error { return queue.PutResult(ctx, js, result("job-1", "w1")) },
		"ReadRecord": func() error { _, err := queue.ReadRecord(ctx, js, "acme", "job-1", 0); return err },
	} {
		if err := call(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer from the queue within") {
			t.Errorf("%s = %v", name, err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := queue.GetResult(ctx, js, "acme", "job-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("GetResult = %v, want %v", err, context.Canceled)
	}
}
