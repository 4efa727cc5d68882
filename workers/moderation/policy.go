package moderation

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/hxp-enterprise/hxp/workers"
)

// Config is one policy. Its zero value checks both stages and looks for nothing.
type Config struct {
	// Stages are what is checked. Defaults to the input and the output.
	Stages []workers.Stage
	// Audit counts and logs what is found, and changes nothing.
	Audit bool
	// FailOpen lets through what an endpoint could not check. Otherwise it is blocked.
	FailOpen bool
	// HoldBack is the length in bytes of the longest match of an expression that does not say its
	// own: at most so much of a reply waits because a match may be going on. Defaults to 256.
	HoldBack int
	Rules    Rules
	// Endpoint is asked about what the rules let through. nil for none.
	Endpoint *Endpoint
}

func (c Config) withDefaults() Config {
	c.HoldBack = cmp.Or(c.HoldBack, 256)
	if len(c.Stages) == 0 {
		c.Stages = []workers.Stage{workers.StageInput, workers.StageOutput}
	}
	if c.Endpoint != nil {
		e := c.Endpoint.withDefaults()
		c.Endpoint = &e
	}
	return c
}

// policy is a Config made ready. It implements [workers.ModerationPolicy].
type policy struct {
	name   string
	cfg    Config
	rules  *rules
	judge  judge // nil for none
	digest func([]byte) string
}

// Check returns everything that is wrong with c. It reads no file and asks nobody.
func (c Config) Check() []Fault {
	var f faults
	c.withDefaults().compile(&f)
	return f
}

func (c Config) compile(f *faults) *rules {
	for _, s := range c.Stages {
		if s != workers.StageInput && s != workers.StageOutput {
			f.add("stages", "%q is neither input nor output", s)
		}
	}
	if c.HoldBack < 1 || c.HoldBack > MaxHoldBack {
		f.add("hold_back", "%d is not between 1 and %d", c.HoldBack, MaxHoldBack)
	}
	if c.Endpoint != nil {
		c.Endpoint.check(f)
	}
	return compile(c.Rules, c.HoldBack, f)
}

// newPolicy makes c ready.
func newPolicy(name string, c Config) (*policy, error) {
	c = c.withDefaults()
	var f faults
	p := &policy{name: name, cfg: c, rules: c.compile(&f), digest: digests()}
	if len(f) > 0 {
		words := make([]string, len(f))
		for i, x := range f {
			words[i] = x.String()
		}
		return nil, fmt.Errorf("policy %s: %s", name, strings.Join(words, "; "))
	}
	if c.Endpoint != nil {
		p.judge = c.Endpoint.judge()
	}
	return p, nil
}

// digests returns a hash of texts under a key that nobody has: what is short cannot be guessed from it.
func digests() func([]byte) string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // it never fails
	return func(text []byte) string {
		h := hmac.New(sha256.New, key[:])
		h.Write(text)
		return hex.EncodeToString(h.Sum(nil)[:8])
	}
}

func (p *policy) Name() string                    { return p.name }
func (p *policy) Audit() bool                     { return p.cfg.Audit }
func (p *policy) FailsOpen() bool                 { return p.cfg.FailOpen }
func (p *policy) Checks(stage workers.Stage) bool { return slices.Contains(p.cfg.Stages, stage) }

// Input looks at the texts of a request: by the rules each by itself, and then all that is left of
// them by the endpoint.
func (p *policy) Input(ctx context.Context, texts []string) []workers.Ruling {
	out := make([]workers.Ruling, len(texts))
	blocked := false
	for i, text := range texts {
		out[i] = p.input(ctx, text)
		blocked = blocked || out[i].Blocked
	}
	if p.judge == nil || len(texts) == 0 || blocked && !p.cfg.Audit {
		return out
	}
	var all strings.Builder
	for i, text := range texts {
		if i > 0 {
			all.WriteString("\n\n")
		}
		all.WriteString(applied(text, out[i].Edits))
	}
	verdict := p.whole(ctx, all.String())
	last := &out[len(out)-1] // what is said of all is said once
	last.Findings = append(last.Findings, verdict.Findings...)
	last.Blocked = last.Blocked || verdict.Blocked
	last.Unchecked = verdict.Unchecked
	return out
}

// input has the rules look at one whole text, for as long as somebody waits for it.
func (p *policy) input(ctx context.Context, text string) workers.Ruling {
	t := &policyText{p: p, rules: newRulesText(p.rules, p.digest)}
	for from := 0; from < len(text); from += MaxPiece {
		if err := ctx.Err(); err != nil {
			return p.ruling(nil, err, nil)
		}
		t.Write([]byte(text[from:min(len(text), from+MaxPiece)]))
	}
	t.Close()
	return t.Ruling()
}

// whole has the endpoint look at a text that is complete, piece by piece.
func (p *policy) whole(ctx context.Context, text string) workers.Ruling {
	for from := 0; from < len(text); {
		end := pieceEnd([]byte(text), from+MaxPiece)
		found, err := p.judge.judge(ctx, question{text: text[pieceStart([]byte(text), from-p.cfg.Endpoint.Overlap):end]})
		if r := p.ruling(found, err, []byte(text[from:end])); r.Blocked || r.Unchecked != nil {
			return r
		}
		from = end
	}
	return workers.Ruling{Settled: len(text)}
}

// ruling is what follows from an endpoint's answer.
func (p *policy) ruling(categories []string, err error, text []byte) workers.Ruling {
	r := workers.Ruling{}
	switch {
	case err != nil:
		r.Unchecked, r.Blocked = err, !p.cfg.FailOpen
	case len(categories) > 0:
		r.Blocked = true
		digest := p.digest(text)
		for _, c := range categories {
			r.Findings = append(r.Findings, workers.Finding{Category: c, Digest: digest})
		}
	}
	return r
}

func applied(text string, edits []workers.Edit) string {
	var out strings.Builder
	pos := 0
	for _, e := range edits {
		out.WriteString(text[pos:e.From])
		out.WriteString(e.Text)
		pos = e.To
	}
	out.WriteString(text[pos:])
	return out.String()
}
