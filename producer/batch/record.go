package batch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Codes of lines that no engine answered, as OpenAI has them.
const (
	CodeExpired   schemas.Code = "batch_expired"
	CodeCancelled schemas.Code = "batch_cancelled"
)

// record is one line of an output or error file, in OpenAI's form: what an engine or a worker answered is in
// Response, whatever its status, and Error is for lines that were not answered.
type record struct {
	ID       string        `json:"id"`
	CustomID *string       `json:"custom_id"`
	Response *response     `json:"response"`
	Error    *recordError  `json:"error"`
	usage    schemas.Usage // of the response
}

type response struct {
	StatusCode int             `json:"status_code"`
	RequestID  string          `json:"request_id"`
	Body       json.RawMessage `json:"body"`
}

type recordError struct {
	Code    schemas.Code `json:"code"`
	Message string       `json:"message"`
	Param   string       `json:"param,omitempty"`
	Line    int64        `json:"line,omitempty"`
}

// failed reports whether the record belongs into the error file.
func (r *record) failed() bool { return r.Response == nil || r.Response.StatusCode != http.StatusOK }

// encode returns the record as a line, with its end.
func (r *record) encode() []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(r) // texts, numbers, and a body that was encoded before
	return buf.Bytes()
}

// refusal is the record of a line that was never submitted.
func refusal(tag string, round int, f *LineError) *record {
	r := &record{ID: requestID(tag, f.Line, round, true), Error: &recordError{f.Code, f.Error(), f.Param, f.Line}}
	if f.CustomID != "" {
		r.CustomID = &f.CustomID
	}
	return r
}

// unanswered is the record of a line that the batch ended before.
func unanswered(tag string, round int, line int64, customID string, code schemas.Code, why string) *record {
	return &record{
		ID: requestID(tag, line, round, true), CustomID: &customID,
		Error: &recordError{code, why, "", line},
	}
}

// answered is the record of a line whose job has ended.
func answered(tag string, round int, line int64, customID string, r *schemas.Result) *record {
	switch r.Status {
	case schemas.StatusExpired:
		return unanswered(tag, round, line, customID, CodeExpired, because(r.Error, "the line was not answered before the batch expired"))
	case schemas.StatusCancelled:
		return unanswered(tag, round, line, customID, CodeCancelled, because(r.Error, "the line was cancelled"))
	case schemas.StatusCompleted:
	default:
		return rejected(tag, round, line, customID, r.ID, r.Error)
	}
	object, prefix := "chat.completion", "chatcmpl-"
	if r.Endpoint == schemas.Completions {
		object, prefix = "text_completion", "cmpl-"
	}
	body, _ := json.Marshal(struct { // of texts, numbers, and choices that were decoded with their Result
		ID      string          `json:"id"`
		Object  string          `json:"object"`
		Created int64           `json:"created"`
		Model   string          `json:"model"`
		Choices json.RawMessage `json:"choices"`
		Usage   *schemas.Usage  `json:"usage,omitempty"`
	}{prefix + r.ID, object, r.Created.Unix(), cmp.Or(r.ServedBy, r.Model), r.Choices, r.Usage})
	out := &record{
		ID: requestID(tag, line, round, false), CustomID: &customID,
		Response: &response{http.StatusOK, r.ID, body},
	}
	if r.Usage != nil {
		out.usage = *r.Usage
	}
	return out
}

func because(err *schemas.Error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return err.Message
}

// rejected is the record of a line whose job failed or was refused, as an HTTP edge would answer it.
func rejected(tag string, round int, line int64, customID, job string, why *schemas.Error) *record {
	if why == nil {
		why = schemas.Errorf(schemas.CodeInternal, "no reason is given")
	}
	status := why.HTTPStatus
	if status < http.StatusBadRequest {
		status = http.StatusInternalServerError
	}
	kind := "server_error"
	if status < http.StatusInternalServerError {
		kind = "invalid_request_error"
	}
	type wireError struct {
		Message string       `json:"message"`
		Type    string       `json:"type"`
		Param   string       `json:"param,omitempty"`
		Code    schemas.Code `json:"code"`
		Line    int64        `json:"line"`
	}
	body, _ := json.Marshal(map[string]wireError{"error": {why.Message, kind, why.Param, why.Code, line}}) // texts and a number
	return &record{
		ID: requestID(tag, line, round, true), CustomID: &customID,
		Response: &response{status, job, body},
	}
}
