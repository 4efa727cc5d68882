package loadtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/loadtest"
	"github.com/hxp-enterprise/hxp/schemas"
)

func chance(n int) *rand.Rand { return rand.New(rand.NewPCG(5, uint64(n))) }

func TestSyntheticPromptsHaveTheLengthsAskedFor(t *testing.T) {
	t.Parallel()
	words := func(s string) int { return len(strings.Fields(s)) }
	p := loadtest.Random{Input: 100, Output: 50}.Prompt(0, chance(0))
	if words(p.Text) != 100 || p.MaxTokens != 50 || p.Turns != nil {
		t.Errorf("%d words, %d tokens", words(p.Text), p.MaxTokens)
	}
	short, long := 1000, 0
	for n := range 500 {
		p := loadtest.Random{Input: 100, Output: 50, Range: 0.5, Chat: true}.Prompt(n, chance(n))
		in := words(p.Turns[0])
		short, long = min(short, in), max(long, in)
		if p.MaxTokens < 25 || p.MaxTokens > 75 {
			t.Fatalf("%d tokens, want 25 to 75", p.MaxTokens)
		}
	}
	if short < 50 || short > 55 || long > 150 || long < 145 {
		t.Errorf("%d to %d words, want 50 to 150", short, long)
	}
	if a, b := (loadtest.Random{Input: 9}).Prompt(3, chance(3)), (loadtest.Random{Input: 9}).Prompt(3, chance(3)); !cmp.Equal(a, b) {
		t.Errorf("the same chance gives %v and %v", a, b)
	}
	d := loadtest.Dialogues{Turns: 3, Input: 4, Output: 5}.Prompt(0, chance(0))
	if len(d.Turns) != 3 || words(d.Turns[2]) != 4 || d.MaxTokens != 5 || d.System == "" {
		t.Errorf("conversation %+v", d)
	}
}

func TestPrefixesAreShared(t *testing.T) {
	t.Parallel()
	d := loadtest.Prefixed{Prefixes: 3, Prefix: 20, Suffix: 5, Output: 7}
	beginnings, whole := map[string]bool{}, map[string]bool{}
	for n := range 100 {
		w := strings.Fields(d.Prompt(n, chance(n)).Text)
		beginnings[strings.Join(w[:20], " ")], whole[strings.Join(w, " ")] = true, true
	}
	if len(beginnings) != 3 || len(whole) != 100 {
		t.Errorf("%d beginnings of %d prompts, want 3 of 100", len(beginnings), len(whole))
	}
	for d, want := range map[loadtest.Dataset]string{loadtest.Random{}: "random", d: "prefix_repetition", loadtest.Dialogues{}: "conversations"} {
		if d.Name() != want {
			t.Errorf("name %q, want %q", d.Name(), want)
		}
	}
}

// all are the prompts of a dataset, by their first words.
func all(d loadtest.Dataset, n int) map[string]loadtest.Prompt {
	out := map[string]loadtest.Prompt{}
	for i := range n {
		p := d.Prompt(i, nil)
		key := string(p.Body)
		if len(p.Turns) > 0 {
			key = p.Turns[0]
		}
		out[key] = p
	}
	return out
}

func TestMTBenchHasTwoTurns(t *testing.T) {
	t.Parallel()
	const file = `{"question_id":81,"turns":["one","two"]}` + "\n\n" + `{"turns":["three"]}` + "\n"
	d, err := loadtest.MTBench(strings.NewReader(file), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	got := all(d, 2)
	if d.Name() != "mt_bench" || len(got) != 2 || len(got["one"].Turns) != 2 || len(got["three"].Turns) != 1 {
		t.Errorf("%s: %v", d.Name(), got)
	}
	if d, err = loadtest.MTBench(strings.NewReader(file), 0, true); err != nil || len(all(d, 2)["one"].Turns) != 1 {
		t.Errorf("first turns: %v, %v", d, err)
	}
}

func TestShareGPTIsCutAsVLLMCutsIt(t *testing.T) {
	t.Parallel()
	turn := func(from, value string) map[string]string { return map[string]string{"from": from, "value": value} }
	long := strings.Repeat("word ", 100)
	file, err := json.Marshal([]map[string]any{
		{"conversations": []map[string]string{turn("human", "a question that is long enough"), turn("gpt", long), turn("human", "and then?"), turn("gpt", "so")}},
		{"conversations": []map[string]string{turn("human", "hi"), turn("gpt", long)}},                                     // too short
		{"conversations": []map[string]string{turn("human", "a question without an answer")}},                              // nothing to measure
		{"conversations": []map[string]string{turn("gpt", long)}},                                                          // no question
		{"conversations": []map[string]string{turn("human", strings.Repeat("far too long ", 400)), turn("gpt", long)}},     // beyond 1,024 tokens
		{"conversations": []map[string]string{turn("human", "tell me everything"), turn("gpt", strings.Repeat(long, 20))}}, // beyond 2,048 with its answer
		{"conversations": []map[string]string{turn("system", "be kind"), turn("user", "another good question"), turn("assistant", long)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := loadtest.ShareGPT(bytes.NewReader(file), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]loadtest.Prompt{
		"a question that is long enough": {Turns: []string{"a question that is long enough"}, MaxTokens: 125},
		"another good question":          {Turns: []string{"another good question"}, System: "be kind", MaxTokens: 125},
	}
	if diff := cmp.Diff(want, all(d, 2)); diff != "" || d.Name() != "sharegpt" {
		t.Errorf("-want +got: %s", diff)
	}
	if d, err = loadtest.ShareGPT(bytes.NewReader(file), 1, true); err != nil {
		t.Fatal(err)
	}
	if got := all(d, 2)["a question that is long enough"].Turns; len(got) != 2 || got[1] != "and then?" {
		t.Errorf("all turns: %q", got)
	}
}

func TestBatchFilesKeepTheirBodies(t *testing.T) {
	t.Parallel()
	const file = `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"gpt","prompt":"x","temperature":0.5,"stream":false}}`
	d, err := loadtest.BatchFile(strings.NewReader(file), 0)
	if err != nil {
		t.Fatal(err)
	}
	if p := d.Prompt(0, nil); d.Name() != "batch" || p.Endpoint != schemas.Completions || !strings.Contains(string(p.Body), "temperature") {
		t.Errorf("%s: %+v", d.Name(), p)
	}
}

func TestFaultsOfDatasetsAreNamed(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	mtbench := func(in io.Reader) error { _, err := loadtest.MTBench(in, 0, false); return err }
	batch := func(in io.Reader) error { _, err := loadtest.BatchFile(in, 0); return err }
	sharegpt := func(in io.Reader) error { _, err := loadtest.ShareGPT(in, 0, false); return err }
	for _, c := range []struct {
		name string
		read func(io.Reader) error
		file io.Reader
		want string
	}{
		{"no JSON", mtbench, strings.NewReader("\n{"), "line 2: unexpected end"},
		{"no turns", mtbench, strings.NewReader("{}"), "line 1: turns is missing"},
		{"nothing", mtbench, strings.NewReader("\n\n"), "no prompt that can be used"},
		{"unreadable", mtbench, iotest.ErrReader(broken), "broken"},
		{"batch without JSON", batch, strings.NewReader("x"), "line 1"},
		{"batch to another endpoint", batch, strings.NewReader(`{"url":"/v1/embeddings","body":{}}`), `url is "/v1/embeddings"`},
		{"batch without a body", batch, strings.NewReader(`{"url":"/v1/completions","body":[]}`), "body is not a JSON object"},
		{"no array", sharegpt, strings.NewReader(`{}`), "does not begin with an array"},
		{"empty", sharegpt, strings.NewReader(``), "does not begin with an array"},
		{"cut off", sharegpt, strings.NewReader(`[{"conv`), "conversation 1"},
		{"without a question", sharegpt, strings.NewReader(`[{}]`), "no prompt that can be used"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if err := c.read(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %q in it", err, c.want)
			}
		})
	}
}

// TestRealMTBench reads the file beside the repository, where it is.
func TestRealMTBench(t *testing.T) {
	t.Parallel()
	f, err := os.Open(filepath.Join("..", "..", "shared", "data", "mt_bench.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := loadtest.Lines(f); err != nil || n != 80 {
		t.Errorf("%d questions, %v", n, err)
	}
}
