package batch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

var rules = batch.Rules{Models: []string{"phi3", "hermes"}, MaxLine: 4000, MaxBody: 1000}

// validate validates a text and returns its faults.
func validate(t *testing.T, text string, r batch.Rules) (batch.Summary, []string) {
	t.Helper()
	var faults []string
	s, err := batch.Validate(t.Context(), strings.NewReader(text), r, func(f *batch.LineError) error {
		faults = append(faults, f.Error())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, faults
}

// badLines are lines with one fault each, and what is said of it.
var badLines = []struct{ line, want, param string }{
	{"not json", "the line is not JSON", ""},
	{"[1,2]", "the line is [1,2]; want a JSON object", ""},
	{"null", "the line is null; want a JSON object", ""},
	{"{\"custom_id\":\"\xff\"}", "the line is not UTF-8 text", ""},
	{`{"method":"POST"}`, "custom_id is missing; want a text of 1 to 512 bytes", "custom_id"},
	{`{"custom_id":7}`, "custom_id is 7; want a text", "custom_id"},
	{`{"custom_id":"` + strings.Repeat("x", 513) + `"}`, "custom_id is 513 bytes; want 1 to 512", "custom_id"},
	{`{"custom_id":"a","api_key":"sk-1"}`, "api_key is given; want none", "api_key"},
	{`{"custom_id":"a"}`, `method is missing; want "POST"`, "method"},
	{`{"custom_id":"a","method":"GET"}`, `method is "GET"; want "POST"`, "method"},
	{`{"custom_id":"a","method":"POST"}`, "url is missing", "url"},
	{`{"custom_id":"a","method":"POST","url":"/v1/embeddings"}`, `url is "/v1/embeddings"; want "/v1/chat/completions" or "/v1/completions"`, "url"},
	{`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{}}`, `url is "/v1/completions"; want "/v1/chat/completions": all lines of a batch are for one endpoint`, "url"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions"}`, "body is missing", "body"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":null}`, "body is missing", "body"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":"x"}`, `body is "x"; want the OpenAI request`, "body"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"x":"` + strings.Repeat("x", 1000) + `"}}`, "body is 1008 bytes; want at most 1000", "body"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}`, "body.model is missing; want one of phi3, hermes", "body.model"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4","messages":[]}}`, `body.model is "gpt-4"; want one of phi3, hermes`, "body.model"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"phi3","messages":[],"stream":true}}`, "body.stream is true; want false or none", "body.stream"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"phi3","messages":[],"extra_headers":{"a":"` + strings.Repeat("b", 100) + `"}}}`, "body.extra_headers is given", "body.extra_headers"},
	{`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"phi3","prompt":"x"}}`, "body.messages is missing; want it in a request to /v1/chat/completions", "body.messages"},
	{`{"custom_id":"` + strings.Repeat("x", 4000) + `"}`, "the line is 4016 bytes; want at most 4000", ""},
	{`{"custom_id":"a","method":[` + strings.Repeat("1,", 100) + `1]}`, `1,1...; want "POST"`, "method"},
}

func TestEveryFaultIsNamed(t *testing.T) {
	t.Parallel()
	good := chat("good", "phi3", "Hello")
	for _, tc := range badLines {
		var faults []*batch.LineError
		s, err := batch.Validate(t.Context(), strings.NewReader(good+"\n\n"+tc.line), rules, func(f *batch.LineError) error {
			faults = append(faults, f)
			return nil
		})
		if err != nil || len(faults) != 1 || s.Lines != 2 || s.Valid != 1 || s.Invalid != 1 {
			t.Errorf("%.80s: %+v, faults %v, %v", tc.line, s, faults, err)
			continue
		}
		if f := faults[0]; !strings.Contains(f.Message, tc.want) || f.Param != tc.param || f.Line != 3 || !strings.HasPrefix(f.Error(), "line 3: ") {
			t.Errorf("%.80s: fault %+v, want %q of %q", tc.line, f, tc.want, tc.param)
		}
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	completion := `{"custom_id":"c","method":"POST","url":"/v1/completions","body":{"model":"hermes","prompt":"Hi","max_tokens":3,"n":2}}`
	text := "\ufeff" + completion + "\r\n  \r\n" + strings.Replace(completion, `"c"`, `"d"`, 1)
	s, faults := validate(t, text, batch.Rules{})
	want := batch.Summary{
		Lines: 2, Valid: 2, Bytes: int64(len(text)), Endpoint: schemas.Completions, Models: map[string]int64{"hermes": 2},
		SHA256: s.SHA256,
	}
	if diff := cmp.Diff(want, s, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "repeated" }, cmp.Ignore())); diff != "" || len(faults) > 0 || len(s.SHA256) != 64 {
		t.Errorf("summary (-want +got):\n%s\nfaults %v", diff, faults)
	}
	if s, faults := validate(t, "{}\n"+completion, batch.Rules{Endpoint: schemas.ChatCompletions}); s.Valid != 0 || len(faults) != 2 {
		t.Errorf("%+v, %v", s, faults)
	}
	// Without a list of models any name will do that may stand in a subject.
	if _, faults := validate(t, strings.Replace(completion, "hermes", "a.b", 1), batch.Rules{}); len(faults) != 1 || !strings.Contains(faults[0], "want the name of a model") {
		t.Errorf("%v", faults)
	}
}

// TestRepeatedCustomIDs finds them in memory, and on disk.
func TestRepeatedCustomIDs(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1 << 20, 100, 7} {
		var text strings.Builder
		want := make(map[string]bool)
		for i := range 1000 {
			id := i
			if i%50 == 49 {
				id = i - 10
				want[fmt.Sprintf("line %d: custom_id is that of line %d; want one of its own for each line", i+1, id+1)] = true
			}
			text.WriteString(chat(fmt.Sprint("id-", id), "phi3", "x") + "\n")
		}
		got := make(map[string]bool)
		s, err := batch.ValidateWithin(t.Context(), strings.NewReader(text.String()), rules, most, func(f *batch.LineError) error {
			got[f.Error()] = true
			return nil
		})
		if err != nil || s.Invalid != int64(len(want)) || s.Valid != 1000-s.Invalid {
			t.Errorf("%d at a time: %+v, %v", most, s, err)
		}
		for f := range got {
			// Of three lines with one custom_id the first is named.
			if !strings.Contains(f, "custom_id is that of line ") {
				t.Errorf("%d at a time: %s", most, f)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d at a time: %d faults, want %d", most, len(got), len(want))
		}
	}
}

func TestValidationStops(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	refuse := func(*batch.LineError) error { return stop }
	for _, text := range []string{"{}\n", chat("a", "phi3", "x") + "\n" + chat("a", "phi3", "y")} {
		_, err := batch.Validate(t.Context(), strings.NewReader(text), rules, refuse)
		wantError(t, err, stop)
	}
	_, err := batch.Validate(t.Context(), iotest.ErrReader(stop), rules, refuse)
	wantError(t, err, stop, "read line 1")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	_, err = batch.Validate(ctx, strings.NewReader("{}"), rules, refuse)
	wantError(t, err, stop)
}

func FuzzValidate(f *testing.F) {
	for _, tc := range badLines {
		f.Add([]byte(tc.line))
	}
	f.Add([]byte(chat("a", "phi3", "x") + "\n" + chat("a", "phi3", "x")))
	f.Fuzz(func(t *testing.T, text []byte) {
		var faults int64
		s, err := batch.Validate(t.Context(), bytes.NewReader(text), rules, func(*batch.LineError) error { faults++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if s.Invalid != faults || s.Valid+s.Invalid != s.Lines || s.Bytes != int64(len(text)) {
			t.Errorf("%+v with %d faults over %d bytes", s, faults, len(text))
		}
	})
}
