package moderation_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/workers/moderation"
)

func TestPhrases(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phrases string // separated by |
		whole   bool
		text    string
		want    string // what is let through
		blocked bool
	}{
		{"secret plan", false, "the secret plan is", "the ", true},
		{"secret plan", false, "the secret plans are", "the ", true},
		{"secret plan", true, "the secret plans are", "the secret plans are", false},
		{"secret plan", true, "the secret plan", "the ", true},
		{"secret plan", true, "the secret plan.", "the ", true},
		{"secret plan", true, "topsecret plan", "topsecret plan", false},
		{"secret plan", false, "the SECRET \t\n Plan", "the ", true},
		{"secret plan", false, "s\u200be\u00adcret plan", "", true},
		{"secret", true, "secret\u200b", "", true},
		{"STRASSE", false, "die Straße", "die ", true},
		{"straße", false, "die STRASSE", "die ", true},
		{"kelvin", false, "\u212aELVIN", "", true},
		{"ΣΊΣΥΦΟΣ", false, "ο σίσυφος", "ο ", true},
		{"office", false, "o\ufb03ce", "", true},
		{"!!!", true, "wow!!! yes", "wow", true},
		{"a b", true, "a b", "", true},
		{"foo|foobar", true, "foobar", "", true},
		{"foo|foobar", true, "foobaz", "foobaz", false},
		{"foo|foobar", true, "foobars foo", "foobars ", true},
		{"abcd|bc", false, "xabce", "x", true},
		{"abc|bcd", true, "abcd", "abcd", false},
		{"ab", false, "a", "a", false},
		{"\u00e9t\u00e9", false, "l'\u00c9T\u00c9", "l'", true},
		{"bad", false, "ba\xffd \xf0\x9f", "ba\xffd \xf0\x9f", false},
		{"x|x|  x ", false, "y", "y", false},
	} {
		t.Run(c.phrases+"/"+c.text, func(t *testing.T) {
			t.Parallel()
			p := policy(t, moderation.Config{Rules: moderation.Rules{Phrases: strings.Split(c.phrases, "|"), WholeWords: c.whole}})
			want := shown{Text: c.want, Blocked: c.blocked}
			if c.blocked {
				want.Found = "phrase"
			}
			for how, pieces := range map[string][]string{"whole": {c.text}, "bytes": bytesOf(c.text)} {
				if diff := cmp.Diff(want, stream(t, p, "", pieces...)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", how, diff)
				}
			}
			for at := range c.text {
				if diff := cmp.Diff(want, stream(t, p, "", c.text[:at], c.text[at:])); diff != "" {
					t.Errorf("split at %d (-want +got):\n%s", at, diff)
				}
			}
		})
	}
}

// TestWhatCannotBeSeenIsNoWayAround a phrase, whichever it is.
func TestWhatCannotBeSeenIsNoWayAround(t *testing.T) {
	t.Parallel()
	p := policy(t, moderation.Config{Rules: moderation.Rules{Phrases: []string{"forbidden phrase"}, WholeWords: true}})
	for _, s := range []string{
		"\x00", "\x1f", "\x7f", "\u0080", "\u009f", "\u00ad", "\u034f", "\u061c", "\u115f", "\u17b4", "\u180b", "\u180e", "\u200d", "\u202e",
		"\u2065", "\u2066", "\u2069", "\u206a", "\u3164", "\ufe0f", "\ufeff", "\uffa0", "\ufff9", "\U000E0061", "\U000E0100", "\U000E0FFF",
	} {
		text := "a forb" + s + "idden" + s + " phr" + s + s + "ase" + s
		if r := p.Input(t.Context(), []string{text})[0]; !r.Blocked {
			t.Errorf("%q passes", text)
		}
		if got, want := stream(t, p, "", bytesOf(text)...), (shown{Text: "a ", Blocked: true, Found: "phrase"}); !cmp.Equal(got, want) {
			t.Errorf("%q is streamed as %+v, want %+v", text, got, want)
		}
	}
	for _, s := range []string{"\t", "\u0085", "\u00a0", "\u3000", "x"} {
		if r := p.Input(t.Context(), []string{"a forb" + s + "idden phrase"})[0]; r.Blocked {
			t.Errorf("with %q it is blocked", s)
		}
	}
}

// oracleUnit is a folded rune with its place.
type oracleUnit struct {
	r    rune
	at   int
	word bool
}

func oracleUnits(text string) []oracleUnit {
	var out []oracleUnit
	for at, r := range text {
		switch {
		case r == '\u200b':
		case unicode.IsSpace(r):
			if len(out) == 0 || out[len(out)-1].r != ' ' {
				out = append(out, oracleUnit{' ', at, false})
			}
		case r == 'ß':
			out = append(out, oracleUnit{'s', at, true}, oracleUnit{'s', at, true})
		default:
			out = append(out, oracleUnit{unicode.ToLower(unicode.ToUpper(r)), at, unicode.IsLetter(r) || unicode.IsDigit(r)})
		}
	}
	return out
}

// oracle sees the whole text and looks for every phrase at every place.
func oracle(text string, phrases []string, whole bool) shown {
	units := oracleUnits(text)
	list := make([][]rune, len(phrases))
	for i, p := range phrases {
		for _, u := range oracleUnits(strings.TrimSpace(p)) {
			list[i] = append(list[i], u.r)
		}
	}
	spells := func(from, to int, p []rune) bool {
		for i := from; i < to; i++ {
			if units[i].r != p[i-from] {
				return false
			}
		}
		return true
	}
	begins := func(i int) bool { return !whole || !units[i].word || i == 0 || !units[i-1].word }
	for end := 1; end <= len(units); end++ {
		first := -1
		for _, p := range list {
			from := end - len(p)
			if from < 0 || !begins(from) || !spells(from, end, p) {
				continue
			}
			if whole && units[end-1].word && end < len(units) && units[end].word {
				continue
			}
			if first < 0 || from < first {
				first = from
			}
		}
		if first < 0 {
			continue
		}
		for from := range first {
			for _, p := range list {
				if begins(from) && end-from < len(p) && spells(from, end, p) {
					return shown{text[:units[from].at], true, "phrase"}
				}
			}
		}
		return shown{text[:units[first].at], true, "phrase"}
	}
	return shown{Text: text}
}

// TestPhrasesAreThoseOfTheWholeText compares what is let through of random texts in random pieces with
// what is known of the whole.
func TestPhrasesAreThoseOfTheWholeText(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	alphabet := []string{"a", "b", "A", "s", "S", "ß", " ", "\n", "\u200b", "é", "É", ".", "ſ", "b"}
	random := func(n int) string {
		var s strings.Builder
		for range 1 + r.IntN(n) {
			s.WriteString(alphabet[r.IntN(len(alphabet))])
		}
		return s.String()
	}
	blocked := 0
	for range 3000 {
		var phrases []string
		for range 1 + r.IntN(5) {
			if p := strings.Trim(random(6), " \n\u200b"); p != "" {
				phrases = append(phrases, p)
			}
		}
		whole := r.IntN(2) == 0
		p := policy(t, moderation.Config{Rules: moderation.Rules{Phrases: phrases, WholeWords: whole}})
		text := random(30)
		want := oracle(text, phrases, whole)
		if want.Blocked {
			blocked++
		}
		pieces := split(r, text)
		if diff := cmp.Diff(want, stream(t, p, "", pieces...)); diff != "" {
			t.Fatalf("phrases %q (whole words: %v), pieces %q (-want +got):\n%s", phrases, whole, pieces, diff)
		}
	}
	if blocked < 500 || blocked > 2500 {
		t.Errorf("%d of 3000 texts were blocked; the test says little", blocked)
	}
}

func FuzzPhrases(f *testing.F) {
	f.Add("the secret plan", "secret plan|plan b", true, uint64(1))
	f.Add("aab aaab", "aab|ab", false, uint64(2))
	f.Fuzz(func(t *testing.T, text, phrases string, whole bool, seed uint64) {
		if len(text) > 4<<10 || len(phrases) > 4<<10 {
			return
		}
		list := strings.Split(phrases, "|")
		cfg := moderation.Config{Rules: moderation.Rules{Phrases: list, WholeWords: whole}}
		if len(cfg.Check()) > 0 {
			return
		}
		p := policy(t, cfg)
		want := stream(t, p, "", text)
		got := stream(t, p, "", split(rand.New(rand.NewPCG(seed, 0)), text)...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pieces it is another text (-whole +pieces):\n%s", diff)
		}
		if !strings.HasPrefix(text, got.Text) || !got.Blocked && got.Text != text {
			t.Errorf("%q is let through of %q (blocked: %v)", got.Text, text, got.Blocked)
		}
		if again := stream(t, p, "", got.Text); again.Blocked {
			t.Errorf("%q was let through and is blocked", got.Text)
		}
	})
}

// words are n different phrases.
func words(n int) []string {
	r := rand.New(rand.NewPCG(3, 4))
	out := make([]string, n)
	for i := range out {
		var s strings.Builder
		for range 4 + r.IntN(12) {
			s.WriteByte("abcdefghijklmnopqrstuvwxyz "[r.IntN(27)])
		}
		out[i] = fmt.Sprintf("%s %d", s.String(), i)
	}
	return out
}

func TestManyPhrases(t *testing.T) {
	t.Parallel()
	list := words(5000)
	p := policy(t, moderation.Config{Rules: moderation.Rules{Phrases: list, WholeWords: true}})
	for _, i := range []int{0, 17, 4999} {
		if got := stream(t, p, "", "so: "+strings.ToUpper(list[i])+"!"); !got.Blocked {
			t.Errorf("%q is let through", list[i])
		}
	}
	if !slices.Contains(list, list[0]) || stream(t, p, "", "so: nothing of it").Blocked {
		t.Error("text without a phrase is blocked")
	}
}
