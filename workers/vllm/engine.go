package vllm

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/hxp-enterprise/hxp/workers"
)

var _ workers.Engine = (*Engine)(nil)

// Engine talks to one server. Its methods are safe for concurrent use. It owns no goroutine apart
// from those of pooled connections, which end 3 s after their last use, or with [Engine.Close].
type Engine struct {
	cfg    Config
	target target
	auth   string
	// secrets must not appear in an error, should the engine repeat one.
	secrets []string
	// streams carries generations; control everything else, so that no health check waits behind MaxConns.
	streams, control *http.Transport

	known atomic.Pointer[identity]
	// learning admits one caller at a time to ask the engine who it is.
	learning chan struct{}
	// noTokenize and noTokenIDs are set once the engine has shown that it cannot do what its version promises.
	noTokenize, noTokenIDs atomic.Bool
	// noPriority is set once the engine has refused a request for its priority.
	noPriority atomic.Bool
}

// New returns the engine at baseURL: http://host:port, https://host:port, or unix:///path for a
// server that listens on a socket. It does no I/O.
func New(baseURL string, cfg Config) (*Engine, error) {
	t, urlErr := parseTarget(baseURL)
	if err := errors.Join(urlErr, cfg.validate()); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	e := &Engine{cfg: cfg, target: t, learning: make(chan struct{}, 1)}
	switch {
	case cfg.APIKey != "" && t.user != nil:
		return nil, fmt.Errorf("engine %s has credentials in its URL and an APIKey; want one of them", t.name)
	case cfg.APIKey != "":
		e.auth = "Bearer " + cfg.APIKey
		e.secrets = []string{cfg.APIKey}
	case t.user != nil:
		password, _ := t.user.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(t.user.Username() + ":" + password))
		e.auth = "Basic " + basic
		e.secrets = []string{basic}
		if password != "" {
			e.secrets = append(e.secrets, password)
		}
	}
	e.streams = newTransport(cfg, t, cfg.MaxConns)
	e.control = newTransport(cfg, t, 0)
	return e, nil
}

// String returns the engine's URL without credentials.
func (e *Engine) String() string { return e.target.name }

// Close closes the idle connections. The Engine stays usable.
func (e *Engine) Close() error {
	e.streams.CloseIdleConnections()
	e.control.CloseIdleConnections()
	return nil
}
