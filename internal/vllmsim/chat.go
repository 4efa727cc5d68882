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
func (w *wireRequest) chatPrompt(model string) (role string, prompts [][]int, err error) {
	generate := deref(w.AddGenerationPrompt, true)
	prompt, err := renderChat(model, w.Messages, generate, w.ContinueFinalMessage, deref(w.AddSpecialTokens, false))
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

// renderChat applies the model's chat template.
func renderChat(model string, messages []message, generate, continueFinal, addSpecial bool) ([]int, error) {
	if messages == nil {
		return nil, invalid("body.messages", "missing", "Field required")
	}
	if len(messages) == 0 {
		return nil, badRequest("", "Cannot apply chat template to an empty conversation. Provide at least one message.")
	}
	if generate && continueFinal {
		return nil, continuesAndBegins()
	}
	f := formatOf(model)
	ids := []int{beginText}
	if addSpecial { // the template has its own; vLLM adds a second when asked to
		ids = append(ids, beginText)
	}
	for i := range messages {
		m := &messages[i]
		if m.Role == "" {
			return nil, invalid(fmt.Sprintf("body.messages.%d.role", i), "missing", "Field required")
		}
		if f.alternates && m.Role != []string{"user", "assistant"}[i%2] {
			return nil, badRequest("", "Conversation roles must alternate user/assistant/user/assistant/...")
		}
		text, err := m.text()
		if err != nil {
			return nil, err
		}
		before, after := f.around(m.Role)
		ids = appendTokens(append(ids, before.token...), before.text)
		ids = appendTokens(ids, text)
		if continueFinal && i == len(messages)-1 {
			return ids, nil
		}
		ids = appendTokens(append(ids, after.token...), after.text)
	}
	if generate {
		ids = appendTokens(append(ids, f.reply.token...), f.reply.text)
	}
	return ids, nil
}
