package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/schemas/internal/jsonscan"
)

var texts = []string{
	`null`, `true`, `false`, ` 0 `, `-0`, `-`, `01`, `1.`, `1.5`, `-1.5e+10`, `1e`, `1E-5`, `+1`, `.5`, `1 2`, `nul`, `truE`, `fals`, `x`, ``, "\x00", `}`,
	`""`, `"a`, `"\`, `"\"`, `"\u00`, `"\u00zz"`, `"\u00e9\uD83D\uDE00\ud83d\ude"`, `"\ud83d\n"`, `"\ud83d\u0041"`, `"\x"`, "\"\n\"", "\"\xff\"", "\"\xe2\x80\xa8\"", `"\b\f\n\r\t\/\\\""`,
	`[]`, `[`, `[1`, `[1,`, `[1,]`, `[,]`, `[1 2]`, `[[],[[]],{}]`, `{}`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{1:1}`, `{"a" 1}`, `{"a":[{"b":null}],"c":""}`, `{"a":}`, `{"a\q":1}`,
	`9223372036854775807`, `9223372036854775808`, `-9223372036854775808`, `-9223372036854775809`, `92233720368547758070`, `1e2`, `12`,
}

func FuzzSkip(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := jsonscan.New(data, 0)
		raw, err := s.Skip()
		if err == nil {
			err = s.End()
		}
		if (err == nil) != json.Valid(data) {
			t.Fatalf("Skip(%q) = %v, encoding/json says valid: %t", data, err, json.Valid(data))
		}
		if err != nil {
			return
		}
		if want := bytes.Trim(data, " \t\r\n"); !bytes.Equal(raw, want) {
			t.Errorf("Skip(%q) = %q, want %q", data, raw, want)
		}
		checkInt(t, raw)
		checkString(t, raw)
	})
}

func checkInt(t *testing.T, raw []byte) {
	t.Helper()
	s := jsonscan.New(raw, 0)
	got, err := s.Int()
	var want int
	wantErr := json.Unmarshal(raw, &want)
	if string(raw) == "null" {
		wantErr = strconv.ErrSyntax
	}
	if (err == nil) != (wantErr == nil) || err == nil && got != want {
		t.Errorf("Int(%s) = %d, %v; want %d, %v", raw, got, err, want, wantErr)
	}
}

func checkString(t *testing.T, raw []byte) {
	t.Helper()
	s := jsonscan.New(raw, 0)
	got, err := s.Str()
	if (err == nil) != (raw[0] == '"') {
		t.Errorf("Str(%s) = %v", raw, err)
	}
	if err != nil {
		return
	}
	var want string
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	buf := []byte("before")
	if text := got.Bytes(&buf); string(text) != want || string(got.Append([]byte("x"))) != "x"+want {
		t.Errorf("Str(%s) = %q, want %q", raw, text, want)
	}
	if !got.Is(want) || got.Is(want+"x") {
		t.Errorf("Is(%q) of %s", want, raw)
	}
	if got.Plain != (string(raw) == `"`+want+`"`) {
		t.Errorf("Str(%s) says plain: %t", raw, got.Plain)
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("\x00\b\f\n\r\t\x1f\"\\/\x7f\xff\xc3é\u2028\u2029😀\ufffd<&>")
	f.Fuzz(func(t *testing.T, text string) {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(text); err != nil {
			t.Fatal(err)
		}
		if got, want := string(jsonscan.AppendString(nil, text))+"\n", buf.String(); got != want {
			t.Errorf("AppendString(%q) = %s, want %s", text, got, want)
		}
	})
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	const text = ` { "a" : [ 1 , null ] , "b" : "" } `
	s := jsonscan.New([]byte(text), 0)
	if err := s.Open('{'); err != nil {
		t.Fatal(err)
	}
	name, ok, err := s.Name(true)
	if !name.Is("a") || !ok || err != nil || s.Comma() != -1 || s.NamePos() != strings.Index(text, `"a"`) {
		t.Fatalf("first name = %s, %t, %v, after the comma at %d", name.Raw, ok, err, s.Comma())
	}
	if err := s.Open('['); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Element(true); !ok || err != nil {
		t.Fatalf("first element: %t, %v", ok, err)
	}
	if n, err := s.Int(); n != 1 || err != nil {
		t.Fatalf("Int = %d, %v", n, err)
	}
	if null, err := s.Null(); null || err != nil {
		t.Fatalf("Null before a comma = %t, %v", null, err)
	}
	if ok, err := s.Element(false); !ok || err != nil || s.Comma() != strings.Index(text, ", null") {
		t.Fatalf("second element: %t, %v, after the comma at %d", ok, err, s.Comma())
	}
	if null, err := s.Null(); !null || err != nil {
		t.Fatalf("Null = %t, %v", null, err)
	}
	if ok, err := s.Element(false); ok || err != nil || s.Comma() != -1 {
		t.Fatalf("third element: %t, %v", ok, err)
	}
	if name, ok, err := s.Name(false); !name.Is("b") || !ok || err != nil || s.NamePos() != strings.Index(text, `"b"`) {
		t.Fatalf("second name = %s, %t, %v", name.Raw, ok, err)
	}
	if value, err := s.Skip(); string(value) != `""` || err != nil {
		t.Fatalf("Skip = %s, %v", value, err)
	}
	if _, ok, err := s.Name(false); ok || err != nil || s.Pos() != len(text)-1 {
		t.Fatalf("third name: %t, %v, at %d", ok, err, s.Pos())
	}
	if err := s.End(); err != nil {
		t.Fatal(err)
	}
}

func TestNestingCountsFromTheOutside(t *testing.T) {
	t.Parallel()
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	for _, outside := range []int{0, 1, 9_999} {
		s := jsonscan.New(nested(jsonscan.MaxDepth-outside), outside)
		if _, err := s.Skip(); err != nil {
			t.Errorf("within %d: %v", outside, err)
		}
		s = jsonscan.New(nested(jsonscan.MaxDepth-outside+1), outside)
		if _, err := s.Skip(); err == nil {
			t.Errorf("within %d: one more is taken", outside)
		}
	}
}
