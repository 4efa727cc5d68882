package workers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/schemas"
)

// errNoReply is why a Result without a first choice makes no turn.
var errNoReply = errors.New("the result has no message to store")

// finished is the turn of a completed job. All of it follows from the job and its Result, so that
// another worker can store it.
func (t *turn) finished(job *schemas.Job, result *schemas.Result) (*conversation.NewTurn, error) {
	reply, finish, err := replyOf(result.Choices)
	if err != nil {
		return nil, err
	}
	out := t.stored(job, result, conversation.Finished)
	m := conversation.Message{Body: reply}
	if result.Usage != nil {
		m.Tokens = result.Usage.CompletionTokens
	}
	out.Messages, out.FinishReason = append(out.Messages, m), finish
	return out, nil
}

// unfinished is what is kept of a job that did not complete; nil if there is nothing. What a reader was not
// to see is not kept either.
func (t *turn) unfinished(job *schemas.Job, result *schemas.Result) *conversation.NewTurn {
	if result.Error != nil && result.Error.Code == schemas.CodeContentBlocked {
		return t.stored(job, result, conversation.Blocked)
	}
	reply, _, err := replyOf(result.Choices)
	if err != nil || result.Text == "" {
		return nil
	}
	status := conversation.Interrupted
	if result.Status == schemas.StatusCancelled {
		status = conversation.Cancelled
	}
	out := t.stored(job, result, status)
	out.Messages = append(out.Messages, conversation.Message{Body: reply})
	return out
}

func (t *turn) stored(job *schemas.Job, result *schemas.Result, status conversation.Status) *conversation.NewTurn {
	model := result.Model
	if result.ServedBy != "" {
		model = result.ServedBy
	}
	out := &conversation.NewTurn{
		Job: job.ID, Parent: t.view.Parent, Branch: t.view.Branch, Status: status, Model: model,
		Messages: append([]conversation.Message(nil), t.fresh...), Truncated: t.view.LeftOut != nil,
		Latency: time.Duration(result.Timings.Total * float64(time.Millisecond)),
	}
	if status == conversation.Finished {
		out.ExpectRev = job.Session.ExpectRev
	}
	if result.Usage != nil {
		out.Usage = *result.Usage
	}
	return out
}

// replyOf is the message of the first choice as a history holds it, with its finish reason. Reasoning is not
// part of it: no chat template shows a model what it thought in earlier turns.
func replyOf(choices json.RawMessage) (body json.RawMessage, finish string, err error) {
	var list []struct {
		Message *struct {
			Role      string     `json:"role"`
			Content   string     `json:"content"`
			ToolCalls []toolCall `json:"tool_calls,omitempty"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
	}
	if len(choices) == 0 {
		return nil, "", errNoReply
	}
	if err := json.Unmarshal(choices, &list); err != nil {
		return nil, "", fmt.Errorf("%w: %w", errNoReply, err)
	}
	if len(list) == 0 || list[0].Message == nil {
		return nil, "", errNoReply
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(list[0].Message) // text, which always has a JSON form
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), list[0].FinishReason, nil
}
