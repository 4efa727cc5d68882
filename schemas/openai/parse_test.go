package openai_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

var chunks = []struct {
	name, data string
	want       openai.Chunk
}{
	{
		name: "completion with prompt tokens inside the choice",
		data: `{"id":"cmpl-X","object":"text_completion","created":1,"model":"M","choices":[{"index":0,"text":" foo","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":[1,15043],"token_ids":[7953]}]}`,
		want: openai.Chunk{
			Choices:        []byte(`{"index":0,"text":" foo","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":[7953]}`),
			Parts:          []openai.Choice{{Text: []byte(" foo"), TokenIDs: []int{7953}}},
			PromptTokenIDs: []int{1, 15043},
		},
	},
	{
		name: "chat with role and prompt tokens beside the choices",
		data: `{"id":"chatcmpl-X","choices":[{"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":[1,2]}`,
		want: openai.Chunk{
			Choices:        []byte(`{"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}`),
			Parts:          []openai.Choice{{Index: 1, Role: "assistant"}},
			PromptTokenIDs: []int{1, 2},
		},
	},
	{
		name: "prompt tokens beside the choices count before those inside",
		data: `{"choices":[{"prompt_token_ids":[3],"index":0}],"prompt_token_ids":[1,2]}`,
		want: openai.Chunk{
			Choices:        []byte(`{"index":0}`),
			Parts:          []openai.Choice{{}},
			PromptTokenIDs: []int{1, 2},
		},
	},
	{
		name: "prompt tokens cut from every place in an object",
		data: `{"choices":[ {"prompt_token_ids":[3]}, { "prompt_token_ids" : null , "index":1}, {"index":2 ,"prompt_token_ids":[4], "text":"x"},{"prompt_token_ids":[5],"prompt_token_ids":[6]} ]}`,
		want: openai.Chunk{
			Choices:        []byte(`{}, {  "index":1}, {"index":2 , "text":"x"},{}`),
			Parts:          []openai.Choice{{}, {Index: 1}, {Index: 2, Text: []byte("x")}, {}},
			PromptTokenIDs: []int{3},
		},
	},
	{
		name: "the end of a choice",
		data: `{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop","stop_reason":32000,"token_ids":[32000]}]}`,
		want: openai.Chunk{
			Choices: []byte(`{"index":0,"delta":{"content":""},"finish_reason":"stop","stop_reason":32000,"token_ids":[32000]}`),
			Parts:   []openai.Choice{{FinishReason: "stop", StopReason: []byte("32000"), TokenIDs: []int{32000}}},
		},
	},
	{
		name: "escapes, surrogates and halves of them",
		data: `{"choices":[{"\u0069ndex":0,"text":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83dx\udc00 é😀"},{"text":"\ud800\ud800\udc00"}]}`,
		want: openai.Chunk{
			Choices: []byte(`{"\u0069ndex":0,"text":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83dx\udc00 é😀"},{"text":"\ud800\ud800\udc00"}`),
			Parts: []openai.Choice{
				{Text: []byte("a\"\\/\b\f\n\r\té😀\uFFFDx\uFFFD é😀")},
				{Text: []byte("\uFFFD\U00010000")},
			},
		},
	},
	{
		name: "bytes that are not UTF-8",
		data: "{\"choices\":[{\"text\":\"a\xffb\"}]}",
		want: openai.Chunk{
			Choices: []byte("{\"text\":\"a\xffb\"}"),
			Parts:   []openai.Choice{{Text: []byte("a\uFFFDb")}},
		},
	},
	{
		name: "reasoning, tool calls and logprobs",
		data: `{"choices":[{"logprobs":{"content":[]},"delta":{"content":null,"reasoning_content":"hm","tool_calls":[{"index":0}]}},{"delta":{"reasoning":"a","reasoning_content":"b","tool_calls":[]}},{"delta":{"tool_calls":null,"role":"tool\n"},"finish_reason":"tool_calls","logprobs":null}]}`,
		want: openai.Chunk{
			Choices: []byte(`{"logprobs":{"content":[]},"delta":{"content":null,"reasoning_content":"hm","tool_calls":[{"index":0}]}},{"delta":{"reasoning":"a","reasoning_content":"b","tool_calls":[]}},{"delta":{"tool_calls":null,"role":"tool\n"},"finish_reason":"tool_calls","logprobs":null}`),
			Parts: []openai.Choice{
				{Reasoning: []byte("hm"), ToolCalls: []byte(`[{"index":0}]`), Logprobs: []byte(`{"content":[]}`)},
				{Reasoning: []byte("a")},
				{Role: "tool\n", FinishReason: "tool_calls"},
			},
		},
	},
	{
		name: "finish reasons",
		data: `{"choices":[{"finish_reason":"length"},{"finish_reason":"abort"},{"finish_reason":"repetition"},{"delta":null}]}`,
		want: openai.Chunk{
			Choices: []byte(`{"finish_reason":"length"},{"finish_reason":"abort"},{"finish_reason":"repetition"},{"delta":null}`),
			Parts:   []openai.Choice{{FinishReason: "length"}, {FinishReason: "abort"}, {FinishReason: "repetition"}, {}},
		},
	},
	{
		name: "usage",
		data: `{"choices":[],"usage":{"prompt_tokens":5,"total_tokens":12,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":4}}}`,
		want: openai.Chunk{Usage: &schemas.Usage{PromptTokens: 5, CompletionTokens: 7, TotalTokens: 12}},
	},
	{
		name: "nulls",
		data: `{"choices":null,"usage":null,"prompt_token_ids":null,"error":null,"object":null}`,
	},
	{
		name: "white space between all tokens",
		data: " {\n\t\"choices\" : [ { \"index\" : 2 , \"token_ids\" : [ 1 , -2 ] } ] , \"usage\" : { \"total_tokens\" : null } }\r\n",
		want: openai.Chunk{
			Choices: []byte(`{ "index" : 2 , "token_ids" : [ 1 , -2 ] }`),
			Parts:   []openai.Choice{{Index: 2, TokenIDs: []int{1, -2}}},
			Usage:   &schemas.Usage{},
		},
	},
	{
		name: "error frame",
		data: `{"error":{"message":"boom","type":"InternalServerError","param":null,"code":500}}`,
		want: openai.Chunk{Error: []byte(`{"message":"boom","type":"InternalServerError","param":null,"code":500}`)},
	},
	{
		name: "error that is the frame",
		data: `{"object":"error","message":"boom","code":400}`,
		want: openai.Chunk{Error: []byte(`{"object":"error","message":"boom","code":400}`)},
	},
	{
		name: "the last of several counts",
		data: `{"choices":[{"text":"a"},{"text":"b"}],"choices":[{"text":"c","text":null,"text":"d"}],"usage":{},"usage":null}`,
		want: openai.Chunk{Choices: []byte(`{"text":"c","text":null,"text":"d"}`), Parts: []openai.Choice{{Text: []byte("d")}}},
	},
	{name: "nothing known", data: `{"choice":[{}],"Usage":{"x":-1.5e+3},"y":[true,false,{}]}`},
}

var invalid = []string{
	``, ` `, `null`, `[]`, `"x"`, `1`, `{`, `{"`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{"a" 1}`, `{1:2}`, `{} {}`, `{}x`, `{"a":tru}`,
	`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":+1}`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`,
	"{\"a\":\"\n\"}", `{"a":"\`, `{"a":{"b":}}`, `{"a":{"b" 1}}`, `{"a":{1:1}}`, `{"a":nul}`, "{\"a\":\x00}", "{\"a\":{\"b\":1 2}}", `{"a":{"b":1`,
	`{"choices":{}}`, `{"choices":[null]}`, `{"choices":[1]}`, `{"choices":[{"index":1.5}]}`, `{"choices":[{"index":"0"}]}`, `{"choices":[{"index":9223372036854775808}]}`,
	`{"choices":[{"index":-9223372036854775809}]}`, `{"choices":[{"index":99999999999999999999}]}`, `{"choices":[{"index":-}]}`,
	`{"choices":[{"text":5}]}`, `{"choices":[{"delta":[]}]}`, `{"choices":[{"delta":{"content":{}}}]}`, `{"choices":[{"delta":{"tool_calls":{}}}]}`,
	`{"choices":[{"delta":{"tool_calls":[}}]}`, `{"choices":[{"delta":{"tool_calls":nul}}]}`, `{"choices":[{"delta":{"tool_calls":[`, `{"choices":[{"delta":{"x":}}]}`,
	`{"choices":[{"delta":{"x" 1}}]}`, `{"choices":[{"delta":nul}]}`, `{"choices":[{"token_ids":{}}]}`, `{"choices":[{"token_ids":[1,null]}]}`, `{"choices":[{"token_ids":[1.0]}]}`,
	`{"choices":[{"prompt_token_ids":["a"]}]}`, `{"choices":[{"finish_reason":nope}]}`, `{"choices":[{"finish_reason":1}]}`, `{"choices":[{"stop_reason":nope}]}`, `{"choices":[{} {}]}`,
	`{"choices":[{"index":nope}]}`, `{"choices":[{"index" 1}]}`, `{"choices":nope}`,
	`{"usage":[]}`, `{"usage":{"prompt_tokens":"5"}}`, `{"usage":{"completion_tokens":1.5}}`, `{"usage":nope}`, `{"prompt_token_ids":[true]}`, `{"error":nope}`, `{"object":nope}`,
}

func TestParseChunk(t *testing.T) {
	t.Parallel()
	for _, tt := range chunks {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got openai.Chunk
			for range 2 { // the second time into used slices
				if err := openai.ParseChunk([]byte(tt.data), &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got, sameView); diff != "" {
					t.Errorf("ParseChunk (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestParseChunkRefusesWhatIsInvalid(t *testing.T) {
	t.Parallel()
	for _, data := range invalid {
		c := openai.Chunk{Error: []byte("left over"), Parts: []openai.Choice{{}}}
		if err := openai.ParseChunk([]byte(data), &c); err == nil {
			t.Errorf("ParseChunk(%s) succeeded", data)
		}
		if c.Error != nil || len(c.Parts) != 0 {
			t.Errorf("ParseChunk(%s) failed and left %+v", data, c)
		}
	}
}

func TestErrorsNameTheFieldAndThePlace(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"choices":[{},{"delta":{"content":7}}]}`: `chunk: choices: choice 1: delta: content: at byte 35: '7'; want a string`,
		`{"usage":{"total_tokens":"x"}}`:           `chunk: usage: total_tokens: at byte 25: '"'; want an integer`,
		`{"choices":[{"token_ids":[1e3]}]}`:        `chunk: choices: choice 0: token_ids: at byte 26: "1e3" is not an integer`,
		`{"a":[`:                                   `chunk: a: the text ends at byte 6; want a value`,
	} {
		err := openai.ParseChunk([]byte(data), new(openai.Chunk))
		if err == nil || err.Error() != want {
			t.Errorf("ParseChunk(%s) = %v\nwant %s", data, err, want)
		}
	}
}

func TestNestingIsBounded(t *testing.T) {
	t.Parallel()
	for _, pair := range []string{"[]", "{}"} {
		nest := func(depth int) []byte {
			open := pair[:1]
			if open == "{" {
				open = `{"a":`
			}
			inner := strings.Repeat(open, depth-1) + "null" + strings.Repeat(pair[1:], depth-1)
			return []byte(`{"a":` + inner + `}`)
		}
		if err := openai.ParseChunk(nest(10_000), new(openai.Chunk)); err != nil {
			t.Errorf("10,000 of %s: %v", pair, err)
		}
		err := openai.ParseChunk(nest(10_001), new(openai.Chunk))
		if err == nil || !strings.Contains(err.Error(), "nested more than 10000 deep") {
			t.Errorf("10,001 of %s: %v", pair, err)
		}
		if err := openai.ParseChunk(nest(1_000_000), new(openai.Chunk)); err == nil {
			t.Errorf("1,000,000 of %s succeeded", pair)
		}
	}
}

func TestParseChunkDoesNotAllocate(t *testing.T) {
	// Not parallel: AllocsPerRun counts for the whole process.
	var c openai.Chunk
	for _, tt := range chunks[:7] {
		data := []byte(tt.data)
		if n := testing.AllocsPerRun(100, func() { _ = openai.ParseChunk(data, &c) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", tt.name, n)
		}
	}
}

func TestUsageMayBeKept(t *testing.T) {
	t.Parallel()
	var c openai.Chunk
	if err := openai.ParseChunk([]byte(`{"usage":{"total_tokens":1}}`), &c); err != nil {
		t.Fatal(err)
	}
	kept := c.Usage
	if err := openai.ParseChunk([]byte(`{"usage":{"total_tokens":2}}`), &c); err != nil {
		t.Fatal(err)
	}
	if kept.TotalTokens != 1 || c.Usage.TotalTokens != 2 {
		t.Errorf("usages are %d and %d, want 1 and 2", kept.TotalTokens, c.Usage.TotalTokens)
	}
}

func TestParseChoices(t *testing.T) {
	t.Parallel()
	first := openai.Choice{Index: 9}
	got, err := openai.ParseChoices([]byte(`[{"text":"a\n","prompt_token_ids":[1]},{"index":1,"token_ids":[5]}]`), []openai.Choice{first})
	if err != nil {
		t.Fatal(err)
	}
	want := []openai.Choice{first, {Text: []byte("a\n")}, {Index: 1, TokenIDs: []int{5}}}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Into used views.
	got, err = openai.ParseChoices([]byte(`[{},{}]`), got[:1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]openai.Choice{first, {}, {}}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("reused (-want +got):\n%s", diff)
	}
	for _, empty := range []string{"", "[]", " [ ] "} {
		if got, err := openai.ParseChoices([]byte(empty), nil); len(got) != 0 || err != nil {
			t.Errorf("ParseChoices(%q) = %v, %v; want none", empty, got, err)
		}
	}
	for _, bad := range []string{"{}", "[", "[{}", "[{},]", "[{}] x", "[1]", `[{"index":true}]`} {
		got, err := openai.ParseChoices([]byte(bad), []openai.Choice{first})
		if err == nil || len(got) != 1 {
			t.Errorf("ParseChoices(%q) = %v, %v; want an error and what was there before", bad, got, err)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for array, want := range map[string]string{
		``:                             "",
		`[]`:                           "",
		`[{"index":0,"text":"one\t"}]`: "one\t",
		`[{"index":1,"text":"two"}]`:   "",
		`[{"delta":{"role":"x"}}]`:     "",
		`[{"text":"a"},{"index":1,"text":"b"},{"delta":{"content":"c"}}]`:    "ac",
		`[{"text":"1"},{"text":"2"},{"text":"3"},{"text":"4"},{"text":"5"}]`: "12345",
	} {
		got, err := openai.Text([]byte(array))
		if got != want || err != nil {
			t.Errorf("Text(%s) = %q, %v; want %q", array, got, err, want)
		}
	}
	if _, err := openai.Text([]byte(`[{"text":1}]`)); err == nil {
		t.Error("Text of a number succeeded")
	}
}

func ExampleText() {
	text, err := openai.Text([]byte(`[{"index":0,"delta":{"content":"Hello"}},{"index":0,"delta":{"content":", world"}}]`))
	fmt.Println(text, err)
	// Output: Hello, world <nil>
}

func BenchmarkParseChunk(b *testing.B) {
	data := []byte(`{"id":"cmpl-0199d2c8b8f07c9e","object":"text_completion","created":1760000000,"model":"phi3","choices":[{"index":0,"text":" seventeen chars","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":[7953]}]}`)
	var c openai.Chunk
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := openai.ParseChunk(data, &c); err != nil {
			b.Fatal(err)
		}
	}
}
