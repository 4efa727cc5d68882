package loadtest

import (
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// Observation is what is seen of one request. Targets fill it as things happen; its zero value is ready.
type Observation struct {
	// Sent is when it was sent, Accepted when the queue said that it is stored.
	Sent, Accepted time.Time
	// Outputs are the times of the chunks with output.
	Outputs []time.Time
	// End is when nothing more was to come.
	End time.Time
	// Job is the job's id, Attempts how often it was delivered to a worker.
	Job      string
	Attempts int
	// QueueWait is how long it waited for a worker.
	QueueWait time.Duration
	// Deliveries are how long events took from their making to here.
	Deliveries []time.Duration
	// Usage is what the engine counted, nil if it did not say.
	Usage *schemas.Usage
	// Tokens are those in the chunks, where the engine names their ids.
	Tokens int
	// Finish is why the answer ended.
	Finish string
	// Lost, Doubled and Gap are what must not be; see the package.
	Lost, Doubled, Gap bool

	text    []byte // of the first choice, if keep is set
	keep    bool
	hash    uint64
	texted  bool
	outputs int // chunks with output that count: those of a void attempt do not
}

// choices notes the choices of a chunk that came at a time.
func (o *Observation) choices(parts []openai.Choice, at time.Time) {
	output := false
	for _, p := range parts {
		output = output || len(p.Text) > 0 || len(p.Reasoning) > 0 || len(p.ToolCalls) > 0 || len(p.TokenIDs) > 0
		o.Tokens += len(p.TokenIDs)
		if p.FinishReason != "" {
			o.Finish = p.FinishReason
		}
		if p.Index == 0 {
			o.write(p.Text)
		}
	}
	if output {
		o.Outputs = append(o.Outputs, at)
		o.outputs++
	}
}

// write adds text of the reply.
func (o *Observation) write(text []byte) {
	if !o.texted {
		o.texted, o.hash = true, offset64
	}
	for _, b := range text {
		o.hash = (o.hash ^ uint64(b)) * prime64
	}
	if o.keep {
		o.text = append(o.text, text...)
	}
}

// FNV-1a, written out: a hash.Hash64 would cost an allocation for each request.
const (
	offset64 = 14695981039346656037
	prime64  = 1099511628211
)

// void drops the text of an attempt that another one replaces.
func (o *Observation) void() {
	o.text, o.texted, o.Tokens, o.outputs = o.text[:0], false, 0, 0
}

// Reply is the hash of the reply's text, 64-bit FNV-1a.
func (o *Observation) Reply() uint64 {
	if !o.texted {
		return offset64
	}
	return o.hash
}

// OutputTokens are those that the engine counted, or one for each chunk if it did not.
func (o *Observation) OutputTokens() int {
	switch {
	case o.Usage != nil:
		return o.Usage.CompletionTokens
	case o.Tokens > 0:
		return o.Tokens
	default:
		return o.outputs
	}
}

// reset makes o ready for another request and keeps its memory.
func (o *Observation) reset() {
	*o = Observation{Outputs: o.Outputs[:0], Deliveries: o.Deliveries[:0], text: o.text[:0]}
}

// latencies are the times of a request by the definitions in the package's comment.
type latencies struct {
	ttft, tpot, e2el, end, lag, accept time.Duration
	first                              bool // ttft is known
	perToken                           bool // tpot is known
}

func (o *Observation) latencies(due time.Time) (l latencies) {
	l.lag, l.end = o.Sent.Sub(due), o.End.Sub(due)
	l.e2el = l.end
	if !o.Accepted.IsZero() {
		l.accept = o.Accepted.Sub(o.Sent)
	}
	if n := len(o.Outputs); n > 0 {
		l.first, l.ttft, l.e2el = true, o.Outputs[0].Sub(due), o.Outputs[n-1].Sub(due)
		if t := o.OutputTokens(); t > 1 {
			l.perToken, l.tpot = true, (l.e2el-l.ttft)/time.Duration(t-1)
		}
	}
	return l
}
