package openai

import (
	"fmt"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

// ParseChunk reads one streamed chunk into c, reusing c's slices. It fails on what is not a JSON
// object and on fields it knows that have the wrong type; c is empty then.
func ParseChunk(data []byte, c *Chunk) error {
	c.reset()
	if err := c.parse(data); err != nil {
		c.reset()
		return fmt.Errorf("chunk: %w", err)
	}
	return nil
}

func (c *Chunk) parse(data []byte) error {
	s := jsonscan.New(data, 0)
	if err := s.Open('{'); err != nil {
		return err
	}
	var prompt, choicePrompt []byte
	flat := false
	for first := true; ; first = false {
		name, ok, err := s.Name(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch {
		case name.Is("choices"):
			choicePrompt, err = c.choices(data, &s)
		case name.Is("usage"):
			c.Usage, err = parseUsage(&s)
		case name.Is("prompt_token_ids"):
			prompt, err = skipNullable(&s)
		case name.Is("error"):
			c.Error, err = skipNullable(&s)
		case name.Is("object"):
			var value []byte
			value, err = s.Skip()
			flat = string(value) == `"error"`
		default:
			_, err = s.Skip()
		}
		if err != nil {
			return in(name, err)
		}
	}
	if err := s.End(); err != nil {
		return err
	}
	if flat && c.Error == nil {
		c.Error = data
	}
	if prompt == nil {
		prompt = choicePrompt
	}
	if prompt == nil {
		return nil
	}
	s = jsonscan.New(prompt, 0)
	var err error
	if c.PromptTokenIDs, err = appendInts(c.PromptTokenIDs, &s); err != nil {
		return fmt.Errorf("prompt_token_ids: %w", err)
	}
	return nil
}

// choices reads the choices array into c and returns the raw prompt_token_ids of the first choice
// that has some.
func (c *Chunk) choices(data []byte, s *jsonscan.Scanner) (prompt []byte, err error) {
	c.Choices, c.Parts, c.cut = nil, c.Parts[:0], c.cut[:0]
	if null, err := s.Null(); null || err != nil {
		return nil, err
	}
	if err := s.Open('['); err != nil {
		return nil, err
	}
	start, end := s.Pos(), s.Pos()
	edit := editor{src: data, dst: c.cut}
	for first := true; ; first = false {
		ok, err := s.Element(first)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if s.Peek(); first {
			start = s.Pos()
			edit.done = start
		}
		c.Parts = grow(c.Parts)
		ids, err := parseChoice(s, &c.Parts[len(c.Parts)-1], &c.text, &edit)
		if err != nil {
			return nil, fmt.Errorf("choice %d: %w", len(c.Parts)-1, err)
		}
		if prompt == nil {
			prompt = ids
		}
		end = s.Pos()
	}
	c.Choices = data[start:end:end]
	if edit.edited {
		c.Choices = edit.finish(end)
		c.cut = c.Choices
	}
	return prompt, nil
}

// ParseChoices reads the choices array of an event (with its brackets) and appends the views to
// dst. Views beyond dst's length are reused. An empty array and an empty text have no choices.
func ParseChoices(array []byte, dst []Choice) ([]Choice, error) {
	if len(array) == 0 {
		return dst, nil
	}
	before := dst
	var text []byte
	s := jsonscan.New(array, 0)
	if err := s.Open('['); err != nil {
		return before, fmt.Errorf("choices: %w", err)
	}
	for first := true; ; first = false {
		ok, err := s.Element(first)
		if err != nil {
			return before, fmt.Errorf("choices: %w", err)
		}
		if !ok {
			break
		}
		dst = grow(dst)
		if _, err := parseChoice(&s, &dst[len(dst)-1], &text, nil); err != nil {
			return before, fmt.Errorf("choice %d: %w", len(dst)-len(before)-1, err)
		}
	}
	if err := s.End(); err != nil {
		return before, fmt.Errorf("choices: %w", err)
	}
	return dst, nil
}

// Text returns the text of choice 0 in the choices array of an event (with its brackets),
// concatenated.
func Text(array []byte) (string, error) {
	var space [4]Choice
	parts, err := ParseChoices(array, space[:0])
	if err != nil {
		return "", err
	}
	if len(parts) == 1 && parts[0].Index == 0 {
		return string(parts[0].Text), nil
	}
	var text []byte
	for i := range parts {
		if parts[i].Index == 0 {
			text = append(text, parts[i].Text...)
		}
	}
	return string(text), nil
}

// grow appends an empty choice that keeps the token slice of the one it replaces.
func grow(parts []Choice) []Choice {
	if len(parts) == cap(parts) {
		return append(parts, Choice{})
	}
	parts = parts[:len(parts)+1]
	last := &parts[len(parts)-1]
	*last = Choice{TokenIDs: last.TokenIDs[:0]}
	return parts
}

func parseUsage(s *jsonscan.Scanner) (*schemas.Usage, error) {
	if null, err := s.Null(); null || err != nil {
		return nil, err
	}
	if err := s.Open('{'); err != nil {
		return nil, err
	}
	u := new(schemas.Usage)
	for first := true; ; first = false {
		name, ok, err := s.Name(first)
		if !ok || err != nil {
			return u, err
		}
		switch {
		case name.Is("prompt_tokens"):
			u.PromptTokens, err = nullableInt(s)
		case name.Is("completion_tokens"):
			u.CompletionTokens, err = nullableInt(s)
		case name.Is("total_tokens"):
			u.TotalTokens, err = nullableInt(s)
		default:
			_, err = s.Skip()
		}
		if err != nil {
			return nil, in(name, err)
		}
	}
}

// in says in which field an error is.
func in(name jsonscan.String, err error) error {
	return fmt.Errorf("%.40s: %w", name.Append(nil), err)
}
