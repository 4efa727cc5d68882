package schemas

import (
	"encoding/json"
	"time"
)

// Status is how a job ended.
type Status string

// The ends that a job can have.
const (
	StatusCompleted Status = "completed"
	StatusFailed    Status = "failed"
	StatusCancelled Status = "cancelled"
	StatusExpired   Status = "expired"
)

// Kind returns the terminal event that announces s.
func (s Status) Kind() Kind {
	switch s {
	case StatusCompleted:
		return Done
	case StatusCancelled:
		return Cancelled
	case StatusExpired:
		return Expired
	default:
		return Failed
	}
}

// Result is the one terminal record of a job. The first one written is final.
type Result struct {
	ID    string `json:"id"`
	Model string `json:"model"`
	// ServedBy is the model that answered in place of Model.
	ServedBy string   `json:"served_by,omitempty"`
	Class    Class    `json:"class"`
	Tenant   string   `json:"tenant"`
	Endpoint Endpoint `json:"endpoint"`
	Status   Status   `json:"status"`
	// Text is the text of the first choice.
	Text string `json:"text"`
	// Choices is the choices array of OpenAI's non-streaming response for Endpoint.
	Choices  json.RawMessage `json:"choices,omitempty"`
	Usage    *Usage          `json:"usage,omitempty"`
	Timings  Timings         `json:"timings"`
	Attempts int             `json:"attempts"`
	Worker   string          `json:"worker,omitempty"`
	Error    *Error          `json:"error,omitempty"`
	// Turn is what became of the job's turn, if it had a session.
	Turn     *Turn             `json:"turn,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Created  time.Time         `json:"created,omitzero"`
	Finished time.Time         `json:"finished"`
	// LastSeq is the seq of the terminal event: a reader that has it has everything.
	LastSeq uint64 `json:"last_seq"`
}

// Cancel asks for a job to be stopped: the message on a cancel subject and the value of a tombstone.
type Cancel struct {
	ID        string    `json:"id"`
	Tenant    string    `json:"tenant"`
	Reason    string    `json:"reason,omitempty"`
	Requested time.Time `json:"requested"`
}

// Phase is how far a job had come when it was cancelled.
type Phase string

// The phases.
const (
	PhaseQueued  Phase = "queued"
	PhasePrefill Phase = "prefill"
	PhaseDecode  Phase = "decode"
	PhaseEnded   Phase = "ended"
)

// CancelReply is a worker's answer to a Cancel of a job it is running.
type CancelReply struct {
	ID     string `json:"id"`
	Phase  Phase  `json:"phase"`
	Worker string `json:"worker"`
}

// Attempt is one try at a job, as the dead letter tells it.
type Attempt struct {
	Attempt int    `json:"attempt"`
	Worker  string `json:"worker,omitempty"`
	Error   *Error `json:"error"`
}

// DeadLetter is a job that was given up: the message on a dead subject.
type DeadLetter struct {
	ID      string `json:"id"`
	Model   string `json:"model"`
	Tenant  string `json:"tenant"`
	Subject string `json:"subject"`
	Reason  *Error `json:"reason"`
	// Attempts are the tries that failed, oldest first.
	Attempts []Attempt `json:"attempts"`
	// Payload is the message as it was published, when that is UTF-8 text; PayloadBase64 otherwise.
	Payload       string    `json:"payload,omitempty"`
	PayloadBase64 []byte    `json:"payload_base64,omitempty"`
	Time          time.Time `json:"time"`
}
