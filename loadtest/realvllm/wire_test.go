//go:build vllm && linux

package realvllm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hxp-enterprise/hxp/internal/sse"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

const (
	completions = "/v1/completions"
	chat        = "/v1/chat/completions"
)

// object is a JSON object of a request or an answer.
type object = map[string]any

// with returns a copy of o with more fields.
func with(o object, more ...object) object {
	out := maps.Clone(o)
	for _, fields := range more {
		maps.Copy(out, fields)
	}
	return out
}

// answer is what came back: a body, or the frames of a stream.
type answer struct {
	status int
	body   []byte
	frames []string
	broken error // how the stream broke off, if it did
}

// post sends a body and reads the whole answer. seen, if given, is told of every frame as it comes.
func post(ctx context.Context, url string, body any, seen func(n int)) (answer, error) {
	raw, ok := body.(string)
	if !ok {
		encoded, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		raw = string(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(raw))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		a.body, err = io.ReadAll(resp.Body)
		return a, err
	}
	frames := sse.NewReader(resp.Body, 1<<20)
	for {
		data, err := frames.Next()
		if err != nil {
			if err != io.EOF {
				a.broken = err
			}
			return a, nil
		}
		a.frames = append(a.frames, string(data))
		if seen != nil {
			seen(len(a.frames))
		}
	}
}

// ask is post for a request that must be answered.
func (e *engine) ask(t *testing.T, path string, body any) answer {
	t.Helper()
	a, err := post(t.Context(), e.url+path, body, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// answered is ask for a request that must succeed and whose answer is one JSON object.
func (e *engine) answered(t *testing.T, path string, body any, into any) {
	t.Helper()
	a := e.ask(t, path, body)
	if a.status != http.StatusOK {
		t.Fatalf("POST %s %v: %d %s", path, body, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("POST %s %v: %v in %s", path, body, err, a.body)
	}
}

// wireError is an error body.
type wireError struct {
	Error struct {
		Message string `json:"message"`
		Type    string `json:"type"`
		Param   any    `json:"param"`
		Code    int    `json:"code"`
	} `json:"error"`
}

// refused is ask for a request that must be refused with so a status and words.
func (e *engine) refused(t *testing.T, path string, body any, status int, words ...string) {
	t.Helper()
	a := e.ask(t, path, body)
	var w wireError
	if err := json.Unmarshal(a.body, &w); err != nil || a.status != status || w.Error.Code != status {
		t.Errorf("POST %s: %d %s, want %d and an error that says so", path, a.status, a.body, status)
		return
	}
	for _, word := range words {
		if !strings.Contains(w.Error.Message, word) {
			t.Errorf("POST %s: %q, want %q in it", path, w.Error.Message, word)
		}
	}
}

// reply is what one choice of a stream came to.
type reply struct {
	text   []byte
	ids    []int
	finish string
	stop   string // raw
}

// streamed reads the frames of a stream by choice.
type streamed struct {
	choices map[int]*reply
	prompt  []int
	usage   *schemas.Usage
	done    bool
	errors  []string
}

func readStream(frames []string) (streamed, error) {
	s := streamed{choices: map[int]*reply{}}
	for _, f := range frames {
		if f == "[DONE]" {
			s.done = true
			continue
		}
		var c openai.Chunk
		if err := openai.ParseChunk([]byte(f), &c); err != nil {
			return s, fmt.Errorf("frame %s: %w", f, err)
		}
		if c.Error != nil {
			s.errors = append(s.errors, string(c.Error))
		}
		if len(s.prompt) == 0 {
			s.prompt = slices.Clone(c.PromptTokenIDs)
		}
		if c.Usage != nil {
			s.usage = c.Usage
		}
		for i := range c.Parts {
			s.add(&c.Parts[i])
		}
	}
	return s, nil
}

func (s *streamed) add(p *openai.Choice) {
	r := s.choices[p.Index]
	if r == nil {
		r = &reply{}
		s.choices[p.Index] = r
	}
	r.text = append(r.text, p.Text...)
	r.ids = append(r.ids, p.TokenIDs...)
	if p.FinishReason != "" {
		r.finish, r.stop = p.FinishReason, string(bytes.Clone(p.StopReason))
	}
}

// stream asks for a stream with token ids and usage, and reads it to its end.
func (e *engine) stream(t *testing.T, path string, body object) streamed {
	t.Helper()
	a := e.ask(t, path, with(body, object{"stream": true, "return_token_ids": true, "stream_options": object{"include_usage": true}}))
	if a.status != http.StatusOK {
		t.Fatalf("POST %s %v: %d %s", path, body, a.status, a.body)
	}
	s, err := readStream(a.frames)
	if err != nil {
		t.Fatal(err)
	}
	if !s.done || len(s.errors) > 0 || a.broken != nil {
		t.Fatalf("POST %s %v: done=%t errors=%v %v", path, body, s.done, s.errors, a.broken)
	}
	return s
}

// reference is the undisturbed reply that others are compared with.
func (e *engine) reference(t *testing.T, path string, body object) reply {
	t.Helper()
	s := e.stream(t, path, body)
	if len(s.choices) != 1 || s.choices[0] == nil {
		t.Fatalf("POST %s %v: %d choices, want choice 0", path, body, len(s.choices))
	}
	return *s.choices[0]
}
