package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/hxp-enterprise/hxp/schemas"
)

// PutResult stores the one Result of a job. [ErrResultExists] if there is one already, unless it
// is this very one: a write whose acknowledgement was lost is found again. payload_too_large if a
// message on this server cannot hold it; any other error may be tried again.
func PutResult(ctx context.Context, js jetstream.JetStream, r *schemas.Result) error {
	if err := checkJob(r.Tenant, r.ID); err != nil {
		return fmt.Errorf("store result: %w", err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("store result of job %s: %w", r.ID, err)
	}
	msg := message(schemas.ResultSubject(r.Tenant, r.ID), data, r.ID)
	// The message id is of this call, not of the job: with the job's, the server would tell a second
	// writer that its own result was stored.
	err = publish(ctx, js, msg, jetstream.WithMsgID(nuid.Next()), jetstream.WithExpectLastSequencePerSubject(0))
	switch {
	case err == nil:
		return nil
	case isConflict(err):
		if m, err := directOn(ctx, js, schemas.ResultsStream, msg.Subject); err == nil && bytes.Equal(m.data, data) {
			return nil
		}
		return fmt.Errorf("store result of job %s: %w", r.ID, ErrResultExists)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("store result of job %s: %w: %w", r.ID, schemas.Errorf(schemas.CodePayloadTooLarge,
			"the result has %d bytes; a message on this NATS server has at most %d", len(data), js.Conn().MaxPayload()), err)
	default:
		return fmt.Errorf("store result of job %s: %w", r.ID, err)
	}
}

// isConflict reports whether a result was refused because the job has one.
func isConflict(err error) bool {
	api := apiError(err)
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return true
	case codeStoreFailed:
		return strings.Contains(api.Description, fullTenant)
	}
	return false
}

// GetResult returns the Result of a job, or [ErrNotFound].
func GetResult(ctx context.Context, js jetstream.JetStream, tenant, job string) (*schemas.Result, error) {
	if err := checkJob(tenant, job); err != nil {
		return nil, fmt.Errorf("get result: %w", err)
	}
	m, err := directOn(ctx, js, schemas.ResultsStream, schemas.ResultSubject(tenant, job))
	if err != nil {
		return nil, fmt.Errorf("get result of job %s: %w", job, err)
	}
	r := new(schemas.Result)
	if err := json.Unmarshal(m.data, r); err != nil {
		return nil, fmt.Errorf("get result of job %s: message %d of %s: %w", job, m.seq, schemas.ResultsStream, err)
	}
	return r, nil
}

// message makes a message with the headers that mirror its payload.
func message(subject string, data []byte, job string) *nats.Msg {
	return &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		schemas.HeaderJobID:       {job},
		schemas.HeaderContentType: {schemas.ContentTypeJSON},
	}}
}
