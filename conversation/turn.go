package conversation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

// TurnID is the id of the turn that a job makes.
func TurnID(job string) string { return "t-" + job }

// Root stands for no turn where a parent is asked for and "" means the head.
const Root = schemas.RootTurn

// Status is how a turn ended.
type Status string

// The ends that a turn can have. Only a finished turn is history.
const (
	Finished    Status = "finished"
	Interrupted Status = "interrupted"
	Blocked     Status = "blocked"
	Cancelled   Status = "cancelled"
)

// statuses are all of them, with the letter that stands for each in Redis.
var statuses = []struct {
	status Status
	letter string
}{{Finished, "f"}, {Interrupted, "i"}, {Blocked, "b"}, {Cancelled, "c"}}

func (s Status) letter() string {
	for _, x := range statuses {
		if x.status == s {
			return x.letter
		}
	}
	return ""
}

// Message is one message of a turn.
type Message struct {
	// Body is an OpenAI message object. What is stored is what was given, without white space between values.
	Body json.RawMessage `json:"body"`
	// Tokens is its share of a prompt, estimated from its size if 0.
	Tokens int `json:"tokens,omitempty"`
}

// Role returns the message's role, "" if it has none.
func (m Message) Role() string { return role(m.Body) }

// role compares the name exactly, as engines do, and not regardless of case as encoding/json does.
func role(body []byte) string {
	var fields map[string]json.RawMessage
	var out string
	if json.Unmarshal(body, &fields) != nil || json.Unmarshal(fields["role"], &out) != nil {
		return ""
	}
	return out
}

// Text makes a message that is text alone.
func Text(role, text string) Message {
	body := marshal(struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}{role, text})
	return Message{Body: body}
}

// marshal encodes what cannot fail, and leaves '<', '>' and '&' as they are.
func marshal(v any) json.RawMessage {
	out, err := encode(v)
	if err != nil {
		panic(err)
	}
	return out
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// estimate guesses the tokens of a message from its size: three bytes of JSON to a token is on the
// safe side for text in most languages.
func estimate(body []byte) int { return (len(body) + 2) / 3 }

// Turn is what one job added to a session: new messages, and the reply to them.
type Turn struct {
	ID string `json:"id"`
	// Parent is the turn that it answers, "" for a root.
	Parent string `json:"parent,omitempty"`
	// Seq is the sequence number of the first message; the others follow.
	Seq    int64  `json:"seq"`
	Status Status `json:"status"`
	// Messages are in order; the last is the reply, if there was one.
	Messages     []Message       `json:"messages"`
	Model        string          `json:"model,omitempty"`
	FinishReason string          `json:"finish_reason,omitempty"`
	Usage        schemas.Usage   `json:"usage"`
	Moderation   json.RawMessage `json:"moderation,omitempty"`
	Created      time.Time       `json:"created"`
	// Tokens is the sum over the messages.
	Tokens int `json:"tokens"`
	// Depth counts the turns from the root to this one; PathMessages and PathTokens are sums over them.
	Depth        int `json:"depth"`
	PathMessages int `json:"path_messages"`
	PathTokens   int `json:"path_tokens"`
	// Dropped is set if the messages are gone to keep the session within its bounds.
	Dropped bool `json:"dropped,omitempty"`

	lost int // messages that a dropped turn had
}

// storedTurn is the body of a turn in Redis; the rest is in its place.
type storedTurn struct {
	Messages     []json.RawMessage `json:"m"`
	Tokens       []int             `json:"k"`
	Model        string            `json:"model,omitempty"`
	FinishReason string            `json:"finish,omitempty"`
	Prompt       int               `json:"in,omitempty"`
	Completion   int               `json:"out,omitempty"`
	Moderation   json.RawMessage   `json:"mod,omitempty"`
	Created      int64             `json:"at"`
}

// encodeTurn makes the stored body, and completes the tokens of t and its messages.
func encodeTurn(t *Turn) ([]byte, error) {
	st := storedTurn{
		Model: t.Model, FinishReason: t.FinishReason, Prompt: t.Usage.PromptTokens, Completion: t.Usage.CompletionTokens,
		Moderation: t.Moderation, Created: millis(t.Created),
	}
	t.Tokens = 0
	for i := range t.Messages {
		m := &t.Messages[i]
		if m.Tokens == 0 {
			m.Tokens = estimate(m.Body)
		}
		t.Tokens += m.Tokens
		st.Messages, st.Tokens = append(st.Messages, m.Body), append(st.Tokens, m.Tokens)
	}
	body, err := encode(st)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return body, nil
}

// decodeTurn reads what is stored of a turn. An empty body is a dropped one.
func decodeTurn(id, entry, body string) (Turn, error) {
	p, err := parsePlace(entry)
	if err != nil {
		return Turn{}, fmt.Errorf("turn %.128q: %w", id, err)
	}
	t := Turn{
		ID: id, Parent: p.parent, Seq: p.seq, Status: p.status, Tokens: p.tokens,
		Depth: p.depth, PathMessages: p.messages, PathTokens: p.total, lost: p.n,
	}
	if body == "" {
		t.Dropped = true
		return t, nil
	}
	var st storedTurn
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		return Turn{}, fmt.Errorf("%w: turn %.128q: %w", ErrCorrupt, id, err)
	}
	if len(st.Messages) != p.n || len(st.Tokens) != p.n {
		return Turn{}, fmt.Errorf("%w: turn %.128q has %d messages and %d counts; want %d", ErrCorrupt, id, len(st.Messages), len(st.Tokens), p.n)
	}
	t.Model, t.FinishReason, t.Moderation = st.Model, st.FinishReason, st.Moderation
	t.Usage = schemas.Usage{PromptTokens: st.Prompt, CompletionTokens: st.Completion, TotalTokens: st.Prompt + st.Completion}
	t.Created = time.UnixMilli(st.Created).UTC()
	t.Messages = make([]Message, p.n)
	for i, m := range st.Messages {
		t.Messages[i] = Message{Body: m, Tokens: st.Tokens[i]}
	}
	return t, nil
}

// place is a turn's line in idx.
type place struct {
	parent           string
	seq              int64
	n, bytes, tokens int
	status           Status
	// Over the path from the root to the turn: turns, messages, tokens.
	depth, messages, total int
}

// String is the line as scripts read it.
func (p place) String() string {
	return fmt.Sprintf("%s|%d|%d|%d|%d|%s|%d|%d|%d", p.parent, p.seq, p.n, p.bytes, p.tokens, p.status.letter(), p.depth, p.messages, p.total)
}

func parsePlace(line string) (place, error) {
	parts := strings.Split(line, "|")
	if len(parts) != 9 {
		return place{}, fmt.Errorf("%w: entry %.200q has %d parts; want 9", ErrCorrupt, line, len(parts))
	}
	var numbers [9]int
	for i, part := range parts {
		if i == 0 || i == 5 {
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return place{}, fmt.Errorf("%w: entry %.200q: part %d is %.32q; want a number", ErrCorrupt, line, i+1, part)
		}
		numbers[i] = n
	}
	p := place{
		parent: parts[0], seq: int64(numbers[1]), n: numbers[2], bytes: numbers[3], tokens: numbers[4],
		depth: numbers[6], messages: numbers[7], total: numbers[8],
	}
	for _, x := range statuses {
		if x.letter == parts[5] {
			p.status = x.status
		}
	}
	if p.status == "" {
		return place{}, fmt.Errorf("%w: entry %.200q: status is %.8q", ErrCorrupt, line, parts[5])
	}
	return p, nil
}

// turns reads an array of ids, entries and bodies.
func (r *reply) turns() []Turn {
	flat := r.texts()
	out := make([]Turn, 0, len(flat)/3)
	for i := 0; i+2 < len(flat); i += 3 {
		t, err := decodeTurn(flat[i], flat[i+1], flat[i+2])
		if err != nil && r.err == nil {
			r.err = err
		}
		out = append(out, t)
	}
	return out
}

// CheckMessages says whether messages may be part of a turn, by their number, size and roles. A reply has to find room
// in the turn besides.
func (s *Store) CheckMessages(messages []Message) error { return s.checkMessages(messages) }

// checkMessages bounds the messages of one turn and looks for the role of each.
func (s *Store) checkMessages(messages []Message) error {
	if len(messages) == 0 {
		return invalid("messages is empty; want at least one")
	}
	if err := tooLarge("messages of the turn", len(messages), s.cfg.MaxTurnMessages); err != nil {
		return err
	}
	size := 0
	for i, m := range messages {
		if size += len(m.Body); size > s.cfg.MaxTurnBytes {
			return tooLarge("bytes of the turn", size, s.cfg.MaxTurnBytes)
		}
		switch got := m.Role(); got {
		case "system", "developer", "user", "assistant", "tool":
		default:
			return invalid("messages[%d] has role %.32q; want an object with system, developer, user, assistant or tool", i, got)
		}
		if m.Tokens < 0 || m.Tokens > maxTokens {
			return invalid("messages[%d] has %d tokens; want 0 to %d", i, m.Tokens, maxTokens)
		}
	}
	return nil
}

// maxTokens keeps sums over paths far from where Lua's numbers end.
const maxTokens = 1 << 30
