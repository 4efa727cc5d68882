package workers

import (
	"cmp"
	"context"
	"slices"
)

// check has a policy look at the texts. Every text of the request gets the edits that are due in it.
func (in *input) check(ctx context.Context, p ModerationPolicy) []Ruling {
	rulings := p.Input(ctx, in.texts())
	if len(rulings) != len(in.parts)+len(in.joined) {
		return rulings
	}
	type found struct{ category, digest string }
	told := map[found]bool{}
	for i, part := range in.parts {
		r := &rulings[i]
		if part.fixed {
			r.Edits = nil
			r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Masked })
		}
		for _, f := range r.Findings {
			told[found{f.Category, f.Digest}] = true
		}
	}
	for i, j := range in.joined {
		r := &rulings[len(in.parts)+i]
		for _, e := range r.Edits {
			in.share(e, j, rulings)
		}
		// Most of what is in the whole is in a part.
		r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool {
			known := told[found{f.Category, f.Digest}]
			told[found{f.Category, f.Digest}] = true
			return known
		})
	}
	return rulings
}

// share applies an edit of a joined text to its parts: what it puts in stands in the first.
func (in *input) share(e Edit, j joinedText, rulings []Ruling) {
	at, text := 0, e.Text
	for _, p := range j.parts {
		n := len(in.parts[p].text)
		if from, to := max(e.From-at, 0), min(e.To-at, n); from < to {
			rulings[p].Edits = merge(rulings[p].Edits, Edit{from, to, text})
			text = ""
		}
		at += n + len(j.sep)
	}
}

// merge adds an edit to others that are in order. Those that overlap become one, which the first of them names.
func merge(edits []Edit, e Edit) []Edit {
	at := 0
	for at < len(edits) && edits[at].To <= e.From {
		at++
	}
	end := at
	for ; end < len(edits) && edits[end].From < e.To; end++ {
		o := edits[end]
		if o.From <= e.From {
			e.Text = cmp.Or(o.Text, e.Text)
		}
		e.From, e.To = min(e.From, o.From), max(e.To, o.To)
	}
	return slices.Replace(edits, at, end, e)
}

// edit appends text, which begins at an offset, with the edits applied to it. What they put in stands
// where they begin.
func edit(dst, text []byte, at int, edits []Edit) []byte {
	pos, end := at, at+len(text)
	for _, e := range edits {
		if e.To <= pos || e.From >= end {
			continue
		}
		if e.From >= at {
			dst = append(append(dst, text[pos-at:e.From-at]...), e.Text...)
		}
		pos = min(e.To, end)
	}
	return append(dst, text[pos-at:]...)
}
