package openai_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/schemas/openai"
)

func set(name, value string) openai.Field {
	return openai.Field{Name: name, Value: []byte(value)}
}

func drop(name string) openai.Field { return openai.Field{Name: name} }

var splices = []struct {
	name, body string
	fields     []openai.Field
	want       string
}{
	{"nothing", ` { "a" : 1 } `, nil, ` { "a" : 1 } `},
	{"replace", `{"a": 1.0 ,"model":"x","z":{"model":1}}`, []openai.Field{set("model", `"y"`)}, `{"a": 1.0 ,"model":"y","z":{"model":1}}`},
	{"replace every one", `{"a":1,"b":2,"a":3}`, []openai.Field{set("a", "0")}, `{"a":0,"b":2,"a":0}`},
	{"add", `{"a":1 }`, []openai.Field{set("b", "2"), set("c", `{"d":[]}`)}, `{"a":1,"b":2,"c":{"d":[]} }`},
	{"add to nothing", "{\n}", []openai.Field{set("a\n", "1")}, "{\"a\\n\":1\n}"},
	{"remove first", `{ "a":1 , "b":2}`, []openai.Field{drop("a")}, `{  "b":2}`},
	{"remove in the middle", `{"a":1, "b":2 ,"c":3}`, []openai.Field{drop("b")}, `{"a":1 ,"c":3}`},
	{"remove last", `{"a":1 ,"b":2 }`, []openai.Field{drop("b")}, `{"a":1  }`},
	{"remove only", `{"a":1 }`, []openai.Field{drop("a")}, `{ }`},
	{"remove all", `{"a":1,"b":2,"a":3}`, []openai.Field{drop("b"), drop("a")}, `{}`},
	{"remove first two, replace third", `{"a":1,"b":2,"c":3}`, []openai.Field{drop("b"), drop("a"), set("c", "4")}, `{"c":4}`},
	{"remove and add", `{"a":1,"b":2}`, []openai.Field{drop("a"), drop("b"), set("c", "3")}, `{"c":3}`},
	{"remove what is not there", `{"a":1}`, []openai.Field{drop("b")}, `{"a":1}`},
	{"escaped name", `{"mod\u0065l":"x","é":1}`, []openai.Field{set("model", `"y"`), drop("é")}, `{"mod\u0065l":"y"}`},
	{"name of another case", `{"Model":"x"}`, []openai.Field{set("model", `"y"`)}, `{"Model":"x","model":"y"}`},
	{"the last field of a name counts", `{"a":1}`, []openai.Field{set("a", "2"), set("b", "3"), set("a", "4"), set("b", "5")}, `{"a":4,"b":5}`},
	{"odd bytes stay", "{\"t\":\"\xff\\u2028\",\"n\":1e400,\"s\":true}", []openai.Field{set("s", "false")}, "{\"t\":\"\xff\\u2028\",\"n\":1e400,\"s\":false}"},
}

func TestSplice(t *testing.T) {
	t.Parallel()
	for _, tt := range splices {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			body := []byte(tt.body)
			got, err := openai.Splice(body, tt.fields...)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("Splice(%s) = %s\nwant %s", tt.body, got, tt.want)
			}
			if string(body) != tt.body {
				t.Errorf("the body became %s", body)
			}
		})
	}
}

func TestSpliceRefusesWhatIsInvalid(t *testing.T) {
	t.Parallel()
	for _, body := range slices.Concat(invalid[:39], []string{"[1]", `{"model":}`}) {
		if got, err := openai.Splice([]byte(body), set("model", "1")); err == nil {
			t.Errorf("Splice(%s) = %s", body, got)
		}
	}
	for _, value := range []string{"", " ", "1 2", "{", `"a`, strings.Repeat("[", 20_000)} {
		if got, err := openai.Splice([]byte(`{}`), set("a", value)); err == nil {
			t.Errorf("Splice with value %.20q = %.20s", value, got)
		}
	}
}

func ExampleSplice() {
	body := []byte(`{"model": "phi3", "prompt": "Hi", "my_field": 1.50}`)
	out, err := openai.Splice(body,
		openai.Field{Name: "model", Value: []byte(`"microsoft/Phi-3-mini-4k-instruct"`)},
		openai.Field{Name: "stream", Value: []byte("true")})
	fmt.Println(string(out), err)
	// Output: {"model": "microsoft/Phi-3-mini-4k-instruct", "prompt": "Hi", "my_field": 1.50,"stream":true} <nil>
}
