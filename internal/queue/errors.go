package queue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Error codes of the server that the client library has no name for.
const (
	codeAccountLimits  jetstream.ErrorCode = 10002 // resource limits exceeded for account
	codeUnavailable    jetstream.ErrorCode = 10008 // JetStream system temporarily unavailable
	codeNotLeader      jetstream.ErrorCode = 10009 // JetStream cluster can not handle request
	codeResources      jetstream.ErrorCode = 10023 // insufficient resources
	codeMemoryLimit    jetstream.ErrorCode = 10028 // insufficient memory resources available
	codeStorageLimit   jetstream.ErrorCode = 10047 // insufficient storage resources available
	codeStreamMismatch jetstream.ErrorCode = 10060 // expected stream does not match
	codeSubjectsTaken  jetstream.ErrorCode = 10065 // subjects overlap with an existing stream
	codeStoreFailed    jetstream.ErrorCode = 10077 // any refusal of the store: caps as well as disk errors
	codeInProcess      jetstream.ErrorCode = 10158 // duplicate message id is in process
	codeOverrun        jetstream.ErrorCode = 10167 // too many requests
)

// Descriptions that tell one [codeStoreFailed] from another.
const (
	fullTenant = "maximum messages per subject exceeded"
	fullJobs   = "maximum messages exceeded"
	fullBytes  = "maximum bytes exceeded"
)

// apiError returns the server's answer in err's chain, or an empty one.
func apiError(err error) jetstream.APIError {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e != nil {
		return *e
	}
	if e, ok := errors.AsType[jetstream.JetStreamError](err); ok && e.APIError() != nil {
		return *e.APIError()
	}
	return jetstream.APIError{}
}

// noJetStream reports whether an answer, or the lack of one, means that there is no JetStream.
func noJetStream(err error) bool {
	code := apiError(err).ErrorCode
	return code == jetstream.JSErrCodeJetStreamNotEnabled || code == jetstream.JSErrCodeJetStreamNotEnabledForAccount ||
		errors.Is(err, nats.ErrNoResponders)
}

// PublishError turns the error of a job's publish into a [*schemas.Error] with the model named:
// queue_full (saying which cap), payload_too_large, model_not_found (no stream listens), or
// internal. err stays in the chain of what is returned. nil for nil.
func PublishError(err error, model string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*schemas.Error](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", classify(err, model), err)
}

func classify(err error, model string) *schemas.Error {
	api := apiError(err)
	switch {
	case api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, fullTenant):
		return schemas.Errorf(schemas.CodeQueueFull,
			"the queue of model %q holds as many jobs of this tenant and class as the tenant's cap allows; try again when some have finished", model)
	case api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, fullJobs):
		return schemas.Errorf(schemas.CodeQueueFull,
			"the queue of model %q holds as many jobs as its cap allows; try again when some have finished", model)
	case api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, fullBytes):
		return schemas.Errorf(schemas.CodeQueueFull,
			"the queue of model %q holds as many bytes as its cap allows; try again when some jobs have finished", model)
	case api.ErrorCode == codeStoreFailed:
		return schemas.Errorf(schemas.CodeInternal, "the queue of model %q could not store the job", model)
	case api.ErrorCode == codeOverrun:
		return schemas.Errorf(schemas.CodeQueueFull, "jobs for model %q arrive faster than its queue can store them; try again in a moment", model)
	case api.ErrorCode == codeAccountLimits, api.ErrorCode == codeResources, api.ErrorCode == codeMemoryLimit, api.ErrorCode == codeStorageLimit:
		return schemas.Errorf(schemas.CodeQueueFull, "the server's storage for queues is used up, so model %q takes no more jobs", model)
	case api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return schemas.Errorf(schemas.CodePayloadTooLarge, "the job is larger than the queue of model %q takes (its stream's max_msg_size)", model)
	case errors.Is(err, nats.ErrMaxPayload):
		return schemas.Errorf(schemas.CodePayloadTooLarge, "the job for model %q is larger than a message may be on this NATS server (its max_payload)", model)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders), errors.Is(err, ErrNotSetUp),
		api.ErrorCode == jetstream.JSErrCodeStreamNotFound, api.ErrorCode == codeStreamMismatch:
		return schemas.Errorf(schemas.CodeModelNotFound, "no queue listens for model %q", model)
	case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrAuthorization):
		e := schemas.Errorf(schemas.CodeInternal, "this connection is not allowed to submit jobs for model %q", model).Permanent()
		e.HTTPStatus = http.StatusForbidden
		return e
	case isTimeout(err):
		return schemas.Errorf(schemas.CodeInternal, "the queue of model %q did not answer in time; the job may have been stored: submit it again under the same id", model)
	case errors.Is(err, context.Canceled):
		return schemas.Errorf(schemas.CodeInternal, "the submission to model %q was given up before the queue answered", model)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, jetstream.ErrConnectionClosed):
		return schemas.Errorf(schemas.CodeInternal, "the connection to the queue of model %q is closed", model)
	default:
		return schemas.Errorf(schemas.CodeInternal, "the queue of model %q did not take the job", model)
	}
}

// checkTokens refuses what could not have been part of a subject. Without it an id of "*" or ">" would read other jobs.
func checkTokens(names map[string]string) error {
	for _, name := range []string{"model", "tenant", "id", "worker"} {
		value, ok := names[name]
		if !ok {
			continue
		}
		if err := schemas.CheckToken(value); err != nil {
			return schemas.Errorf(schemas.CodeInvalidRequest, "%s %v", name, err).WithParam(name)
		}
	}
	return nil
}

func checkJob(tenant, job string) error {
	return checkTokens(map[string]string{"tenant": tenant, "id": job})
}
