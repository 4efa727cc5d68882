package openai

import (
	"github.com/hxp-enterprise/hxp/schemas"
)

// Choice is the view of one streamed choice object, of either endpoint. Byte slices point into the
// parsed input where they can; see the package's words on lifetime.
type Choice struct {
	Index int
	// Role is delta.role, on the first chunk of a chat choice.
	Role string
	// Text is the decoded delta.content or, where there is none, text.
	Text []byte
	// Reasoning is the decoded delta.reasoning or, where there is none, delta.reasoning_content.
	Reasoning []byte
	// Refusal is the decoded delta.refusal.
	Refusal []byte
	// ToolCalls is the raw delta.tool_calls array, or nil where absent, null or empty.
	ToolCalls []byte
	// Logprobs is the raw logprobs value, or nil where absent or null.
	Logprobs []byte
	// FinishReason is "" until the choice has ended.
	FinishReason string
	// StopReason is the raw stop_reason value (a string or a token id), or nil.
	StopReason []byte
	// TokenIDs are the new tokens, where the engine returns them.
	TokenIDs []int
}

// Chunk is the view of one streamed chunk of either endpoint.
type Chunk struct {
	// Choices is the content of the choices array without its brackets, byte for byte, except that
	// prompt_token_ids is taken out of it. Empty if there are no choices.
	Choices []byte
	// Parts are the views of the choices, in order.
	Parts []Choice
	// PromptTokenIDs come with the first chunk when return_token_ids was asked for. Those beside
	// the choices count, otherwise those of the first choice that has some.
	PromptTokenIDs []int
	// Usage is a new value for each chunk that has one: it may be kept.
	Usage *schemas.Usage
	// Error is the raw error value of an error frame, or nil. Of an error that is the frame itself
	// ("object": "error"), it is the whole frame.
	Error []byte

	text []byte // decoded strings
	cut  []byte // Choices, where something was taken out
}

func (c *Chunk) reset() {
	*c = Chunk{Parts: c.Parts[:0], PromptTokenIDs: c.PromptTokenIDs[:0], text: c.text[:0], cut: c.cut[:0]}
}
