package conversation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Strategy is what to do with a history that does not fit the window.
type Strategy = schemas.WindowStrategy

// The strategies.
const (
	// TokenBudget leaves out the oldest turns. The default.
	TokenBudget = schemas.WindowTokenBudget
	// LastN keeps no more than the last N turns, and no more of them than fit.
	LastN = schemas.WindowLastN
	// Summarize puts a stored summary in place of what is left out, and asks for one where there is none.
	Summarize = schemas.WindowSummarize
	// Refuse fails with a [*WindowError].
	Refuse = schemas.WindowError
)

// Window builds the messages for an engine. It does no I/O but Count, and never changes a session.
type Window struct {
	// MaxModelLen is the model's context in tokens. Required.
	MaxModelLen int
	// MaxTokens is how many the reply may have; Margin is kept free besides. The rest is for messages.
	MaxTokens, Margin int
	// Strategy is [TokenBudget] by default.
	Strategy Strategy
	// Turns is the N of [LastN]. Defaults to 20.
	Turns int
	// Keep is the part of the room that history has after some was left out: it is left out in steps, so
	// that the front of the prompt stays the same for several turns and the engine's prefix cache
	// holds. Defaults to 0.75; 1 slides with every turn.
	Keep float64
	// SummaryTokens is the room that a summary has. Defaults to 512.
	SummaryTokens int
	// FoldSystem puts the system prompt into the first user message, for chat templates without a system role.
	FoldSystem bool
	// Count returns how long a prompt of these messages is: the engine's own tokenizer with its chat
	// template. A Build calls it once if the estimates are good, and never more than [MaxCounts] times. nil trusts the estimates.
	Count func(ctx context.Context, messages []json.RawMessage) (int, error)
}

// MaxCounts is how often one [Window.Build] counts at most.
const MaxCounts = 4

// replyTokens is what a template adds to have the model reply.
const replyTokens = 4

func (w Window) withDefaults() Window {
	w.Strategy = cmp.Or(w.Strategy, TokenBudget)
	w.Turns = cmp.Or(w.Turns, 20)
	w.Keep = cmp.Or(w.Keep, 0.75)
	w.SummaryTokens = cmp.Or(w.SummaryTokens, 512)
	return w
}

func (w Window) validate() error {
	var errs []error
	if w.MaxTokens < 0 || w.Margin < 0 || w.limit() < 1 {
		errs = append(errs, fmt.Errorf("MaxModelLen, MaxTokens and Margin are %d, %d and %d; want 0 or more, and room between the first and the others", w.MaxModelLen, w.MaxTokens, w.Margin))
	}
	switch w.Strategy {
	case TokenBudget, LastN, Summarize, Refuse:
	default:
		errs = append(errs, fmt.Errorf("Strategy is %.32q; want token_budget, last_n, summarize or error", w.Strategy))
	}
	if w.Turns < 1 {
		errs = append(errs, fmt.Errorf("Turns is %d; want at least 1", w.Turns))
	}
	if !(w.Keep > 0 && w.Keep <= 1) {
		errs = append(errs, fmt.Errorf("Keep is %g; want above 0 and at most 1", w.Keep))
	}
	if w.SummaryTokens < 1 {
		errs = append(errs, fmt.Errorf("SummaryTokens is %d; want at least 1", w.SummaryTokens))
	}
	return errors.Join(errs...)
}

// limit is how many tokens the messages may have.
func (w Window) limit() int { return w.MaxModelLen - w.MaxTokens - w.Margin }

// Budget is the query for [Store.Path] that reads as much as the window can hold.
func (w Window) Budget(leaf, branch string) PathQuery {
	const bytesPerToken = 16 // no text is that long for its tokens, so the tokens bind
	limit := max(1, w.limit())
	return PathQuery{Leaf: leaf, Branch: branch, MaxTokens: limit, MaxTurns: limit, MaxBytes: max(1<<16, bytesPerToken*limit)}
}

// Prompt is what the engine is shown.
type Prompt struct {
	Messages []json.RawMessage
	// Tokens is its length: counted if Counts is above 0, estimated otherwise.
	Tokens int
	// Counts is how often Count was called.
	Counts int
	// NewTokens are the tokens of each new message, for [Message.Tokens]: estimates, corrected by what was counted.
	NewTokens []int
	LeftOut   LeftOut
	// Want is the turn up to which a summary is wanted, "" if none is. It is not waited for.
	Want string
}

// LeftOut says what of the path is not in the prompt.
type LeftOut = schemas.LeftOut

// WindowError says that messages do not fit. It matches [ErrWindow].
type WindowError struct {
	// Tokens is how long the shortest prompt is that may be sent, Limit how long it may be.
	Tokens, Limit int
	Strategy      Strategy
}

// Error names both lengths.
func (e *WindowError) Error() string {
	return fmt.Sprintf("messages have %d tokens; want at most %d (strategy %s)", e.Tokens, e.Limit, e.Strategy)
}

// Is reports whether target is [ErrWindow].
func (e *WindowError) Is(target error) bool { return target == ErrWindow }

// Build makes a prompt of a path and new messages: the system prompt, a summary of what is left out if
// there is one, the newest turns that fit, and the new messages. Turns stay whole, and results of
// tools stay with the calls. System messages at the front of the new ones take the place of the
// session's system prompt. The same path, window and messages give the same prompt.
func (w Window) Build(ctx context.Context, path *Path, messages []json.RawMessage) (*Prompt, error) {
	w = w.withDefaults()
	if err := w.validate(); err != nil {
		return nil, fmt.Errorf("window: %w: %w", ErrInvalid, err)
	}
	if len(messages) == 0 {
		return nil, fmt.Errorf("window: %w", invalid("there is no new message"))
	}
	b := newBuild(w, path, messages)
	if w.Strategy == Refuse && b.missing() {
		return nil, b.tooLong(b.need())
	}
	out := &Prompt{}
	for scale := 1.0; ; {
		b.assemble(out)
		if w.Count == nil {
			if out.Tokens > b.limit {
				return nil, b.tooLong(out.Tokens)
			}
			break
		}
		guess := out.Tokens
		n, err := w.Count(ctx, out.Messages)
		if err != nil {
			return nil, fmt.Errorf("window: count tokens: %w", err)
		}
		out.Counts++
		out.Tokens = n
		scale = max(scale, float64(n)/float64(max(1, guess)))
		if n <= b.limit {
			for i, t := range out.NewTokens {
				out.NewTokens[i] = max(1, int(math.Round(float64(t)*float64(n)/float64(max(1, guess)))))
			}
			break
		}
		if w.Strategy == Refuse || !b.shrink(scale, out.Counts == MaxCounts-1) {
			return nil, b.tooLong(n)
		}
	}
	return out, nil
}
