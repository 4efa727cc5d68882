package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/hxp-enterprise/hxp/conversation"
)

// messageText is what a person is shown of a message: its text, its calls of tools, and a word for what is neither.
func messageText(body []byte) string {
	var m struct {
		Content   json.RawMessage `json:"content"`
		ToolCalls []struct {
			Function struct {
				Name      string `json:"name"`
				Arguments string `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return Printable(string(body))
	}
	texts := contentTexts(m.Content)
	for _, c := range m.ToolCalls {
		texts = append(texts, fmt.Sprintf("calls %s(%s)", c.Function.Name, c.Function.Arguments))
	}
	return Printable(strings.Join(texts, "\n"))
}

// stringContent is a message's content, and whether that is a string.
func stringContent(body []byte) (string, bool) {
	var m struct {
		Content *string `json:"content"`
	}
	if json.Unmarshal(body, &m) != nil || m.Content == nil {
		return "", false
	}
	return *m.Content, true
}

// contentTexts reads a message's content: a string, or parts.
func contentTexts(raw json.RawMessage) []string {
	var text *string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil {
		if text == nil {
			return nil
		}
		return []string{*text}
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return []string{string(raw)}
	}
	out := make([]string, len(parts))
	for i, p := range parts {
		if out[i] = p.Text; p.Text == "" {
			out[i] = "[" + p.Type + "]"
		}
	}
	return out
}

// Printable takes the characters out of a text that would steer a terminal.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// firstWords is the beginning of a text on one line, of at most so many characters.
func firstWords(text string, most int) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) <= most {
		return string(runes)
	}
	return strings.TrimRight(string(runes[:most-1]), " ") + "…"
}

// branches are a session's branches by name.
func branches(s *conversation.Session) []Branch {
	out := make([]Branch, 0, len(s.Heads))
	for _, name := range slices.Sorted(maps.Keys(s.Heads)) {
		out = append(out, Branch{Name: name, Turn: s.Heads[name], Active: name == s.Branch})
	}
	return out
}

// headline sums a session up on a line.
func headline(s *conversation.Session) string {
	parts := []string{s.ID}
	for _, p := range []string{firstWords(Printable(s.Title), 60), Printable(s.Model)} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(append(parts, fmt.Sprintf("revision %d", s.Rev)), " · ")
}
