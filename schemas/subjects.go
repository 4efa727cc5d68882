package schemas

import (
	"fmt"
	"strings"
)

// Stream, bucket and consumer names. Nothing outside this file spells one.
const (
	// EventsStream records every event that workers publish, for replay.
	EventsStream = "HXP_EVENTS"
	// ResultsStream holds one Result per job.
	ResultsStream = "HXP_RESULTS"
	// DeadStream holds the jobs that were given up, with the reason.
	DeadStream = "HXP_DEAD"
	// WorkersBucket is the key-value bucket in which workers announce themselves.
	WorkersBucket = "hxp_workers"
	// CancelsBucket is the key-value bucket of cancel tombstones.
	CancelsBucket = "hxp_cancels"
	// LocksBucket is the key-value bucket of what one process at a time may do.
	LocksBucket = "hxp_locks"
	// BodiesBucket is the object store of the bodies that are too large for a message.
	BodiesBucket = "hxp_bodies"
	// BatchesStream holds the records of the lines of batches: their output and error files.
	BatchesStream = "HXP_BATCHES"
	// BatchesBucket is the key-value bucket of the states of batches.
	BatchesBucket = "hxp_batches"
	// BatchFilesBucket is the object store of the inputs of batches.
	BatchFilesBucket = "hxp_batch_files"
)

// Headers. A message is complete without them; they mirror the payload for routing and tracing.
const (
	HeaderMsgID       = "Nats-Msg-Id"
	HeaderJobID       = "Hxp-Job-Id"
	HeaderContentType = "Content-Type"
	ContentTypeJSON   = "application/json"
	// HeaderBatchFile says which file of a batch the records of a message belong to.
	HeaderBatchFile = "Hxp-Batch-File"
	// HeaderBatchTokens are the prompt and the generated tokens of the records of a message.
	HeaderBatchTokens = "Hxp-Batch-Tokens"
)

const prefix = "hxp.v1."

// Wildcard subjects.
const (
	AllEvents  = prefix + "events.>"
	AllResults = prefix + "results.>"
	AllDead    = prefix + "dead.>"
	AllCancels = prefix + "cancel.>"
	AllBatches = prefix + "batches.>"
)

// BatchClient is the client token of events of lines that a coordinator has submitted.
const BatchClient = "batches"

// NoClient is the client token of events whose job named no client of its own.
const NoClient = "none"

// UnknownTenant owns the dead letters of messages that were published under a tenant which no
// subject may name. It is no token that a tenant could have.
const UnknownTenant = "$unknown"

// MaxToken is the length in bytes that a model, tenant, client, worker or job id may have.
const MaxToken = 64

// CheckToken says why s cannot stand as one token of a subject, or nil. A token is 1 to
// [MaxToken] ASCII letters, digits, hyphens and underscores.
func CheckToken(s string) error { return checkToken(s, MaxToken) }

func checkToken(s string, bound int) error {
	if s == "" {
		return fmt.Errorf("is empty; want 1 to %d letters, digits, '-' or '_'", bound)
	}
	if len(s) > bound {
		return fmt.Errorf("is %d bytes long; want at most %d", len(s), bound)
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			continue
		}
		return fmt.Errorf("%q holds %q; want letters, digits, '-' or '_'", s, c)
	}
	return nil
}

// JobsStream names the work queue of a model.
func JobsStream(model string) string { return "HXP_JOBS_" + model }

// JobsOfModel matches every job of a model.
func JobsOfModel(model string) string { return prefix + "jobs." + model + ".*.*" }

// JobsOfClass matches the jobs of one class of a model: the filter of a consumer.
func JobsOfClass(model string, class Class) string {
	return prefix + "jobs." + model + "." + string(class) + ".*"
}

// JobSubject is where a job is published.
func JobSubject(model string, class Class, tenant string) string {
	return prefix + "jobs." + model + "." + string(class) + "." + tenant
}

// ParseJobSubject takes a subject made by [JobSubject] apart.
func ParseJobSubject(subject string) (model string, class Class, tenant string, err error) {
	rest, ok := strings.CutPrefix(subject, prefix+"jobs.")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 {
		return "", "", "", fmt.Errorf("subject %q is not of the form %sjobs.<model>.<class>.<tenant>", subject, prefix)
	}
	class = Class(parts[1])
	if !class.Valid() {
		return "", "", "", fmt.Errorf("subject %q: class %q is not one of %s", subject, parts[1], classList())
	}
	for _, i := range []int{0, 2} {
		if err := CheckToken(parts[i]); err != nil {
			return "", "", "", fmt.Errorf("subject %q: token %w", subject, err)
		}
	}
	return parts[0], class, parts[2], nil
}

// ClassConsumer names the durable consumer of a class within a model's stream.
func ClassConsumer(class Class) string { return string(class) }

// MsgID is the Nats-Msg-Id by which the broker de-duplicates a job. All tenants share a model's
// stream, so it holds the tenant as well.
func MsgID(tenant, job string) string { return tenant + "." + job }

// EventSubject is where the events of a job are published.
func EventSubject(tenant, client, job string) string {
	return prefix + "events." + tenant + "." + client + "." + job
}

// EventsOfClient matches the events of every job of one client.
func EventsOfClient(tenant, client string) string { return EventSubject(tenant, client, "*") }

// EventsOfJob matches the events of one job, whoever submitted it.
func EventsOfJob(tenant, job string) string { return EventSubject(tenant, "*", job) }

// ResultSubject is where the one Result of a job is stored.
func ResultSubject(tenant, job string) string { return prefix + "results." + tenant + "." + job }

// DeadSubject is where jobs of a model that were given up are kept.
func DeadSubject(model, tenant string) string { return prefix + "dead." + model + "." + tenant }

// CancelSubject is where a job's cancel request is published.
func CancelSubject(tenant, job string) string { return prefix + "cancel." + tenant + "." + job }

// CancelKey is the key of a job's tombstone in [CancelsBucket].
func CancelKey(tenant, job string) string { return tenant + "." + job }

// BodyName is the name of a job's body in [BodiesBucket]. It is made of the tenant and the id alone,
// never of what a payload says, so that a job can only refer to its own tenant's bodies.
func BodyName(tenant, job string) string { return tenant + "." + job }

// BatchSubject is where the records of a batch's lines are stored.
func BatchSubject(tenant, batch string) string { return prefix + "batches." + tenant + "." + batch }

// BatchKey is the key of a batch's state in [BatchesBucket].
func BatchKey(tenant, batch string) string { return tenant + "." + batch }

// BatchInputName is the name of a batch's input in [BatchFilesBucket].
func BatchInputName(tenant, batch string) string { return tenant + "." + batch }

// DrainSubject is where a worker is asked to stop pulling and finish.
func DrainSubject(worker string) string { return prefix + "workers." + worker + ".drain" }

// AttemptSubject is where a worker is asked about an attempt that it left open, with an [AttemptQuery].
func AttemptSubject(worker string) string { return prefix + "workers." + worker + ".attempt" }

// ReplySubject resolves a job's reply_to to the subjects its events go to: always one event
// subject, which [EventsStream] records, and an inbox as well if reply_to names one.
//
// reply_to may be empty, the tenant's own event subject with or without the job id
// (hxp.v1.events.<tenant>.<client>[.<job>]), or an inbox (_INBOX...). Anything else is refused:
// a job must not make a worker publish where its producer could not.
func ReplySubject(replyTo, tenant, job string) (event, inbox string, err error) {
	if replyTo == "" {
		return EventSubject(tenant, NoClient, job), "", nil
	}
	if rest, ok := strings.CutPrefix(replyTo, prefix+"events."+tenant+"."); ok {
		client, id, full := strings.Cut(rest, ".")
		if CheckToken(client) == nil && (!full || id == job) {
			return EventSubject(tenant, client, job), "", nil
		}
	}
	if validInbox(replyTo) {
		return EventSubject(tenant, NoClient, job), replyTo, nil
	}
	return "", "", Errorf(CodeInvalidRequest, "reply_to is %.80q; want %s", replyTo, replyForms(tenant)).WithParam("reply_to")
}

func replyForms(tenant string) string {
	return fmt.Sprintf("%sevents.%.64s.<client> or an inbox (_INBOX...)", prefix, tenant)
}

// maxInbox is the length in bytes that an inbox may have.
const maxInbox = 256

func validInbox(s string) bool {
	if !strings.HasPrefix(s, "_INBOX") || len(s) > maxInbox {
		return false
	}
	first, rest, ok := strings.Cut(s, ".")
	if !ok || CheckToken(first) != nil {
		return false
	}
	for tok := range strings.SplitSeq(rest, ".") {
		if CheckToken(tok) != nil {
			return false
		}
	}
	return true
}
