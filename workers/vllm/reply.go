package vllm

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hxp-enterprise/hxp/internal/sse"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
)

// replies keeps the buffers of finished replies for the next.
var replies sync.Pool

// reply is what has come of one generation.
type reply struct {
	chunk openai.Chunk
	// want is how many choices must finish, ended how many have, and choices the state of each that was seen.
	want, ended int
	choices     []choiceState
	// vllm is set if several choices in one request are certainly served.
	vllm bool
	// tokens counts what has come. ids is set once the engine has sent token ids: text without
	// them is then part of tokens already counted.
	tokens int
	ids    bool
	usage  *schemas.Usage
}

type choiceState uint8

const (
	unseen choiceState = iota
	open
	ended
)

func newReply(want int, vllm bool) *reply {
	s, ok := replies.Get().(*reply)
	if !ok {
		s = new(reply)
	}
	s.want, s.vllm = want, vllm
	return s
}

func (s *reply) release() {
	*s = reply{chunk: s.chunk, choices: s.choices[:0]}
	replies.Put(s)
}

// read takes one event into the reply.
func (s *reply) read(e *Engine, data []byte) (workers.Delta, error) {
	c := &s.chunk
	if err := openai.ParseChunk(data, c); err != nil {
		return workers.Delta{}, schemas.Errorf(schemas.CodeEngineUnavailable,
			"the engine sent an event that cannot be read, after %d tokens: %v", s.tokens, err)
	}
	if c.Error != nil {
		err := e.mapped(parseWireError(c.Error))
		if err.Retryable {
			err.Message += s.after()
		}
		return workers.Delta{}, err
	}
	if c.Usage != nil {
		s.usage = c.Usage
	}
	tokens := 0
	for i := range c.Parts {
		n, err := s.part(&c.Parts[i])
		if err != nil {
			return workers.Delta{}, err
		}
		tokens += n
	}
	s.tokens += tokens
	return workers.Delta{Choices: c.Choices, Parts: c.Parts, Tokens: tokens, PromptTokens: c.PromptTokenIDs}, nil
}

// part counts the tokens of one choice and notes whether it has ended.
func (s *reply) part(p *openai.Choice) (int, error) {
	if p.Index < 0 || p.Index >= s.want {
		return 0, schemas.Errorf(schemas.CodeEngineUnavailable,
			"the engine sent choice %d of a request for %d%s", p.Index, s.want, s.after())
	}
	for len(s.choices) <= p.Index {
		s.choices = append(s.choices, unseen)
	}
	state := &s.choices[p.Index]
	switch p.FinishReason {
	case "":
		*state = max(*state, open)
	case "abort", "error":
		// Not a finish: the engine gave the sequence up, at its shutdown for instance.
		return 0, schemas.Errorf(schemas.CodeEngineUnavailable,
			"the engine ended choice %d with finish reason %q%s", p.Index, p.FinishReason, s.after())
	default:
		if *state != ended {
			*state = ended
			s.ended++
		}
	}
	switch {
	case len(p.TokenIDs) > 0:
		s.ids = true
		return len(p.TokenIDs), nil
	case !s.ids && (len(p.Text) > 0 || len(p.Reasoning) > 0 || len(p.ToolCalls) > 0):
		return 1, nil
	}
	return 0, nil
}

// complete says, at [DONE], why the reply is not complete, or nil.
func (s *reply) complete() error {
	if s.ended == s.want {
		return nil
	}
	if !s.vllm && s.ended > 0 && s.ended == len(s.choices) {
		// All that began has ended: the engine has no more choices to give, and will not at another attempt.
		return schemas.Errorf(schemas.CodeInvalidRequest,
			"the engine answered %d of %d choices: it does not serve several choices in one request", s.ended, s.want).WithParam("n")
	}
	return schemas.Errorf(schemas.CodeEngineUnavailable,
		"the engine ended its stream with %d of %d choices finished%s", s.ended, s.want, s.after())
}

// after tells how far a reply had come.
func (s *reply) after() string { return fmt.Sprintf(" (after %d tokens)", s.tokens) }

// cut is the error of a stream that stopped before [DONE].
func (s *reply) cut(err error) *schemas.Error {
	switch {
	case errors.Is(err, io.EOF):
		return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine's stream ended without [DONE]%s", s.after())
	case errors.Is(err, sse.ErrTooLarge):
		// Another attempt would produce the same event.
		return schemas.Errorf(schemas.CodePayloadTooLarge, "the engine's reply: %v%s", err, s.after())
	}
	return schemas.Errorf(schemas.CodeEngineUnavailable, "the engine's stream broke: %v%s", err, s.after())
}
