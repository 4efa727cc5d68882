package conversation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// shareGPT is the form in which data sets of conversations are kept: one path, text alone.
type shareGPT struct {
	Conversations []shareGPTMessage `json:"conversations"`
}

type shareGPTMessage struct {
	From  string `json:"from"`
	Value string `json:"value"`
}

// senders are our roles by their names.
var senders = map[string]string{
	"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
	"tool": "tool", "observation": "tool",
}

// ExportShareGPT returns the path to a turn, "" for the active head, in ShareGPT's form. Calls of
// tools are written as Hermes models write them, in <tool_call> tags. lost counts the parts that have no text, such as
// images, and are left out; messages that were dropped from the session are not there either.
func (s *Store) ExportShareGPT(ctx context.Context, ref Ref, leaf string) (data []byte, lost int, err error) {
	path, err := s.wholePath(ctx, ref, leaf)
	if err != nil {
		return nil, 0, fmt.Errorf("export: %w", err)
	}
	doc := shareGPT{Conversations: []shareGPTMessage{}}
	if path.Session.System != "" {
		doc.Conversations = append(doc.Conversations, shareGPTMessage{"system", path.Session.System})
	}
	for _, t := range path.Turns {
		for _, m := range t.Messages {
			from, value, n := shareText(m.Body)
			lost += n
			doc.Conversations = append(doc.Conversations, shareGPTMessage{from, value})
		}
	}
	data, err = encode(doc)
	return data, lost, err
}

// shareText is a message as text, with the number of parts that are none.
func shareText(body []byte) (from, value string, lost int) {
	switch from = role(body); from {
	case "user":
		from = "human"
	case "assistant":
		from = "gpt"
	case "developer":
		from = "system"
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return from, "", 1
	}
	texts, lost := contentText(fields["content"])
	var calls []struct {
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	}
	if raw := fields["tool_calls"]; raw != nil && json.Unmarshal(raw, &calls) != nil {
		lost++
	}
	for _, c := range calls {
		call := struct {
			Name      string `json:"name"`
			Arguments any    `json:"arguments"`
		}{c.Function.Name, c.Function.Arguments}
		if json.Valid([]byte(c.Function.Arguments)) {
			call.Arguments = json.RawMessage(c.Function.Arguments)
		}
		texts = append(texts, "<tool_call>\n"+string(marshal(call))+"\n</tool_call>")
	}
	return from, strings.Join(texts, "\n"), lost
}

// contentText reads a content: a string, or parts of which some are text.
func contentText(raw json.RawMessage) (texts []string, lost int) {
	var text *string
	if len(raw) == 0 {
		return nil, 0
	}
	if json.Unmarshal(raw, &text) == nil {
		if text != nil {
			texts = append(texts, *text)
		}
		return texts, 0
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return nil, 1
	}
	for _, p := range parts {
		if p.Text == nil {
			lost++
			continue
		}
		texts = append(texts, *p.Text)
	}
	return texts, lost
}

// ImportShareGPT makes a new session of one conversation in ShareGPT's form. A first system message becomes
// the session's system prompt, unless into has one. A turn ends with each reply; messages at the end without a
// reply are kept as an interrupted turn, which is not history.
func (s *Store) ImportShareGPT(ctx context.Context, r io.Reader, into NewSession) (*Session, error) {
	data, err := s.readImport(r)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	var doc shareGPT
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("import: %w", invalid("document: %w", err))
	}
	if err := tooLarge("messages of the session", len(doc.Conversations), s.cfg.MaxMessages); err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	messages := doc.Conversations
	if len(messages) > 0 && messages[0].From == "system" && into.System == "" {
		into.System, messages = messages[0].Value, messages[1:]
	}
	with, err := s.shareTurns(messages, len(doc.Conversations)-len(messages))
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return s.create(ctx, into, with)
}

// shareTurns groups messages into turns. offset is the place of the first in the document.
func (s *Store) shareTurns(messages []shareGPTMessage, offset int) (contents, error) {
	with := contents{branch: DefaultBranch}
	now, parent := time.Now(), ""
	var open []Message
	end := func(status Status) error {
		if err := s.checkMessages(open); err != nil {
			return err
		}
		t := Turn{ID: TurnID(fmt.Sprintf("import-%d", len(with.turns)+1)), Parent: parent, Status: status, Messages: open, Created: now}
		with.turns = append(with.turns, t)
		open = nil
		if status == Finished {
			parent = t.ID
			with.heads = map[string]string{DefaultBranch: t.ID}
		}
		return nil
	}
	for i, m := range messages {
		role, ok := senders[m.From]
		if !ok {
			return with, invalid("conversations[%d].from is %.32q; want human, gpt, system or tool", offset+i, m.From)
		}
		open = append(open, Text(role, m.Value))
		if role == "assistant" && (i+1 == len(messages) || senders[messages[i+1].From] != "assistant") {
			if err := end(Finished); err != nil {
				return with, fmt.Errorf("conversations[%d]: %w", offset+i, err)
			}
		}
	}
	if len(open) > 0 {
		if err := end(Interrupted); err != nil {
			return with, fmt.Errorf("conversations: %w", err)
		}
	}
	return with, nil
}
