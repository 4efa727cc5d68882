package vllmsim

import (
	"bytes"
	"slices"
)

// The finish reasons of a choice.
const (
	finishStop   = "stop"
	finishLength = "length"
	finishAbort  = "abort"
	finishError  = "error"
)

// sampling is what a request says about the making of its tokens.
type sampling struct {
	maxTokens, minTokens int
	ignoreEnd            bool
	stop                 []string
	includeStop          bool
	stopTokens           map[int]bool
	seed                 int64
	showSpecial          bool
	say                  []int // the tokens to be generated; nil for the writer's
}

// holdBack is how many characters wait because they may be the start of a stop string.
func (p *sampling) holdBack() int {
	if p.includeStop {
		return 0
	}
	hold := 0
	for _, s := range p.stop {
		hold = max(hold, len([]rune(s))-1)
	}
	return hold
}

// ending says how a choice ended.
type ending struct {
	reason string
	// stop is the stop string or the stop token's id, nil for the end of the text.
	stop any
	// cut is the length in bytes of the text when a stop string ended it, or -1.
	cut int
	// silent is set when the last token's text is not shown.
	silent bool
	// fault is set when the choice did not end but was ended.
	fault FaultKind
}

// generation makes the tokens of one choice, undisturbed.
type generation struct {
	p        *sampling
	writer   *writer
	produced int
	scan     *stopScan
	said     int // how many tokens of say the text has
}

func newGeneration(model string, prompt []int, index int, p *sampling) *generation {
	g := &generation{p: p, writer: newWriter(model, p.seed, index, prompt)}
	for n := min(len(p.say), len(prompt)); n > 0 && g.said == 0; n-- {
		if slices.Equal(prompt[len(prompt)-n:], p.say[:n]) {
			g.said = n
		}
	}
	if len(p.stop) > 0 {
		g.scan = &stopScan{p: p, dec: newDecoder(prompt, p.showSpecial)}
	}
	return g
}

// next makes one token and, with the last of them, says how the choice ended.
func (g *generation) next() (int, *ending) {
	id := g.write()
	g.writer.push(id)
	g.produced++
	// The order of these is vLLM's: the engine sees tokens and lengths, the front end then looks for stop strings.
	end := g.tokenEnd(id)
	if g.scan != nil {
		if stopped := g.scan.push(id, g.produced, end != nil && end.silent); stopped != nil {
			return id, stopped
		}
	}
	return id, end
}

func (g *generation) write() int {
	if g.p.say == nil {
		return g.writer.next(g.banned())
	}
	g.said++
	if g.said <= len(g.p.say) {
		return g.p.say[g.said-1]
	}
	return endText
}

func (g *generation) tokenEnd(id int) *ending {
	if g.produced >= g.p.minTokens {
		switch {
		case id == endText && !g.p.ignoreEnd:
			return &ending{reason: finishStop, cut: -1, silent: !g.p.includeStop}
		case g.p.stopTokens[id]:
			return &ending{reason: finishStop, stop: id, cut: -1, silent: !g.p.includeStop}
		}
	}
	if g.produced >= g.p.maxTokens {
		return &ending{reason: finishLength, cut: -1}
	}
	return nil
}

// banned returns what may not come before min_tokens are there: whatever would end the choice.
func (g *generation) banned() func(int) bool {
	if g.produced >= g.p.minTokens {
		return nil
	}
	return func(id int) bool { return id == endText || g.p.stopTokens[id] }
}

// stopScan looks for stop strings in the text so far.
type stopScan struct {
	p    *sampling
	dec  *decoder
	text []byte
	seen int // text[:seen] has been looked through
}

func (s *stopScan) push(id, produced int, silent bool) *ending {
	if !silent {
		s.text = s.dec.push(s.text, id)
	}
	if produced <= s.p.minTokens {
		s.seen = len(s.text)
		return nil
	}
	from := s.seen
	s.seen = len(s.text)
	if from == len(s.text) {
		return nil
	}
	for _, stop := range s.p.stop {
		start := max(0, from-len(stop)+1)
		i := bytes.Index(s.text[start:], []byte(stop))
		if i < 0 {
			continue
		}
		cut := start + i
		if s.p.includeStop {
			cut += len(stop)
		}
		return &ending{reason: finishStop, stop: stop, cut: cut}
	}
	return nil
}
