package vllmsim

import (
	"net/http"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/internal/sse"
)

// stream answers a request with a chunk for each token, or for each stream_interval of them.
func (s *Sim) stream(w http.ResponseWriter, r *http.Request, g *group, created int64) {
	sw := sse.NewWriter(w)
	// The status is sent before there is a token, as uvicorn does.
	if sw.Frames(nil) != nil {
		return // the client has gone; the caller aborts
	}
	c := newChunks(&s.cfg, g, created)
	var out []emission
	for {
		select {
		case <-g.notify:
		case <-r.Context().Done():
			return
		}
		var done bool
		out, done = s.drain(g, out)
		var fault FaultKind
		for part := range slices.Chunk(out, 64) {
			if fault = c.add(part); fault != "" {
				break
			}
			if len(c.frames) >= flushAt && c.flush(sw) != nil {
				return
			}
		}
		if done {
			c.close(fault)
		}
		if c.flush(sw) != nil {
			return
		}
		if fault == EOF {
			panic(http.ErrAbortHandler) // closes the connection without the end of the body
		}
		if done {
			return
		}
	}
}

// flushAt bounds what is rendered before it is sent, when the engine runs ahead of the client.
const flushAt = 32 << 10

// flush sends what was rendered.
func (c *chunks) flush(sw *sse.Writer) error {
	if len(c.frames) == 0 {
		return nil
	}
	err := sw.Frames(c.frames)
	c.frames = c.frames[:0]
	return err
}

// chunks renders the stream of one request. Chunks are written by hand: they are most of what a simulator does.
type chunks struct {
	cfg     *Config
	req     *request
	head    []byte // of every chunk, up to the choices
	choices []*streamed
	begun   bool
	frames  []byte
	chunk   []byte
	text    []byte
}

// streamed is what a stream knows of one choice.
type streamed struct {
	*output
	prompt []int
	params *sampling
	tokens []int // not yet sent
	sent   bool
}

func newChunks(cfg *Config, g *group, created int64) *chunks {
	c := &chunks{cfg: cfg, req: g.req}
	object := "text_completion"
	if g.req.chat {
		object = "chat.completion.chunk"
	}
	c.head = append(c.head, `{"id":`...)
	c.head = appendString(c.head, []byte(g.id))
	c.head = append(c.head, `,"object":"`+object+`","created":`...)
	c.head = strconv.AppendInt(c.head, created, 10)
	c.head = append(c.head, `,"model":`...)
	c.head = appendString(c.head, []byte(cfg.Model))
	c.head = append(c.head, `,"choices":[`...)
	for _, q := range g.sequences {
		c.choices = append(c.choices, &streamed{output: newOutput(q.prompt, q.gen.p), prompt: q.prompt, params: q.gen.p})
	}
	return c
}

// add renders emissions up to the first fault, and returns that.
func (c *chunks) add(out []emission) FaultKind {
	for _, e := range out {
		if e.end != nil && e.end.fault != "" {
			return e.end.fault
		}
		ch := c.choices[e.choice]
		if e.token >= 0 {
			ch.push(int(e.token), e.end)
			ch.tokens = append(ch.tokens, int(e.token))
		}
		if e.end == nil && ch.sent && len(ch.tokens) < c.req.interval {
			continue
		}
		if c.req.chat {
			c.roles()
			c.delta(int(e.choice), ch, e.end)
		} else {
			c.completion(int(e.choice), ch, e.end)
		}
		ch.tokens, ch.sent = ch.tokens[:0], true
	}
	return ""
}

// close renders what ends a stream: the usage or an error, and in both cases [DONE].
func (c *chunks) close(fault FaultKind) {
	switch {
	case fault == EOF:
		return
	case fault != "":
		c.frames = sse.Append(c.frames, internalError().frame())
	case c.req.usage:
		produced := 0
		for _, ch := range c.choices {
			produced += ch.produced
		}
		c.chunk = append(append(c.chunk[:0], c.head...), ']')
		c.end(c.req.promptTokens(), produced, true, true)
	}
	c.frames = append(c.frames, "data: [DONE]\n\n"...)
}

// roles renders the chunks that open a chat: one for each choice, with the first token of any.
func (c *chunks) roles() {
	if c.begun {
		return
	}
	c.begun = true
	for i, ch := range c.choices {
		b := append(append(c.chunk[:0], c.head...), `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"delta":{"role":`...)
		b = appendString(b, []byte(c.req.role))
		b = append(b, `,"content":""},"logprobs":null,"finish_reason":null}]`...)
		if !c.cfg.NoTokenIDs {
			b = append(b, `,"prompt_token_ids":`...)
			b = appendIDs(b, c.req.tokenIDs, ch.prompt)
			b = append(b, `,"prompt_text":null`...)
		}
		c.chunk = b
		c.end(len(ch.prompt), 0, c.req.continuousUsage, false)
	}
}

// delta renders one chunk of a chat.
func (c *chunks) delta(index int, ch *streamed, end *ending) {
	b := append(append(c.chunk[:0], c.head...), `{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"delta":{"content":`...)
	c.text = ch.release(c.text[:0], end)
	b = appendString(b, c.text)
	b = append(b, `},"logprobs":null,"finish_reason":`...)
	b = c.finish(b, end, end != nil)
	if !c.cfg.NoTokenIDs {
		b = append(b, `,"token_ids":`...)
		b = appendIDs(b, c.req.tokenIDs, ch.tokens)
	}
	c.chunk = append(b, "}]"...)
	c.end(len(ch.prompt), ch.produced, c.req.continuousUsage, end != nil && !c.req.usage)
}

// completion renders one chunk of a completion.
func (c *chunks) completion(index int, ch *streamed, end *ending) {
	c.text = c.text[:0]
	if c.req.echoText() && !ch.sent {
		c.text = append(c.text, shown(ch.prompt, ch.params)...)
	}
	c.text = ch.release(c.text, end)
	b := append(append(c.chunk[:0], c.head...), `{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"text":`...)
	b = appendString(b, c.text)
	b = append(b, `,"logprobs":null,"finish_reason":`...)
	b = c.finish(b, end, true)
	if !c.cfg.NoTokenIDs {
		b = append(b, `,"prompt_token_ids":`...)
		b = appendIDs(b, c.req.tokenIDs && !ch.sent, ch.prompt)
		b = append(b, `,"token_ids":`...)
		b = appendIDs(b, c.req.tokenIDs, ch.tokens)
	}
	c.chunk = append(b, "}]"...)
	c.end(len(ch.prompt), ch.produced, c.req.continuousUsage, end != nil && !c.req.usage)
}

// finish appends the finish reason and, where it belongs, the stop reason.
func (c *chunks) finish(b []byte, end *ending, withStop bool) []byte {
	if end == nil {
		b = append(b, "null"...)
	} else {
		b = appendString(b, []byte(end.reason))
	}
	if c.cfg.NoExtras || !withStop {
		return b
	}
	b = append(b, `,"stop_reason":`...)
	if end == nil {
		return append(b, "null"...)
	}
	switch stop := end.stop.(type) {
	case string:
		return appendString(b, []byte(stop))
	case int:
		return strconv.AppendInt(b, int64(stop), 10)
	}
	return append(b, "null"...)
}

// end closes the chunk, with the usage and with the fingerprint if asked for, and makes a frame of it. The
// fingerprint is on the last chunk of each choice, or on that of the usage in their place.
func (c *chunks) end(prompt, produced int, usage, last bool) {
	b := c.chunk
	if usage {
		b = append(b, `,"usage":{"prompt_tokens":`...)
		b = strconv.AppendInt(b, int64(prompt), 10)
		b = append(b, `,"total_tokens":`...)
		b = strconv.AppendInt(b, int64(prompt+produced), 10)
		b = append(b, `,"completion_tokens":`...)
		b = strconv.AppendInt(b, int64(produced), 10)
		if c.req.chat && !last {
			b = append(b, `,"completion_tokens_details":null`...)
		}
		b = append(b, '}')
	}
	if last && !c.cfg.NoExtras {
		b = append(b, `,"system_fingerprint":"`+fingerprint+`"`...)
	}
	c.chunk = append(b, '}')
	c.frames = sse.Append(c.frames, c.chunk)
}

// appendIDs appends token ids as a JSON array, or null where they are not wanted.
func appendIDs(b []byte, wanted bool, ids []int) []byte {
	if !wanted {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(id), 10)
	}
	return append(b, ']')
}

// appendString appends s as a JSON string the way pydantic writes it: nothing is escaped that need not be.
func appendString(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for len(s) > 0 {
		switch ch := s[0]; {
		case ch == '"' || ch == '\\':
			b = append(b, '\\', ch)
		case ch == '\n':
			b = append(b, '\\', 'n')
		case ch < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[ch>>4], hex[ch&15])
		case ch < utf8.RuneSelf:
			b = append(b, ch)
		default:
			r, n := utf8.DecodeRune(s)
			b, s = utf8.AppendRune(b, r), s[n:]
			continue
		}
		s = s[1:]
	}
	return append(b, '"')
}
