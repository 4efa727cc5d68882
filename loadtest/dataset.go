package loadtest

import (
	"encoding/json"
	"math/rand/v2"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Dataset is what requests ask. It is safe for concurrent use.
type Dataset interface {
	// Name is the form, as the report names it.
	Name() string
	// Prompt is what the n-th request asks. It depends on nothing but n and r.
	Prompt(n int, r *rand.Rand) Prompt
}

// Prompt is what one request asks, in one of three forms: the turns of a chat, a text to complete, or a whole body.
type Prompt struct {
	// Turns are what the user says, one request each; the replies come from the target.
	Turns []string
	// System goes before the first turn.
	System string
	// Text is completed as it is.
	Text string
	// Body is an OpenAI request for Endpoint.
	Body     json.RawMessage
	Endpoint schemas.Endpoint
	// MaxTokens is the length of the answer; 0 leaves it to the body or to the engine.
	MaxTokens int
}
