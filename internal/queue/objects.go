package queue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/schemas"
)

// An object store is a stream with a layout of its own (ADR-20): the chunks of an object on one
// subject, and what is known of it on another. Package jetstream and the nats command read what is
// written here. It is written and read by hand for two reasons. The first body of a job must stay,
// which takes a condition on the write. And a reader must not be led elsewhere: the library follows
// links, to other objects and to other buckets, for whoever can write one.
const (
	objectsPrefix = "OBJ_"
	chunksPrefix  = "$O." + schemas.BodiesBucket + ".C."
	metaPrefix    = "$O." + schemas.BodiesBucket + ".M."
	bodiesStream  = objectsPrefix + schemas.BodiesBucket
)

func objects(name, description string, cfg Config) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        objectsPrefix + name,
		Description: description,
		Subjects:    []string{"$O." + name + ".C.>", "$O." + name + ".M.>"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Replicas:    cfg.Replicas,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    cfg.MaxBodiesBytes,
		MaxAge:      cfg.BodiesMaxAge,
		AllowRollup: true,
		AllowDirect: true,
	}
}

func metaSubject(tenant, job string) string {
	return metaPrefix + base64.URLEncoding.EncodeToString([]byte(schemas.BodyName(tenant, job)))
}

// object returns what is known of a job's body, or [ErrNotFound]. The leader is asked: a replica that
// is a moment behind would make a job fail for want of its body.
func object(ctx context.Context, js jetstream.JetStream, tenant, job string) (*jetstream.ObjectInfo, error) {
	data, _, err := leaderGet(ctx, js, getRequest{LastFor: metaSubject(tenant, job)})
	if err != nil {
		return nil, err
	}
	info := &jetstream.ObjectInfo{}
	if err := json.Unmarshal(data, info); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadBody, err)
	}
	switch {
	case info.Deleted:
		return nil, ErrNotFound
	case schemas.CheckToken(info.NUID) != nil: // a wildcard here would read everybody's chunks
		return nil, fmt.Errorf("%w: it names no chunks", ErrBadBody)
	case info.Opts != nil && info.Opts.Link != nil:
		return nil, fmt.Errorf("%w: it is a link", ErrBadBody)
	}
	return info, nil
}

// leaderGet returns the data and the sequence number of one message in the object store, as its leader has it.
func leaderGet(ctx context.Context, js jetstream.JetStream, get getRequest) (data []byte, seq uint64, err error) {
	var out struct {
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	err = api(ctx, js, "STREAM.MSG.GET."+bodiesStream, get, &out)
	if apiError(err).ErrorCode == jetstream.JSErrCodeMessageNotFound {
		err = ErrNotFound
	}
	return out.Message.Data, out.Message.Seq, err
}

// chunks reads an object of a known size: directly, and from the leader if that does not bring all.
func chunks(ctx context.Context, js jetstream.JetStream, info *jetstream.ObjectInfo) ([]byte, error) {
	subject, size := chunksPrefix+info.NUID, int(info.Size)
	body := make([]byte, 0, size)
	for m, err := range directScan(ctx, js, bodiesStream, subject, 0) {
		if err != nil {
			return nil, err
		}
		if body = append(body, m.data...); len(body) >= size {
			break
		}
	}
	if schemas.RefTo(body) == refOf(info) {
		return body, nil
	}
	body = body[:0]
	for next := uint64(1); len(body) < size; {
		data, seq, err := leaderGet(ctx, js, getRequest{Seq: next, NextFor: subject})
		if errors.Is(err, ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		body, next = append(body, data...), seq+1
	}
	if got := schemas.RefTo(body); got != refOf(info) {
		return nil, fmt.Errorf("%w: %d bytes with digest %s are stored; it was %d with %.64q", ErrBadBody, got.Size, got.Digest, info.Size, info.Digest)
	}
	return body, nil
}

func refOf(info *jetstream.ObjectInfo) schemas.BodyRef {
	return schemas.BodyRef{Size: int(info.Size), Digest: info.Digest}
}

// purge removes all messages on one subject of the object store.
func purge(ctx context.Context, js jetstream.JetStream, subject string) error {
	return api(ctx, js, "STREAM.PURGE."+bodiesStream, map[string]any{"filter": subject}, nil)
}

// chunked cuts a body into messages that the server takes.
func chunked(js jetstream.JetStream, body []byte) [][]byte {
	size := min(maxChunk, int(js.Conn().MaxPayload())/2)
	if size < 1 {
		size = maxChunk // never connected: whoever publishes finds out
	}
	return slices.Collect(slices.Chunk(body, size))
}
