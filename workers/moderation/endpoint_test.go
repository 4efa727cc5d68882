package moderation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// serve answers every request with f and counts them.
func serve(t *testing.T, f func(w http.ResponseWriter, body map[string]any)) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if got := r.Header.Get("Authorization"); got != "" && got != "Bearer k" {
			t.Errorf("Authorization = %q", got)
		}
		data, err := io.ReadAll(r.Body)
		var body map[string]any
		if err != nil || json.Unmarshal(data, &body) != nil {
			t.Errorf("request %s: %v", data, err)
		}
		f(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

// endpoint is a policy that does nothing but ask.
func endpoint(e moderation.Endpoint) moderation.Config {
	return moderation.Config{Endpoint: &e}
}

// rule says what is ruled on one text of a request.
func rule(t *testing.T, p workers.ModerationPolicy, text string) (categories string, r workers.Ruling) {
	t.Helper()
	r = p.Input(t.Context(), []string{text})[0]
	var names []string
	for _, f := range r.Findings {
		names = append(names, f.Category)
	}
	return strings.Join(names, " "), r
}

func TestOpenAIModerations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		results    string
		thresholds map[string]float64
		want       string
	}{
		"not flagged":     {`[{"flagged":false,"categories":{"violence":false}}]`, nil, ""},
		"flagged":         {`[{"flagged":true,"categories":{"violence":true,"hate":true,"sexual":false}}]`, nil, "hate hurt"},
		"no categories":   {`[{"flagged":true}]`, nil, "flagged"},
		"above":           {`[{"flagged":false,"categories":{"hate":false},"category_scores":{"hate":0.4}}]`, map[string]float64{"hate": 0.4}, "hate"},
		"below":           {`[{"flagged":true,"categories":{"hate":true},"category_scores":{"hate":0.6}}]`, map[string]float64{"hate": 0.7}, ""},
		"of two":          {`[{"flagged":false},{"flagged":true,"categories":{"self-harm/intent":true}}]`, nil, "self-harm/intent"},
		"without a score": {`[{"flagged":true,"categories":{"hate":true}}]`, map[string]float64{"hate": 0.9}, "hate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, func(w http.ResponseWriter, body map[string]any) {
				if diff := cmp.Diff(map[string]any{"model": "omni-moderation-latest", "input": "some text"}, body); diff != "" {
					t.Errorf("request (-want +got):\n%s", diff)
				}
				_, _ = io.WriteString(w, `{"id":"m","results":`+c.results+`}`)
			})
			p := policy(t, endpoint(moderation.Endpoint{URL: url, APIKey: "k", Thresholds: c.thresholds, Categories: map[string]string{"violence": "hurt"}}))
			got, r := rule(t, p, "some text")
			if got != c.want || r.Blocked != (c.want != "") || r.Unchecked != nil {
				t.Errorf("ruling = %+v, want %q", r, c.want)
			}
		})
	}
}

func TestGuardModel(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"safe": "", "\n\nsafe\n": "", "unsafe\nS1,S9": "violent_crimes S9", "unsafe\nS1, S9\n": "violent_crimes S9", "unsafe": "unsafe", "Unsafe\n" + strings.Repeat("the text ", 9): "unsafe",
	} {
		url, _ := serve(t, func(w http.ResponseWriter, body map[string]any) {
			want := map[string]any{"model": "guard", "temperature": 0.0, "max_tokens": 20.0, "messages": []any{map[string]any{"role": "user", "content": "some text"}}}
			if diff := cmp.Diff(want, body); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]any{"content": said}}}})
		})
		p := policy(t, endpoint(moderation.Endpoint{URL: url, Kind: moderation.KindGuard, Model: "guard", Categories: map[string]string{"S1": "violent_crimes"}}))
		if got, r := rule(t, p, "some text"); got != want || r.Blocked != (want != "") || r.Unchecked != nil {
			t.Errorf("%q: %+v, want %q", said, r, want)
		}
	}
}

// TestGuardSeesAReplyBehindItsPrompt as the template of such models wants it.
func TestGuardSeesAReplyBehindItsPrompt(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, func(w http.ResponseWriter, body map[string]any) {
		want := []any{map[string]any{"role": "user", "content": "how?"}, map[string]any{"role": "assistant", "content": "like this"}}
		if diff := cmp.Diff(want, body["messages"]); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"safe"}}]}`)
	})
	p := policy(t, endpoint(moderation.Endpoint{URL: url, Kind: moderation.KindGuard, Model: "guard"}))
	moved := make(chan struct{}, 1)
	check := p.Output(t.Context(), "how?", func() { moved <- struct{}{} })
	defer check.Stop()
	text := check.Text("")
	text.Write([]byte("like this"))
	text.Close()
	<-moved
	if r := text.Ruling(); r.Settled != 9 || r.Blocked {
		t.Errorf("ruling = %+v", r)
	}
}

// TestAnswersThatAreNone are told without a word of the text, the key or the address.
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		kind   moderation.Kind
		asked  int64
		want   string
	}{
		"refused":    {func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }, "", 1, "1 tries: status 401"},
		"overloaded": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, "", 3, "3 tries: try again: status 429"},
		"broken":     {func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, "", 3, "status 502"},
		"redirect": {func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		}, "", 1, "status 302"},
		"no JSON":    {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "some text") }, "", 1, "not of the form"},
		"no results": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") }, "", 1, "no results"},
		"endless":    {func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat(" ", 2<<20)) }, "", 1, "longer than 1048576 bytes"},
		"cut off":    {func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); _, _ = io.WriteString(w, "{") }, "", 3, "read the answer"},
		"no choices": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") }, moderation.KindGuard, 1, "no choices"},
		"no judgement": {func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"some text"}}]}`)
		}, moderation.KindGuard, 1, "neither safe nor unsafe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, asked := serve(t, func(w http.ResponseWriter, _ map[string]any) { c.answer(w) })
			cfg := endpoint(moderation.Endpoint{URL: url + "/?key=k", Kind: c.kind, Model: "m", APIKey: "k"})
			_, r := rule(t, policy(t, cfg), "some text")
			if r.Unchecked == nil || !r.Blocked || !strings.Contains(r.Unchecked.Error(), c.want) || asked.Load() != c.asked {
				t.Errorf("after %d requests %v (blocked: %v), want %d and %q", asked.Load(), r.Unchecked, r.Blocked, c.asked, c.want)
			}
			for _, secret := range []string{"some text", "key", "127.0.0.1"} {
				if r.Unchecked != nil && strings.Contains(r.Unchecked.Error(), secret) {
					t.Errorf("error %q holds %q", r.Unchecked, secret)
				}
			}
			cfg.FailOpen = true
			if _, r := rule(t, policy(t, cfg), "some text"); r.Unchecked == nil || r.Blocked {
				t.Errorf("failing open: %+v", r)
			}
		})
	}
}

// TestRetryThatHelps, and one that is given up because nobody waits.
func TestRetryThatHelps(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	url, _ := serve(t, func(w http.ResponseWriter, _ map[string]any) {
		if n.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"results":[{"flagged":false}]}`)
	})
	p := policy(t, endpoint(moderation.Endpoint{URL: url}))
	if _, r := rule(t, p, "x"); r.Unchecked != nil || n.Load() != 2 {
		t.Errorf("after %d requests: %v", n.Load(), r.Unchecked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := policy(t, endpoint(moderation.Endpoint{URL: "http://127.0.0.1:1/", Retries: 10}))
	time.AfterFunc(10*time.Millisecond, cancel)
	if r := gone.Input(ctx, []string{"x"})[0]; r.Unchecked == nil {
		t.Error("no error of a cancelled check")
	}
	if r := policy(t, moderation.Config{}).Input(ctx, []string{"x"})[0]; !errors.Is(r.Unchecked, context.Canceled) {
		t.Errorf("error = %v, want that nobody waits for it", r.Unchecked)
	}
}

// TestSlowEndpoint is given up after its timeout.
func TestSlowEndpoint(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-gone }))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(gone) })
	p := policy(t, endpoint(moderation.Endpoint{URL: srv.URL, Timeout: 20 * time.Millisecond, Retries: 1}))
	if _, r := rule(t, p, "x"); r.Unchecked == nil || !strings.Contains(r.Unchecked.Error(), "2 tries") {
		t.Errorf("error = %v, want that it took too long, twice", r.Unchecked)
	}
}

// flagging is an endpoint that flags texts with a word, and collects what it was asked.
func flagging(t *testing.T, word string) (url string, seen func() []string) {
	t.Helper()
	asked := make(chan string, 1000)
	url, _ = serve(t, func(w http.ResponseWriter, body map[string]any) {
		text, _ := body["input"].(string)
		asked <- text
		_, _ = fmt.Fprintf(w, `{"results":[{"flagged":%t}]}`, strings.Contains(text, word))
	})
	return url, func() []string {
		var out []string
		for {
			select {
			case text := <-asked:
				out = append(out, text)
			default:
				return out
			}
		}
	}
}

// TestEndpointSeesPiecesThatOverlap, masked, and every byte of the text.
func TestEndpointSeesPiecesThatOverlap(t *testing.T) {
	t.Parallel()
	url, seen := flagging(t, "murder")
	cfg := endpoint(moderation.Endpoint{URL: url, Chunk: 20, Overlap: 10})
	cfg.Rules.Personal = []string{"email"}
	p := policy(t, cfg)
	text := strings.Repeat("Peaceful wörds for a@b.example. ", 6)
	want := strings.ReplaceAll(text, "a@b.example", "[EMAIL]")
	got := stream(t, p, "Before. ", bytesOf(text)...)
	if got.Text != want || got.Blocked {
		t.Errorf("text = %q, want %q", got.Text, want)
	}
	pieces := seen()
	if !strings.HasPrefix(pieces[0], "Before. Peaceful") {
		t.Errorf("the first piece is %q, want it behind what was sent", pieces[0])
	}
	rest := "Before. " + want
	for _, piece := range pieces {
		if strings.Contains(piece, "@") || strings.ToValidUTF8(piece, "") != piece {
			t.Errorf("the endpoint saw %q", piece)
		}
		at := strings.Index("Before. "+want, piece)
		if at < 0 {
			t.Fatalf("%q is no part of the text", piece)
		}
		after := strings.LastIndex("Before. "+want, rest) // where the unseen begins
		if end := lastEnd("Before. "+want, piece, after); end > after {
			rest = ("Before. " + want)[end:]
		}
	}
	if rest != "" {
		t.Errorf("the endpoint has not seen %q", rest)
	}
	if got := stream(t, p, "", "A peaceful beginning. And then mur", "der."); !got.Blocked || strings.Contains(got.Text, "mur") || got.Found != "flagged" {
		t.Errorf("%+v, want the word over two pieces to be found", got)
	}
}

// lastEnd is the end of the occurrence of piece that goes on from an offset.
func lastEnd(text, piece string, from int) int {
	for at := max(0, from-len(piece)); at+len(piece) <= len(text); at++ {
		if at <= from && text[at:at+len(piece)] == piece && at+len(piece) > from {
			return at + len(piece)
		}
	}
	return 0
}

// TestLongInput is asked about in pieces, all texts together, and only if the rules let them through.
func TestLongInput(t *testing.T) {
	t.Parallel()
	url, seen := flagging(t, "murder")
	cfg := endpoint(moderation.Endpoint{URL: url, Overlap: 10})
	cfg.Rules.Phrases, cfg.Rules.Personal = []string{"forbidden"}, []string{"email"}
	p := policy(t, cfg)
	long := strings.Repeat("é", 16<<10)
	r := p.Input(t.Context(), []string{"first a@b.example", long + " mur" + "der", "last"})
	if !r[2].Blocked || r[0].Blocked || len(r[0].Edits) != 1 {
		t.Errorf("rulings = %+v", r)
	}
	pieces := seen()
	if n := len(pieces); n != 3 || !strings.HasPrefix(pieces[0], "first [EMAIL]\n\n") {
		t.Errorf("%d pieces, the first of them %.30q", n, pieces[0])
	}
	for _, piece := range pieces {
		if len(piece) > 16<<10+10 || strings.ToValidUTF8(piece, "") != piece {
			t.Errorf("a piece of %d bytes", len(piece))
		}
	}
	if r := p.Input(t.Context(), []string{"forbidden"}); !r[0].Blocked || len(seen()) != 0 {
		t.Errorf("ruling = %+v, want the endpoint not to be asked", r[0])
	}
	if r := p.Input(t.Context(), nil); len(r) != 0 || len(seen()) != 0 {
		t.Errorf("rulings on nothing: %+v", r)
	}
}

// TestStoppedReplyAsksNoMore and gives up what is under way.
func TestStoppedReplyAsksNoMore(t *testing.T) {
	t.Parallel()
	arrived, gone := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
		close(gone)
	}))
	t.Cleanup(srv.Close)
	p := policy(t, endpoint(moderation.Endpoint{URL: srv.URL, Chunk: 4}))
	check := p.Output(t.Context(), "", func() { t.Error("a check that was stopped has come to something") })
	text := check.Text("")
	text.Write([]byte("some text"))
	<-arrived
	check.Stop()
	<-gone
	text.Write([]byte("and more"))
	text.Close()
	if r := text.Ruling(); r.Settled != 0 || r.Blocked {
		t.Errorf("ruling = %+v", r)
	}
}
