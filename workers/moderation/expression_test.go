package moderation_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/workers/moderation"
)

func TestExpressions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern string
		mask    bool
		most    int
		text    string
		want    shown
	}{
		{`sk-[a-z0-9]{4,}`, false, 0, "key sk-abc1234 here", shown{"key ", true, "x"}},
		{`sk-[a-z0-9]{4,}`, true, 0, "key sk-abc1234 here", shown{"key [X] here", false, "x"}},
		{`sk-[a-z0-9]{4,}`, true, 0, "key sk-ab here", shown{"key sk-ab here", false, ""}},
		{`(?i)\bbomb\b`, false, 0, "bombs and BOMB", shown{"bombs and ", true, "x"}},
		{`^yes$`, true, 0, "yes", shown{"[X]", false, "x"}},
		{`^yes$`, true, 0, "yes!", shown{"yes!", false, ""}},
		{`(?m)^no$`, true, 0, "yes\nno\nno way", shown{"yes\n[X]\nno way", false, "x"}},
		{`a+`, true, 3, "aaaaaaa b", shown{"[X][X][X] b", false, "x x x"}},
		{`a.*z`, true, 5, "a12z a1234z", shown{"[X] a1234z", false, "x"}},
		{`a.c`, true, 0, "a\nc aéc", shown{"a\nc [X]", false, "x"}},
		{`(?s)a.c`, true, 0, "a\nc", shown{"[X]", false, "x"}},
		{`é+`, true, 0, "caféé!", shown{"caf[X]!", false, "x"}},
		{`ab|abcd`, true, 0, "abcd abce", shown{"[X] [X]ce", false, "x x"}},
		{`(a|b)(c|d)`, true, 0, "ac bd ab", shown{"[X] [X] ab", false, "x x"}},
	} {
		t.Run(c.pattern+"/"+c.text, func(t *testing.T) {
			t.Parallel()
			p := policy(t, moderation.Config{Rules: moderation.Rules{
				Expressions: map[string]moderation.Expression{"x": {Pattern: c.pattern, Mask: c.mask, MaxBytes: c.most}},
			}})
			for how, pieces := range map[string][]string{"whole": {c.text}, "bytes": bytesOf(c.text)} {
				if diff := cmp.Diff(c.want, stream(t, p, "", pieces...)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", how, diff)
				}
			}
			rulings := p.Input(t.Context(), []string{"harmless", c.text})
			if rulings[1].Blocked != c.want.Blocked || len(rulings[1].Edits) != strings.Count(c.want.Text, "[X]") {
				t.Errorf("input = %+v, want as the reply", rulings[1])
			}
		})
	}
}

// TestMasksAreThoseOfPackageRegexp compares random texts in random pieces with what package regexp makes of the whole.
func TestMasksAreThoseOfPackageRegexp(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	patterns := []string{`a+b`, `ab?c*`, `(ab|ba)+`, `[a-c]{2,4}d`, `\ba\w*\b`, `b\B`, `a[^d]*d`, `(?i)CD`, `é.`, `^a`, `d$`, `(?m)^b`}
	for range 4000 {
		pattern := patterns[r.IntN(len(patterns))]
		var text strings.Builder
		for range 1 + r.IntN(30) {
			text.WriteString([]string{"a", "b", "c", "d", " ", "é", "\n"}[r.IntN(7)])
		}
		re := regexp.MustCompile(pattern)
		re.Longest()
		p := policy(t, moderation.Config{Rules: moderation.Rules{
			Expressions: map[string]moderation.Expression{"x": {Pattern: pattern, Mask: true, Replacement: "<>"}},
		}})
		pieces := split(r, text.String())
		if got, want := stream(t, p, "", pieces...).Text, re.ReplaceAllString(text.String(), "<>"); got != want {
			t.Fatalf("%s in %q: %q, want %q", pattern, pieces, got, want)
		}
	}
}

func TestPersonalData(t *testing.T) {
	t.Parallel()
	p := policy(t, moderation.Config{Rules: moderation.Rules{Personal: moderation.Personal()}})
	for text, want := range map[string]string{
		"write to Jane.Doe+x@mail.example.co.uk.":            "write to [EMAIL].",
		"jürgen@straße.de":                                   "[EMAIL]",
		"user@host and a@b.c":                                "user@host and a@b.c",
		"call +49 30 901820 now":                             "call [PHONE] now",
		"call (555) 123-4567 or 555-123-4567":                "call [PHONE] or [PHONE]",
		"call 030/901820-17":                                 "call [PHONE]",
		"on 2024-01-15 at 10:20 it cost 1234567 or 12.50":    "on 2024-01-15 at 10:20 it cost 1234567 or 12.50",
		"card 4111 1111 1111 1111, 4111111111111111":         "card [CREDIT_CARD], [CREDIT_CARD]",
		"card 4111 1111 1111 1111 2 of them":                 "card [CREDIT_CARD] 2 of them",
		"no card 4111 1111 1111 1112":                        "no card 4111 1111 1111 1112",
		"iban DE89 3704 0044 0532 0130 00":                   "iban [IBAN]",
		"iban gb82west12345698765432 ok":                     "iban [IBAN] ok",
		"no iban GB81WEST12345698765432":                     "no iban GB81WEST12345698765432",
		"host 192.168.0.1, version 1.2.3 and 300.1.1.1":      "host [IPV4], version 1.2.3 and 300.1.1.1",
		"host 2001:db8::8a2e:370:7334 and std::vector 12:30": "host [IPV6] and std::vector 12:30",
		"ssn 123-45-6789, not 000-12-3456 nor 900-11-1111":   "ssn [SSN], not 000-12-3456 nor 900-11-1111",
	} {
		for how, pieces := range map[string][]string{"whole": {text}, "bytes": bytesOf(text)} {
			if got := stream(t, p, "", pieces...); got.Text != want || got.Blocked {
				t.Errorf("%q, %s: %q, want %q", text, how, got.Text, want)
			}
		}
	}
}

// TestMasksThatOverlap become one, so that no part of either is seen.
func TestMasksThatOverlap(t *testing.T) {
	t.Parallel()
	p := policy(t, moderation.Config{Rules: moderation.Rules{Expressions: map[string]moderation.Expression{
		"a": {Pattern: `bcd`, Mask: true}, "b": {Pattern: `abc`, Mask: true}, "c": {Pattern: `de+f`, Mask: true}, "d": {Pattern: `xy`, Mask: true}, "e": {Pattern: `xyz?`, Mask: true},
	}}})
	for text, want := range map[string]string{
		"-abcdeef-": "-[B]-",
		"-abcdeeg-": "-[B]eeg-",
		"-xyz-":     "-[D]-",
		"abcxyz":    "[B][D]",
	} {
		for how, pieces := range map[string][]string{"whole": {text}, "bytes": bytesOf(text)} {
			if got := stream(t, p, "", pieces...); got.Text != want {
				t.Errorf("%q, %s: %q, want %q", text, how, got.Text, want)
			}
		}
	}
}

// TestTextBefore is context: a match may begin in it, and what was sent stays as it is.
func TestTextBefore(t *testing.T) {
	t.Parallel()
	p := policy(t, moderation.Config{Rules: moderation.Rules{
		Phrases: []string{"forbidden"}, WholeWords: true,
		Expressions: map[string]moderation.Expression{"x": {Pattern: `k\d+`, Mask: true}},
	}})
	for _, c := range []struct{ before, rest, want string }{
		{"it is for", "bidden", ""},
		{"it is un", "forbidden", "forbidden"},
		{"it is ", "forbidden", ""},
		{"k1", "23 k4", "[X] [X]"},
		{"k1 ", "23", "23"},
		{"", "k1", "[X]"},
	} {
		if got := stream(t, p, c.before, bytesOf(c.rest)...); got.Text != c.want || got.Blocked != (c.want == "") {
			t.Errorf("%q after %q: %+v, want %q", c.rest, c.before, got, c.want)
		}
	}
}

func FuzzSplits(f *testing.F) {
	f.Add("a b@c.de 4111111111111111 key sk-1234 DE89370400440532013000", uint64(1))
	f.Add("\xff+49 30 901820\xc3", uint64(7))
	p := policy(f, moderation.Config{Rules: moderation.Rules{
		Phrases: []string{"forbidden words", "é"}, Personal: moderation.Personal(),
		Expressions: map[string]moderation.Expression{"key": {Pattern: `sk-\w+`, Mask: true, MaxBytes: 20}, "stop": {Pattern: `st[ao]+p\b`}},
	}})
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		if len(text) > 4<<10 {
			return
		}
		want := stream(t, p, "", text)
		got := stream(t, p, "", split(rand.New(rand.NewPCG(seed, 0)), text)...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pieces it is another text (-whole +pieces):\n%s", diff)
		}
	})
}

func BenchmarkRules(b *testing.B) {
	text := strings.Repeat("The quick brown fox watched 17 lanterns near the old harbour, because the baker had lost his letter. ", 40)
	for _, c := range []struct {
		name  string
		rules moderation.Rules
	}{
		{"phrases=5000", moderation.Rules{Phrases: words(5000), WholeWords: true}},
		{"pii", moderation.Rules{Personal: moderation.Personal()}},
		{"all", moderation.Rules{Phrases: words(5000), WholeWords: true, Personal: moderation.Personal()}},
	} {
		for _, size := range []int{4, 4096} {
			b.Run(fmt.Sprintf("%s/delta=%d", c.name, size), func(b *testing.B) {
				p := policy(b, moderation.Config{Rules: c.rules})
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					check := p.Output(b.Context(), "", func() {})
					t := check.Text("")
					for i := 0; i < len(text); i += size {
						t.Write([]byte(text[i:min(len(text), i+size)]))
						_ = t.Ruling()
					}
					t.Close()
					if r := t.Ruling(); r.Blocked {
						b.Fatal("blocked")
					}
					check.Stop()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(float64(len(text))/float64(size)), "ns/delta")
			})
		}
	}
}
