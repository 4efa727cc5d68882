package conversation_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hxp-enterprise/hxp/conversation"
)

// percentiles reports those of times, in milliseconds.
func percentiles(b *testing.B, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	at := func(p int) float64 { return float64(times[min(len(times)-1, len(times)*p/100)].Microseconds()) / 1000 }
	b.ReportMetric(at(50), "p50-ms")
	b.ReportMetric(at(99), "p99-ms")
}

// filled makes a session of n messages of about 450 bytes, two to a turn.
func filled(b *testing.B, e *env, n int) (ref conversation.Ref, head string) {
	b.Helper()
	ref = e.session(conversation.NewSession{ID: uuid.NewString()})
	for range n / 2 {
		head = e.add(ref, sized(head)).Turn
	}
	return ref, head
}

func sized(parent string) conversation.NewTurn {
	text := strings.Repeat("All work and no play. ", 18)
	return conversation.NewTurn{Job: uuid.NewString(), Parent: parent, Messages: []conversation.Message{
		conversation.Text("user", text), conversation.Text("assistant", text),
	}}
}

// sizes are the messages that a session has.
var sizes = []int{20, 200, 2000}

func BenchmarkAppend(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := open(b, realRedis, conversation.Config{MaxMessages: n})
			ref, head := filled(b, e, n)
			var times []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				head = e.add(ref, sized(head)).Turn
				times = append(times, time.Since(start))
			}
			percentiles(b, times)
		})
	}
}

// BenchmarkWindow reads the path for a window of 4,096 tokens and builds it.
func BenchmarkWindow(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := open(b, realRedis, conversation.Config{})
			ref, _ := filled(b, e, n)
			w := conversation.Window{MaxModelLen: 4096, MaxTokens: 512}
			var times []time.Duration
			shown := 0
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				path, err := e.Path(b.Context(), ref, w.Budget("", ""))
				if err != nil {
					b.Fatal(err)
				}
				prompt, err := w.Build(b.Context(), path, hello)
				if err != nil {
					b.Fatal(err)
				}
				shown = len(prompt.Messages)
				times = append(times, time.Since(start))
			}
			percentiles(b, times)
			b.ReportMetric(float64(shown), "messages-shown")
		})
	}
}

// BenchmarkMemory reports what a message costs in Redis.
func BenchmarkMemory(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := open(b, realRedis, conversation.Config{})
			ref, _ := filled(b, e, n)
			var bytes int64
			for b.Loop() {
				bytes = 0
				for _, key := range e.keys() {
					used, err := e.rdb.MemoryUsage(b.Context(), key, 0).Result()
					if err != nil {
						b.Fatal(err)
					}
					bytes += used
				}
			}
			s := e.get(ref)
			b.ReportMetric(float64(bytes)/float64(n), "B/message")
			b.ReportMetric(float64(s.Bytes)/float64(n), "B-body/message")
		})
	}
}

// BenchmarkPrefix reports how much of each prompt a prefix cache has from the turn before, over a conversation
// of four times the window: leaving out in steps against sliding with every turn.
func BenchmarkPrefix(b *testing.B) {
	for name, keep := range map[string]float64{"steps": 0.75, "sliding": 1} {
		b.Run(name, func(b *testing.B) {
			var cached, all int
			for b.Loop() {
				var before []json.RawMessage
				for n := 1; n <= 160; n++ {
					w := conversation.Window{MaxModelLen: 4096, MaxTokens: 512, Keep: keep}
					prompt, err := w.Build(b.Context(), line("Be brief.", same(n, 90)...), hello)
					if err != nil {
						b.Fatal(err)
					}
					for i, m := range prompt.Messages {
						if all += len(m); i < len(before) && bytes.Equal(before[i], m) {
							cached += len(m)
						} else {
							before = nil
						}
					}
					before = prompt.Messages
				}
			}
			b.ReportMetric(100*float64(cached)/float64(all), "%cached")
		})
	}
}
