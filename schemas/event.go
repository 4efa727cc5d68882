package schemas

import (
	"encoding/json"
	"time"
)

// Kind says what happened to a job.
type Kind string

// The kinds of event.
const (
	// Accepted means that the queue has stored the job. Producers make it from the queue's own
	// acknowledgement, as seq 0; it is never published.
	Accepted Kind = "accepted"
	// Started opens an attempt: a worker has begun. The first event on the wire, seq 1.
	Started Kind = "started"
	// DeltaKind carries newly generated choices.
	DeltaKind Kind = "delta"
	// Interrupted closes an attempt that did not finish, with the reason in Error. The job goes on in a later attempt.
	Interrupted Kind = "interrupted"
	// Resumed opens an attempt that goes on after the tokens already sent.
	Resumed Kind = "resumed"
	// Restarted opens an attempt that begins again: drop the text of earlier attempts. Reason says why.
	Restarted Kind = "restarted"
	// UsageKind carries the token counts, just before Done.
	UsageKind Kind = "usage"
	// Done, Failed, Cancelled and Expired end a job: a reader stops there, and whatever another attempt says after it is void.
	Done      Kind = "done"
	Failed    Kind = "failed"
	Cancelled Kind = "cancelled"
	Expired   Kind = "expired"
)

// Terminal reports whether k ends a job.
func (k Kind) Terminal() bool { return k == Done || k == Failed || k == Cancelled || k == Expired }

// Opens reports whether k opens an attempt.
func (k Kind) Opens() bool { return k == Started || k == Resumed || k == Restarted }

// Event is one thing that happened to a job: the message on an events subject.
type Event struct {
	ID string `json:"id"`
	// Seq rises by one over the whole job, across attempts, from 1.
	Seq uint64 `json:"seq"`
	// Attempt is the delivery that this event belongs to, from 1. Readers ignore events of an older attempt than the newest they saw.
	Attempt int  `json:"attempt"`
	Kind    Kind `json:"kind"`
	// TS is when the worker made the event, in microseconds since the Unix epoch.
	TS int64 `json:"ts"`
	// Worker names the worker, on events that open an attempt.
	Worker string `json:"worker,omitempty"`
	// Source is the stream and sequence of the message that is being run, as HXP_JOBS_phi3/17, on
	// events that open an attempt: it tells a second message with the same job id from another
	// delivery of the first.
	Source string `json:"source,omitempty"`
	// ServedBy is the model that runs the attempt in place of the job's own, on events that open an attempt.
	ServedBy string `json:"served_by,omitempty"`
	// Kept is how many of the tokens already sent Resumed goes on from.
	Kept int `json:"kept,omitempty"`
	// Choices is a JSON array of choice objects as the engine streamed them, in order. Several engine chunks may share one event.
	// A choice in which moderation has replaced text has "masked": true, and neither token ids nor log probabilities.
	Choices json.RawMessage `json:"choices,omitempty"`
	// Turn is the job's place in its conversation, on events that open an attempt and on the last one.
	Turn *Turn `json:"turn,omitempty"`
	// Prompt identifies the prompt's tokens, on the first delta of an attempt if the engine told them.
	Prompt  *Prompt  `json:"prompt,omitempty"`
	Usage   *Usage   `json:"usage,omitempty"`
	Timings *Timings `json:"timings,omitempty"`
	// Reason explains Restarted, Resumed and ServedBy. On every event that opens an attempt it says what of the
	// request was changed for the model.
	Reason string `json:"reason,omitempty"`
	// Handback is set on an Interrupted that is nobody's fault: the worker was asked to stop. It does not count as a failed attempt.
	Handback bool `json:"handback,omitempty"`
	// Excused is set on an event that opens an attempt, if the one before was left open by a worker that lives: it
	// lost no more than its lease, and that attempt does not count as failed.
	Excused bool   `json:"excused,omitempty"`
	Error   *Error `json:"error,omitempty"`
}

// Prompt identifies the tokens of a prompt, so that a later attempt can tell whether it has the same.
type Prompt struct {
	Tokens int `json:"tokens"`
	// Hash is the 64-bit FNV-1a hash of the token ids, each as eight bytes little-endian, in 16 hexadecimal digits.
	Hash string `json:"hash"`
}

// Usage counts tokens, in OpenAI's names.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Timings are how long the parts of a job took, in milliseconds.
type Timings struct {
	// Queue is from the queue's acceptance to the start of the attempt that finished.
	Queue float64 `json:"queue"`
	// TTFT is from the start of that attempt to its first token.
	TTFT float64 `json:"ttft"`
	// Generate is from the start of that attempt to its end.
	Generate float64 `json:"generate"`
	// Total is from the queue's acceptance to the end.
	Total float64 `json:"total"`
}

// Time returns TS as a time.
func (e *Event) Time() time.Time { return time.UnixMicro(e.TS) }
