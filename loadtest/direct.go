package loadtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/internal/sse"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// Bounds of what is read from an engine.
const (
	maxEventBytes = 8 << 20
	maxReplyBytes = 64 << 20
	maxErrorBytes = 64 << 10
)

// DirectConfig is how an OpenAI-compatible URL is spoken to. Only URLs is required.
type DirectConfig struct {
	// URLs are the base URLs by model, without /v1; that of "" is for models without one of their own.
	URLs map[string]string
	// ServedNames are the models' names at the engine, where they differ.
	ServedNames map[string]string
	// APIKeys are sent as bearer tokens, by model.
	APIKeys map[string]string
	// Connections bounds how many are open to one engine. Defaults to no bound.
	Connections int
}

func (c DirectConfig) validate() error {
	var errs []error
	if len(c.URLs) == 0 {
		errs = append(errs, errors.New("URLs is empty; want at least one"))
	}
	for model, base := range c.URLs {
		if u, err := url.Parse(base); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			errs = append(errs, fmt.Errorf("URLs[%q] is not an http or https URL with a host", model))
		}
	}
	if c.Connections < 0 {
		errs = append(errs, fmt.Errorf("Connections is %d; want 0 or more", c.Connections))
	}
	return errors.Join(errs...)
}

// DirectTarget sends requests to engines over HTTP.
type DirectTarget struct {
	cfg    DirectConfig
	client *http.Client
}

// NewDirect returns the target of engines that speak OpenAI's API. It does no I/O. Close it.
func NewDirect(cfg DirectConfig) (*DirectTarget, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("direct target: %w", err)
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: maxClients, MaxConnsPerHost: cfg.Connections,
		// Below the 5 s after which uvicorn closes them: a request must not meet a connection that is being closed.
		IdleConnTimeout:    4 * time.Second,
		DisableCompression: true,
		ReadBufferSize:     16 << 10, WriteBufferSize: 16 << 10,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	return &DirectTarget{cfg, &http.Client{Transport: transport}}, nil
}

// Name returns [Direct].
func (*DirectTarget) Name() string { return Direct }

// Close closes the connections that are idle.
func (t *DirectTarget) Close() { t.client.CloseIdleConnections() }

// Do implements [Target].
func (t *DirectTarget) Do(ctx context.Context, r *Request, o *Observation) error {
	o.Attempts = 1
	base, ok := t.cfg.URLs[r.Model]
	if !ok {
		base = t.cfg.URLs[""]
	}
	if base == "" {
		return &FailureError{string(schemas.CodeModelNotFound), fmt.Errorf("no URL is given for model %s", r.Model)}
	}
	body := r.DirectBody(cmp.Or(t.cfg.ServedNames[r.Model], r.Model))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(base, "/")+string(r.Endpoint), bytes.NewReader(body))
	if err != nil {
		return &FailureError{string(schemas.CodeInvalidRequest), err}
	}
	req.Header.Set("Content-Type", "application/json")
	if key := t.cfg.APIKeys[r.Model]; key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	o.Sent = time.Now()
	resp, err := t.client.Do(req)
	if err != nil {
		return failed(ctx, codeConnection, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK:
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
		if err != nil {
			return failed(ctx, codeTruncated, err)
		}
		return &FailureError{fmt.Sprintf("http_%d", resp.StatusCode), fmt.Errorf("the engine answers %d: %.200s", resp.StatusCode, text)}
	case r.Stream:
		err = t.stream(resp.Body, o)
	default:
		err = whole(resp.Body, o)
	}
	if err == nil && o.Finish == "abort" {
		return &FailureError{codeAborted, errors.New("the engine ended the answer with finish_reason abort")}
	}
	if err != nil {
		if why := ended(ctx); why != nil {
			return why
		}
	}
	return err
}

// failed is why a request could not be made or read: the end of its time before anything else.
func failed(ctx context.Context, code string, err error) error {
	if why := ended(ctx); why != nil {
		return why
	}
	return &FailureError{code, err}
}

// stream reads an answer in chunks.
func (t *DirectTarget) stream(body io.Reader, o *Observation) error {
	events := sse.NewReader(body, maxEventBytes)
	var chunk openai.Chunk
	for {
		data, err := events.Next()
		if errors.Is(err, io.EOF) {
			return &FailureError{codeTruncated, errors.New("the answer ends without [DONE]")}
		}
		if err != nil {
			return &FailureError{codeTruncated, err}
		}
		if string(data) == "[DONE]" {
			break
		}
		now := time.Now()
		if err := openai.ParseChunk(data, &chunk); err != nil {
			return &FailureError{codeMalformed, err}
		}
		if chunk.Error != nil {
			return &FailureError{string(schemas.CodeEngineUnavailable), fmt.Errorf("the engine says: %.200s", chunk.Error)}
		}
		o.choices(chunk.Parts, now)
		if chunk.Usage != nil {
			o.Usage = chunk.Usage
		}
	}
	// The connection is used again only after the body's end was read.
	if _, err := events.Next(); err != nil && !errors.Is(err, io.EOF) {
		return &FailureError{codeTruncated, err}
	}
	return nil
}

// whole reads an answer in one piece.
func whole(body io.Reader, o *Observation) error {
	data, err := io.ReadAll(io.LimitReader(body, maxReplyBytes+1))
	if err != nil {
		return &FailureError{codeTruncated, err}
	}
	if len(data) > maxReplyBytes {
		return &FailureError{string(schemas.CodePayloadTooLarge), fmt.Errorf("the answer is longer than %d bytes", maxReplyBytes)}
	}
	var reply struct {
		Choices []struct {
			Text    string `json:"text"`
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
			FinishReason string `json:"finish_reason"`
		} `json:"choices"`
		Usage *schemas.Usage `json:"usage"`
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return &FailureError{codeMalformed, err}
	}
	if len(reply.Choices) == 0 {
		return &FailureError{codeMalformed, fmt.Errorf("the answer has no choices: %.200s", data)}
	}
	first := reply.Choices[0]
	o.Usage, o.Finish = reply.Usage, first.FinishReason
	o.write([]byte(first.Message.Content + first.Text))
	return nil
}
