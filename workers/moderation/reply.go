package moderation

import (
	"context"

	"github.com/hxp-enterprise/hxp/workers"
)

// Output begins the check of a reply.
func (p *policy) Output(ctx context.Context, prompt string, changed func()) workers.ReplyCheck {
	c := &replyCheck{p: p, prompt: prompt, changed: changed}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// replyCheck is the check of one reply: a policyText for each of its texts.
type replyCheck struct {
	p       *policy
	prompt  string
	changed func()
	ctx     context.Context
	cancel  context.CancelFunc
	pieces  []*pieces
}

func (c *replyCheck) Text(before string) workers.TextCheck {
	t := &policyText{p: c.p, rules: newRulesText(c.p.rules, c.p.digest), sent: len(before)}
	t.rules.write([]byte(before))
	if c.p.judge == nil {
		return t
	}
	t.pieces = newPieces(c.ctx, c.p, c.prompt, before, c.changed)
	c.pieces = append(c.pieces, t.pieces)
	return t
}

func (c *replyCheck) Stop() {
	c.cancel()
	for _, p := range c.pieces {
		p.running.Wait()
	}
}

// policyText is one text under the rules and then under the endpoint, which sees what the rules have
// settled, and sees it masked.
type policyText struct {
	p      *policy
	rules  *rulesText
	sent   int          // bytes of the text that were sent before, which the offsets of a ruling do not count
	pieces *pieces      // what the endpoint sees; nil if there is none
	passed int          // the rules have passed on the text up to here
	marks  []mark       // of what the endpoint has been given and has not settled
	shown  int          // it has settled the text up to here
	masks  []maskedSpan // that have not been told
	told   int          // how many findings of the rules have been told
}

// mark says which offset of the masked text stands for which of the text.
type mark struct{ masked, text int }

func (t *policyText) Write(p []byte) {
	t.rules.write(p)
	t.pass()
}

func (t *policyText) Close() {
	t.rules.end()
	t.pass()
	if t.pieces != nil && !t.rules.blocked {
		t.pieces.close()
	}
}

// pass takes in what the rules have settled, and gives it to the endpoint.
func (t *policyText) pass() {
	at, masks := t.rules.settled()
	for _, m := range masks {
		if m.to > t.sent { // what was sent before cannot be changed
			t.masks = append(t.masks, maskedSpan{span{max(m.from, t.sent), m.to}, m.rule})
		}
	}
	if from := max(t.passed, t.sent); t.pieces != nil && at > from {
		var text []byte
		pos := from
		for _, m := range masks {
			if m.to > pos {
				text = append(text, t.rules.w.slice(pos, max(pos, m.from))...)
				text = append(text, t.p.rules.expressions[m.rule].token...)
				pos = m.to
			}
		}
		text = append(text, t.rules.w.slice(pos, at)...)
		t.marks = append(t.marks, mark{t.pieces.write(text), at})
	}
	t.passed = at
	t.rules.forget(at)
}

// Ruling implements [workers.TextCheck].
func (t *policyText) Ruling() workers.Ruling {
	at := t.passed
	var r workers.Ruling
	if t.pieces != nil {
		var masked int
		masked, r = t.pieces.ruling()
		n := 0
		for ; n < len(t.marks) && t.marks[n].masked <= masked; n++ {
			t.shown = t.marks[n].text
		}
		t.marks = t.marks[n:]
		at = t.shown
	}
	r.Settled = max(0, at-t.sent)
	r.Blocked = r.Blocked || t.rules.blocked
	r.Findings = append(r.Findings, t.rules.found[t.told:]...)
	t.told = len(t.rules.found)
	n := 0
	for ; n < len(t.masks) && t.masks[n].to <= at; n++ {
		m := t.masks[n]
		r.Edits = append(r.Edits, workers.Edit{From: m.from - t.sent, To: m.to - t.sent, Text: t.p.rules.expressions[m.rule].token})
	}
	t.masks = t.masks[n:]
	return r
}
