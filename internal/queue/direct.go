package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Direct gets read a stream without a consumer: any replica answers, nothing is created, nothing
// can be left behind. A batch costs one request, whatever else is in the stream.
const (
	batchMsgs  = 512
	batchBytes = 1 << 20
)

// stored is one message of a stream.
type stored struct {
	subject string
	seq     uint64
	time    time.Time
	header  nats.Header
	data    []byte
}

// getRequest is the body of a direct get.
type getRequest struct {
	Seq      uint64   `json:"seq,omitempty"`
	LastFor  string   `json:"last_by_subj,omitempty"`
	NextFor  string   `json:"next_by_subj,omitempty"`
	LastOf   []string `json:"multi_last,omitempty"`
	Batch    int      `json:"batch,omitempty"`
	MaxBytes int      `json:"max_bytes,omitempty"`
}

// apiPrefix is what js puts before its API subjects.
func apiPrefix(js jetstream.JetStream) string {
	o := js.Options()
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		return o.APIPrefix + "."
	default:
		return jetstream.DefaultAPIPrefix
	}
}

// directOn returns the newest message on one subject, or [ErrNotFound]. The subject is part of the
// request's own subject, so that a connection can be limited to the subjects of one tenant.
func directOn(ctx context.Context, js jetstream.JetStream, stream, subject string) (*stored, error) {
	return directOne(ctx, js, stream, "."+subject, nil)
}

// directGet returns the one message that a request is for, or [ErrNotFound].
func directGet(ctx context.Context, js jetstream.JetStream, stream string, get getRequest) (*stored, error) {
	return directOne(ctx, js, stream, "", &get)
}

func directOne(ctx context.Context, js jetstream.JetStream, stream, suffix string, get *getRequest) (*stored, error) {
	var body []byte
	if get != nil {
		body, _ = json.Marshal(get)
	}
	var out *stored
	err := attempts(ctx, js, func(ctx context.Context) error {
		msg, err := js.Conn().RequestWithContext(ctx, apiPrefix(js)+"DIRECT.GET."+stream+suffix, body)
		if err != nil {
			return readError(stream, err)
		}
		out, _, err = parseStored(stream, msg)
		if err == nil && out == nil {
			err = fmt.Errorf("stream %s: a direct get was answered with an end of batch", stream)
		}
		return err
	})
	return out, err
}

// directScan yields the messages of a stream that match filter, from sequence from on, up to the
// end of what is stored when it gets there.
func directScan(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64) iter.Seq2[*stored, error] {
	return directRange(ctx, js, stream, filter, from, math.MaxUint64)
}

// directRange is directScan that ends after sequence to.
func directRange(ctx context.Context, js jetstream.JetStream, stream, filter string, from, to uint64) iter.Seq2[*stored, error] {
	return func(yield func(*stored, error) bool) {
		for next := max(from, 1); next <= to; {
			get := getRequest{Seq: next, NextFor: filter, Batch: int(min(batchMsgs-1, to-next) + 1), MaxBytes: batchBytes}
			batch, more, err := directBatch(ctx, js, stream, get)
			if errors.Is(err, ErrNotFound) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range batch {
				if m.seq > to || !yield(m, nil) {
					return
				}
				next = m.seq + 1
			}
			if !more || len(batch) == 0 {
				return
			}
		}
	}
}

// directLast calls found with the newest message on each of up to batchMsgs subjects that has one.
func directLast(ctx context.Context, js jetstream.JetStream, stream string, subjects []string, found func(*stored)) error {
	for more := true; more && len(subjects) > 0; {
		var batch []*stored
		var err error
		batch, more, err = directBatch(ctx, js, stream, getRequest{LastOf: subjects, MaxBytes: batchBytes})
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range batch {
			found(m)
			subjects = slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return s == m.subject })
		}
		more = more && len(batch) > 0
	}
	return nil
}

// directBatch asks for one batch until it comes whole. more says that there are messages beyond it.
func directBatch(ctx context.Context, js jetstream.JetStream, stream string, get getRequest) (batch []*stored, more bool, err error) {
	body, _ := json.Marshal(get)
	err = attempts(ctx, js, func(ctx context.Context) error {
		batch, more, err = directOneBatch(ctx, js, stream, body)
		return err
	})
	return batch, more, err
}

// directOneBatch asks for one batch and reads it to its end, checking that no message of it was lost
// on the way. Its inbox is its own: late answers to one request would be taken for answers to the next.
func directOneBatch(ctx context.Context, js jetstream.JetStream, stream string, body []byte) (batch []*stored, more bool, err error) {
	nc := js.Conn()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, false, fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest(apiPrefix(js)+"DIRECT.GET."+stream, sub.Subject, body); err != nil {
		return nil, false, fmt.Errorf("read stream %s: %w", stream, err)
	}
	var last uint64
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, readError(stream, err)
		}
		m, end, err := parseStored(stream, msg)
		if err != nil {
			return nil, false, err
		}
		if before, _ := strconv.ParseUint(msg.Header.Get("Nats-Last-Sequence"), 10, 64); before != last {
			return nil, false, againError{fmt.Errorf("read stream %s: messages after %d were lost between server and client", stream, last)}
		}
		if end {
			return batch, msg.Header.Get("Nats-Num-Pending") != "0", nil
		}
		batch, last = append(batch, m), m.seq
	}
}

// parseStored reads one answer to a direct get. end is set on the mark that ends a batch.
func parseStored(stream string, msg *nats.Msg) (m *stored, end bool, err error) {
	if len(msg.Data) == 0 {
		switch status := msg.Header.Get("Status"); status {
		case "":
		case "204":
			return nil, true, nil
		case "404":
			return nil, false, ErrNotFound
		case "503":
			return nil, false, readError(stream, nats.ErrNoResponders)
		default:
			return nil, false, fmt.Errorf("read stream %s: status %s %s", stream, status, msg.Header.Get("Description"))
		}
	}
	m = &stored{subject: msg.Header.Get(jetstream.SubjectHeader), header: msg.Header, data: msg.Data}
	if m.seq, err = strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
		return nil, false, fmt.Errorf("read stream %s: answer without a sequence number: %w", stream, err)
	}
	if m.time, err = time.Parse(time.RFC3339Nano, msg.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return nil, false, fmt.Errorf("read stream %s: answer without a time: %w", stream, err)
	}
	return m, false, nil
}

func readError(stream string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		return againError{fmt.Errorf("%w: stream %s is missing, or does not allow direct gets", ErrNotSetUp, stream)}
	}
	return fmt.Errorf("read stream %s: %w", stream, err)
}
