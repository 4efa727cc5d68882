package sse_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/sse"
)

func TestAppendSplitsLines(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":            "data: \n\n",
		"a":           "data: a\n\n",
		"a\nb":        "data: a\ndata: b\n\n",
		"a\r\nb\rc\n": "data: a\ndata: b\ndata: c\ndata: \n\n",
	} {
		if got := string(sse.Append([]byte(">"), []byte(in))); got != ">"+want {
			t.Errorf("Append(%q) = %q, want %q", in, got, ">"+want)
		}
	}
}

func TestWriterSendsAtOnce(t *testing.T) {
	t.Parallel()
	read := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := sse.NewWriter(w)
		steps := []func() error{
			func() error { return sw.Frames(nil) },
			func() error { return sw.Comment("still\nhere") },
			func() error { return sw.Data([]byte("one")) },
			func() error { return sw.Frames(sse.Append(sse.Append(nil, []byte("two")), []byte("three"))) },
		}
		for _, step := range steps {
			if err := step(); err != nil {
				t.Error(err)
			}
			select {
			case <-read: // nothing more until the client has seen this
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("Content-Type = %q", got)
	}
	read <- struct{}{}
	comment := make([]byte, len(": still here\n\n"))
	if _, err := io.ReadFull(resp.Body, comment); err != nil || string(comment) != ": still here\n\n" {
		t.Errorf("comment = %q, %v", comment, err)
	}
	read <- struct{}{}
	r := sse.NewReader(resp.Body, 100)
	var got []string
	for range 3 {
		data, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(data))
		if len(got) != 2 {
			read <- struct{}{}
		}
	}
	if d := cmp.Diff([]string{"one", "two", "three"}, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("end = %v, want EOF", err)
	}
}

// deaf is a ResponseWriter that can fail and cannot flush.
type deaf struct{ err error }

func (deaf) Header() http.Header           { return http.Header{} }
func (deaf) WriteHeader(int)               {}
func (d deaf) Write(b []byte) (int, error) { return len(b), d.err }

func TestWriterReturnsErrors(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	if err := sse.NewWriter(deaf{boom}).Data([]byte("x")); !errors.Is(err, boom) {
		t.Errorf("error = %v, want %v", err, boom)
	}
	if err := sse.NewWriter(deaf{}).Data([]byte("x")); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("error = %v, want %v: events must not stay in a buffer unseen", err, http.ErrNotSupported)
	}
}

func BenchmarkAppend(b *testing.B) {
	data := []byte(strings.Repeat("x", 180))
	var buf []byte
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		buf = sse.Append(buf[:0], data)
	}
}
