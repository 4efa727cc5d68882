package moderation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Endpoint is a service that judges texts.
type Endpoint struct {
	// URL is the whole address, such as https://api.openai.com/v1/moderations or
	// http://127.0.0.1:8001/v1/chat/completions.
	URL string
	// Kind is what it speaks. Defaults to KindOpenAI.
	Kind Kind
	// Model is what it is asked for. Defaults to omni-moderation-latest for KindOpenAI.
	Model string
	// APIKey is sent as a bearer token.
	APIKey string
	// Timeout bounds one request. Defaults to 3 s.
	Timeout time.Duration
	// Retries is how many more times a request is sent that got no answer, or 429 or 5xx for one.
	// Defaults to 2; negative for none.
	Retries int
	// Chunk is how many bytes of a reply come together before the endpoint is asked about them, and
	// so how much of it is held back. Defaults to 600.
	Chunk int
	// Overlap is how many bytes of the text before go with them. Defaults to 200; negative for none.
	Overlap int
	// Thresholds are scores, by category, from which on a category counts. Of others, the endpoint's own
	// word counts. For KindOpenAI.
	Thresholds map[string]float64
	// Categories are names for the endpoint's categories, such as violent_crimes for S1.
	Categories map[string]string
}

// Kind is what an endpoint speaks.
type Kind string

const (
	// KindOpenAI is OpenAI's /v1/moderations.
	KindOpenAI Kind = "openai"
	// KindGuard is a guard model behind /v1/chat/completions that answers as Llama Guard does: safe, or
	// unsafe and a line of categories.
	KindGuard Kind = "guard"
)

const (
	// maxReply bounds what is read of an answer.
	maxReply = 1 << 20
	// maxConnections bounds the requests to one endpoint that are under way.
	maxConnections = 64
	retryDelay     = 100 * time.Millisecond
)

func (e Endpoint) withDefaults() Endpoint {
	e.Kind = cmp.Or(e.Kind, KindOpenAI)
	if e.Kind == KindOpenAI {
		e.Model = cmp.Or(e.Model, "omni-moderation-latest")
	}
	e.Timeout = cmp.Or(e.Timeout, 3*time.Second)
	e.Retries = max(0, cmp.Or(e.Retries, 2))
	e.Chunk = cmp.Or(e.Chunk, 600)
	e.Overlap = max(0, cmp.Or(e.Overlap, 200))
	return e
}

func (e *Endpoint) check(f *faults) {
	u, err := url.Parse(e.URL)
	switch {
	case e.URL == "":
		f.add("endpoint.url", "is empty; want the address of the endpoint")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		f.add("endpoint.url", "is not a URL with http or https and a host")
	case u.User != nil:
		f.add("endpoint.url", "has credentials; want them in api_key")
	}
	if e.Kind != KindOpenAI && e.Kind != KindGuard {
		f.add("endpoint.kind", "%q is neither openai nor guard", e.Kind)
	}
	if e.Model == "" {
		f.add("endpoint.model", "is empty; want the guard model")
	}
	if e.Timeout < time.Millisecond || e.Timeout > time.Minute {
		f.add("endpoint.timeout", "%s is not between 1ms and 1m", e.Timeout)
	}
	if e.Retries > 10 {
		f.add("endpoint.retries", "%d is above 10", e.Retries)
	}
	if e.Chunk < 1 || e.Chunk > MaxPiece {
		f.add("endpoint.chunk", "%d is not between 1 and %d", e.Chunk, MaxPiece)
	}
	if e.Overlap > MaxPiece {
		f.add("endpoint.overlap", "%d is above %d", e.Overlap, MaxPiece)
	}
	for _, c := range sortedKeys(e.Thresholds) {
		if t := e.Thresholds[c]; !(t >= 0 && t <= 1) {
			f.add("endpoint.thresholds."+c, "%g is not between 0 and 1", t)
		}
	}
	if len(e.Thresholds) > 0 && e.Kind == KindGuard {
		f.add("endpoint.thresholds", "are set for a guard model, which gives no scores")
	}
}

// question is a text to be judged, alone or as the reply to a prompt.
type question struct {
	text, prompt string
	output       bool
}

// judge names the categories for which a text is to be blocked.
type judge interface {
	judge(ctx context.Context, q question) ([]string, error)
	close()
}

func (e *Endpoint) judge() judge {
	c := client{Endpoint: e, http: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxConnsPerHost: maxConnections, MaxIdleConnsPerHost: maxConnections,
			IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		},
		// The key and the text are for this address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if e.Kind == KindGuard {
		return &guard{c}
	}
	return &moderations{c}
}

// client sends requests to an endpoint. Its errors name neither the text nor the key.
type client struct {
	*Endpoint
	http *http.Client
}

func (c *client) close() { c.http.CloseIdleConnections() }

// named is the name of a category.
func (c *client) named(category string) string { return cmp.Or(c.Categories[category], category) }

// errAgain is in the chain of errors after which another try may help.
var errAgain = errors.New("try again")

// ask sends a request until it is answered, and reads the answer into reply.
func (c *client) ask(ctx context.Context, request, reply any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("moderation endpoint: %w", err)
	}
	delay := retryDelay
	for try := 0; ; try++ {
		err = c.send(ctx, body, reply)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errAgain) || try >= c.Retries || ctx.Err() != nil {
			return fmt.Errorf("moderation endpoint: %d tries: %w", try+1, err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		delay *= 2
	}
}

func (c *client) send(ctx context.Context, body []byte, reply any) error {
	ctx, stop := context.WithTimeout(ctx, c.Timeout)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+c.APIKey)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err // without the URL, which may have a key in it
		}
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return fmt.Errorf("%w: status %d", errAgain, resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d", resp.StatusCode)
	case err != nil:
		return fmt.Errorf("%w: read the answer: %w", errAgain, err)
	case len(data) > maxReply:
		return fmt.Errorf("the answer is longer than %d bytes", maxReply)
	}
	if json.Unmarshal(data, reply) != nil {
		return errors.New("the answer is not of the form that it should be")
	}
	return nil
}
