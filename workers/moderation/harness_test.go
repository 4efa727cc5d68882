package moderation_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policy makes one policy ready.
func policy(t testing.TB, cfg moderation.Config) workers.ModerationPolicy {
	t.Helper()
	m, err := moderation.New(map[string]moderation.Config{"p": cfg}, moderation.Assignment{Default: "p"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m.Policy("phi3", "acme")
}

// shown is what of a text may be seen.
type shown struct {
	Text    string
	Blocked bool
	Found   string // categories, in order
}

// stream shows pieces to a policy as a reply, after a text that was sent before, and collects what it
// lets through on the way.
func stream(t testing.TB, p workers.ModerationPolicy, before string, pieces ...string) shown {
	t.Helper()
	moved := make(chan struct{}, 1)
	check := p.Output(t.Context(), "", func() {
		select {
		case moved <- struct{}{}:
		default:
		}
	})
	defer check.Stop()
	text := check.Text(before)
	var all, out strings.Builder
	var found []string
	pos := 0
	take := func() workers.Ruling {
		r := text.Ruling()
		for _, e := range r.Edits {
			if e.From < pos || e.To > r.Settled {
				t.Fatalf("edit %+v is not between %d, where the last ended, and %d", e, pos, r.Settled)
			}
			out.WriteString(all.String()[pos:e.From] + e.Text)
			pos = e.To
		}
		if r.Settled < pos || r.Settled > all.Len() {
			t.Fatalf("settled up to %d of %d after %d", r.Settled, all.Len(), pos)
		}
		out.WriteString(all.String()[pos:r.Settled])
		pos = r.Settled
		for _, f := range r.Findings {
			found = append(found, f.Category)
		}
		return r
	}
	var last workers.Ruling
	for _, piece := range pieces {
		all.WriteString(piece)
		text.Write([]byte(piece))
		if last = take(); last.Blocked {
			return shown{out.String(), true, strings.Join(found, " ")}
		}
	}
	for text.Close(); ; <-moved {
		if last = take(); last.Blocked || last.Settled == all.Len() {
			return shown{out.String(), last.Blocked, strings.Join(found, " ")}
		}
	}
}

// split cuts a text into pieces at random bytes.
func split(r *rand.Rand, text string) []string {
	var out []string
	for len(text) > 0 {
		n := 1 + r.IntN(min(len(text), 1+r.IntN(12)))
		out, text = append(out, text[:n]), text[n:]
	}
	return out
}

func bytesOf(text string) []string {
	out := make([]string, len(text))
	for i := range len(text) {
		out[i] = text[i : i+1]
	}
	return out
}
