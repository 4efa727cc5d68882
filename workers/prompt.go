package workers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// SystemRole says what becomes of the system messages of a chat.
type SystemRole string

const (
	// SystemNative leaves them as they are: the model's chat template has the role.
	SystemNative SystemRole = "native"
	// SystemFold puts them in front of the user message that follows. The templates of
	// Mixtral-8x7B-Instruct-v0.1 and of the first Phi-3 have no such role: one raises an error, the
	// other drops the message without a word.
	SystemFold SystemRole = "fold"
	// SystemRefuse refuses them.
	SystemRefuse SystemRole = "refuse"
)

// Capabilities are what a model can do. The zero value is one that can do everything.
type Capabilities struct {
	// NoChat refuses chats: the model has no chat template.
	NoChat bool
	// NoTools refuses tools, and every tool_choice but none.
	NoTools bool
	// NoConversation refuses sessions.
	NoConversation bool
	// SystemRole defaults to SystemNative.
	SystemRole SystemRole
}

// foldSeparator stands between a system message and the text that it is put in front of.
const foldSeparator = "\n\n"

const saidFolded = "the model's prompt format has no system role: system messages were put in front of the user message after them"

// suit checks a request against what the model can do and, where its prompt format asks for it,
// changes the messages. b.note then says so. Every other byte of the body stays as it is.
func (b *body) suit(job *schemas.Job, can Capabilities, f *faults) {
	chat := job.Endpoint == schemas.ChatCompletions
	if can.NoChat && chat {
		f.add("endpoint", "is %s; model %s has no chat format: want %s", job.Endpoint, job.Model, schemas.Completions)
		return
	}
	if can.NoTools {
		b.refuseTools(job.Model, f)
	}
	if !chat || can.SystemRole == "" || can.SystemRole == SystemNative || len(f.said) > 0 {
		return
	}
	messages, changed := foldSystem(b.fields["messages"], job.Model, can.SystemRole, f)
	if !changed || len(f.said) > 0 {
		return
	}
	raw, err := openai.Splice(b.raw, openai.Field{Name: "messages", Value: messages})
	if err != nil {
		f.add("body", "%v", err)
		return
	}
	b.raw, b.note = raw, saidFolded
	b.fields["messages"], b.promptTokens = messages, len(messages)
}

func (b *body) refuseTools(model string, f *faults) {
	choice := b.fields["tool_choice"]
	if string(choice) == `"none"` {
		return // the caller does without
	}
	if b.has("tools") {
		f.add("tools", "are given; model %s cannot call tools", model)
	}
	if b.has("tool_choice") {
		f.add("tool_choice", "is %s; model %s cannot call tools: want \"none\"", clip(choice), model)
	}
}

// chatMessage is one message of a chat, with its fields by their exact names.
type chatMessage struct {
	raw    []byte
	fields map[string]json.RawMessage
	role   string
}

func (m *chatMessage) system() bool { return m.role == "system" || m.role == "developer" }

// foldSystem returns the messages of a chat with each run of system messages put in front of the
// user message that follows it. changed is false if there were none. What cannot be folded is
// refused: nothing of a prompt is dropped.
func foldSystem(raw json.RawMessage, model string, role SystemRole, f *faults) (folded []byte, changed bool) {
	var messages, out []json.RawMessage
	_ = json.Unmarshal(raw, &messages) // checkMessages has looked at it
	var pending []string
	open := false // system messages wait for a user message
	for i, item := range messages {
		at := fmt.Sprintf("messages[%d]", i)
		m := chatMessage{raw: item}
		if json.Unmarshal(item, &m.fields) == nil {
			_ = json.Unmarshal(m.fields["role"], &m.role) // a role that is no text is the engine's to refuse
		}
		switch {
		case !m.system() && !open:
			out = append(out, item)
		case m.system() && role == SystemRefuse:
			f.add(at+".role", "is %q; model %s takes no system messages", m.role, model)
		case m.system():
			open, changed = true, true
			if text := m.text(at, f); text != "" {
				pending = append(pending, text)
			}
		case m.role != "user":
			f.add(at+".role", "is %q after a system message; model %s has no system role, and only a user message can take it in", m.role, model)
			return nil, false
		default:
			out = append(out, m.prefix(strings.Join(pending, foldSeparator), at, f))
			open, pending = false, nil
		}
	}
	if open {
		f.add(fmt.Sprintf("messages[%d].role", len(messages)-1), "is the last, and a system message; model %s has no system role, and no user message follows to take it in", model)
	}
	return list(out), changed
}

// text is what a system message says. It must say it in text, and nothing beside.
func (m *chatMessage) text(at string, f *faults) string {
	for _, name := range slices.Sorted(maps.Keys(m.fields)) {
		if name != "role" && name != "content" && string(m.fields[name]) != "null" {
			f.add(at+"."+name, "cannot be kept where a system message is folded into a user message")
		}
	}
	content := m.fields["content"]
	var text string
	if len(content) == 0 || string(content) == "null" || json.Unmarshal(content, &text) == nil {
		return text
	}
	var parts []map[string]json.RawMessage
	if json.Unmarshal(content, &parts) != nil {
		f.add(at+".content", "is %s; want a string or a list of text parts", clip(content))
		return ""
	}
	texts := make([]string, 0, len(parts))
	for i, p := range parts {
		var kind string
		var text *string
		if json.Unmarshal(p["type"], &kind) != nil || kind != "text" || json.Unmarshal(p["text"], &text) != nil || text == nil || len(p) > 2 {
			f.add(fmt.Sprintf("%s.content[%d]", at, i), "is not plain text; only that can be folded into a user message")
			continue
		}
		texts = append(texts, *text)
	}
	return strings.Join(texts, "\n") // as vLLM joins the parts of a message
}

// prefix returns the message with text in front of its content.
func (m *chatMessage) prefix(text, at string, f *faults) []byte {
	if text == "" {
		return m.raw
	}
	content := m.fields["content"]
	var own string
	var value []byte
	switch {
	case len(content) == 0 || string(content) == "null":
		value = quote(text)
	case json.Unmarshal(content, &own) == nil:
		value = quote(text + foldSeparator + own)
	default:
		value = prefixParts(content, text)
	}
	raw, err := openai.Splice(m.raw, openai.Field{Name: "content", Value: value})
	if err != nil {
		f.add(at, "%v", err)
	}
	return raw
}

// prefixParts puts text in front of the first part if that is text, and before it otherwise: what
// templates put between two parts differs.
func prefixParts(content json.RawMessage, text string) []byte {
	var parts []json.RawMessage
	var first struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(content, &parts) == nil && len(parts) > 0 && json.Unmarshal(parts[0], &first) == nil && first.Type == "text" && first.Text != nil {
		if raw, err := openai.Splice(parts[0], openai.Field{Name: "text", Value: quote(text + foldSeparator + *first.Text)}); err == nil {
			parts[0] = raw
			return list(parts)
		}
	}
	return list(slices.Insert(parts, 0, json.RawMessage(`{"type":"text","text":`+string(quote(text))+`}`)))
}

// list is a JSON array of the items.
func list(items []json.RawMessage) []byte {
	out := []byte{'['}
	for i, item := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	return append(out, ']')
}

// quote writes s as JSON, without the escapes that only HTML needs.
func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // text always has a JSON form
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
