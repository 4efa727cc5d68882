package openai

import (
	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

// parseChoice reads one choice object into ch, which is empty; decoded strings go to *buf. It
// returns the raw prompt_token_ids, which edit, if there is one, leaves out.
func parseChoice(s *jsonscan.Scanner, ch *Choice, buf *[]byte, edit *editor) (prompt []byte, err error) {
	if err := s.Open('{'); err != nil {
		return nil, err
	}
	edit.object()
	var (
		text, finish optional
		d            delta
	)
	for first := true; ; first = false {
		name, ok, err := s.Name(first)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		comma, start, drop := s.Comma(), s.NamePos(), false
		switch {
		case name.Is("index"):
			ch.Index, err = nullableInt(s)
		case name.Is("text"):
			text, err = nullableString(s)
		case name.Is("delta"):
			d, err = parseDelta(s)
		case name.Is("logprobs"):
			ch.Logprobs, err = skipNullable(s)
		case name.Is("finish_reason"):
			finish, err = nullableString(s)
		case name.Is("stop_reason"):
			ch.StopReason, err = skipNullable(s)
		case name.Is("token_ids"):
			ch.TokenIDs, err = appendInts(ch.TokenIDs[:0], s)
		case name.Is("prompt_token_ids"):
			prompt, err = skipNullable(s)
			drop = true
		default:
			_, err = s.Skip()
		}
		if err != nil {
			return nil, in(name, err)
		}
		edit.member(comma, start, s.Pos(), drop)
	}
	ch.Role = d.role.intern()
	ch.Text = d.content.or(text).bytes(buf)
	ch.Reasoning = d.reasoning.or(d.reasoningContent).bytes(buf)
	ch.Refusal = d.refusal.bytes(buf)
	ch.ToolCalls = d.toolCalls
	ch.FinishReason = finish.intern()
	return prompt, nil
}

// delta is the delta object of a chat choice.
type delta struct {
	role, content, reasoning, reasoningContent, refusal optional
	toolCalls                                           []byte
}

func parseDelta(s *jsonscan.Scanner) (d delta, err error) {
	if null, err := s.Null(); null || err != nil {
		return d, err
	}
	if err := s.Open('{'); err != nil {
		return d, err
	}
	for first := true; ; first = false {
		name, ok, err := s.Name(first)
		if !ok || err != nil {
			return d, err
		}
		switch {
		case name.Is("content"):
			d.content, err = nullableString(s)
		case name.Is("role"):
			d.role, err = nullableString(s)
		case name.Is("reasoning"):
			d.reasoning, err = nullableString(s)
		case name.Is("reasoning_content"):
			d.reasoningContent, err = nullableString(s)
		case name.Is("refusal"):
			d.refusal, err = nullableString(s)
		case name.Is("tool_calls"):
			d.toolCalls, err = skipArray(s)
		default:
			_, err = s.Skip()
		}
		if err != nil {
			return d, in(name, err)
		}
	}
}

// optional is a string that may be absent or null.
type optional struct {
	jsonscan.String
	set bool
}

func (o optional) or(other optional) optional {
	if o.set {
		return o
	}
	return other
}

func (o optional) bytes(buf *[]byte) []byte {
	if !o.set {
		return nil
	}
	return o.Bytes(buf)
}

// intern returns the string, without allocating for those that engines send.
func (o optional) intern() string {
	if !o.set {
		return ""
	}
	if o.Plain {
		switch string(o.Raw) {
		case "assistant":
			return "assistant"
		case "stop":
			return "stop"
		case "length":
			return "length"
		case "abort":
			return "abort"
		case "tool_calls":
			return "tool_calls"
		}
	}
	return string(o.Append(nil))
}

func nullableString(s *jsonscan.Scanner) (optional, error) {
	if null, err := s.Null(); null || err != nil {
		return optional{}, err
	}
	value, err := s.Str()
	return optional{String: value, set: true}, err
}

func nullableInt(s *jsonscan.Scanner) (int, error) {
	if null, err := s.Null(); null || err != nil {
		return 0, err
	}
	return s.Int()
}

// skipNullable returns the raw value, nil for null.
func skipNullable(s *jsonscan.Scanner) ([]byte, error) {
	if null, err := s.Null(); null || err != nil {
		return nil, err
	}
	return s.Skip()
}

// skipArray returns the raw array, nil for null and for an array without elements.
func skipArray(s *jsonscan.Scanner) ([]byte, error) {
	if null, err := s.Null(); null || err != nil {
		return nil, err
	}
	array := *s
	if err := array.Open('['); err != nil {
		return nil, err
	}
	some, err := array.Element(true)
	if err != nil {
		return nil, err
	}
	raw, err := s.Skip()
	if !some {
		raw = nil
	}
	return raw, err
}

// appendInts appends the integers of an array, none for null.
func appendInts(dst []int, s *jsonscan.Scanner) ([]int, error) {
	if null, err := s.Null(); null || err != nil {
		return dst, err
	}
	if err := s.Open('['); err != nil {
		return dst, err
	}
	for first := true; ; first = false {
		ok, err := s.Element(first)
		if !ok || err != nil {
			return dst, err
		}
		n, err := s.Int()
		if err != nil {
			return dst, err
		}
		dst = append(dst, n)
	}
}
