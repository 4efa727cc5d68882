package openai_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hxp-enterprise/hxp/schemas/openai"
)

var sameView = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(openai.Chunk{})}

func FuzzParseChunk(f *testing.F) {
	for _, tt := range chunks {
		f.Add([]byte(tt.data))
	}
	for _, s := range invalid {
		f.Add([]byte(s))
	}
	reused := new(openai.Chunk)
	f.Fuzz(func(t *testing.T, data []byte) {
		input := bytes.Clone(data)
		var got openai.Chunk
		err := openai.ParseChunk(data, &got)
		if again := openai.ParseChunk(data, reused); (again == nil) != (err == nil) {
			t.Fatalf("a reused chunk gives %v, a new one %v", again, err)
		}
		if diff := cmp.Diff(got, *reused, sameView); diff != "" {
			t.Errorf("a reused chunk differs (-new +reused):\n%s", diff)
		}
		if !bytes.Equal(data, input) {
			t.Fatal("the input was changed")
		}
		want, wantErr := refChunk(data)
		if err != nil {
			// A wrong type may be in a field that a later one of the same name makes up for.
			if json.Valid(data) && wantErr == nil && !duplicates(data) {
				t.Fatalf("ParseChunk = %v, encoding/json reads it", err)
			}
			return
		}
		if wantErr != nil {
			t.Fatalf("ParseChunk reads it, encoding/json says %v", wantErr)
		}
		if diff := cmp.Diff(want, got, sameView, cmpopts.IgnoreFields(openai.Chunk{}, "Choices")); diff != "" {
			t.Errorf("(-encoding/json +ParseChunk):\n%s", diff)
		}
		checkCut(t, data, &got)
	})
}

// checkCut compares the choices with those of the chunk, value by value.
func checkCut(t *testing.T, data []byte, got *openai.Chunk) {
	t.Helper()
	if len(got.Parts) == 0 {
		if len(got.Choices) != 0 {
			t.Fatalf("Choices = %q without parts", got.Choices)
		}
		return
	}
	array := slices.Concat([]byte("["), got.Choices, []byte("]"))
	var top object
	var have, want []object
	if err := json.Unmarshal(data, &top); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(top["choices"], &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(array, &have); err != nil {
		t.Fatalf("Choices = %q: %v", got.Choices, err)
	}
	cutAny := false
	for _, o := range want {
		if _, ok := o["prompt_token_ids"]; ok {
			cutAny = true
			delete(o, "prompt_token_ids")
		}
	}
	if diff := cmp.Diff(want, have, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("choices (-want +got):\n%s", diff)
	}
	if !cutAny && !bytes.Contains(data, got.Choices) {
		t.Fatalf("Choices = %q is not a part of the chunk", got.Choices)
	}
	views, err := openai.ParseChoices(array, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got.Parts, views, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("ParseChoices (-ParseChunk +ParseChoices):\n%s", diff)
	}
}

func FuzzSplice(f *testing.F) {
	for _, tt := range splices {
		for _, field := range tt.fields {
			f.Add([]byte(tt.body), field.Name, field.Value)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, name string, value []byte) {
		input := bytes.Clone(body)
		if len(value) == 0 {
			value = nil
		}
		got, err := openai.Splice(body, openai.Field{Name: name, Value: value})
		if !bytes.Equal(body, input) {
			t.Fatal("the body was changed")
		}
		var before, after object
		beforeErr := json.Unmarshal(body, &before)
		good := beforeErr == nil && before != nil && (value == nil || json.Valid(value))
		if good != (err == nil) {
			t.Fatalf("Splice = %v, want success %t", err, good)
		}
		if err != nil {
			return
		}
		if err := json.Unmarshal(got, &after); err != nil {
			t.Fatalf("Splice = %q: %v", got, err)
		}
		if !utf8.Valid(body) || !utf8.ValidString(name) {
			return // encoding/json takes all invalid bytes for one character, and so for the same name
		}
		delete(before, name)
		if value != nil {
			before[name] = bytes.Trim(value, " \t\r\n")
		}
		if diff := cmp.Diff(before, after, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("Splice = %q (-want +got):\n%s", got, diff)
		}
	})
}
