package loadtest

import (
	"math/rand/v2"
	"strings"
)

// Random asks for completions of random words, as vllm bench serve's random dataset. A word is one token to
// many tokenizers and about one to the others; the true count is the engine's.
type Random struct {
	// Input and Output are how many words a prompt has and how many tokens its answer.
	Input, Output int
	// Range spreads both evenly, from (1-Range) to (1+Range) of them.
	Range float64
	// Chat asks as a chat of one turn.
	Chat bool
}

// Name returns "random".
func (Random) Name() string { return "random" }

// Prompt makes a prompt of random words.
func (d Random) Prompt(_ int, r *rand.Rand) Prompt {
	p := Prompt{Text: words(r, spread(d.Input, d.Range, r)), MaxTokens: spread(d.Output, d.Range, r)}
	if d.Chat {
		p.Turns, p.Text = []string{p.Text}, ""
	}
	return p
}

// Prefixed asks for completions of prompts that share their beginnings, as vllm bench serve's prefix_repetition:
// what an engine's prefix cache is for.
type Prefixed struct {
	// Prefixes is how many beginnings there are.
	Prefixes int
	// Prefix, Suffix and Output are lengths: of a beginning, of what follows it, and of the answer.
	Prefix, Suffix, Output int
}

// Name returns "prefix_repetition".
func (Prefixed) Name() string { return "prefix_repetition" }

// Prompt makes a prompt of one of the beginnings.
func (d Prefixed) Prompt(_ int, r *rand.Rand) Prompt {
	which := r.Uint64N(uint64(max(1, d.Prefixes)))
	prefix := words(rand.New(rand.NewPCG(which, 0)), d.Prefix)
	return Prompt{Text: prefix + words(r, d.Suffix), MaxTokens: d.Output}
}

// Dialogues are chats of several turns, of random words.
type Dialogues struct {
	// Turns is how many questions a conversation has, Input and Output the length of each and of its answer.
	Turns, Input, Output int
}

// Name returns "conversations".
func (Dialogues) Name() string { return "conversations" }

// Prompt makes a conversation.
func (d Dialogues) Prompt(_ int, r *rand.Rand) Prompt {
	p := Prompt{System: "You are a patient teacher.", MaxTokens: d.Output}
	for range max(1, d.Turns) {
		p.Turns = append(p.Turns, words(r, max(1, d.Input)))
	}
	return p
}

func spread(n int, by float64, r *rand.Rand) int {
	low, high := int(float64(n)*(1-by)), int(float64(n)*(1+by))
	return max(1, low+r.IntN(max(1, high-low+1)))
}

// vocabulary is short and frequent words of English.
var vocabulary = strings.Fields(`about after again answer back because before between book bridge bright care city clock close code come
	cook could country day door each engine every explain eye face farm field find first fish follow food friend garden give glass gold good
	great green ground hand hard head hear help high hill home horse hour house idea keep kind king know land large last late leave letter life
	light line list little live long look love machine make man many map market mean mind money month moon more morning mother mountain move
	music name near never new night north note number ocean often old open order other paper part people picture place plan plant point queue
	question quick quiet rain read real red rest right river road rock room round run salt school sea second see sentence ship short show sky
	sleep small snow song sound south star start state stone story street sun table take tell thing think three time token town tree turn under
	voice walk wall want watch water week west wheel white wind window winter wood word work world write year young`)

// words makes n of them, each with the space before it.
func words(r *rand.Rand, n int) string {
	var b strings.Builder
	b.Grow(n * 6)
	for range n {
		b.WriteByte(' ')
		b.WriteString(vocabulary[r.IntN(len(vocabulary))])
	}
	return b.String()
}
