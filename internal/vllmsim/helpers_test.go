package vllmsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/sse"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	completions = "/v1/completions"
	chat        = "/v1/chat/completions"
)

// obj is a JSON object.
type obj = map[string]any

// rig is a simulator behind a real HTTP server.
type rig struct {
	*vllmsim.Sim
	url    string
	client *http.Client
}

func newRig(t testing.TB, cfg vllmsim.Config) *rig {
	t.Helper()
	s, err := vllmsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return &rig{Sim: s, url: srv.URL, client: srv.Client()}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	if raw, ok := v.(string); ok {
		return []byte(raw)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// send makes a request; the body may be a string of JSON or anything that encodes to it.
func (r *rig) send(ctx context.Context, t testing.TB, method, path string, body any) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, bytes.NewReader(encode(t, body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	return r.client.Do(req)
}

// do makes a request and decodes the answer.
func (r *rig) do(t testing.TB, method, path string, body any) (int, obj) {
	t.Helper()
	resp, err := r.send(t.Context(), t, method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out obj
	if data, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	} else if len(data) > 0 {
		if err := json.Unmarshal(data, &out); err != nil {
			t.Fatalf("%s %s: %s: %v", method, path, data, err)
		}
	}
	return resp.StatusCode, out
}

type wireUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

type wireChoice struct {
	Index int    `json:"index"`
	Text  string `json:"text"`
	Delta struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"delta"`
	Message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"message"`
	FinishReason   *string `json:"finish_reason"`
	StopReason     any     `json:"stop_reason"`
	TokenIDs       []int   `json:"token_ids"`
	PromptTokenIDs []int   `json:"prompt_token_ids"`
}

type wireChunk struct {
	ID             string       `json:"id"`
	Object         string       `json:"object"`
	Model          string       `json:"model"`
	Choices        []wireChoice `json:"choices"`
	PromptTokenIDs []int        `json:"prompt_token_ids"`
	Usage          *wireUsage   `json:"usage"`
	Error          obj          `json:"error"`
}

// live is a stream under way.
type live struct {
	t    testing.TB
	resp *http.Response
	r    *sse.Reader
	raw  []string
}

// open starts a stream and fails the test if it is not one.
func (r *rig) open(ctx context.Context, t testing.TB, path string, body obj) *live {
	t.Helper()
	body["stream"] = true
	resp, err := r.send(ctx, t, http.MethodPost, path, body)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(resp.Body)
		t.Fatalf("status %d: %s", resp.StatusCode, data)
	}
	return &live{t: t, resp: resp, r: sse.NewReader(resp.Body, 1<<20)}
}

var errDone = errors.New("[DONE]")

// next returns the next chunk, errDone, or the error that the stream broke off with.
func (l *live) next() (wireChunk, error) {
	data, err := l.r.Next()
	if err != nil {
		return wireChunk{}, err
	}
	l.raw = append(l.raw, string(data))
	if string(data) == "[DONE]" {
		return wireChunk{}, errDone
	}
	var c wireChunk
	if err := json.Unmarshal(data, &c); err != nil {
		l.t.Fatalf("chunk %s: %v", data, err)
	}
	return c, nil
}

// result is a stream put together.
type result struct {
	choices map[int]*vllmsim.Completion
	chunks  []wireChunk
	raw     []string
	usage   *wireUsage
	fault   obj
	end     error // errDone or what broke the stream off
}

func (l *live) rest() *result {
	res := &result{choices: map[int]*vllmsim.Completion{}}
	for {
		c, err := l.next()
		if err != nil {
			res.end, res.raw = err, l.raw
			return res
		}
		res.chunks = append(res.chunks, c)
		if c.Error != nil {
			res.fault = c.Error
		}
		if len(c.Choices) == 0 && c.Usage != nil {
			res.usage = c.Usage
		}
		for _, ch := range c.Choices {
			got := res.choices[ch.Index]
			if got == nil {
				got = &vllmsim.Completion{Index: ch.Index}
				res.choices[ch.Index] = got
			}
			got.Text += ch.Text + ch.Delta.Content
			got.TokenIDs = append(got.TokenIDs, ch.TokenIDs...)
			got.PromptTokenIDs = append(append(got.PromptTokenIDs, ch.PromptTokenIDs...), c.PromptTokenIDs...)
			if ch.FinishReason != nil {
				got.FinishReason, got.StopReason = *ch.FinishReason, ch.StopReason
			}
		}
	}
}

func (r *rig) stream(t testing.TB, path string, body obj) *result {
	t.Helper()
	return r.open(t.Context(), t, path, body).rest()
}

// until waits for the counters to be as wanted.
func (r *rig) until(t testing.TB, what string, ok func(vllmsim.Stats) bool) vllmsim.Stats {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		st := r.Stats()
		if ok(st) {
			return st
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come: %+v", what, st)
		case <-time.After(time.Millisecond):
		}
	}
}

func message(role, content string) obj { return obj{"role": role, "content": content} }

func prompts(n int) []string {
	list := []string{"", "Hello", "Once upon a time", "What is a queue?", "The quiet fox", "caf", " caf", "naïve café \xc3", "line\n", "東京 ☕"}
	for i := len(list); i < n; i++ {
		list = append(list, fmt.Sprintf("Tell me story number %d about %s.", i, strings.Repeat("a token ", i%5)))
	}
	return list
}
