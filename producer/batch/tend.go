package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

const (
	// countsEvery is how often the counts of a batch are stored while it runs.
	countsEvery = time.Second
	// maxBatchErrors is how many faults are kept with a batch; the records of its lines tell all of them.
	maxBatchErrors = 100
	// tendAgain is the wait before a batch is taken up again that could not be worked on.
	tendAgain = time.Second
)

// errUnusable says that a batch can never be worked on.
var errUnusable = errors.New("the batch cannot be run")

// tend looks after one batch until it is over, or ctx ends. What cannot be done is tried again by whoever takes
// the batch up next.
func (s *session) tend(ctx context.Context, key string, b *queue.StoredBatch) {
	err := s.carry(ctx, key, b)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errUnusable):
		s.log.Warn().Err(err).Str("batch", b.ID).Str("tenant", b.Tenant).Msg("batch failed")
		err = s.fail(ctx, b, err)
	case errors.Is(err, ErrUnknownBatch):
		s.mu.Lock()
		delete(s.known, key)
		s.mu.Unlock()
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn().Err(err).Str("batch", b.ID).Str("tenant", b.Tenant).Msg("batch could not be worked on; the coordinator tries again")
		select {
		case <-ctx.Done():
		case <-time.After(tendAgain):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tended, key)
	s.active.Set(float64(len(s.tended)))
}

// fail ends a batch that cannot be run.
func (s *session) fail(ctx context.Context, b *queue.StoredBatch, why error) error {
	_, err := s.change(ctx, b, func(b *schemas.BatchState) error {
		b.Errors = &schemas.BatchErrors{Object: "list", Data: []schemas.BatchError{{Code: schemas.CodeInvalidRequest, Message: why.Error()}}}
		return b.Move(schemas.BatchFailed, time.Now())
	})
	return err
}

// carry takes a batch from the state that it is in to its end.
func (s *session) carry(ctx context.Context, key string, b *queue.StoredBatch) error {
	var found Summary
	err := b.Validate() // whoever wrote the state
	if err == nil && (b.Round < 0 || b.Round > maxRounds) {
		err = fmt.Errorf("round is %d; want 0 to %d", b.Round, maxRounds)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if b.Status == schemas.BatchValidating || b.RequestCounts.Total == 0 || b.Repeated > 0 {
		if b, found, err = s.validate(ctx, b); err != nil || b.Status.Terminal() {
			return err
		}
	}
	ledger, err := readLedger(ctx, s.js, &b.BatchState)
	if err != nil {
		return err
	}
	client, err := s.client(b.Tenant)
	if err != nil {
		return err
	}
	w := &work{
		batch: b.ID, tenant: b.Tenant, round: b.Round, priority: b.Priority, order: b.CreatedAt, deadline: time.Unix(b.ExpiresAt, 0).UTC(),
		rules:  Rules{Endpoint: b.Endpoint, MaxBody: s.cfg.MaxBody},
		client: client, skip: &ledger.done, repeated: &found.repeated,
		open: func(ctx context.Context) (io.ReadCloser, error) { return queue.OpenBatchInput(ctx, s.js, b.Input) },
		progress: progress{p: Progress{
			Total: b.RequestCounts.Total, Completed: ledger.completed, Failed: ledger.failed,
			PromptTokens: ledger.prompt, CompletionTokens: ledger.generated,
		}},
	}
	if w.rules.Models, err = queue.Models(ctx, s.js); err != nil {
		return err
	}
	sink := newLogSink(ctx, s.js, b.Tenant, b.ID, ledger.last, func(err error) { setFault(w, err) })
	w.sink = counted{sink, s}
	s.log.Info().Str("batch", b.ID).Str("tenant", b.Tenant).Int64("lines", b.RequestCounts.Total).Int64("done", ledger.done.n).Msg("batch is worked on")
	w.stopping, _ = s.stopping(b, time.Now())
	if !s.engine.add(ctx, w) {
		return errors.Join(context.Cause(ctx), sink.close(ctx))
	}
	err = s.watch(ctx, key, b, w)
	if errors.Is(err, queue.ErrBadBody) {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if err != nil {
		return err
	}
	return s.conclude(ctx, b, w)
}

// counted counts the lines that a sink takes.
type counted struct {
	*logSink
	s *session
}

func (c counted) put(line []byte, r *record) error {
	err := c.logSink.put(line, r)
	if err == nil {
		outcome := "completed"
		if r.failed() {
			outcome = "failed"
		}
		c.s.lines.WithLabelValues(outcome).Inc()
	}
	return err
}

// validate reads the whole input before any of it runs, and notes what it has found. A batch of which a part has run is
// read again for the lines that repeat a custom_id.
func (s *session) validate(ctx context.Context, b *queue.StoredBatch) (*queue.StoredBatch, Summary, error) {
	select {
	case s.validating <- struct{}{}:
		defer func() { <-s.validating }()
	case <-ctx.Done():
		return nil, Summary{}, context.Cause(ctx)
	}
	models, err := queue.Models(ctx, s.js)
	if err != nil {
		return nil, Summary{}, err
	}
	in, err := queue.OpenBatchInput(ctx, s.js, b.Input)
	if err != nil {
		return nil, Summary{}, fmt.Errorf("%w: %w", errUnusable, err)
	}
	defer in.Close()
	var faults []schemas.BatchError
	found, err := Validate(ctx, in, Rules{Models: models, Endpoint: b.Endpoint, MaxBody: s.cfg.MaxBody}, func(f *LineError) error {
		if len(faults) < maxBatchErrors {
			faults = append(faults, schemas.BatchError{Code: f.Code, Message: f.Message, Param: f.Param, Line: f.Line})
		}
		return nil
	})
	if errors.Is(err, queue.ErrBadBody) {
		return nil, found, fmt.Errorf("%w: %w", errUnusable, err)
	}
	if err != nil {
		return nil, found, err
	}
	b, err = s.change(ctx, b, func(b *schemas.BatchState) error {
		b.RequestCounts.Total, b.Repeated = found.Lines, found.repeated.n
		if b.Endpoint == "" {
			b.Endpoint = found.Endpoint
		}
		if len(faults) > 0 {
			b.Errors = &schemas.BatchErrors{Object: "list", Data: faults}
		}
		switch {
		case b.Status != schemas.BatchValidating: // cancelled meanwhile, or taken up again
			return nil
		case found.Valid == 0:
			if len(faults) == 0 {
				b.Errors = &schemas.BatchErrors{Object: "list", Data: []schemas.BatchError{{Code: schemas.CodeInvalidRequest, Message: "the input has no lines; want at least 1"}}}
			}
			return b.Move(schemas.BatchFailed, time.Now())
		default:
			return b.Move(schemas.BatchInProgress, time.Now())
		}
	})
	return b, found, err
}

// watch lets a batch run until all its lines have a record, and does what is asked of it meanwhile.
func (s *session) watch(ctx context.Context, key string, b *queue.StoredBatch, w *work) error {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	counted := time.Now()
	halted, aborted, priority := false, false, w.priority // the loop's own from here on
	for {
		if now := s.state(key); now != nil {
			b = now
		}
		if b.Priority != priority {
			priority = b.Priority
			s.engine.prioritize(ctx, w, b.Priority)
		}
		stop, abort := s.stopping(b, time.Now())
		if stop != nil && (!halted || abort && !aborted) {
			if stop.code == CodeExpired && !b.Expiring {
				if _, err := s.change(ctx, b, expiring); err != nil {
					setFault(w, err)
				}
			}
			halted, aborted = true, abort
			s.engine.halt(ctx, stopRequest{w, stop, abort})
		}
		select {
		case <-w.done:
			return w.err
		case <-ctx.Done():
			<-w.done
			return context.Cause(ctx)
		case <-tick.C:
		}
		if time.Since(counted) >= countsEvery {
			counted = time.Now()
			if err := s.count(ctx, b, w); err != nil {
				setFault(w, err)
			}
		}
	}
}

// stopping is why a batch is to admit no more lines, nil if it is not, and whether running ones are cancelled.
func (s *session) stopping(b *queue.StoredBatch, now time.Time) (why *stopping, abort bool) {
	switch {
	case b.Status == schemas.BatchCancelling:
		late := now.Sub(time.Unix(b.CancellingAt, 0)) > s.cfg.Grace
		return &stopping{CodeCancelled, "the batch was cancelled"}, b.Abort || late
	case b.Expiring, now.Unix() >= b.ExpiresAt:
		return &stopping{CodeExpired, fmt.Sprintf("the line was not answered within the completion window of %s", b.CompletionWindow)}, true
	}
	return nil, false
}

func expiring(b *schemas.BatchState) error {
	b.Expiring = b.Status == schemas.BatchInProgress || b.Status == schemas.BatchFinalizing
	return nil
}

// count stores how far a batch has come, if that has changed.
func (s *session) count(ctx context.Context, b *queue.StoredBatch, w *work) error {
	p := s.engine.look(w)
	counts, usage := countsOf(p)
	if b.RequestCounts == counts && b.Fault == p.Fault {
		return nil
	}
	_, err := s.change(ctx, b, func(b *schemas.BatchState) error {
		b.RequestCounts, b.Usage, b.Fault = counts, usage, p.Fault
		return nil
	})
	return err
}

func countsOf(p Progress) (schemas.BatchCounts, schemas.Usage) {
	return schemas.BatchCounts{Total: p.Total, Completed: p.Completed, Failed: p.Failed},
		schemas.Usage{PromptTokens: int(p.PromptTokens), CompletionTokens: int(p.CompletionTokens), TotalTokens: int(p.PromptTokens + p.CompletionTokens)}
}

// conclude moves a batch whose lines all have a record to its end.
func (s *session) conclude(ctx context.Context, b *queue.StoredBatch, w *work) error {
	counts, usage := countsOf(w.progress.get())
	_, err := s.change(ctx, b, func(b *schemas.BatchState) error {
		b.RequestCounts, b.Usage, b.Fault = counts, usage, ""
		b.Expiring = b.Expiring || w.expired
		if b.Status == schemas.BatchInProgress {
			return b.Move(schemas.BatchFinalizing, time.Now())
		}
		return nil
	})
	if err != nil {
		return err
	}
	var end schemas.BatchStatus
	_, err = s.change(ctx, b, func(b *schemas.BatchState) error {
		switch end = schemas.BatchCompleted; {
		case b.Status == schemas.BatchCancelling:
			end = schemas.BatchCancelled
		case b.Expiring:
			end = schemas.BatchExpired
		}
		return b.Move(end, time.Now())
	})
	if err != nil {
		return err
	}
	s.log.Info().Str("batch", b.ID).Str("tenant", b.Tenant).Str("status", string(end)).
		Int64("completed", counts.Completed).Int64("failed", counts.Failed).Msg("batch ended")
	return nil
}
