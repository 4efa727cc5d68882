package vllmsim

import (
	"strings"
	"sync"
)

// Token ids. A byte b is firstByte+b; words follow.
const (
	unknown = iota
	beginText
	endText
	turnStart
	turnEnd
	endOfTurn
	messageEnd
	roleStart

	firstByte = 8
	firstWord = firstByte + 256
)

// category is the part of speech of a token: all that the grammar knows of the past.
type category uint8

const (
	other    category = iota // bytes, special tokens, words outside the grammar
	opening                  // "The", at the start of a text or line
	starting                 // " The", at the start of a later sentence
	ourDet
	subjectAdj
	subject
	adverb
	verb
	objectDet
	objectAdj
	object
	splitHead // a word whose last character follows as bytes
	preposition
	joining // takes another object
	linking // takes another clause
	fullStop
	nothing // no word: the context at the start of a text, a turn or a line
	categories
)

// words are the vocabulary by category. No word is in two, so that the last token alone says what may follow.
var words = [categories]string{
	starting:    "The This That Every Each One Our Your My Their His Her No Another Some",
	ourDet:      "our your my their his her its that",
	subjectAdj:  "quiet clever patient restless young old weary cheerful stubborn curious gentle proud careful busy bold sleepy honest humble brave tall",
	subject:     "engineer fox baker sailor teacher painter gardener doctor farmer pilot writer tailor miller heron otter raven badger captain student child neighbour carpenter poet singer guard courier",
	adverb:      "quietly slowly gladly often rarely suddenly calmly almost never always soon once twice barely kindly again",
	verb:        "carried watched found painted repaired followed lost measured counted opened closed remembered described moved lifted cleaned sold bought borrowed admired drew hid built kept wanted",
	objectDet:   "the every another any each this some no",
	objectAdj:   "small broken golden heavy silent ancient narrow bright hollow wooden distant frozen empty crooked simple blue green dusty familiar sharp",
	object:      "lantern bridge river letter garden engine window harbour mountain clock basket ladder map kettle violin boat tower stone road field forest candle mirror table key book bell market orchard wheel",
	splitHead:   "caf clich souffl voil Troms espresso attach",
	preposition: "across behind near under above along beside inside outside beyond through around within against",
	joining:     "and or with without",
	linking:     "while because before after until although when so",
}

// tails completes the words of splitHead.
var tails = map[string]string{
	"caf": "é", "clich": "é", "souffl": "é", "voil": "à", "Troms": "ø", "espresso": "☕", "attach": "é",
}

// more is what keeps ordinary prompts short: frequent words, with the space before them, and pieces.
const more = "a an be is are was were been have has had do does did will would can could may must shall not of to in on at by for from " +
	"as if then than there here what which who whom whose how why where you he she it we they me him us them " +
	"write explain tell summarise translate answer question help please short story about between words sentence text code " +
	"name model token tokens user assistant system message hello world first last next new good great little own same two three time " +
	"year day way man thing life hand part place case week company number point person work make know take see come think look want give use"

const pieces = "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur " +
	"ing ion ent ter tion ate ver con per pro com est for ess all eve ity ous ive ment able ly ght ck sh qu ee oo"

type vocabulary struct {
	text []string // by token id
	cat  []category
	of   [categories][]int // ids by category
	tail map[int]string    // what follows a splitHead

	id      map[string]int
	longest [256]int // of the words that start with this byte
}

// vocab is built on first use: a program that never simulates pays nothing for it.
var vocab = sync.OnceValue(func() *vocabulary {
	v := &vocabulary{
		text: make([]string, firstWord, 1024),
		cat:  make([]category, firstWord, 1024),
		tail: map[int]string{},
		id:   make(map[string]int, 1024),
	}
	v.text[beginText], v.text[endText] = "<s>", "</s>"
	v.text[turnStart], v.text[turnEnd] = "<|im_start|>", "<|im_end|>"
	v.text[endOfTurn], v.text[messageEnd], v.text[roleStart] = "<|end_of_turn|>", "<|end|>", "<|"
	for b := range 256 {
		v.text[firstByte+b] = string([]byte{byte(b)})
		v.longest[b] = 1
	}
	for c, list := range words {
		for w := range strings.FieldsSeq(list) {
			id := v.add(" "+w, category(c))
			if category(c) == splitHead {
				v.tail[id] = tails[w]
			}
			if category(c) == starting {
				v.add(w, opening)
			}
		}
	}
	v.add(".", fullStop)
	for w := range strings.FieldsSeq(more) {
		v.add(" "+w, other)
	}
	for w := range strings.FieldsSeq(pieces) {
		v.add(w, other)
	}
	return v
})

// add gives text an id, unless it has one.
func (v *vocabulary) add(text string, c category) int {
	if id, ok := v.id[text]; ok {
		return id
	}
	id := len(v.text)
	v.text, v.cat, v.id[text] = append(v.text, text), append(v.cat, c), id
	v.of[c] = append(v.of[c], id)
	v.longest[text[0]] = max(v.longest[text[0]], len(text))
	return id
}

func (v *vocabulary) size() int { return len(v.text) }

func isByte(id int) bool { return id >= firstByte && id < firstWord }

// special reports whether id stands for no text of its own.
func special(id int) bool { return id < firstByte }
