package sse_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/sse"
)

// all reads every event of a stream, with the error that ended it.
func all(r io.Reader, max int) ([]string, error) {
	var out []string
	sr := sse.NewReader(r, max)
	for {
		data, err := sr.Next()
		if err != nil {
			return out, err
		}
		out = append(out, string(data))
	}
}

func TestReaderFindsEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		want []string
		err  error
	}{
		"empty":                {"", nil, io.EOF},
		"one":                  {"data: a\n\n", []string{"a"}, io.EOF},
		"two":                  {"data: a\n\ndata: b\n\n", []string{"a", "b"}, io.EOF},
		"crlf":                 {"data: a\r\n\r\ndata: b\r\n\r\n", []string{"a", "b"}, io.EOF},
		"cr":                   {"data: a\r\rdata: b\r\r", []string{"a", "b"}, io.EOF},
		"no space":             {"data:a\n\n", []string{"a"}, io.EOF},
		"second space is kept": {"data:  a\n\n", []string{" a"}, io.EOF},
		"bare data":            {"data\n\n", []string{""}, io.EOF},
		"lines are joined":     {"data: a\ndata: b\ndata:\n\n", []string{"a\nb\n"}, io.EOF},
		"comments":             {": hi\n\n: hi\ndata: a\n: x\n\n", []string{"a"}, io.EOF},
		"other fields":         {"event: e\nid: 1\nretry: 5\ndata: a\ndatum: x\ndataset\n\n", []string{"a"}, io.EOF},
		"event without data":   {"event: e\n\ndata: a\n\n", []string{"a"}, io.EOF},
		"byte order mark":      {"\ufeffdata: a\n\n", []string{"a"}, io.EOF},
		"mark only at first":   {"data: a\n\n\ufeffdata: b\n\n", []string{"a"}, io.EOF},
		"utf-8":                {"data: café 東京\n\n", []string{"café 東京"}, io.EOF},
		"blank lines":          {"\n\n\ndata: a\n\n\n\n", []string{"a"}, io.EOF},
		"cut in data":          {"data: a\n\ndata: b", []string{"a"}, io.ErrUnexpectedEOF},
		"cut before the blank": {"data: a\n", nil, io.ErrUnexpectedEOF},
		"cut in other field":   {"event: a\n", nil, io.ErrUnexpectedEOF},
		"cut in comment":       {": a", nil, io.ErrUnexpectedEOF},
		"cut after comment":    {": a\n", nil, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, r := range map[string]io.Reader{
				"at once":     strings.NewReader(c.in),
				"by byte":     iotest.OneByteReader(strings.NewReader(c.in)),
				"eof in read": iotest.DataErrReader(strings.NewReader(c.in)),
			} {
				got, err := all(r, 100)
				if !errors.Is(err, c.err) {
					t.Errorf("%s: error = %v, want %v", how, err, c.err)
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Errorf("%s: events (-want +got):\n%s", how, d)
				}
			}
		})
	}
}

func TestReaderBoundsAnEvent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	if got, err := all(strings.NewReader("data: "+long+"\n\n"), len(long)); len(got) != 1 || got[0] != long || err != io.EOF {
		t.Errorf("an event of exactly the bound: %d events, error %v", len(got), err)
	}
	for name, in := range map[string]string{
		"one line":   "data: " + long + "x\n\n",
		"many lines": strings.Repeat("data: xxx\n", len(long)/4+1) + "\n",
		"no end":     "data: " + strings.Repeat(long, 3),
		"not data":   "event: " + strings.Repeat(long, 3),
	} {
		r := sse.NewReader(iotest.HalfReader(strings.NewReader(in)), len(long))
		_, err := r.Next()
		if !errors.Is(err, sse.ErrTooLarge) || !strings.Contains(err.Error(), "10000 bytes") {
			t.Errorf("%s: error = %v, want ErrTooLarge with the bound", name, err)
		}
		if _, again := r.Next(); again != err {
			t.Errorf("%s: second error = %v, want the first again", name, again)
		}
	}
	if got, err := all(strings.NewReader(strings.Repeat("data: 12345678\n\n", 5000)), 8); len(got) != 5000 || err != io.EOF {
		t.Errorf("a long stream of short events: %d events, error %v", len(got), err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestReaderPassesErrorsOn(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	got, err := all(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(boom)), 100)
	if err != boom || len(got) != 1 {
		t.Errorf("events %q, error %v; want one event and the reader's error", got, err)
	}
	if _, err := all(stuck{}, 100); err != io.ErrNoProgress {
		t.Errorf("error = %v, want %v", err, io.ErrNoProgress)
	}
}

func TestReaderDoesNotAllocate(t *testing.T) {
	stream := bytes.Repeat([]byte("data: {\"a\":1}\n\n"), 4000)
	r := sse.NewReader(bytes.NewReader(stream), 1000)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(3000, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per event, want 0", n)
	}
}

// FuzzReader holds that what is read does not depend on how the bytes arrive, keeps its bound, and
// survives being written and read again.
func FuzzReader(f *testing.F) {
	f.Add([]byte("data: a\r\n\r\n: c\ndata: b\rdata: c\r\r"))
	f.Add([]byte("\ufeffdata: x\nevent: y\n\ndata"))
	f.Fuzz(func(t *testing.T, in []byte) {
		const bound = 200
		want, wantErr := all(bytes.NewReader(in), bound)
		got, gotErr := all(iotest.OneByteReader(bytes.NewReader(in)), bound)
		if d := cmp.Diff(want, got); d != "" || (wantErr == nil) != (gotErr == nil) || fmt.Sprint(wantErr) != fmt.Sprint(gotErr) {
			t.Fatalf("at once %v, by byte %v:\n%s", wantErr, gotErr, d)
		}
		var stream []byte
		for _, data := range want {
			if len(data) > bound {
				t.Fatalf("an event of %d bytes, bound %d", len(data), bound)
			}
			stream = sse.Append(stream, []byte(data))
		}
		again, err := all(bytes.NewReader(stream), bound)
		if d := cmp.Diff(want, again); d != "" || err != io.EOF {
			t.Fatalf("written and read again, %v:\n%s", err, d)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	const events = 1000
	chunk := `{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":[311]}]}`
	stream := bytes.Repeat(sse.Append(nil, []byte(chunk)), events)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	src := bytes.NewReader(nil)
	for b.Loop() {
		src.Reset(stream)
		r := sse.NewReader(src, 1<<20)
		for range events {
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
}
