package vllmsim

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Config says what is simulated. The zero value is an engine that answers as fast as it can.
type Config struct {
	// Model is the served name. Defaults to "sim".
	Model string
	// MaxModelLen is the context window in tokens. Defaults to 4096.
	MaxModelLen int
	// MaxNumSeqs is how many sequences run at once; further ones wait. Defaults to 256.
	MaxNumSeqs int
	// MaxQueued is how many sequences may run or wait before requests are answered with 503, as
	// vLLM's --max-num-queued-reqs counts them. 0 is no limit.
	MaxQueued int
	// Priority orders the waiting queue by the request's priority, lower first. Without it a priority is
	// ignored without a word: vLLM's description of the field promises an error, and 0.32 gives none.
	Priority bool
	// RefusePriority refuses a priority other than 0, as that description has it.
	RefusePriority bool

	// TTFT is the fixed part of the time to the first token.
	TTFT time.Duration
	// Prefill is the time to the first token for each token of the prompt.
	Prefill time.Duration
	// ITL is the time of an engine step, which yields one token of every running sequence. 0 is as fast as possible.
	ITL time.Duration
	// LoadFactor is by how much of themselves the times grow when all of MaxNumSeqs run.
	LoadFactor float64
	// KVTokens is how many tokens the KV cache holds. A sequence waits until its prompt and all it may
	// generate fit beside those that run; one that never will waits forever, and so does what is behind
	// it, as in vLLM. Defaults to MaxNumSeqs whole contexts, with which nothing waits for it.
	KVTokens int
	// StreamInterval is how many tokens make a chunk; the first and the last come at once. Defaults to 1.
	StreamInterval int
	// StartDelay is how long the engine takes to start: Run does not answer for that long, a bare Handler answers 503.
	StartDelay time.Duration

	// NoTokenIDs leaves token ids out, whatever the request asks for.
	NoTokenIDs bool
	// NoExtras behaves like a plain OpenAI-compatible server: none of vLLM's fields in answers, no
	// token ids, no max_model_len, and 404 on /version, /load, /tokenize, /detokenize and /metrics.
	NoExtras bool

	// Say is the text of every reply, in place of the simulator's own. A prompt that ends with the
	// beginning of it, token for token, is answered with the rest.
	Say string

	// MaxBody is the largest request body in bytes. Defaults to 32 MiB.
	MaxBody int64
	// Faults are armed from the start.
	Faults []Fault
	// LogPrompts keeps the rendered text of the last prompts, for Prompts and /sim/prompts.
	LogPrompts bool
	// Exit ends the process when the crash fault fires. Without it, or if it returns, the simulator
	// cuts every connection, serves nothing more, and Run returns ErrCrashed.
	Exit func(code int)
}

// maxSequences is how many choices a request may ask for, as vLLM's VLLM_MAX_N_SEQUENCES.
const maxSequences = 16384

func (c Config) withDefaults() Config {
	c.Model = cmp.Or(c.Model, "sim")
	c.MaxModelLen = cmp.Or(c.MaxModelLen, 4096)
	c.MaxNumSeqs = cmp.Or(c.MaxNumSeqs, 256)
	c.StreamInterval = cmp.Or(c.StreamInterval, 1)
	c.KVTokens = cmp.Or(c.KVTokens, c.MaxNumSeqs*c.MaxModelLen)
	c.MaxBody = cmp.Or(c.MaxBody, 32<<20)
	c.NoTokenIDs = c.NoTokenIDs || c.NoExtras
	return c
}

func (c Config) validate() error {
	var errs []error
	atLeast := func(field string, have, least int64) {
		if have < least {
			errs = append(errs, fmt.Errorf("%s is %d; want at least %d", field, have, least))
		}
	}
	atLeast("MaxModelLen", int64(c.MaxModelLen), 2)
	atLeast("MaxNumSeqs", int64(c.MaxNumSeqs), 1)
	atLeast("MaxQueued", int64(c.MaxQueued), 0)
	atLeast("KVTokens", int64(c.KVTokens), 1)
	atLeast("StreamInterval", int64(c.StreamInterval), 1)
	atLeast("MaxBody", c.MaxBody, 1)
	for field, d := range map[string]time.Duration{"TTFT": c.TTFT, "Prefill": c.Prefill, "ITL": c.ITL, "StartDelay": c.StartDelay} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s is %v; want at least 0", field, d))
		}
	}
	if c.LoadFactor < 0 {
		errs = append(errs, fmt.Errorf("LoadFactor is %v; want at least 0", c.LoadFactor))
	}
	for i, f := range c.Faults {
		if err := f.validate(); err != nil {
			errs = append(errs, fmt.Errorf("Faults[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}
