package workers

import (
	"context"
	"errors"
	"iter"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// ErrUnsupported is returned by an [Engine] that lacks an optional ability.
var ErrUnsupported = errors.New("not supported by this engine")

// In the chain of an error of [Engine.Health] these say that the engine is on its way.
var (
	// ErrStarting is an engine that has not been ready yet.
	ErrStarting = errors.New("the engine is starting")
	// ErrRestarting is an engine that was ready, and is being started again.
	ErrRestarting = errors.New("the engine is restarting")
)

// Request is one admitted generation.
type Request struct {
	// ID is the job's id; the engine uses it as its own request id.
	ID string
	// Attempt is the delivery, from 1.
	Attempt  int
	Endpoint schemas.Endpoint
	// Body is the OpenAI request. The engine replaces what belongs to the transport (model, stream,
	// stream_options, return_token_ids) and passes everything else on byte for byte.
	Body  []byte
	Class schemas.Class
}

// Delta is what the engine produced since the last Delta. Its slices are valid until the iterator
// is advanced.
type Delta struct {
	// Choices is a sequence of JSON choice objects, as the engine sent them, separated by commas and without brackets. Empty if this Delta carries none.
	Choices []byte
	// Parts is the parsed view of Choices, one for each object.
	Parts []openai.Choice
	// Tokens is how many tokens the Delta holds: counted by token ids where the engine returns them, otherwise one for each choice with text.
	Tokens int
	// PromptTokens are the prompt's token ids: on the first Delta of engines that return them.
	PromptTokens []int
	// Usage is the engine's own count, on the last Delta.
	Usage *schemas.Usage
}

// Health is what an engine says about itself.
type Health struct {
	// Model is the name under which the engine serves its model.
	Model string
	// MaxModelLen is the context window in tokens; 0 if the engine does not say.
	MaxModelLen int
	// Version is the engine's version; "" if it does not say.
	Version string
	// Simulated is set when the engine is hxp's own simulator.
	Simulated bool
	// TokenIDs is set if the engine tells the token ids of every prompt and every choice of a request.
	TokenIDs bool
	// Missing lists, in words, what the engine cannot do and what is lost by that.
	Missing []string
}

// Load is how busy an engine says it is.
type Load struct {
	// Running and Waiting count the sequences that the engine computes, and those in its queue.
	Running, Waiting int
	// KVCache is the part of the KV cache in use, from 0 to 1; negative if the engine does not say.
	KVCache float64
	// KVTokens is how many tokens the KV cache holds; 0 if the engine does not say.
	KVTokens int
	// Preemptions, PromptTokens and GeneratedTokens are counted from the engine's start.
	Preemptions, PromptTokens, GeneratedTokens uint64
}

// Engine turns an admitted request into deltas. Its methods are safe for concurrent use.
//
// Errors are [*schemas.Error]; Retryable says whether another attempt, here or elsewhere, may succeed.
type Engine interface {
	// Generate yields deltas in order until the reply is complete. It yields at most one non-nil
	// error, and yields it last. Breaking out of the loop, or cancelling ctx, aborts the generation
	// in the engine.
	Generate(ctx context.Context, req *Request) iter.Seq2[Delta, error]
	// CountTokens returns the length of the request's prompt in tokens, by the engine's own
	// tokenizer and chat template, or [ErrUnsupported].
	CountTokens(ctx context.Context, endpoint schemas.Endpoint, body []byte) (int, error)
	// Tokenize returns the token ids of the request's one prompt, as [Engine.CountTokens] counts
	// them, or [ErrUnsupported].
	Tokenize(ctx context.Context, endpoint schemas.Endpoint, body []byte) ([]int, error)
	// Detokenize returns the text of token ids, special tokens included, or [ErrUnsupported].
	Detokenize(ctx context.Context, ids []int) (string, error)
	// Health asks the engine what it is and whether it can generate.
	Health(ctx context.Context) (Health, error)
	// Load asks the engine how busy it is, or returns [ErrUnsupported].
	Load(ctx context.Context) (Load, error)
	// Canary has the engine generate one token. It finds an engine that hangs, which Health may not.
	Canary(ctx context.Context) error
	// String names the engine in logs and in the worker registry: its URL.
	String() string
}
