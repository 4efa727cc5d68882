package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// dictation is an engine that streams the chunks it was given, each a list of choices.
type dictation struct {
	*script
	chunks atomic.Pointer[[]string]
}

func (d *dictation) Generate(context.Context, *workers.Request) iter.Seq2[workers.Delta, error] {
	chunks := *d.chunks.Load()
	return func(yield func(workers.Delta, error) bool) {
		var buf []byte // reused, as an engine does
		for _, c := range chunks {
			buf = append(buf[:0], c...)
			parts, err := openai.ParseChoices([]byte("["+c+"]"), nil)
			if err != nil {
				panic(err)
			}
			if !yield(workers.Delta{Choices: buf, Parts: parts, Tokens: len(parts)}, nil) {
				return
			}
			for i := range buf {
				buf[i] = '!'
			}
		}
	}
}

// TestShownIsWhatTheWholeTextAllows streams random texts of two choices in random pieces, several to a chunk:
// what is sent and kept is what one gets who sees each text as a whole.
func TestShownIsWhatTheWholeTextAllows(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	alphabet := []string{"a", "b", "c", " ", "é", "@", "d"}
	mask, block := regexp.MustCompile(`ab+c?|@d+`), regexp.MustCompile(`[dc]é`)
	mask.Longest()
	b := newBroker(t, queue.Config{})
	engine := &dictation{script: says()}
	cfg := moderated(t, moderation.Config{Rules: moderation.Rules{Expressions: map[string]moderation.Expression{
		"m": {Pattern: mask.String(), Mask: true, Replacement: "<>"}, "x": {Pattern: block.String()},
	}}})
	cfg.Coalesce = 200 * time.Microsecond
	b.run(engine, cfg)
	blockedJobs := 0
	for range 150 {
		texts := [2]string{}
		var queued [2][]string
		for i := range texts {
			for range 1 + r.IntN(25) {
				texts[i] += alphabet[r.IntN(len(alphabet))]
			}
			runes := []rune(texts[i])
			for len(runes) > 0 {
				n := 1 + r.IntN(min(4, len(runes)))
				queued[i], runes = append(queued[i], string(runes[:n])), runes[n:]
			}
		}
		var chunks []string
		for len(queued[0])+len(queued[1]) > 0 {
			var choices []string
			for range 1 + r.IntN(3) {
				i := r.IntN(2)
				if len(queued[i]) == 0 {
					continue
				}
				choices = append(choices, fmt.Sprintf(`{"index":%d,"delta":{"content":%q},"finish_reason":null,"token_ids":[%d]}`, i, queued[i][0], len(chunks)))
				queued[i] = queued[i][1:]
			}
			if len(choices) > 0 {
				chunks = append(chunks, strings.Join(choices, ","))
			}
		}
		chunks = append(chunks, `{"index":0,"delta":{},"finish_reason":"stop"},{"index":1,"delta":{},"finish_reason":"stop"}`)
		engine.chunks.Store(&chunks)

		l := b.listen(schemas.EventsOfClient(tenant, "c"))
		job := b.submit(schemas.Job{Stream: true, ReplyTo: "hxp.v1.events.acme.c", Body: json.RawMessage(`{"messages":[{"role":"user","content":"x"}],"n":2}`)})
		var sent [2]string
		for _, e := range l.end(1) {
			parts, err := openai.ParseChoices(e.Choices, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				sent[p.Index] += string(p.Text)
			}
		}
		result := b.result(job)
		var kept []struct {
			Index   int
			Message struct{ Content string }
		}
		if err := json.Unmarshal(result.Choices, &kept); err != nil {
			t.Fatal(err)
		}
		for _, c := range kept {
			if c.Message.Content != sent[c.Index] {
				t.Fatalf("kept %q and sent %q of %q", c.Message.Content, sent[c.Index], chunks)
			}
		}
		blocked := slices.ContainsFunc(texts[:], block.MatchString)
		if blocked {
			blockedJobs++
		}
		if (result.Error != nil) != blocked {
			t.Fatalf("%s (%v), blocked should be %v: %q", result.Status, result.Error, blocked, chunks)
		}
		for i, text := range texts {
			allowed := text
			if at := block.FindStringIndex(text); at != nil {
				allowed = text[:at[0]]
			}
			want := mask.ReplaceAllString(text, "<>")
			if !blocked && sent[i] != want || blocked && !strings.HasPrefix(mask.ReplaceAllString(allowed, "<>"), sent[i]) && !strings.HasPrefix(want, sent[i]) {
				t.Fatalf("choice %d: sent %q of %q, want %q: %q", i, sent[i], text, want, chunks)
			}
		}
	}
	if blockedJobs < 10 || blockedJobs > 140 {
		t.Errorf("%d of 150 replies were blocked; the test says little", blockedJobs)
	}
}
