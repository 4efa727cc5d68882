package moderation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Rules are what is looked for in a text itself. The zero value finds nothing.
type Rules struct {
	// Phrases block a text that has one of them. Case does not count, nor how much white space there
	// is between words, nor characters that cannot be seen.
	Phrases []string
	// WholeWords asks for a border of a word where a phrase begins or ends with a letter or a digit.
	WholeWords bool
	// Expressions are regular expressions by the name under which they are reported.
	Expressions map[string]Expression
	// Personal are the kinds of personal data to mask: see [Personal].
	Personal []string
}

// Expression is a regular expression in RE2's syntax. It is tried at every character that a match can begin
// with, so one that begins with anything and goes on for long costs as much again for every byte of its length.
type Expression struct {
	Pattern string
	// MaxBytes is the length of the longest match. A reply is held back for as long as a match may
	// be going on, so there is a bound; what is longer is not found. Defaults to the policy's HoldBack.
	MaxBytes int
	// Mask replaces a match with Replacement. Otherwise a match blocks.
	Mask bool
	// Replacement defaults to the name in capitals and brackets.
	Replacement string
}

const (
	// maxPhrases and maxPhraseBytes bound a block list.
	maxPhrases     = 100_000
	maxPhraseBytes = 1 << 10
	// maxExpressions bounds what a policy can have of them.
	maxExpressions = 256
	maxReplacement = 64
)

// categoryPhrase is how a phrase is reported: its words are not.
const categoryPhrase = "phrase"

// rules are Rules made ready, shared by all texts.
type rules struct {
	phrases     *phrases // nil for none
	expressions []rule
}

type rule struct {
	*expression
	category string
	mask     bool
	token    string
}

// Fault is one thing wrong with a policy.
type Fault struct {
	// Path is the setting, in the names of the configuration: expressions.secrets.pattern.
	Path string
	// Text says which value is wrong, and what the bound is.
	Text string
}

func (f Fault) String() string { return f.Path + " " + f.Text }

type faults []Fault

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, Fault{path, fmt.Sprintf(format, args...)})
}

func compile(r Rules, holdBack int, f *faults) *rules {
	out := &rules{}
	if n := len(r.Phrases); n > maxPhrases {
		f.add("phrases", "are %d; want at most %d", n, maxPhrases)
	}
	list := make([][]rune, 0, min(len(r.Phrases), maxPhrases))
	for i, p := range r.Phrases[:min(len(r.Phrases), maxPhrases)] {
		switch u := units(p); {
		case len(p) > maxPhraseBytes:
			f.add("phrases", "number %d is %d bytes long; want at most %d", i+1, len(p), maxPhraseBytes)
		case len(u) == 0:
			f.add("phrases", "number %d is empty; want text", i+1)
		default:
			list = append(list, u)
		}
	}
	if len(list) > 0 {
		out.phrases = newPhrases(list, r.WholeWords)
	}
	if n := len(r.Expressions); n > maxExpressions {
		f.add("expressions", "are %d; want at most %d", n, maxExpressions)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Expressions)) {
		out.expression(name, r.Expressions[name], holdBack, f)
	}
	for _, name := range r.Personal {
		kind, ok := personalData[name]
		if !ok {
			f.add("pii", "%q is none of %s", name, strings.Join(Personal(), ", "))
			continue
		}
		e, err := newExpression(kind.pattern, kind.most)
		if err != nil {
			f.add("pii", "%s: %v", name, err)
			continue
		}
		e.border, e.valid = true, kind.valid
		out.expressions = append(out.expressions, rule{e, name, true, kind.token})
	}
	return out
}

func (r *rules) expression(name string, x Expression, holdBack int, f *faults) {
	path := "expressions." + name
	most := cmp.Or(x.MaxBytes, holdBack)
	if x.MaxBytes != 0 && (most < 1 || most > MaxHoldBack) {
		f.add(path+".max_bytes", "%d is not between 1 and %d", most, MaxHoldBack)
	}
	if len(x.Replacement) > maxReplacement {
		f.add(path+".replacement", "is %d bytes long; want at most %d", len(x.Replacement), maxReplacement)
	}
	if x.Replacement != "" && !x.Mask {
		f.add(path+".replacement", "is set for a match that blocks; want action mask")
	}
	e, err := newExpression(x.Pattern, most)
	if err != nil {
		f.add(path+".pattern", "%v", err)
		return
	}
	e.shortest = !x.Mask
	r.expressions = append(r.expressions, rule{e, name, x.Mask, cmp.Or(x.Replacement, "["+strings.ToUpper(name)+"]")})
}
