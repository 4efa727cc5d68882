package vllmsim_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

func FuzzTokenize(f *testing.F) {
	for _, s := range prompts(12) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := vllmsim.Detokenize(vllmsim.Tokenize(s)); got != s {
			t.Errorf("Detokenize(Tokenize(%q)) = %q", s, got)
		}
	})
}

func TestTokenizeTakesTheLongestWord(t *testing.T) {
	t.Parallel()
	if got := len(vllmsim.Tokenize(" the quiet engineer carried the lantern.")); got != 7 {
		t.Errorf("%d tokens, want 7: one a word, one for the full stop", got)
	}
	if got := vllmsim.Detokenize([]int{-1, 1, 1 << 30, 4}); got != "<s><|im_end|>" {
		t.Errorf("special and unknown ids = %q", got)
	}
}

// TestTextGoesOnWhereItWasCut is what the simulator is for.
func TestTextGoesOnWhereItWasCut(t *testing.T) {
	t.Parallel()
	for _, text := range prompts(60) {
		prompt := vllmsim.Tokenize(text)
		for _, seed := range []int64{0, 7} {
			whole, end := vllmsim.Generate("m", prompt, seed, 0, 200)
			for cut := range whole {
				got, gotEnd := vllmsim.Generate("m", slices.Concat(prompt, whole[:cut]), seed, 0, 200-cut)
				if !slices.Equal(got, whole[cut:]) || gotEnd != end {
					t.Fatalf("prompt %q, seed %d: cut after %d tokens it goes on differently", text, seed, cut)
				}
			}
		}
	}
}

func TestTextDependsOnModelSeedAndIndex(t *testing.T) {
	t.Parallel()
	prompt := vllmsim.Tokenize("Once upon a time")
	first, _ := vllmsim.Generate("m", prompt, 0, 0, 30)
	for name, f := range map[string]func() ([]int, bool){
		"model":  func() ([]int, bool) { return vllmsim.Generate("n", prompt, 0, 0, 30) },
		"seed":   func() ([]int, bool) { return vllmsim.Generate("m", prompt, 1, 0, 30) },
		"index":  func() ([]int, bool) { return vllmsim.Generate("m", prompt, 0, 1, 30) },
		"prompt": func() ([]int, bool) { return vllmsim.Generate("m", prompt[1:], 0, 0, 30) },
	} {
		if got, _ := f(); slices.Equal(got, first) {
			t.Errorf("another %s gives the same text", name)
		}
	}
}

func TestTextIsReadable(t *testing.T) {
	t.Parallel()
	const texts = 400
	total, split := 0, 0
	for i := range texts {
		ids, end := vllmsim.Generate("m", []int{1}, int64(i+1), 0, 5000)
		text := vllmsim.Detokenize(ids)
		if !end {
			t.Fatalf("text %d has no end: %q", i, text)
		}
		if !utf8.ValidString(text) {
			t.Fatalf("text %d is not UTF-8: %q", i, text)
		}
		body := strings.TrimSuffix(text, "</s>")
		if body[0] < 'A' || body[0] > 'Z' || !strings.HasSuffix(body, ".") || strings.Contains(body, "  ") {
			t.Fatalf("text %d is not sentences: %q", i, body)
		}
		// A client that sends the text back as text gets it read as the same tokens.
		if got := vllmsim.Tokenize(body); !slices.Equal(got, ids[:len(ids)-1]) {
			t.Fatalf("text %d is read back as other tokens: %q", i, body)
		}
		total += len(ids)
		if strings.ContainsAny(body, "éàø") && strings.Contains(body, "☕") {
			split++
		}
	}
	if mean := total / texts; mean < 40 || mean > 250 {
		t.Errorf("texts are %d tokens long on average; want 40 to 250", mean)
	}
	if split == 0 {
		t.Error("no text holds characters of two and of three tokens")
	}
}

func TestExpectedFollowsTheRequest(t *testing.T) {
	t.Parallel()
	got, err := vllmsim.Expected("m", []byte(`{"prompt":["a","b"],"n":2,"max_tokens":5,"ignore_eos":true}`), completions)
	if err != nil || len(got) != 4 {
		t.Fatalf("%d choices, error %v; want 4", len(got), err)
	}
	for i, c := range got {
		if c.Index != i || len(c.TokenIDs) != 5 || c.FinishReason != "length" {
			t.Errorf("choice %d = %+v", i, c)
		}
	}
	if cmp.Equal(got[0].Text, got[1].Text) {
		t.Error("both choices of a prompt are the same")
	}
	for endpoint, body := range map[string]string{"/v1/embeddings": `{}`, completions: `{}`, chat: `[]`} {
		if _, err := vllmsim.Expected("m", []byte(body), endpoint); err == nil {
			t.Errorf("%s %s: no error", endpoint, body)
		}
	}
}

// TestMinTokensPutsTheEndOff bans whatever would end the text.
func TestMinTokensPutsTheEndOff(t *testing.T) {
	t.Parallel()
	full := vllmsim.Tokenize(".")[0]
	for _, p := range prompts(30)[1:] { // the first is empty
		body, _ := json.Marshal(obj{"prompt": p, "min_tokens": 60, "max_tokens": 61, "stop_token_ids": []int{full}})
		got, err := vllmsim.Expected("m", body, completions)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got[0].TokenIDs); n < 60 || slices.Contains(got[0].TokenIDs[:60], full) {
			t.Errorf("prompt %q: %d tokens, %q", p, n, got[0].Text)
		}
	}
	// A request may ban every word there is.
	every := make([]int, 2000)
	for i := range every {
		every[i] = i
	}
	body, _ := json.Marshal(obj{"prompt": "x", "min_tokens": 3, "max_tokens": 3, "stop_token_ids": every})
	got, err := vllmsim.Expected("m", body, completions)
	if err != nil || got[0].Text != "" {
		t.Errorf("everything banned: %+v, %v", got, err)
	}
	body, _ = json.Marshal(obj{"prompt": "x", "min_tokens": 3, "max_tokens": 3, "stop_token_ids": every[:600]})
	if got, err = vllmsim.Expected("m", body, completions); err != nil || len(got[0].TokenIDs) != 3 || got[0].TokenIDs[0] < 600 {
		t.Errorf("nearly everything banned: %+v, %v", got, err)
	}
}
