package vllmsim

import (
	"encoding/json"
	"fmt"
	"strings"
)

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// text returns the message's content: a string, or the text parts of a list joined by newlines as vLLM joins them.
func (m *message) text() (string, error) {
	if len(m.Content) == 0 || string(m.Content) == "null" {
		return "", nil
	}
	var s string
	if json.Unmarshal(m.Content, &s) == nil {
		return s, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(m.Content, &parts) != nil {
		return "", invalid("body.messages", "string_type", "content should be a string or a list of parts")
	}
	texts := make([]string, 0, len(parts))
	for _, p := range parts {
		if p.Text == nil || p.Type != "text" {
			return "", badRequest("", "This model does not support %q parts; only text is understood", p.Type)
		}
		texts = append(texts, *p.Text)
	}
	return strings.Join(texts, "\n"), nil
}

// chatPrompt renders the messages and names the role of the reply.
func (w *wireRequest) chatPrompt() (role string, prompts [][]int, err error) {
	generate := deref(w.AddGenerationPrompt, true)
	prompt, err := renderChat(w.Messages, generate, w.ContinueFinalMessage, deref(w.AddSpecialTokens, false))
	if err != nil {
		return "", nil, err
	}
	role = "assistant"
	if !generate {
		role = w.Messages[len(w.Messages)-1].Role
	}
	return role, [][]int{prompt}, nil
}

func continuesAndBegins() *apiError {
	return badRequest("", "continue_final_message and add_generation_prompt are not compatible. Use continue_final_message when you want the model to "+
		"continue the final message, and add_generation_prompt when you want to add a header that will prompt it to start a new assistant message instead.")
}

// renderChat is the chat template: ChatML after a beginning-of-text token. Markers are tokens that
// no text can spell, so a message cannot forge a turn.
func renderChat(messages []message, generate, continueFinal, addSpecial bool) ([]int, error) {
	if messages == nil {
		return nil, invalid("body.messages", "missing", "Field required")
	}
	if len(messages) == 0 {
		return nil, badRequest("", "Cannot apply chat template to an empty conversation. Provide at least one message.")
	}
	if generate && continueFinal {
		return nil, continuesAndBegins()
	}
	ids := []int{beginText}
	if addSpecial { // the template has its own; vLLM adds a second when asked to
		ids = append(ids, beginText)
	}
	for i := range messages {
		m := &messages[i]
		if m.Role == "" {
			return nil, invalid(fmt.Sprintf("body.messages.%d.role", i), "missing", "Field required")
		}
		text, err := m.text()
		if err != nil {
			return nil, err
		}
		ids = appendTokens(append(ids, turnStart), m.Role+"\n")
		ids = appendTokens(ids, text)
		if continueFinal && i == len(messages)-1 {
			return ids, nil
		}
		ids = append(ids, turnEnd, firstByte+'\n')
	}
	if generate {
		ids = appendTokens(append(ids, turnStart), "assistant\n")
	}
	return ids, nil
}
