package workers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/conversation"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

// summaryNamespace makes the ids of jobs that write summaries. A random UUID, fixed for ever.
var summaryNamespace = uuid.MustParse("2c0f6b5a-37de-4e0b-9d0e-51c1a4d9f1b7")

const (
	// askTimeout bounds the publishing of a job that is to write a summary. The conversation goes on without it.
	askTimeout = 2 * time.Second
	// bytesPerToken is how long a text may be for its tokens before it has been counted: on the safe side, as
	// package conversation estimates.
	bytesPerToken = 3
	// summaryBytes is how much of a path is read for its summary: the newest turn at least, however long it is.
	summaryBytes = 2 << 20
	// summaryCounts is how often a text to be summarized is counted.
	summaryCounts = 3
)

const summaryInstruction = "Summarize the conversation below for an assistant who will go on with it and sees nothing but your summary. " +
	"Keep names, numbers, facts, decisions, what the user wants and what is still open. Leave out greetings and repetition. " +
	"Answer with the summary alone, in the language of the conversation."

// errNothingSaid is why a summary without text is not stored.
var errNothingSaid = errors.New("the model wrote no summary")

// summarize puts the path up to a turn, as text, in place of the request's messages.
func (w *Worker) summarize(ctx context.Context, r *run, b *body, ref conversation.Ref) error {
	leaf := r.job.Session.Summarize
	bad := func(format string, args ...any) error {
		r.refused = true
		return schemas.Errorf(schemas.CodeInvalidRequest, "session.summarize "+format, args...).WithParam("session.summarize")
	}
	if leaf == conversation.Root {
		return bad("is root; want a turn")
	}
	if b.maxTokens == 0 {
		if err := b.setMaxTokens(within(r.tuned.Sessions.SummaryTokens, r.limits().MaxTokens)); err != nil {
			return err
		}
	}
	window, err := w.windowOf(r, b)
	if err != nil {
		return err
	}
	r.storing.Store(true)
	path, err := w.cfg.Conversations.Path(ctx, ref, conversation.PathQuery{Leaf: leaf, MaxBytes: summaryBytes})
	r.storeAnswered()
	switch {
	case errors.Is(err, conversation.ErrNoTurn):
		w.sessions.reached(nil)
		return bad("is %.80q, which is no turn of the session", leaf)
	case err != nil:
		return w.sessionFault(ctx, r, err)
	case len(path.Turns) > 0 && path.Turns[len(path.Turns)-1].Status != conversation.Finished:
		return bad("is %.80q, a turn that did not finish", leaf)
	}
	w.sessions.reached(nil)
	r.turn = &turn{ref: ref, summary: true, view: schemas.Turn{Session: ref.ID, ID: leaf, Rev: path.Session.Rev}}
	before, said := material(path)
	if before == "" && len(said) == 0 {
		return bad("is %.80q, of which nothing is kept", leaf)
	}
	limit := window.MaxModelLen - window.MaxTokens - window.Margin
	room := limit * bytesPerToken
	for try := 1; ; try++ {
		message := conversation.Text("user", summaryText(before, said, room)).Body
		if err := b.show(r, []json.RawMessage{message}); err != nil {
			return err
		}
		n, err := w.engine.CountTokens(ctx, r.job.Endpoint, b.raw)
		switch {
		case errors.Is(err, ErrUnsupported):
			return nil
		case err != nil:
			return err
		case n <= limit || try == summaryCounts:
			b.promptTokens, b.promptExact = n, true
			return nil // fit refuses what is too long even so
		}
		room = min(room, len(message)) * limit / n * 9 / 10
	}
}

// within puts n into a range; the zero range is none.
func within(n int, bound [2]int) int {
	if bound == [2]int{} {
		return n
	}
	return min(max(n, bound[0]), bound[1])
}

// material is what a summary of a path is made of: the newest summary of an earlier turn, and what was said after it.
func material(path *conversation.Path) (before string, said []string) {
	depth := 0
	for _, s := range path.Summaries {
		if s.Turn != path.Leaf {
			before, depth = s.Text, s.Depth
			break
		}
	}
	for _, t := range path.Turns {
		if t.Depth <= depth {
			continue
		}
		for _, m := range t.Messages {
			if line := spoken(m.Body); line != "" {
				said = append(said, line)
			}
		}
	}
	return before, said
}

// spoken is a message as a line of a transcript, "" if it has no words.
func spoken(raw json.RawMessage) string {
	var m struct {
		Role      string          `json:"role"`
		Content   json.RawMessage `json:"content"`
		ToolCalls []toolCall      `json:"tool_calls"`
	}
	var text string
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return ""
	}
	if json.Unmarshal(m.Content, &text) != nil && json.Unmarshal(m.Content, &parts) == nil {
		for _, p := range parts {
			text = strings.TrimSpace(text + " " + p.Text)
		}
	}
	for _, c := range m.ToolCalls {
		text = strings.TrimSpace(text + " [calls " + c.Function.Name + " with " + c.Function.Arguments + "]")
	}
	if text == "" {
		return ""
	}
	return m.Role + ": " + text
}

// summaryText is the prompt of a summary, in about so many bytes. What does not fit is left out, oldest
// first: the earlier summary stands for some of it.
func summaryText(before string, said []string, room int) string {
	room -= len(summaryInstruction) + len(before)
	first := len(said)
	for first > 0 && room >= len(said[first-1]) {
		first--
		room -= len(said[first]) + 2
	}
	kept := said[first:]
	if len(kept) == 0 && len(said) > 0 { // the end of the last one alone
		last := said[len(said)-1]
		kept = []string{strings.ToValidUTF8(last[len(last)-min(len(last), max(room, 0)):], "")}
	}
	out := summaryInstruction
	if before != "" {
		out += "\n\nSummary of what came before:\n" + before
	}
	return out + "\n\nConversation:\n" + strings.Join(kept, "\n\n")
}

// storeSummary stores the summary that a job has written, before its Result says so. While the store is away the job
// goes back and comes again.
func (w *Worker) storeSummary(ctx context.Context, r *run, result *schemas.Result) error {
	text := strings.TrimSpace(result.Text)
	if text == "" {
		w.dropTurn(ctx, r, result, errNothingSaid)
		return nil
	}
	sum := conversation.Summary{Turn: r.turn.view.ID, Text: text, Model: cmp.Or(result.ServedBy, result.Model)}
	if result.Usage != nil {
		sum.Tokens = result.Usage.CompletionTokens
	}
	err := w.callStore(ctx, r, r.tuned.Sessions.CommitTimeout, func(ctx context.Context) error {
		return w.cfg.Conversations.PutSummary(ctx, r.turn.ref, sum)
	})
	switch {
	case err == nil:
		result.Turn.State = schemas.TurnStored
	case errors.Is(err, errStoreAway), errors.Is(err, ErrLeaseLost):
		return err
	default:
		w.dropTurn(ctx, r, result, err)
	}
	return nil
}

// askForSummary queues the job that writes the summary which a window asked for. Asked for twice it is one
// job. If it is refused, windows go on without a summary.
func (w *Worker) askForSummary(ctx context.Context, r *run) {
	ref, want := r.turn.ref, r.turn.want
	job := schemas.Job{
		ID:    uuid.NewSHA1(summaryNamespace, []byte(ref.Tenant+"/"+ref.ID+"/"+want)).String(),
		Model: r.model, Class: schemas.Batch, Tenant: ref.Tenant, Endpoint: schemas.ChatCompletions, Created: time.Now().UTC(),
		Session: &schemas.Session{ID: ref.ID, Summarize: want},
		Body: fmt.Appendf(nil, `{"messages":[{"role":"user","content":"Summarize the conversation."}],"max_tokens":%d}`,
			within(r.tuned.Sessions.SummaryTokens, r.tuned.Limits.MaxTokens)),
	}
	job.SetDefaults()
	ctx, stop := context.WithTimeout(ctx, askTimeout)
	defer stop()
	if err := queue.PutJob(ctx, w.js, &job); err != nil {
		r.metrics.sessions.summary("not_asked")
		w.log.Debug().Err(err).Str("session", ref.ID).Str("turn", want).Msg("a summary could not be asked for")
		return
	}
	r.metrics.sessions.summary("asked")
}
