package schemas_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
)

func aBatch() schemas.BatchState {
	return schemas.BatchState{
		ID: "batch_1", Object: "batch", Tenant: "acme", Endpoint: schemas.ChatCompletions, Status: schemas.BatchValidating,
		CompletionWindow: "24h", CreatedAt: 100, ExpiresAt: 100 + 86400,
	}
}

// TestBatchMoves tries every state after every other.
func TestBatchMoves(t *testing.T) {
	t.Parallel()
	allowed := map[schemas.BatchStatus]string{
		schemas.BatchValidating: "in_progress failed cancelling",
		schemas.BatchInProgress: "finalizing failed cancelling",
		schemas.BatchFinalizing: "completed expired failed",
		schemas.BatchCancelling: "cancelled failed",
	}
	all := []schemas.BatchStatus{
		schemas.BatchValidating, schemas.BatchFailed, schemas.BatchInProgress, schemas.BatchFinalizing,
		schemas.BatchCompleted, schemas.BatchExpired, schemas.BatchCancelling, schemas.BatchCancelled,
	}
	for _, from := range all {
		if terminal := allowed[from] == ""; from.Terminal() != terminal {
			t.Errorf("%s.Terminal() = %t", from, from.Terminal())
		}
		for _, to := range all {
			b := aBatch()
			b.Status = from
			err := b.Move(to, time.Unix(7, 0))
			want := strings.Contains(" "+allowed[from]+" ", " "+string(to)+" ")
			if (err == nil) != want {
				t.Errorf("%s to %s: %v", from, to, err)
			}
			if err != nil && (b.Status != from || !strings.Contains(err.Error(), string(to))) {
				t.Errorf("%s to %s left %s: %v", from, to, b.Status, err)
			}
			data, _ := json.Marshal(&b)
			if err == nil && !strings.Contains(string(data), `"`+string(to)+`_at":7`) {
				t.Errorf("%s to %s: %s", from, to, data)
			}
		}
	}
}

func TestBatchRetry(t *testing.T) {
	t.Parallel()
	b := aBatch()
	b.Status, b.ExpiredAt, b.Abort, b.Expiring, b.Fault = schemas.BatchExpired, 9, true, true, "x"
	b.RequestCounts = schemas.BatchCounts{Total: 3, Completed: 1, Failed: 2}
	if err := b.Retry(time.Unix(1000, 0)); err != nil {
		t.Fatal(err)
	}
	want := aBatch()
	want.Status, want.Round, want.InProgressAt, want.ExpiresAt, want.RequestCounts = schemas.BatchInProgress, 1, 1000, 1000+86400, b.RequestCounts
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := b.Retry(time.Unix(1000, 0)); err == nil {
		t.Error("a batch that runs was retried")
	}
	b.Status, b.CompletionWindow = schemas.BatchCompleted, "never"
	if err := b.Retry(time.Unix(1000, 0)); err == nil || b.Round != 1 {
		t.Errorf("Retry = %v; round %d", err, b.Round)
	}
	if got := b.String(); got != "batch batch_1, completed" {
		t.Errorf("String() = %q", got)
	}
}

func TestBatchValidate(t *testing.T) {
	t.Parallel()
	b := aBatch()
	if err := b.Validate(); err != nil {
		t.Error(err)
	}
	bad := schemas.BatchState{
		ID: "a.b", Endpoint: "/v2", CompletionWindow: "31d", Priority: -101, Metadata: map[string]string{"k": strings.Repeat("x", 513)},
	}
	err := bad.Validate()
	for _, want := range []string{`id "a.b"`, "tenant is empty", `endpoint is "/v2"`, `completion_window is "31d"; want 1s to 720h0m0s`, "priority is -101; want -100 to 100", "metadata pair"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %q in it", err, want)
		}
	}
	for _, window := range []string{"", "x", "1ms", "721h"} {
		b.CompletionWindow = window
		if _, err := b.Window(); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
			t.Errorf("Window of %q: %v", window, err)
		}
	}
}

func TestBatchNames(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		schemas.BatchSubject("acme", "b1"):   "hxp.v1.batches.acme.b1",
		schemas.BatchKey("acme", "b1"):       "acme.b1",
		schemas.BatchInputName("acme", "b1"): "acme.b1",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
