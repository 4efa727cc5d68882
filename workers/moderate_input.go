package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// moderatedFields are the fields of a request whose text reaches a prompt, those that are blamed first in front.
var moderatedFields = []string{
	"messages", "prompt", "suffix", "documents", "tools", "functions", "chat_template", "chat_template_kwargs",
}

// input is the texts of a request.
type input struct {
	parts []inputText
	// joined are the texts of messages that have several, as an engine or a chat template joins them.
	joined []joinedText
	// ids is set if the prompt was given in tokens, whose texts the parts are.
	ids  bool
	many bool // lists of them
}

// inputText is one text, and where in the raw value of its field it stands.
type inputText struct {
	field    string
	from, to int
	text     string
	fixed    bool // it refers to something, and stays as it is
}

// joinedText is several of the parts as one text.
type joinedText struct {
	parts []int
	sep   string
}

// separators are what stands between the texts of a message: vLLM writes a line's end, templates that are
// given the parts often nothing.
var separators = []string{"\n", ""}

func (in *input) texts() []string {
	out := make([]string, 0, len(in.parts)+len(in.joined))
	for _, p := range in.parts {
		out = append(out, p.text)
	}
	for _, j := range in.joined {
		var whole strings.Builder
		for i, p := range j.parts {
			if i > 0 {
				whole.WriteString(j.sep)
			}
			whole.WriteString(in.parts[p].text)
		}
		out = append(out, whole.String())
	}
	return out
}

// last is the text that a reply is most likely to be about, as the engine sees it.
func (in *input) last(rulings []Ruling) string {
	for i, p := range slices.Backward(in.parts) {
		switch {
		case p.field != "messages" && p.field != "prompt":
		case i < len(rulings):
			return string(edit(nil, []byte(p.text), 0, rulings[i].Edits))
		default:
			return p.text
		}
	}
	return ""
}

// param is the field with the text that is blocked.
func (in *input) param(rulings []Ruling, b *body) string {
	for i := range rulings {
		if rulings[i].Blocked && i < len(in.parts) {
			return in.parts[i].field
		}
	}
	return b.promptField
}

// readInput takes the texts out of a request. unread says what of it is no text.
func (w *Worker) readInput(ctx context.Context, b *body) (in *input, unread, err error) {
	in = &input{}
	for _, name := range moderatedFields {
		raw := b.fields[name]
		switch {
		case name == "messages":
			in.readMessages(b.given) // system messages may have been folded in the other
		case name == "prompt" && b.promptExact:
			unread, err = w.readTokens(ctx, in, raw)
			if err != nil {
				return nil, nil, err
			}
		default:
			eachString(raw, func(s jsonString) {
				if text := s.text(raw); text != "" && !s.keyword(text) {
					in.parts = append(in.parts, inputText{field: name, from: s.from, to: s.to, text: text})
				}
			})
		}
	}
	if b.has("prompt_embeds") {
		unread = errors.Join(unread, errors.New("prompt_embeds are no text"))
	}
	return in, unread, nil
}

// readMessages takes the texts out of a chat.
func (in *input) readMessages(raw json.RawMessage) {
	var texts []int // of the message
	message := 0
	join := func() {
		if len(texts) > 1 {
			for _, sep := range separators {
				in.joined = append(in.joined, joinedText{texts, sep})
			}
		}
		texts = nil
	}
	eachString(raw, func(s jsonString) {
		text := s.text(raw)
		if s.name || text == "" || s.keyword(text) || s.media() {
			return
		}
		if s.item != message {
			join()
			message = s.item
		}
		if s.spoken() {
			texts = append(texts, len(in.parts))
		}
		in.parts = append(in.parts, inputText{"messages", s.from, s.to, text, s.reference()})
	})
	join()
}

// readTokens has the engine spell a prompt of token ids. unread is why it never can.
func (w *Worker) readTokens(ctx context.Context, in *input, raw json.RawMessage) (unread, err error) {
	in.ids = true
	lists := [][]int{nil}
	if json.Unmarshal(raw, &lists[0]) != nil {
		in.many = true
		_ = json.Unmarshal(raw, &lists) // checkPrompt has looked at it
	}
	for _, ids := range lists {
		text, err := w.engine.Detokenize(ctx, ids)
		if err != nil {
			err = fmt.Errorf("spell a prompt of token ids: %w", err)
			if errors.Is(err, ErrUnsupported) {
				return err, nil
			}
			return nil, err
		}
		in.parts = append(in.parts, inputText{field: "prompt", text: text})
	}
	return nil, nil
}

// rewrite puts the edited texts in their places. A prompt of token ids becomes text.
func (in *input) rewrite(r *run, b *body, rulings []Ruling) error {
	var fields []openai.Field
	for _, name := range moderatedFields {
		var raw []byte
		done, edited := 0, false
		from := b.fields[name]
		if name == "messages" {
			from = b.given
		}
		var tokens []json.RawMessage
		for i, p := range in.parts {
			if p.field != name {
				continue
			}
			text := p.text
			if i < len(rulings) && len(rulings[i].Edits) > 0 {
				text, edited = string(edit(nil, []byte(text), 0, rulings[i].Edits)), true
				raw = append(append(raw, from[done:p.from]...), quote(text)...)
				done = p.to
			}
			tokens = append(tokens, quote(text))
		}
		switch {
		case !edited:
			continue
		case name == "prompt" && in.ids && in.many:
			raw = list(tokens)
		case name == "prompt" && in.ids:
			raw = tokens[0]
		default:
			raw = append(raw, from[done:]...)
		}
		if name == "messages" {
			if err := b.regive(r, raw); err != nil {
				return err
			}
			continue
		}
		fields = append(fields, openai.Field{Name: name, Value: raw})
	}
	if len(fields) == 0 {
		return nil
	}
	raw, err := openai.Splice(b.raw, fields...)
	if err != nil {
		return schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	}
	b.raw = raw
	for _, f := range fields {
		b.fields[f.Name] = f.Value
		if f.Name == b.promptField {
			b.promptTokens, b.promptExact = len(f.Value), false
		}
	}
	return nil
}

// regive gives a chat other messages, and folds them where the model's prompt format asks for it.
func (b *body) regive(r *run, given []byte) error {
	var messages []json.RawMessage
	_ = json.Unmarshal(given, &messages) // it is what was given, with other texts
	raw, value, _, err := b.with(r, messages)
	if err != nil {
		return err
	}
	b.given, b.raw, b.fields["messages"] = given, raw, value
	b.promptTokens = len(value)
	return nil
}

// dropAlternatives asks for log probabilities of the tokens that were taken alone: others would be told
// with a token, and be in no text that is checked.
func (r *run) dropAlternatives(b *body) error {
	name := "logprobs" // of completions it is their number
	if b.promptField == "messages" {
		name = "top_logprobs"
	}
	if v := string(b.fields[name]); v == "" || v == "null" || v == "0" {
		return nil
	}
	raw, err := openai.Splice(b.raw, openai.Field{Name: name, Value: []byte("0")})
	if err != nil {
		return schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	}
	b.raw, b.fields[name] = raw, json.RawMessage("0")
	r.said = sentences(r.said, fmt.Sprintf("moderation policy %s leaves out alternatives to tokens, %s is 0", r.policy.Name(), name))
	return nil
}

// stopRunes is how many runes the text of a reply may be behind its tokens: an engine holds back what
// may be the beginning of a stop string.
func (b *body) stopRunes() int {
	most := 0
	for _, s := range b.stops() {
		most = max(most, utf8.RuneCountInString(s)-1)
	}
	if most == 0 {
		return 0
	}
	return most + 1 // with a character that is not complete
}
