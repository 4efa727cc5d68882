package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/internal/queue"
)

const (
	// logFull is how many bytes of records may wait to be stored before no more lines are admitted.
	logFull = 8 << 20
	// logLinger is how long records wait for company, so that many go into one message.
	logLinger = 20 * time.Millisecond
	// logClose bounds how long the last records of a coordinator that stops may take.
	logClose = 5 * time.Second
)

// logSink stores the records of a batch in the cluster. Each write is conditional on the one before, so of two
// coordinators that both take a batch for theirs one finds out, and no line is stored twice.
type logSink struct {
	js            jetstream.JetStream
	tenant, batch string
	fault         func(error)

	wake    chan struct{}
	closing chan struct{}
	ctx     context.Context // of the writes; cancelled when closing takes too long
	cancel  context.CancelFunc
	writer  sync.WaitGroup

	mu    sync.Mutex
	parts [2]queue.BatchPart // what waits: of the output, and of the error file
	size  int
	last  uint64
	err   error
}

func newLogSink(ctx context.Context, js jetstream.JetStream, tenant, batch string, last uint64, fault func(error)) *logSink {
	s := &logSink{
		js: js, tenant: tenant, batch: batch, fault: fault, last: last,
		wake: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	s.parts[1].Failed = true
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.writer.Go(s.write)
	return s
}

func (s *logSink) put(line []byte, r *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	p := &s.parts[0]
	if r.failed() {
		p = &s.parts[1]
	}
	p.Data = append(p.Data, line...)
	p.PromptTokens += int64(r.usage.PromptTokens)
	p.CompletionTokens += int64(r.usage.CompletionTokens)
	s.size += len(line)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

func (s *logSink) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size > logFull
}

func (s *logSink) close(context.Context) error {
	close(s.closing)
	late := time.AfterFunc(logClose, s.cancel)
	s.writer.Wait()
	late.Stop()
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// write stores what waits, until the sink is closed and nothing waits any more.
func (s *logSink) write() {
	last := false
	for {
		select {
		case <-s.wake:
		case <-s.closing:
			last = true
		}
		if !last {
			select {
			case <-time.After(logLinger):
			case <-s.closing:
			}
		}
		for _, part := range s.take() {
			if err := s.store(part); err != nil {
				s.mu.Lock()
				s.err = err
				s.mu.Unlock()
				return
			}
		}
		if last {
			return
		}
	}
}

func (s *logSink) take() []queue.BatchPart {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.parts
	s.parts = [2]queue.BatchPart{{}, {Failed: true}}
	return out[:]
}

// store appends the records of one file, again and again while the broker does not take them.
func (s *logSink) store(p queue.BatchPart) error {
	for len(p.Data) > 0 {
		one := p
		n := wholeLines(p.Data)
		one.Data = p.Data[:n]
		if p.Data = p.Data[n:]; len(p.Data) > 0 {
			one.PromptTokens, one.CompletionTokens = 0, 0 // with the last of them
		}
		for {
			place, err := queue.AppendBatch(s.ctx, s.js, s.tenant, s.batch, &one, s.last)
			if err == nil {
				s.fault(nil)
				s.mu.Lock()
				s.last, s.size = place, s.size-n
				s.mu.Unlock()
				break
			}
			if errors.Is(err, queue.ErrBatchChanged) || s.ctx.Err() != nil || s.js.Conn().IsClosed() {
				return err
			}
			s.fault(err)
			select {
			case <-s.ctx.Done():
				return fmt.Errorf("%w: %w", context.Cause(s.ctx), err)
			case <-time.After(againAfter):
			}
		}
	}
	return nil
}

// wholeLines is how many bytes of records go into the next message.
func wholeLines(data []byte) int {
	if len(data) <= queue.MaxBatchPart {
		return len(data)
	}
	if i := bytes.LastIndexByte(data[:queue.MaxBatchPart], '\n'); i >= 0 {
		return i + 1
	}
	return bytes.IndexByte(data, '\n') + 1
}
