package vllm_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// tokenServer sends a reply of so many tokens in one write, so that what is measured is the reader.
func tokenServer(tb testing.TB, tokens int) (url string) {
	tb.Helper()
	var body strings.Builder
	for i := range tokens {
		fmt.Fprintf(&body, "data: %s\n\n", text(0, " token", "", i))
	}
	fmt.Fprintf(&body, "data: %s\n\ndata: %s\n\ndata: [DONE]\n\n", text(0, "", "length"), usage)
	reply := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s", body.Len(), body.String())
	url, _ = raw(tb, func(conn net.Conn, _, _ int) bool {
		_, err := conn.Write(reply)
		return err == nil
	})
	return url
}

func generateAll(tb testing.TB, e *vllm.Engine, tokens int) {
	tb.Helper()
	got := 0
	for d, err := range e.Generate(tb.Context(), completion(`{"prompt":"x"}`)) {
		if err != nil {
			tb.Fatal(err)
		}
		got += d.Tokens
	}
	if got != tokens {
		tb.Fatalf("%d tokens, want %d", got, tokens)
	}
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// A longer reply costs no more garbage than a short one. Not parallel: it counts the allocations of the process.
func TestTokensMakeNoGarbage(t *testing.T) {
	perRun := func(tokens int) float64 {
		e := newEngine(t, tokenServer(t, tokens), vllm.Config{})
		generateAll(t, e, tokens)
		return testing.AllocsPerRun(5, func() { generateAll(t, e, tokens) })
	}
	const short, long = 50, 2050
	if perToken := (perRun(long) - perRun(short)) / (long - short); perToken > 0.1 {
		t.Errorf("%.2f allocations for each token, want none", perToken)
	}
}

func BenchmarkGenerate(b *testing.B) {
	const tokens = 512
	e := newEngine(b, tokenServer(b, tokens), vllm.Config{})
	generateAll(b, e, tokens)
	b.ReportAllocs()
	before := mallocs()
	for b.Loop() {
		generateAll(b, e, tokens)
	}
	total := float64(b.N) * tokens
	b.ReportMetric(float64(mallocs()-before)/total, "allocs/token")
	b.ReportMetric(total/b.Elapsed().Seconds(), "tokens/s")
}
