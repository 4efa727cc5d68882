package schemas

import (
	"fmt"
	"slices"
	"time"
)

// BatchStatus is how far a batch has come, in OpenAI's words.
type BatchStatus string

// The states of a batch.
const (
	BatchValidating BatchStatus = "validating"
	BatchFailed     BatchStatus = "failed"
	BatchInProgress BatchStatus = "in_progress"
	BatchFinalizing BatchStatus = "finalizing"
	BatchCompleted  BatchStatus = "completed"
	BatchExpired    BatchStatus = "expired"
	BatchCancelling BatchStatus = "cancelling"
	BatchCancelled  BatchStatus = "cancelled"
)

// Terminal reports whether a batch in this state changes no more by itself.
func (s BatchStatus) Terminal() bool {
	return slices.Contains([]BatchStatus{BatchFailed, BatchCompleted, BatchExpired, BatchCancelled}, s)
}

// Bounds of a batch's completion window, and of its priority either way.
const (
	MinBatchWindow   = time.Second
	MaxBatchWindow   = 30 * 24 * time.Hour
	MaxBatchPriority = 100
)

// BatchState is the state of a file of requests that was left to the cluster: OpenAI's batch object, and what
// hxp needs besides. Times are seconds since the Unix epoch, 0 for what has not happened.
type BatchState struct {
	ID       string      `json:"id"`
	Object   string      `json:"object"`
	Tenant   string      `json:"tenant"`
	Endpoint Endpoint    `json:"endpoint,omitempty"`
	Status   BatchStatus `json:"status"`
	// CompletionWindow is how long the batch may take, as a Go duration. Lines that are not answered
	// by then fail as batch_expired.
	CompletionWindow string `json:"completion_window"`

	CreatedAt    int64 `json:"created_at"`
	InProgressAt int64 `json:"in_progress_at,omitempty"`
	ExpiresAt    int64 `json:"expires_at,omitempty"`
	FinalizingAt int64 `json:"finalizing_at,omitempty"`
	CompletedAt  int64 `json:"completed_at,omitempty"`
	FailedAt     int64 `json:"failed_at,omitempty"`
	ExpiredAt    int64 `json:"expired_at,omitempty"`
	CancellingAt int64 `json:"cancelling_at,omitempty"`
	CancelledAt  int64 `json:"cancelled_at,omitempty"`

	RequestCounts BatchCounts `json:"request_counts"`
	Usage         Usage       `json:"usage"`
	// Errors are the first faults that the validation found.
	Errors   *BatchErrors      `json:"errors,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`

	// Priority orders the batches of one tenant, higher first.
	Priority int `json:"priority,omitempty"`
	// Round is how often the lines that failed were tried again.
	Round int `json:"round,omitempty"`
	// Repeated is how many lines have the custom_id of an earlier one.
	Repeated int64 `json:"repeated,omitempty"`
	// Abort has a cancel stop the lines that are running; without it they finish.
	Abort bool `json:"abort,omitempty"`
	// Expiring is set when the window has passed and the lines that are left are being failed.
	Expiring bool       `json:"expiring,omitempty"`
	Input    BatchInput `json:"input"`
	// Fault is what keeps the batch from going on at the moment.
	Fault string `json:"fault,omitempty"`
}

// BatchCounts are the lines of a batch.
type BatchCounts struct {
	Total     int64 `json:"total"`
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"`
}

// BatchErrors are faults of lines.
type BatchErrors struct {
	Object string       `json:"object"`
	Data   []BatchError `json:"data"`
}

// BatchError is one fault.
type BatchError struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	Line    int64  `json:"line,omitempty"`
}

// BatchInput is where the input of a batch lies in [BatchFilesBucket].
type BatchInput struct {
	NUID   string `json:"nuid"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// Window is CompletionWindow as a duration.
func (b *BatchState) Window() (time.Duration, error) {
	d, err := time.ParseDuration(b.CompletionWindow)
	if err != nil || d < MinBatchWindow || d > MaxBatchWindow {
		return 0, Errorf(CodeInvalidRequest, "completion_window is %.40q; want %s to %s", b.CompletionWindow, MinBatchWindow, MaxBatchWindow).WithParam("completion_window")
	}
	return d, nil
}

// Validate returns every fault of what a client may say of a batch as one [*Error], or nil.
func (b *BatchState) Validate() error {
	var f faults
	for _, field := range []struct{ name, value string }{{"id", b.ID}, {"tenant", b.Tenant}} {
		if err := CheckToken(field.value); err != nil {
			f.add(field.name, "%w", err)
		}
	}
	if b.Endpoint != "" && !b.Endpoint.Valid() {
		f.add("endpoint", "is %.64q; want %s or %s", b.Endpoint, ChatCompletions, Completions)
	}
	if _, err := b.Window(); err != nil {
		f.add("completion_window", "is %.40q; want %s to %s", b.CompletionWindow, MinBatchWindow, MaxBatchWindow)
	}
	if b.Priority < -MaxBatchPriority || b.Priority > MaxBatchPriority {
		f.add("priority", "is %d; want %d to %d", b.Priority, -MaxBatchPriority, MaxBatchPriority)
	}
	j := Job{Metadata: b.Metadata}
	j.validateMetadata(&f)
	return f.err()
}

// Move puts the batch into a state, with its time.
func (b *BatchState) Move(to BatchStatus, at time.Time) error {
	when := map[BatchStatus]*int64{
		BatchInProgress: &b.InProgressAt, BatchFinalizing: &b.FinalizingAt, BatchCompleted: &b.CompletedAt, BatchFailed: &b.FailedAt,
		BatchExpired: &b.ExpiredAt, BatchCancelling: &b.CancellingAt, BatchCancelled: &b.CancelledAt,
	}[to]
	if when == nil || !slices.Contains(batchMoves[b.Status], to) {
		return Errorf(CodeInvalidRequest, "batch %s is %s, and cannot become %s", b.ID, b.Status, to).WithParam("status")
	}
	b.Status, *when = to, at.Unix()
	return nil
}

// batchMoves are the states that may follow each.
var batchMoves = map[BatchStatus][]BatchStatus{
	BatchValidating: {BatchInProgress, BatchFailed, BatchCancelling},
	BatchInProgress: {BatchFinalizing, BatchFailed, BatchCancelling},
	BatchFinalizing: {BatchCompleted, BatchExpired, BatchFailed},
	BatchCancelling: {BatchCancelled, BatchFailed},
}

// Retry puts a batch that is over back to work on the lines that have failed.
func (b *BatchState) Retry(at time.Time) error {
	if !b.Status.Terminal() || b.RequestCounts.Failed == 0 {
		return Errorf(CodeInvalidRequest, "batch %s is %s with %d failed lines; want one that is over, with some", b.ID, b.Status, b.RequestCounts.Failed).WithParam("status")
	}
	window, err := b.Window()
	if err != nil {
		return err
	}
	b.Round++
	b.Status, b.InProgressAt, b.ExpiresAt = BatchInProgress, at.Unix(), at.Add(window).Unix()
	b.FinalizingAt, b.CompletedAt, b.FailedAt, b.ExpiredAt, b.CancellingAt, b.CancelledAt = 0, 0, 0, 0, 0, 0
	b.Abort, b.Expiring, b.Fault = false, false, ""
	return nil
}

// String names the batch and its state.
func (b *BatchState) String() string { return fmt.Sprintf("batch %s, %s", b.ID, b.Status) }
