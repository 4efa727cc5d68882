package schemas

import (
	"math"
	"strconv"

	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

// Append appends the event as JSON to dst and returns the result. It is what encoding/json writes
// with HTML escaping off, except that Choices is copied byte for byte: it must be valid JSON. A
// timing that is not a number is written as 0, which JSON has a way to say.
func (e *Event) Append(dst []byte) []byte {
	dst = jsonscan.AppendString(append(dst, `{"id":`...), e.ID)
	dst = strconv.AppendUint(append(dst, `,"seq":`...), e.Seq, 10)
	dst = strconv.AppendInt(append(dst, `,"attempt":`...), int64(e.Attempt), 10)
	dst = jsonscan.AppendString(append(dst, `,"kind":`...), string(e.Kind))
	dst = strconv.AppendInt(append(dst, `,"ts":`...), e.TS, 10)
	if e.Worker != "" {
		dst = jsonscan.AppendString(append(dst, `,"worker":`...), e.Worker)
	}
	if e.Source != "" {
		dst = jsonscan.AppendString(append(dst, `,"source":`...), e.Source)
	}
	if e.ServedBy != "" {
		dst = jsonscan.AppendString(append(dst, `,"served_by":`...), e.ServedBy)
	}
	if e.Kept != 0 {
		dst = strconv.AppendInt(append(dst, `,"kept":`...), int64(e.Kept), 10)
	}
	if len(e.Choices) > 0 {
		dst = append(append(dst, `,"choices":`...), e.Choices...)
	}
	if e.Turn != nil {
		dst = e.Turn.append(append(dst, `,"turn":`...))
	}
	if e.Prompt != nil {
		dst = strconv.AppendInt(append(dst, `,"prompt":{"tokens":`...), int64(e.Prompt.Tokens), 10)
		dst = jsonscan.AppendString(append(dst, `,"hash":`...), e.Prompt.Hash)
		dst = append(dst, '}')
	}
	if e.Usage != nil {
		dst = e.Usage.append(append(dst, `,"usage":`...))
	}
	if e.Timings != nil {
		dst = e.Timings.append(append(dst, `,"timings":`...))
	}
	if e.Reason != "" {
		dst = jsonscan.AppendString(append(dst, `,"reason":`...), e.Reason)
	}
	if e.Handback {
		dst = append(dst, `,"handback":true`...)
	}
	if e.Excused {
		dst = append(dst, `,"excused":true`...)
	}
	if e.Error != nil {
		dst = e.Error.append(append(dst, `,"error":`...))
	}
	return append(dst, '}')
}

func (t *Turn) append(dst []byte) []byte {
	dst = jsonscan.AppendString(append(dst, `{"session":`...), t.Session)
	dst = appendNamed(dst, `,"id":`, t.ID)
	dst = appendNamed(dst, `,"parent":`, t.Parent)
	dst = appendNamed(dst, `,"branch":`, t.Branch)
	if l := t.LeftOut; l != nil {
		dst = jsonscan.AppendString(append(dst, `,"left_out":{"strategy":`...), string(l.Strategy))
		dst = strconv.AppendInt(append(dst, `,"turns":`...), int64(l.Turns), 10)
		dst = strconv.AppendInt(append(dst, `,"messages":`...), int64(l.Messages), 10)
		dst = strconv.AppendInt(append(dst, `,"tokens":`...), int64(l.Tokens), 10)
		dst = append(appendNamed(dst, `,"summary":`, l.Summary), '}')
	}
	dst = appendNamed(dst, `,"state":`, string(t.State))
	if t.Rev != 0 {
		dst = strconv.AppendInt(append(dst, `,"rev":`...), t.Rev, 10)
	}
	if t.Head {
		dst = append(dst, `,"head":true`...)
	}
	return append(appendNamed(dst, `,"reason":`, t.Reason), '}')
}

// appendNamed writes a field, unless it is empty.
func appendNamed(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return jsonscan.AppendString(append(dst, name...), value)
}

func (u *Usage) append(dst []byte) []byte {
	dst = strconv.AppendInt(append(dst, `{"prompt_tokens":`...), int64(u.PromptTokens), 10)
	dst = strconv.AppendInt(append(dst, `,"completion_tokens":`...), int64(u.CompletionTokens), 10)
	dst = strconv.AppendInt(append(dst, `,"total_tokens":`...), int64(u.TotalTokens), 10)
	return append(dst, '}')
}

func (t *Timings) append(dst []byte) []byte {
	dst = appendFloat(append(dst, `{"queue":`...), t.Queue)
	dst = appendFloat(append(dst, `,"ttft":`...), t.TTFT)
	dst = appendFloat(append(dst, `,"generate":`...), t.Generate)
	dst = appendFloat(append(dst, `,"total":`...), t.Total)
	return append(dst, '}')
}

func (e *Error) append(dst []byte) []byte {
	dst = jsonscan.AppendString(append(dst, `{"code":`...), string(e.Code))
	dst = jsonscan.AppendString(append(dst, `,"message":`...), e.Message)
	if e.Param != "" {
		dst = jsonscan.AppendString(append(dst, `,"param":`...), e.Param)
	}
	dst = strconv.AppendBool(append(dst, `,"retryable":`...), e.Retryable)
	dst = strconv.AppendInt(append(dst, `,"http_status":`...), int64(e.HTTPStatus), 10)
	return append(dst, '}')
}

// appendFloat writes f as encoding/json does: like ECMAScript, in the fewest digits that read back
// as f.
func appendFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, '0')
	}
	if abs := math.Abs(f); abs == 0 || abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1] // e-07 is e-7
		dst = dst[:n-1]
	}
	return dst
}
