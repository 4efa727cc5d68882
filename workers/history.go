package workers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// history is what the record tells about earlier attempts of a job.
type history struct {
	lastSeq   uint64
	attempt   int               // the newest attempt in the record
	source    string            // the message whose attempt was recorded first
	delivered bool              // text has been sent
	servedBy  string            // the model of the newest attempt, if it is not the job's own
	declined  map[string]bool   // by such a model, which handed it back
	failed    []schemas.Attempt // attempts that count, oldest first
	open      *schemas.Attempt  // the newest one, if nothing ended it: its worker was lost, or lost the lease
	excused   int               // attempts that were left like that and do not count
	turn      *schemas.Turn     // what the newest attempt that had one answers in its conversation
	waited    int64             // when it was last recorded that the job waits for its conversation, in microseconds since the Unix epoch
	reply
}

// reply is what the record holds of the reply since it last began.
type reply struct {
	deltas []schemas.Event
	ids    []int // of the tokens that text was sent for, or is still to be
	text   string
	finish string // why the first choice ended, if it did
	prompt *schemas.Prompt
	by     string // the model that gave it, if it is not the job's own
	broken string // why nothing can be built on it, or ""
}

// add takes in a recorded delta.
func (p *reply) add(e *schemas.Event) {
	p.deltas = append(p.deltas, *e)
	if e.Prompt != nil {
		p.prompt = e.Prompt
	}
	parts, err := openai.ParseChoices(e.Choices, nil)
	if err != nil {
		p.broken = fmt.Sprintf("event %d cannot be read", e.Seq)
		return
	}
	for i := range parts {
		c := &parts[i]
		p.ids = append(p.ids, c.TokenIDs...)
		p.text += string(c.Text)
		p.finish = cmp.Or(p.finish, c.FinishReason)
		switch {
		case len(c.Text) > 0 && len(p.ids) == 0:
			p.broken = cmp.Or(p.broken, "the record has text without token ids")
		case c.Reasoning != nil || c.ToolCalls != nil:
			p.broken = cmp.Or(p.broken, "the reply has more than text")
		}
	}
	if bytes.Contains(e.Choices, markMasked) {
		p.broken = cmp.Or(p.broken, "moderation has masked some of the text")
	}
}

// readHistory reads the job's record.
func (w *Worker) readHistory(ctx context.Context, r *run) error {
	events, err := queue.ReadRecord(ctx, w.js, r.job.Tenant, r.job.ID, 0)
	switch {
	case errors.Is(err, queue.ErrBadRecord):
		// What is not an event counts for nothing; the events around it do.
	case errors.Is(err, queue.ErrRecordTooLarge):
		last, err := queue.LastEvent(ctx, w.js, r.job.Tenant, r.job.ID)
		if err != nil {
			return err
		}
		events = []schemas.Event{{Seq: last.Seq, Attempt: last.Attempt, Kind: schemas.DeltaKind, Choices: []byte("[]")}}
	case err != nil:
		return err
	}
	r.history = readAttempts(events)
	r.attempt = max(r.attempt, r.history.attempt+1)
	return nil
}

// foreign reports whether the record is that of another message with the same job id: the message
// whose attempt was recorded first is the one that is run.
func (h *history) foreign(r *run) bool { return h.source != "" && h.source != r.source() }

// source names the message that is being run.
func (r *run) source() string {
	return fmt.Sprintf("%s/%d", r.meta.Stream, r.meta.Sequence.Stream)
}

// lose counts the open attempt, if there is one, as failed.
func (h *history) lose() {
	if a := h.open; a != nil {
		a.Error = schemas.Errorf(schemas.CodeInternal, "worker %s was lost in attempt %d", a.Worker, a.Attempt)
		h.failed = append(h.failed, *a)
	}
	h.open = nil
}

// readAttempts counts the attempts in a record. One that was opened and neither ended, handed back
// nor excused has failed: its worker said why, or was lost.
func readAttempts(events []schemas.Event) history {
	var h history
	for _, e := range events {
		if e.Attempt < h.attempt {
			continue // a fenced worker's last words: no reader counts them
		}
		if e.Seq != h.lastSeq+1 {
			h.broken = fmt.Sprintf("events %d to %d are not recorded", h.lastSeq+1, e.Seq-1)
		}
		h.attempt, h.lastSeq = e.Attempt, e.Seq
		switch {
		case e.Kind.Opens():
			if e.Excused && h.open != nil {
				h.open = nil
				h.excused++
			}
			h.lose()
			h.source = cmp.Or(h.source, e.Source)
			h.servedBy = e.ServedBy
			if e.Turn != nil {
				h.turn = e.Turn
			}
			switch {
			case e.Kind == schemas.Restarted:
				h.reply = reply{}
			case e.Kind == schemas.Resumed && e.Kept <= len(h.ids):
				h.ids = h.ids[:e.Kept]
			}
			h.open = &schemas.Attempt{Attempt: e.Attempt, Worker: e.Worker}
		case e.Kind == schemas.DeltaKind:
			h.delivered, h.by = true, h.servedBy
			h.add(&e)
		case e.Kind == schemas.Interrupted:
			if e.Handback && h.servedBy != "" {
				if h.declined == nil {
					h.declined = make(map[string]bool)
				}
				h.declined[h.servedBy] = true
			}
			if e.Handback && e.Error != nil && e.Error.Param == ofSession {
				h.waited = e.TS
			}
			if h.open != nil && !e.Handback {
				h.open.Error = e.Error
				h.failed = append(h.failed, *h.open)
			}
			h.open = nil
		case e.Kind.Terminal():
			h.open = nil
		}
	}
	return h
}

// outOfAttempts returns the error that ends a job which may not be tried again, or nil.
func (w *Worker) outOfAttempts(r *run) error {
	if n := len(r.history.failed); n >= r.tuned.MaxAttempts {
		return schemas.Errorf(schemas.CodeMaxAttempts, "%d of %d attempts failed, the last with: %s", n, r.tuned.MaxAttempts, r.history.failed[n-1].Error.Message)
	}
	if n := int(r.meta.NumDelivered); r.history.attempt == 0 && n > w.cfg.MaxDeliveries {
		return schemas.Errorf(schemas.CodeMaxAttempts, "delivered %d times without an end; the bound is %d", n, w.cfg.MaxDeliveries)
	}
	return nil
}
