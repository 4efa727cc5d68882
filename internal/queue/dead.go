package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// headerRoom is what the headers of a dead letter and the broker's own may take of a message.
const headerRoom = 4 << 10

// StoredDeadLetter is a dead letter with its place in the stream.
type StoredDeadLetter struct {
	// Stored is the sequence number that [GetDeadLetter] and [DeleteDeadLetter] take.
	Stored uint64 `json:"stored"`
	schemas.DeadLetter
}

// deadID de-duplicates a dead letter: the same for every delivery of one message, another for
// another message that brings the same job id.
func deadID(d *schemas.DeadLetter) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(d.Payload)) // a hash takes everything
	_, _ = h.Write(d.PayloadBase64)
	return fmt.Sprintf("%s.%s.%016x", d.Model, schemas.MsgID(d.Tenant, d.ID), h.Sum64())
}

// PutDeadLetter stores a dead letter; storing the same job's again within the duplicate window does
// nothing. A payload that would make it larger than a message may be is left out, and the reason
// says so: a job that could not be given up would come back for ever.
func PutDeadLetter(ctx context.Context, js jetstream.JetStream, d *schemas.DeadLetter) error {
	names := map[string]string{"model": d.Model, "tenant": d.Tenant, "id": d.ID}
	if d.Tenant == schemas.UnknownTenant {
		delete(names, "tenant")
	}
	if err := checkTokens(names); err != nil {
		return fmt.Errorf("store dead letter: %w", err)
	}
	data, err := json.Marshal(d)
	if err == nil && int64(len(data)) > js.Conn().MaxPayload()-headerRoom {
		data, err = json.Marshal(withoutPayload(d))
	}
	if err != nil {
		return fmt.Errorf("store dead letter of job %s: %w", d.ID, err)
	}
	msg := message(schemas.DeadSubject(d.Model, d.Tenant), data, d.ID)
	if err := publish(ctx, js, msg, jetstream.WithMsgID(deadID(d))); err != nil {
		return fmt.Errorf("store dead letter of job %s: %w", d.ID, err)
	}
	return nil
}

func withoutPayload(d *schemas.DeadLetter) *schemas.DeadLetter {
	c := *d
	size := len(c.Payload) + len(c.PayloadBase64)
	c.Payload, c.PayloadBase64 = "", nil
	reason := schemas.Error{Code: schemas.CodeInternal}
	if c.Reason != nil {
		reason = *c.Reason
	}
	reason.Message = fmt.Sprintf("%s (the payload of %d bytes does not fit into a dead letter and was left out)", reason.Message, size)
	c.Reason = &reason
	return &c
}

// DeadFilter chooses dead letters. The zero value chooses all.
type DeadFilter struct {
	Model  string
	Tenant string
	// From is the lowest sequence number; use one above the last seen to go on.
	From uint64
	// Limit is how many are returned at most; 0 is all.
	Limit int
}

func (f DeadFilter) subject() (string, error) {
	names := map[string]string{}
	model, tenant := "*", "*"
	if f.Model != "" {
		names["model"], model = f.Model, f.Model
	}
	if f.Tenant != "" {
		names["tenant"], tenant = f.Tenant, f.Tenant
	}
	return schemas.DeadSubject(model, tenant), checkTokens(names)
}

// DeadLetters yields dead letters, oldest first. It yields at most one error, and yields it last.
func DeadLetters(ctx context.Context, js jetstream.JetStream, f DeadFilter) iter.Seq2[*StoredDeadLetter, error] {
	return func(yield func(*StoredDeadLetter, error) bool) {
		subject, err := f.subject()
		if err != nil {
			yield(nil, fmt.Errorf("list dead letters: %w", err))
			return
		}
		n := 0
		for m, err := range directScan(ctx, js, schemas.DeadStream, subject, f.From) {
			if err != nil {
				yield(nil, fmt.Errorf("list dead letters: %w", err))
				return
			}
			d, err := decodeDead(m)
			if err != nil {
				yield(nil, fmt.Errorf("list dead letters: %w", err))
				return
			}
			if n++; !yield(d, nil) || n == f.Limit {
				return
			}
		}
	}
}

// GetDeadLetter returns the dead letter with a sequence number, or [ErrNotFound].
func GetDeadLetter(ctx context.Context, js jetstream.JetStream, stored uint64) (*StoredDeadLetter, error) {
	if stored == 0 {
		return nil, fmt.Errorf("get dead letter 0: %w", ErrNotFound)
	}
	m, err := directGet(ctx, js, schemas.DeadStream, getRequest{Seq: stored})
	if err != nil {
		return nil, fmt.Errorf("get dead letter %d: %w", stored, err)
	}
	return decodeDead(m)
}

// FindDeadLetter returns the newest dead letter of a job, or [ErrNotFound]. It reads all that f chooses.
func FindDeadLetter(ctx context.Context, js jetstream.JetStream, job string, f DeadFilter) (*StoredDeadLetter, error) {
	var found *StoredDeadLetter
	for d, err := range DeadLetters(ctx, js, f) {
		if err != nil {
			return nil, fmt.Errorf("find dead letter of job %s: %w", job, err)
		}
		if d.ID == job {
			found = d
		}
	}
	if found == nil {
		return nil, fmt.Errorf("dead letter of job %s: %w", job, ErrNotFound)
	}
	return found, nil
}

// DeleteDeadLetter removes the dead letter with a sequence number, or returns [ErrNotFound].
func DeleteDeadLetter(ctx context.Context, js jetstream.JetStream, stored uint64) error {
	if _, err := GetDeadLetter(ctx, js, stored); err != nil && !errors.Is(err, errNotALetter) {
		return err
	}
	err := api(ctx, js, "STREAM.MSG.DELETE."+schemas.DeadStream, map[string]any{"seq": stored}, nil)
	if err != nil {
		return fmt.Errorf("delete dead letter %d: %w", stored, err)
	}
	return nil
}

// PurgeDead removes the dead letters that f chooses, but for Limit, and returns how many there were.
func PurgeDead(ctx context.Context, js jetstream.JetStream, f DeadFilter) (uint64, error) {
	subject, err := f.subject()
	if err != nil {
		return 0, fmt.Errorf("purge dead letters: %w", err)
	}
	if f.From != 0 || f.Limit != 0 {
		return 0, fmt.Errorf("purge dead letters: From and Limit are %d and %d; they cannot be used here", f.From, f.Limit)
	}
	var out struct {
		Purged uint64 `json:"purged"`
	}
	if err := api(ctx, js, "STREAM.PURGE."+schemas.DeadStream, map[string]any{"filter": subject}, &out); err != nil {
		return 0, fmt.Errorf("purge dead letters: %w", err)
	}
	return out.Purged, nil
}

// errNotALetter marks a message on a dead subject that cannot be read as a dead letter.
var errNotALetter = errors.New("not a dead letter")

func decodeDead(m *stored) (*StoredDeadLetter, error) {
	d := &StoredDeadLetter{Stored: m.seq}
	if err := json.Unmarshal(m.data, &d.DeadLetter); err != nil {
		return nil, fmt.Errorf("message %d on %s is %w: %w", m.seq, m.subject, errNotALetter, err)
	}
	return d, nil
}

// api sends one request to the JetStream API and reads its answer into out.
func api(ctx context.Context, js jetstream.JetStream, subject string, request, out any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return attempts(ctx, js, func(ctx context.Context) error {
		msg, err := js.Conn().RequestWithContext(ctx, apiPrefix(js)+subject, body)
		if errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("%w: %w", ErrNoJetStream, err)
		}
		if err != nil {
			return err
		}
		var fault struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(msg.Data, &fault); err != nil {
			return err
		}
		switch {
		case fault.Error == nil:
		case noJetStream(fault.Error):
			return fmt.Errorf("%w: %w", ErrNoJetStream, fault.Error)
		case fault.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
			return fmt.Errorf("%w: %w", ErrNotSetUp, fault.Error)
		default:
			return fault.Error
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(msg.Data, out)
	})
}
