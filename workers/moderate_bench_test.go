package workers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// BenchmarkModeratedTokens is the rate of tokens as in BenchmarkTokens, without a policy and with ever more
// to look for, and the mean time for which a delta was held.
func BenchmarkModeratedTokens(b *testing.B) {
	const streams, tokens = 16, 200
	list := make([]string, 5000)
	for i := range list {
		list[i] = fmt.Sprintf("forbidden phrase number %d", i)
	}
	for _, c := range []struct {
		name string
		cfg  *moderation.Config
	}{
		{"none", nil},
		{"phrases=5000", &moderation.Config{Rules: moderation.Rules{Phrases: list, WholeWords: true}}},
		{"pii", &moderation.Config{Rules: moderation.Rules{Personal: moderation.Personal()}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			br := newBroker(b, queue.Config{})
			_, engine := simulate(b, vllmsim.Config{})
			cfg := workers.Config{}
			if c.cfg != nil {
				cfg = moderated(b, *c.cfg)
			}
			s := br.run(engine, cfg)
			events := br.collect()
			body := json.RawMessage(chat("bench", tokens))
			b.ReportAllocs()
			for b.Loop() {
				for range streams {
					br.submit(schemas.Job{Stream: true, Body: body})
				}
				for ended := 0; ended < streams; {
					if e := <-events; e.Kind.Terminal() {
						ended++
					}
				}
			}
			b.ReportMetric(float64(b.N*streams*tokens)/b.Elapsed().Seconds(), "tokens/s")
			var sum, count float64
			for line := range strings.Lines(scrape(b, s)) {
				if v, ok := strings.CutPrefix(line, `hxp_moderation_seconds_sum{stage="output"} `); ok {
					_, _ = fmt.Sscan(v, &sum)
				}
				if v, ok := strings.CutPrefix(line, `hxp_moderation_seconds_count{stage="output"} `); ok {
					_, _ = fmt.Sscan(v, &count)
				}
			}
			if count > 0 {
				b.ReportMetric(sum/count*1e6, "µs-held/delta")
			}
		})
	}
}
