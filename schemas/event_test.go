package schemas_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
)

func TestAppendWritesWhatEncodingJSONWrites(t *testing.T) {
	t.Parallel()
	odd := []schemas.Event{
		{},
		{ID: "\x00\b\f\n\r\t\x1f\"\\/\x7f\xff\xc3é\u2028\u2029😀\ufffd", Kind: "<&>", Seq: math.MaxUint64, Attempt: math.MinInt, TS: math.MinInt64},
		{Usage: &schemas.Usage{}, Timings: &schemas.Timings{}, Error: &schemas.Error{}},
		{Timings: &schemas.Timings{Queue: 1e-7, TTFT: 1.5e21, Generate: -1e-10, Total: 1e-6}},
		{Timings: &schemas.Timings{Queue: math.MaxFloat64, TTFT: math.SmallestNonzeroFloat64, Generate: 1.0 / 3, Total: math.Copysign(0, -1)}},
		{Choices: json.RawMessage(`[]`), Attempt: -1, TS: -1},
	}
	for _, e := range events {
		odd = append(odd, e)
	}
	for _, e := range odd {
		if got, want := string(e.Append([]byte("before "))), "before "+slowly(t, &e); got != want {
			t.Errorf("Append = %s\nwant     %s", got, want)
		}
	}
}

func TestAppendCopiesChoicesVerbatim(t *testing.T) {
	t.Parallel()
	choices := "[ {\"text\" : \"<a>\\u2028\u2028\", \"n\": 1.50} ]"
	e := schemas.Event{Choices: json.RawMessage(choices)}
	b := e.Append(nil)
	if !strings.Contains(string(b), choices) {
		t.Errorf("Append = %s, want %s in it", b, choices)
	}
	var got schemas.Event
	if err := got.Decode(b); err != nil || string(got.Choices) != choices {
		t.Errorf("read back %s, %v; want %s", got.Choices, err, choices)
	}
}

func TestAppendWritesTimingsThatAreNotNumbersAsZero(t *testing.T) {
	t.Parallel()
	e := schemas.Event{Timings: &schemas.Timings{Queue: math.NaN(), TTFT: math.Inf(1), Generate: math.Inf(-1), Total: 1}}
	want := `"timings":{"queue":0,"ttft":0,"generate":0,"total":1}`
	if got := string(e.Append(nil)); !strings.Contains(got, want) {
		t.Errorf("Append = %s, want %s in it", got, want)
	}
}

// decodings are messages on both sides of the border between the usual form and the rest.
var decodings = []string{
	`{"id":"j","seq":1,"attempt":1,"kind":"delta","ts":5,"choices":[{"index":0,"text":"a\n"}]}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"started","ts":5,"worker":"w"}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"done","ts":5}`,
	`{"id":"","seq":0,"attempt":0,"kind":"","ts":0,"worker":"","choices":[]}`,
	`{"id":"j","seq":18446744073709551615,"attempt":9223372036854775807,"kind":"x","ts":9223372036854775807}`,
	`{"id":"j","seq":18446744073709551616,"attempt":1,"kind":"x","ts":1}`,
	`{"id":"j","seq":1,"attempt":9223372036854775808,"kind":"x","ts":1}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":99999999999999999999}`,
	`{"id":"j","seq":01,"attempt":1,"kind":"x","ts":1}`,
	`{"id":"j","seq":,"attempt":1,"kind":"x","ts":1}`,
	`{"id":"j","seq":-1,"attempt":-1,"kind":"x","ts":-1}`,
	`{"id":"j","seq":1.0,"attempt":1e0,"kind":"x","ts":1}`,
	`{"id":"\u006a","seq":1,"attempt":1,"kind":"d\ne","ts":1}`,
	"{\"id\":\"\xff\",\"seq\":1,\"attempt\":1,\"kind\":\"é\",\"ts\":1}",
	"{\"id\":\"a\nb\",\"seq\":1,\"attempt\":1,\"kind\":\"x\",\"ts\":1}",
	`{"id":"j`, `{"id":"j","seq":1`, `{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1}}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1} `,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices":null}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices":`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices":[}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices": [ 1 , 2 ] }`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices":[1],"choices":[2]}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices":[1],"ID":"k","later":true}`,
	`{"kind":"x","id":"j"}`, `{}`, `null`, `[]`, `"x"`, ``, `{"seq":"1"}`,
	`{"id":"j","seq":1,"attempt":1,"kind":"usage","ts":5,"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`,
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, text := range decodings {
		checkDecode(t, []byte(text))
	}
	for _, depth := range []int{9_999, 10_000} {
		checkDecode(t, []byte(`{"id":"j","seq":1,"attempt":1,"kind":"x","ts":1,"choices":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}`))
	}
}

// checkDecode compares Decode with encoding/json, and with itself into a used event.
func checkDecode(t *testing.T, data []byte) {
	t.Helper()
	var want, got schemas.Event
	wantErr := json.Unmarshal(data, &want)
	err := got.Decode(data)
	if (err == nil) != (wantErr == nil) {
		t.Errorf("Decode(%.200s) = %v, encoding/json says %v", data, err, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Decode(%.200s) (-encoding/json +Decode):\n%s", data, diff)
	}
	used := schemas.Event{ID: "j", Worker: "w", Source: "s", Kept: 3, Prompt: &schemas.Prompt{}, Reason: "left over", Choices: json.RawMessage(`[left over]`), Usage: &schemas.Usage{}}
	_ = used.Decode(data)
	if diff := cmp.Diff(want, used); diff != "" {
		t.Errorf("Decode(%.200s) into a used event (-want +got):\n%s", data, diff)
	}
}

func TestDecodeKeepsNothingOfTheMessage(t *testing.T) {
	t.Parallel()
	data := []byte(decodings[0])
	var first, second schemas.Event
	if err := first.Decode(data); err != nil {
		t.Fatal(err)
	}
	second = first
	for i := range data {
		data[i] = 'x'
	}
	if err := second.Decode([]byte(`{"id":"k","seq":2,"attempt":1,"kind":"delta","ts":5,"choices":[{"index":0,"text":"b"}]}`)); err != nil {
		t.Fatal(err)
	}
	if got := string(first.Choices); first.ID != "j" || got != `[{"index":0,"text":"a\n"}]` {
		t.Errorf("the first event became %s %s", first.ID, got)
	}
}

func FuzzEventDecode(f *testing.F) {
	for _, text := range decodings {
		f.Add([]byte(text))
	}
	for _, e := range events {
		f.Add(e.Append(nil))
	}
	f.Fuzz(checkDecode)
}

func FuzzEventAppend(f *testing.F) {
	f.Add("j1", uint64(1), 1, "delta", int64(5), "w", `[{}]`, "reason", 1.5, true)
	f.Fuzz(func(t *testing.T, id string, seq uint64, attempt int, kind string, ts int64, worker, choices, reason string, ms float64, all bool) {
		e := schemas.Event{ID: id, Seq: seq, Attempt: attempt, Kind: schemas.Kind(kind), TS: ts, Worker: worker, Source: reason, ServedBy: worker, Kept: attempt, Reason: reason, Handback: all}
		if all {
			e.Usage = &schemas.Usage{PromptTokens: attempt, TotalTokens: attempt}
			if !math.IsNaN(ms) && !math.IsInf(ms, 0) {
				e.Timings = &schemas.Timings{Queue: ms, Total: -ms}
			}
			e.Error = &schemas.Error{Code: schemas.Code(kind), Message: reason, Param: worker, Retryable: all, HTTPStatus: attempt}
		}
		if got, want := string(e.Append(nil)), slowly(t, &e); got != want {
			t.Errorf("Append = %s\nwant     %s", got, want)
		}
		if json.Valid([]byte(choices)) {
			e.Choices = json.RawMessage(choices)
			checkDecode(t, e.Append(nil))
		}
	})
}

func TestKinds(t *testing.T) {
	t.Parallel()
	var terminal, opening []schemas.Kind
	for _, k := range []schemas.Kind{
		schemas.Accepted, schemas.Started, schemas.DeltaKind, schemas.Interrupted, schemas.Resumed, schemas.Restarted,
		schemas.UsageKind, schemas.Done, schemas.Failed, schemas.Cancelled, schemas.Expired,
	} {
		if k.Terminal() {
			terminal = append(terminal, k)
		}
		if k.Opens() {
			opening = append(opening, k)
		}
	}
	if diff := cmp.Diff([]schemas.Kind{schemas.Done, schemas.Failed, schemas.Cancelled, schemas.Expired}, terminal); diff != "" {
		t.Errorf("terminal (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]schemas.Kind{schemas.Started, schemas.Resumed, schemas.Restarted}, opening); diff != "" {
		t.Errorf("opening (-want +got):\n%s", diff)
	}
	for status, want := range map[schemas.Status]schemas.Kind{
		schemas.StatusCompleted: schemas.Done, schemas.StatusFailed: schemas.Failed,
		schemas.StatusCancelled: schemas.Cancelled, schemas.StatusExpired: schemas.Expired,
	} {
		if got := status.Kind(); got != want {
			t.Errorf("%s.Kind() = %s, want %s", status, got, want)
		}
	}
	e := schemas.Event{TS: micros}
	if got := e.Time(); !got.Equal(at.Truncate(time.Microsecond)) {
		t.Errorf("Time() = %s, want %s", got, at)
	}
}

func TestEventCodecAllocations(t *testing.T) {
	// Not parallel: AllocsPerRun counts for the whole process.
	e, buf := events["delta"], make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = e.Append(buf[:0]) }); n != 0 {
		t.Errorf("Append allocates %v times, want never", n)
	}
	var into schemas.Event
	if n := testing.AllocsPerRun(100, func() { _ = into.Decode(buf) }); n > 1 {
		t.Errorf("Decode into an event of the same job allocates %v times, want once, for the choices", n)
	}
}

var benchEvent = schemas.Event{
	ID: "0199d2c8-b8f0-7c9e-8a51-0c", Seq: 42, Attempt: 1, Kind: schemas.DeltaKind, TS: 1767366245000200,
	Choices: json.RawMessage(`[{"index":0,"delta":{"content":" seventeen chars!"},"token_ids":[15043]}]`),
}

func BenchmarkEventAppend(b *testing.B) {
	buf := benchEvent.Append(nil)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = benchEvent.Append(buf[:0])
	}
}

func BenchmarkEventDecode(b *testing.B) {
	data := benchEvent.Append(nil)
	var e schemas.Event
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
