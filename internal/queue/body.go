package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/hxp-enterprise/hxp/schemas"
)

// maxChunk is the size of the messages in which a body is stored: half of what a server takes by default.
const maxChunk = 512 << 10

// PutBody stores the body of a job that is too large for a message, and reports whether it did: the
// same body stored before is as good. Of two bodies for one job the first stays, and the second gets
// [ErrBodyExists]. A full store is a [*schemas.Error] with the code queue_full.
func PutBody(ctx context.Context, js jetstream.JetStream, tenant, job string, body []byte) (stored bool, err error) {
	if err := checkJob(tenant, job); err != nil {
		return false, fmt.Errorf("store body: %w", err)
	}
	if stored, err = putBody(ctx, js, tenant, job, body); err != nil {
		return false, fmt.Errorf("store the body of job %s: %w", job, err)
	}
	return stored, nil
}

func putBody(ctx context.Context, js jetstream.JetStream, tenant, job string, body []byte) (bool, error) {
	ref := schemas.RefTo(body)
	switch there, err := sameBody(ctx, js, tenant, job, ref); {
	case err == nil:
		return false, there
	case !errors.Is(err, ErrNotFound):
		return false, err
	}
	info := &jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: schemas.BodyName(tenant, job), Opts: &jetstream.ObjectMetaOptions{ChunkSize: maxChunk}},
		Bucket:     schemas.BodiesBucket, NUID: nuid.Next(), Size: uint64(ref.Size), Digest: ref.Digest,
	}
	created, err := putObject(ctx, js, info, tenant, job, body)
	if err == nil && created {
		return true, nil
	}
	// Nobody knows of these chunks. What stays of them now goes when it is old enough.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTime)
	defer cancel()
	_ = purge(last, js, chunksPrefix+info.NUID)
	if err != nil {
		return false, err
	}
	there, err := sameBody(ctx, js, tenant, job, ref)
	return false, errors.Join(there, err)
}

// sameBody compares what is stored for a job with a body: there is nil or [ErrBodyExists], and err is
// [ErrNotFound] if nothing is.
func sameBody(ctx context.Context, js jetstream.JetStream, tenant, job string, ref schemas.BodyRef) (there, err error) {
	info, err := object(ctx, js, tenant, job)
	if err == nil && refOf(info) != ref {
		there = ErrBodyExists
	}
	return there, err
}

// putObject stores chunks and then, unless there is one by now, what is known of them.
func putObject(ctx context.Context, js jetstream.JetStream, info *jetstream.ObjectInfo, tenant, job string, body []byte) (created bool, err error) {
	for i, chunk := range chunked(js, body) {
		// One by one: a chunk that has to be sent again keeps its place, and its id makes a second copy harmless.
		msg := &nats.Msg{Subject: chunksPrefix + info.NUID, Data: chunk}
		if err := publish(ctx, js, msg, jetstream.WithMsgID(fmt.Sprintf("%s.%d", info.NUID, i)), jetstream.WithExpectStream(bodiesStream)); err != nil {
			return false, storeError(err)
		}
		info.Chunks++
	}
	info.ModTime = time.Now().UTC()
	data, err := json.Marshal(info)
	if err != nil {
		return false, err
	}
	meta := &nats.Msg{Subject: metaSubject(tenant, job), Data: data}
	err = publish(ctx, js, meta, jetstream.WithMsgID(info.NUID), jetstream.WithExpectStream(bodiesStream), jetstream.WithExpectLastSequencePerSubject(0))
	if isConflict(err) {
		// Another's, or ours: the answer to a first copy may have been lost.
		first, err := object(ctx, js, tenant, job)
		return err == nil && first.NUID == info.NUID, err
	}
	return err == nil, storeError(err)
}

// storeError says of a full store that it is full.
func storeError(err error) error {
	api := apiError(err)
	switch api.ErrorCode {
	case codeStoreFailed:
		if !strings.Contains(api.Description, fullBytes) {
			return err
		}
	case codeAccountLimits, codeResources, codeMemoryLimit, codeStorageLimit:
	default:
		return err
	}
	return fmt.Errorf("%w: %w", schemas.Errorf(schemas.CodeQueueFull,
		"the store for large bodies holds as many bytes as its cap allows; try again when some jobs have finished").WithParam("body"), err)
}

// GetBody returns the body of a job, verified by its digest, and its reference. One above most bytes is
// refused before it is read, as payload_too_large. [ErrNotFound] says that there is none, [ErrBadBody]
// that what is stored can never be read.
func GetBody(ctx context.Context, js jetstream.JetStream, tenant, job string, most int) ([]byte, schemas.BodyRef, error) {
	if err := checkJob(tenant, job); err != nil {
		return nil, schemas.BodyRef{}, fmt.Errorf("get body: %w", err)
	}
	body, ref, err := getBody(ctx, js, tenant, job, most)
	if err != nil {
		return nil, schemas.BodyRef{}, fmt.Errorf("get the body of job %s: %w", job, err)
	}
	return body, ref, nil
}

func getBody(ctx context.Context, js jetstream.JetStream, tenant, job string, most int) ([]byte, schemas.BodyRef, error) {
	info, err := object(ctx, js, tenant, job)
	if err != nil {
		return nil, schemas.BodyRef{}, err
	}
	if info.Size > uint64(max(most, 0)) {
		return nil, schemas.BodyRef{}, schemas.Errorf(schemas.CodePayloadTooLarge, "the stored body is %d bytes; want at most %d", info.Size, most).WithParam("body_ref")
	}
	body, err := chunks(ctx, js, info)
	return body, refOf(info), err
}

// DeleteBody removes the body of a job. That there is none is no error.
func DeleteBody(ctx context.Context, js jetstream.JetStream, tenant, job string) error {
	if err := checkJob(tenant, job); err != nil {
		return fmt.Errorf("delete body: %w", err)
	}
	info, err := object(ctx, js, tenant, job)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err == nil:
		err = purge(ctx, js, chunksPrefix+info.NUID)
	case errors.Is(err, ErrBadBody):
		err = nil // what is known of it can go all the same
	}
	if err == nil {
		err = purge(ctx, js, metaSubject(tenant, job))
	}
	if err != nil {
		return fmt.Errorf("delete the body of job %s: %w", job, err)
	}
	return nil
}
