package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	batchFilesStream = objectsPrefix + schemas.BatchFilesBucket
	batchChunks      = "$O." + schemas.BatchFilesBucket + ".C."
	batchMeta        = "$O." + schemas.BatchFilesBucket + ".M."
)

func batchDigest(sum []byte) string { return "SHA-256=" + base64.URLEncoding.EncodeToString(sum) }

// PutBatchInput stores the input of a batch as an object, a chunk at a time. A full store is a
// [*schemas.Error] with the code queue_full.
func PutBatchInput(ctx context.Context, js jetstream.JetStream, tenant, batch string, r io.Reader) (schemas.BatchInput, error) {
	if err := checkJob(tenant, batch); err != nil {
		return schemas.BatchInput{}, fmt.Errorf("store input: %w", err)
	}
	in, err := putBatchInput(ctx, js, tenant, batch, r)
	if err != nil {
		// Nobody knows of these chunks. What stays of them now goes when it is old enough.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTime)
		defer cancel()
		_ = api(last, js, "STREAM.PURGE."+batchFilesStream, map[string]any{"filter": batchChunks + in.NUID}, nil)
		return schemas.BatchInput{}, fmt.Errorf("store the input of batch %s: %w", batch, batchStoreError(err))
	}
	return in, nil
}

func putBatchInput(ctx context.Context, js jetstream.JetStream, tenant, batch string, r io.Reader) (schemas.BatchInput, error) {
	in := schemas.BatchInput{NUID: nuid.Next()}
	digest := sha256.New()
	chunk := make([]byte, maxChunkOn(js))
	chunks := 0
	for {
		n, err := io.ReadFull(r, chunk)
		if n > 0 {
			_, _ = digest.Write(chunk[:n])
			msg := &nats.Msg{Subject: batchChunks + in.NUID, Data: bytes.Clone(chunk[:n])}
			if err := publish(ctx, js, msg, jetstream.WithMsgID(fmt.Sprintf("%s.%d", in.NUID, chunks)), jetstream.WithExpectStream(batchFilesStream)); err != nil {
				return in, err
			}
			chunks++
			in.Bytes += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return in, fmt.Errorf("read: %w", err)
		}
	}
	in.Digest = batchDigest(digest.Sum(nil))
	name := schemas.BatchInputName(tenant, batch)
	meta, err := json.Marshal(&jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(len(chunk))}},
		Bucket:     schemas.BatchFilesBucket, NUID: in.NUID, Size: uint64(in.Bytes), Chunks: uint32(chunks), Digest: in.Digest, ModTime: time.Now().UTC(),
	})
	if err != nil {
		return in, err
	}
	msg := &nats.Msg{Subject: batchMeta + base64.URLEncoding.EncodeToString([]byte(name)), Data: meta}
	return in, publish(ctx, js, msg, jetstream.WithMsgID(in.NUID), jetstream.WithExpectStream(batchFilesStream), jetstream.WithExpectLastSequencePerSubject(0))
}

// maxChunkOn is the size of a chunk on the server that js is connected to.
func maxChunkOn(js jetstream.JetStream) int {
	if size := int(js.Conn().MaxPayload()) / 2; size > 0 {
		return min(size, maxChunk)
	}
	return maxChunk
}

func batchStoreError(err error) error {
	if e, ok := errors.AsType[*schemas.Error](storeError(err)); ok {
		e := *e
		e.Message, e.Param = "the store for batches holds as many bytes as its cap allows; try again when old batches have gone", ""
		return fmt.Errorf("%w: %w", &e, err)
	}
	return err
}

// OpenBatchInput reads the input of a batch, a chunk at a time. A reader gets [ErrBadBody] at the end if that is not all of it.
func OpenBatchInput(ctx context.Context, js jetstream.JetStream, in schemas.BatchInput) (io.ReadCloser, error) {
	if err := schemas.CheckToken(in.NUID); err != nil { // a wildcard here would read everybody's chunks
		return nil, fmt.Errorf("open the input of a batch: %w: its chunks' name %w", ErrBadBody, err)
	}
	next, stop := iter.Pull2(directScan(ctx, js, batchFilesStream, batchChunks+in.NUID, 0))
	return &batchReader{in: in, next: next, stop: stop, digest: sha256.New()}, nil
}

type batchReader struct {
	in     schemas.BatchInput
	next   func() (*stored, error, bool)
	stop   func()
	digest interface {
		io.Writer
		Sum([]byte) []byte
	}
	rest []byte
	size int64
}

func (b *batchReader) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		m, err, more := b.next()
		switch {
		case !more:
			if got := batchDigest(b.digest.Sum(nil)); b.size != b.in.Bytes || got != b.in.Digest {
				return 0, fmt.Errorf("%w: %d bytes with digest %s are stored; it was %d with %.64q", ErrBadBody, b.size, got, b.in.Bytes, b.in.Digest)
			}
			return 0, io.EOF
		case err != nil:
			return 0, fmt.Errorf("read the input of a batch: %w", err)
		}
		b.rest = m.data
		b.size += int64(len(m.data))
		_, _ = b.digest.Write(m.data)
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close ends the reading.
func (b *batchReader) Close() error {
	b.stop()
	return nil
}
