package conversation

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// build is the work on one prompt. What is left out is a front part of units, those before first.
type build struct {
	w      Window
	path   *Path
	limit  int
	system string
	// rest are the new messages after leading system messages.
	rest []json.RawMessage
	// lead and size are the tokens of those system messages and of rest.
	lead, size []int
	// units are turns that stay together; the last one is pinned if the new messages answer its calls.
	units  []unit
	pinned bool
	first  int
}

// unit is turns of which none may be without the other, and what lies before them on the path.
type unit struct {
	turns                   []Turn
	depth, messages, tokens int
}

// newBuild makes the first cut, by estimates.
func newBuild(w Window, path *Path, messages []json.RawMessage) *build {
	b := &build{w: w, path: path, limit: w.limit()}
	var pinned []string
	for len(messages) > 0 {
		if r := role(messages[0]); r != "system" && r != "developer" {
			break
		}
		_, text, _ := shareText(messages[0])
		pinned, b.lead = append(pinned, text), append(b.lead, estimate(messages[0]))
		messages = messages[1:]
	}
	if b.system = strings.Join(pinned, "\n\n"); pinned == nil {
		b.system = path.Session.System
	}
	b.rest = messages
	for _, m := range messages {
		b.size = append(b.size, estimate(m))
	}
	b.units = group(path.Turns)
	b.pinned = len(b.units) > 0 && len(messages) > 0 && role(messages[0]) == "tool"

	if w.Strategy == LastN && path.Depth > w.Turns {
		step := max(1, int(float64(w.Turns)*(1-w.Keep)))
		gone := (path.Depth - w.Turns + step - 1) / step * step
		for b.first < b.last() && b.units[b.first].depth < gone {
			b.first++
		}
	}
	if b.need() > b.limit && w.Strategy != Refuse {
		b.cut(1)
	}
	return b
}

// group makes units of turns. A turn that begins with results of tools belongs to the one that called
// them; if that was not read, it cannot be shown.
func group(turns []Turn) []unit {
	var units []unit
	for _, t := range turns {
		answers := len(t.Messages) > 0 && t.Messages[0].Role() == "tool" && t.Parent != ""
		if answers && len(units) > 0 {
			last := &units[len(units)-1]
			last.turns = append(last.turns, t)
			continue
		}
		if answers {
			continue
		}
		units = append(units, unit{
			turns: []Turn{t}, depth: t.Depth - 1, messages: t.PathMessages - len(t.Messages), tokens: t.PathTokens - t.Tokens,
		})
	}
	return units
}

// last is the first unit that must not be left out.
func (b *build) last() int {
	if b.pinned {
		return len(b.units) - 1
	}
	return len(b.units)
}

// cut leaves out the front of a history that is too long, for estimates that are too small by a factor. What goes
// is a multiple of a step, counted from the root: as the path grows, the cut stays until there is no room left.
func (b *build) cut(factor float64) {
	room := max(1, float64(b.room())/factor)
	step := max(1, int(room*(1-b.w.Keep)))
	over := b.history() + sum(b.size) - int(room)
	gone := (over + step - 1) / step * step
	for b.first < b.last() && b.units[b.first].tokens < gone {
		b.first++
	}
}

// coarse is the ratio between the factors that cut is asked for: a factor that changes a little from turn to
// turn must not move the cut.
const coarse = 1.25

// shrink leaves out more, for estimates that are too small by a factor; or all if this is the last try. It
// reports whether there was anything to leave out.
func (b *build) shrink(factor float64, all bool) bool {
	before := b.first
	if all {
		b.first = b.last()
	}
	factor = math.Pow(coarse, math.Ceil(math.Log(factor)/math.Log(coarse)))
	for ; b.first == before && b.first < b.last(); factor *= coarse {
		b.cut(factor)
	}
	return b.first > before
}

// history is the estimate of the whole path, read or not.
func (b *build) history() int { return b.path.Tokens }

// missing reports whether part of the path was not read.
func (b *build) missing() bool {
	if len(b.units) == 0 {
		return b.path.Depth > 0
	}
	return b.units[0].depth > 0
}

// fixed is the estimate of the system prompt and what the template adds.
func (b *build) fixed() int {
	n := replyTokens
	if b.system != "" {
		n += estimate(Text("system", b.system).Body)
	}
	return n
}

// need is the estimate of everything, with nothing left out.
func (b *build) need() int { return b.fixed() + b.history() + sum(b.size) }

// room is what history and new messages may have once something is left out. It does not depend on
// the size of the summary at hand, or a new summary would move the cut for which it was made.
func (b *build) room() int {
	n := b.limit - b.fixed()
	if b.w.Strategy == Summarize || len(b.path.Summaries) > 0 {
		n -= b.w.SummaryTokens
	}
	return max(1, n)
}

// guess is the estimate of the prompt as it is cut.
func (b *build) guess() int {
	n := b.fixed() + sum(b.size)
	for _, u := range b.units[b.first:] {
		for _, t := range u.turns {
			n += t.Tokens
		}
	}
	if s := b.summary(); s != nil {
		n += s.size()
	}
	return n
}

// edge is the last turn that is left out, with its depth; 0 if nothing is.
func (b *build) edge() (turn string, depth int) {
	if b.first < len(b.units) {
		u := b.units[b.first]
		return u.turns[0].Parent, u.depth
	}
	return b.path.Leaf, b.path.Depth
}

// summary is the newest that covers nothing which is shown, if anything is left out and it has room.
func (b *build) summary() *Summary {
	_, depth := b.edge()
	if depth == 0 {
		return nil
	}
	i := slices.IndexFunc(b.path.Summaries, func(s Summary) bool { return s.Depth <= depth && s.size() <= b.w.SummaryTokens })
	if i < 0 {
		return nil
	}
	return &b.path.Summaries[i]
}

// size is the summary's share of a prompt.
func (s *Summary) size() int {
	if s.Tokens > 0 {
		return s.Tokens
	}
	return estimate([]byte(s.Text))
}

// assemble writes the prompt as it is cut.
func (b *build) assemble(out *Prompt) {
	edge, depth := b.edge()
	out.LeftOut = LeftOut{Strategy: b.w.Strategy, Turns: depth}
	if b.first < len(b.units) {
		out.LeftOut.Messages, out.LeftOut.Tokens = b.units[b.first].messages, b.units[b.first].tokens
	} else {
		out.LeftOut.Messages, out.LeftOut.Tokens = b.path.Messages, b.path.Tokens
	}
	system := b.system
	stored := b.summary()
	if stored != nil {
		out.LeftOut.Summary = stored.Turn
		if system != "" {
			system += "\n\n"
		}
		system += "Summary of the conversation so far:\n" + stored.Text
	}
	out.Want = ""
	if b.w.Strategy == Summarize && depth > 0 && (stored == nil || stored.Turn != edge) {
		out.Want = edge
	}
	out.Messages = nil
	for _, u := range b.units[b.first:] {
		for _, t := range u.turns {
			for _, m := range t.Messages {
				out.Messages = append(out.Messages, m.Body)
			}
		}
	}
	out.Messages = append(out.Messages, b.rest...)
	if system != "" && (!b.w.FoldSystem || !fold(out.Messages, system)) {
		out.Messages = slices.Insert(out.Messages, 0, Text("system", system).Body)
	}
	out.NewTokens = slices.Concat(b.lead, b.size)
	out.Tokens = b.guess()
}

func (b *build) tooLong(tokens int) error {
	return &WindowError{Tokens: tokens, Limit: b.limit, Strategy: b.w.Strategy}
}

// fold puts text in front of the first message, if that is the user's; the other fields stay as they are.
func fold(messages []json.RawMessage, text string) bool {
	if len(messages) == 0 || role(messages[0]) != "user" {
		return false
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(messages[0], &fields) != nil {
		return false
	}
	var content string
	var parts []json.RawMessage
	switch {
	case json.Unmarshal(fields["content"], &content) == nil:
		fields["content"] = marshal(text + "\n\n" + content)
	case json.Unmarshal(fields["content"], &parts) == nil:
		part := struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}{"text", text + "\n\n"}
		fields["content"] = marshal(slices.Insert(parts, 0, marshal(part)))
	default:
		return false
	}
	messages[0] = marshal(fields)
	return true
}

func sum(numbers []int) int {
	total := 0
	for _, n := range numbers {
		total = min(total+n, math.MaxInt32)
	}
	return total
}
