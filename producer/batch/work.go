package batch

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

// sink takes the records of a batch. The engine's loop calls it, one call at a time.
type sink interface {
	// put takes one record, as a line with its end. An error ends the batch.
	put(line []byte, r *record) error
	// full asks for no more lines to be admitted until what was put is written.
	full() bool
	// close writes what is left, and returns when it is stored.
	close(ctx context.Context) error
}

// work is one batch on its way through the engine.
type work struct {
	batch    string
	tenant   string
	round    int
	priority int
	order    int64     // when the batch was created
	deadline time.Time // none if zero
	rules    Rules
	client   *producer.Client

	// open opens the input. live is set for one that comes as it is made, so that no line waits for others.
	open func(context.Context) (io.ReadCloser, error)
	live bool
	// skip are the lines that have a record, and repeated those whose custom_id an earlier line has. They are only read.
	skip, repeated *bitmap
	sink           sink

	progress progress

	// What follows is the loop's.
	tag         string
	ready       map[string][]*item // by model
	models      []string
	waiting     int  // lines in ready
	bytes       int  // of their bodies
	asked       bool // for a window
	outstanding int  // lines handed to the queue
	ended       bool // the input has been read
	recorded    bitmap
	stopping    *stopping
	expired     bool // a line's deadline has passed
	err         error
	closing     bool

	want chan struct{} // asks the feeder for a window
	stop context.CancelFunc
	done chan struct{} // closed when the batch is over
}

// stopping is why a batch admits no more lines.
type stopping struct {
	code schemas.Code
	why  string
}

// pop takes the first line of a model.
func (w *work) pop(model string) *item {
	list := w.ready[model]
	x := list[0]
	list[0] = nil
	w.ready[model] = list[1:]
	w.waiting--
	w.bytes -= len(x.body)
	return x
}

// low reports whether half a window is left, or less.
func (w *work) low() bool { return w.waiting <= windowLines/2 && w.bytes <= windowBytes/2 }

// queue adds lines to those that wait, or puts one back in front.
func (w *work) queue(items []*item, front bool) {
	for _, x := range items {
		list, known := w.ready[x.model]
		if !known {
			w.models = append(w.models, x.model)
			slices.Sort(w.models)
		}
		if front {
			list = slices.Insert(list, 0, x)
		} else {
			list = append(list, x)
		}
		w.ready[x.model] = list
		w.bytes += len(x.body)
	}
	w.waiting += len(items)
}

// drain takes all lines that wait.
func (w *work) drain() (items []*item) {
	for _, m := range w.models {
		items = append(items, w.ready[m]...)
	}
	clear(w.ready)
	w.models, w.waiting, w.bytes = nil, 0, 0
	return items
}

// Progress is how far a batch has come.
type Progress struct {
	// Total is how many lines the input has; 0 while that is not known.
	Total int64 `json:"total"`
	// Completed and Failed are the lines that have a record, of earlier runs too.
	Completed int64 `json:"completed"`
	Failed    int64 `json:"failed"`
	// InFlight are the lines that are queued or running.
	InFlight int64 `json:"in_flight"`
	// Resumed are those of Completed and Failed that an earlier run has recorded, and Reused those whose
	// Results were there already, so that they were not generated again.
	Resumed int64 `json:"resumed,omitempty"`
	Reused  int64 `json:"reused,omitempty"`
	// PromptTokens and CompletionTokens are those of this run's records.
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	// Fault is what keeps the batch from going on at the moment, if anything does.
	Fault string `json:"fault,omitempty"`
}

// Done is how many lines have a record.
func (p Progress) Done() int64 { return p.Completed + p.Failed }

// progress is a Progress that many may look at.
type progress struct {
	mu sync.Mutex
	p  Progress
}

func (p *progress) update(f func(*Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.p)
}

func (p *progress) get() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.p
}

// record puts a line's record into the sink, once.
func (w *work) record(line int64, r *record) error {
	if !w.recorded.add(line) {
		return nil
	}
	if err := w.sink.put(r.encode(), r); err != nil {
		return fmt.Errorf("write the record of line %d: %w", line, err)
	}
	w.progress.update(func(p *Progress) {
		if r.failed() {
			p.Failed++
		} else {
			p.Completed++
		}
		p.PromptTokens += int64(r.usage.PromptTokens)
		p.CompletionTokens += int64(r.usage.CompletionTokens)
	})
	return nil
}
