package vllm

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

const (
	// idleConn is how long an unused connection is kept. uvicorn, under vLLM, closes its end after
	// 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE); a request sent at that moment would be lost.
	idleConn = 3 * time.Second
	// resetWindow is how soon a connection that was dead before it was used shows it: the peer's reset
	// answers the first segment. A failure after that means that the server had begun with the request.
	resetWindow = time.Second
	// idlePerHost keeps the connections of a full batch for the next one.
	idlePerHost = 1024
)

func newTransport(cfg Config, t target, maxConns int) *http.Transport {
	dialer := &net.Dialer{Timeout: cfg.ConnectTimeout}
	dial := dialer.DialContext
	if t.socket != "" {
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", t.socket)
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil, // an engine is a neighbour; HTTP_PROXY is not meant for it
		DialContext:            dial,
		TLSClientConfig:        cfg.TLS,
		TLSHandshakeTimeout:    cfg.ConnectTimeout,
		DisableCompression:     true, // a compressed stream would be held back to fill blocks
		MaxIdleConns:           idlePerHost,
		MaxIdleConnsPerHost:    idlePerHost,
		MaxConnsPerHost:        maxConns,
		IdleConnTimeout:        idleConn,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              protocols,
	}
}

// call is one HTTP request to the engine.
type call struct {
	method, path string
	body         []byte
	accept       string
	// id becomes X-Request-Id, which vLLM takes as the request's own id.
	id string
}

// send makes a call. A call that fails on a connection which was dead before it was used is
// repeated once, on a fresh connection, if no byte of an answer came back.
func (e *Engine) send(ctx context.Context, t *http.Transport, c call) (*http.Response, error) {
	var conn connTrace
	resp, err := e.roundTrip(httptrace.WithClientTrace(ctx, conn.trace()), t, c)
	if err == nil || ctx.Err() != nil || !conn.wasDead() {
		return resp, err
	}
	t.CloseIdleConnections() // the others are as old
	return e.roundTrip(ctx, t, c)
}

func (e *Engine) roundTrip(ctx context.Context, t *http.Transport, c call) (*http.Response, error) {
	// A bytes.Reader gives the request a length and a GetBody.
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, e.target.base+c.path, body)
	if err != nil {
		return nil, err
	}
	h := req.Header
	h.Set("User-Agent", "hxp")
	if c.accept != "" {
		h.Set("Accept", c.accept)
	}
	if c.body != nil {
		h.Set("Content-Type", "application/json")
	}
	if c.id != "" {
		h.Set("X-Request-Id", c.id)
	}
	if e.auth != "" {
		h.Set("Authorization", e.auth)
	}
	// No http.Client: an engine sets no cookies, and a redirect is a wrong URL, not something to follow with a key.
	return t.RoundTrip(req)
}

// discard closes a reply. What is wrong with it was seen when it was read.
func discard(body io.Closer) { _ = body.Close() }

// connTrace watches the connection of one call. The transport reports from goroutines of its own.
type connTrace struct {
	reused, answered atomic.Bool
	since            atomic.Int64
}

func (c *connTrace) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			c.reused.Store(info.Reused)
			c.since.Store(time.Now().UnixNano())
		},
		GotFirstResponseByte: func() { c.answered.Store(true) },
	}
}

func (c *connTrace) wasDead() bool {
	return c.reused.Load() && !c.answered.Load() && time.Since(time.Unix(0, c.since.Load())) < resetWindow
}
