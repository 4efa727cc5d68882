package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

// Class is the urgency of a job. Workers start interactive jobs first, then standard, then batch.
type Class string

// The classes, most urgent first.
const (
	Interactive Class = "interactive"
	Standard    Class = "standard"
	Batch       Class = "batch"
)

// Classes lists every class, most urgent first.
func Classes() []Class { return []Class{Interactive, Standard, Batch} }

// Valid reports whether c is one of [Classes].
func (c Class) Valid() bool { return slices.Contains(Classes(), c) }

func classList() string { return "interactive, standard, batch" }

// Endpoint names which of the engine's generation APIs a job's body is for.
type Endpoint string

// The endpoints that a job may name.
const (
	ChatCompletions Endpoint = "/v1/chat/completions"
	Completions     Endpoint = "/v1/completions"
)

// Valid reports whether e can be served.
func (e Endpoint) Valid() bool { return e == ChatCompletions || e == Completions }

// OnInterrupt says what to do with text already sent when an attempt fails.
type OnInterrupt string

// The answers to an interruption.
const (
	// ContinueOnInterrupt goes on after the last token where that is exact, and restarts otherwise. The default.
	ContinueOnInterrupt OnInterrupt = "continue"
	// RestartOnInterrupt generates again from the start; readers drop the earlier text.
	RestartOnInterrupt OnInterrupt = "restart"
	// FailOnInterrupt ends the job.
	FailOnInterrupt OnInterrupt = "fail"
)

// Job is one request for one generation: the message on a jobs subject.
//
// Only Body, or BodyRef in its place, is required on the wire. Model, Class and Tenant are taken from the subject and must
// agree with it where they are given; ID is made from the message's place in the stream.
type Job struct {
	// ID names the job for ever and de-duplicates its submission. A UUIDv7 by default; any
	// token that [CheckToken] accepts will do.
	ID string `json:"id,omitempty"`
	// Model is the name of a declared model, as in its subject.
	Model string `json:"model,omitempty"`
	// Class is the urgency. [Standard] by default.
	Class Class `json:"class,omitempty"`
	// Tenant owns the job. Permission to a tenant is permission to its subjects.
	Tenant string `json:"tenant,omitempty"`
	// Endpoint says what Body is a request to. By default [ChatCompletions] if
	// Body holds "messages", otherwise [Completions].
	Endpoint Endpoint `json:"endpoint,omitempty"`
	// Body is the OpenAI request, a JSON object. Fields that hxp does not know reach the engine
	// byte for byte: decoding a Job keeps Body as it is, and so does [Job.Append], while
	// encoding/json drops white space and escapes '<', '>' and '&' when it encodes one.
	Body json.RawMessage `json:"body,omitempty"`
	// BodyRef stands in place of a Body that is too large for a message: see [Job.Resolve].
	BodyRef *BodyRef `json:"body_ref,omitempty"`
	// Stream asks for delta events. Also set by "stream": true in Body. Without it only
	// lifecycle events are published.
	Stream bool `json:"stream,omitempty"`
	// Session continues a stored conversation.
	Session *Session `json:"session,omitempty"`
	// Created is when the producer made the job.
	Created time.Time `json:"created,omitzero"`
	// Deadline is when the answer is worth nothing any more: the job then ends as expired. None by default.
	Deadline time.Time `json:"deadline,omitzero"`
	// OnInterrupt is [ContinueOnInterrupt] by default.
	OnInterrupt OnInterrupt `json:"on_interrupt,omitempty"`
	// ReplyTo is where events go; see [ReplySubject].
	ReplyTo string `json:"reply_to,omitempty"`
	// Metadata is returned in the Result, untouched. At most 16 pairs of 64 and 512 bytes, as OpenAI's.
	Metadata map[string]string `json:"metadata,omitempty"`
}

// SetDefaults fills Class, Endpoint, OnInterrupt and Stream where they are missing. What follows
// from Body, of a job with a BodyRef, is left to [Job.Resolve].
func (j *Job) SetDefaults() {
	if j.Class == "" {
		j.Class = Standard
	}
	if j.OnInterrupt == "" {
		j.OnInterrupt = ContinueOnInterrupt
	}
	if j.Endpoint != "" && j.Stream || j.referred() {
		return
	}
	body, _ := scanBody(j.Body) // Validate says what is wrong with it
	if j.Endpoint == "" {
		j.Endpoint = Completions
		if body.messages {
			j.Endpoint = ChatCompletions
		}
	}
	j.Stream = j.Stream || body.stream
}

// bodyView is what the envelope takes from a body.
type bodyView struct {
	messages bool // there are messages, and they are not null
	stream   bool // "stream": true
}

// scanBody fails on what is not a JSON object.
func scanBody(body []byte) (view bodyView, err error) {
	s := jsonscan.New(body, 0)
	if err := s.Open('{'); err != nil {
		return view, err
	}
	for first := true; ; first = false {
		name, ok, err := s.Name(first)
		if err != nil {
			return bodyView{}, err
		}
		if !ok {
			break
		}
		value, err := s.Skip()
		switch {
		case err != nil:
			return bodyView{}, err
		case name.Is("messages"):
			view.messages = string(value) != "null"
		case name.Is("stream"):
			view.stream = string(value) == "true"
		}
	}
	if err := s.End(); err != nil {
		return bodyView{}, err
	}
	return view, nil
}

// Append appends the job as JSON to dst and returns the result, with Body byte for byte as it is.
// It fails if Body is not a JSON object, unless BodyRef stands in its place, or if a time is outside
// the years 0 to 9999.
func (j *Job) Append(dst []byte) ([]byte, error) {
	if j.referred() {
		return j.appendEnvelope(dst)
	}
	if j.BodyRef != nil {
		return nil, fmt.Errorf("job %.64q: body_ref is given together with body; want one of them", j.ID)
	}
	if _, err := scanBody(j.Body); err != nil {
		return nil, fmt.Errorf("job %.64q: body is not a JSON object: %w", j.ID, err)
	}
	envelope := *j
	envelope.Body = json.RawMessage("null")
	wire, err := envelope.appendEnvelope(nil)
	if err != nil {
		return nil, err
	}
	// No value before the body can hold an unescaped quote, so the first match is the field.
	before, after, _ := bytes.Cut(wire, []byte(`"body":null`))
	dst = append(append(dst, before...), `"body":`...)
	return append(append(dst, j.Body...), after...), nil
}

func (j *Job) appendEnvelope(dst []byte) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j); err != nil {
		return nil, fmt.Errorf("job %.64q: %w", j.ID, err)
	}
	return append(dst, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...), nil
}
