package loadtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Request is one request of a workload, the same for every target.
type Request struct {
	// N is its place in its window, from 0. A later turn of a conversation has that of its first.
	N int
	// Turn is its place in its conversation, from 0.
	Turn     int
	Model    string
	Class    schemas.Class
	Tenant   string
	Endpoint schemas.Endpoint
	// Body is the OpenAI request without a model.
	Body   []byte
	Stream bool
	// Due is when it is to be sent, by the clock of this process.
	Due time.Time
}

// DirectBody is Body with the model in it.
func (r *Request) DirectBody(model string) []byte {
	rest := bytes.TrimLeft(r.Body, " \t\r\n")
	rest = rest[1:] // a JSON object: make has seen to it
	out := make([]byte, 0, len(rest)+len(model)+16)
	out = append(out, `{"model":`...)
	out = strconv.AppendQuote(out, model)
	if trimmed := bytes.TrimLeft(rest, " \t\r\n"); len(trimmed) > 0 && trimmed[0] != '}' {
		out = append(out, ',')
	}
	return append(out, rest...)
}

// Sub-streams of the seed. Arrivals do not depend on how much chance a request takes.
const (
	ofArrivals = 1
	ofRequests = 2
)

// chance is the source of randomness for one thing of one window: the n-th request, or its arrivals.
func (w *Workload) chance(stage, round int, of, n uint64) *rand.Rand {
	mixed := w.Seed
	for _, x := range []uint64{uint64(stage), uint64(round), of} {
		mixed = (mixed ^ x) * 0x9e3779b97f4a7c15
		mixed ^= mixed >> 29
	}
	return rand.New(rand.NewPCG(mixed, n))
}

// asked is a request's conversation: the requests of its turns are made one after the other.
type asked struct {
	w       *Workload
	request Request
	prompt  Prompt
	history []message
}

// make makes the n-th request of a window.
func (w *Workload) make(stage, round, n int) (*asked, error) {
	r := w.chance(stage, round, ofRequests, uint64(n))
	a := &asked{w: w}
	a.request = Request{
		N: n, Model: pick(w.Mix.Models, r), Class: schemas.Class(pick(w.Mix.Classes, r)), Tenant: pick(w.Mix.Tenants, r), Stream: !w.NoStream,
	}
	a.prompt = w.Dataset.Prompt(n, r)
	if len(a.prompt.Turns) > 0 {
		if a.prompt.System != "" {
			a.history = append(a.history, message{"system", a.prompt.System})
		}
		a.history = append(a.history, message{"user", a.prompt.Turns[0]})
	}
	return a, a.encode()
}

// next makes the request of the next turn from the reply to this one, ok false if there is none.
func (a *asked) next(reply string) (ok bool, err error) {
	if a.request.Turn+1 >= len(a.prompt.Turns) {
		return false, nil
	}
	a.request.Turn++
	a.history = append(a.history, message{"assistant", reply}, message{"user", a.prompt.Turns[a.request.Turn]})
	return true, a.encode()
}

// more reports whether another turn follows, for which the reply is needed.
func (a *asked) more() bool { return a.request.Turn+1 < len(a.prompt.Turns) }

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// encode makes the body of the present turn.
func (a *asked) encode() error {
	p, w := &a.prompt, a.w
	fields := map[string]any{}
	switch {
	case len(p.Turns) > 0:
		a.request.Endpoint = schemas.ChatCompletions
		fields["messages"] = a.history
	case p.Body != nil:
		a.request.Endpoint = p.Endpoint
		var given map[string]json.RawMessage
		if err := json.Unmarshal(p.Body, &given); err != nil {
			return fmt.Errorf("request %d: its body: %w", a.request.N, err)
		}
		delete(given, "model")
		delete(given, "stream_options")
		for k, v := range given {
			fields[k] = v
		}
	default:
		a.request.Endpoint = schemas.Completions
		fields["prompt"] = p.Text
	}
	limit := p.MaxTokens
	if w.OutputTokens > 0 {
		limit = w.OutputTokens
	}
	if limit > 0 {
		fields["max_tokens"] = limit
		delete(fields, "max_completion_tokens")
	}
	if w.IgnoreEOS {
		fields["ignore_eos"] = true
	}
	delete(fields, "stream")
	if a.request.Stream {
		fields["stream"] = true
		fields["stream_options"] = map[string]bool{"include_usage": true}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(fields); err != nil {
		return fmt.Errorf("request %d: %w", a.request.N, err)
	}
	a.request.Body = bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	return nil
}
