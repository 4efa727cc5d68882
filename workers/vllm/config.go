package vllm

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"
)

// Config says how to talk to an engine. Its zero value works.
type Config struct {
	// Model is the name under which the engine serves the model. By default the first that /v1/models lists.
	Model string
	// APIKey is sent as a bearer token. It appears in no error and in no name.
	APIKey string
	// Priority has requests carry their class's place in the engine's own queue. It is for a vLLM that runs
	// with --scheduling-policy priority; one that does not is noticed, and gets none.
	Priority bool
	// MaxEventBytes bounds one event of a reply. Defaults to 1 MiB, or to 16 bytes for each token of
	// the context window where that is more: the first event may carry the prompt's token ids.
	MaxEventBytes int
	// MaxErrorBytes bounds how much of an error reply is read. Defaults to 64 KiB.
	MaxErrorBytes int
	// MaxConns bounds the connections that generate; more requests wait for one. Health checks and
	// token counts have connections of their own. Defaults to no bound.
	MaxConns int
	// ConnectTimeout bounds connecting and, apart from that, the TLS handshake. Defaults to 5 s.
	ConnectTimeout time.Duration
	// HealthTimeout bounds a health check. Defaults to 5 s.
	HealthTimeout time.Duration
	// TokenizeTimeout bounds counting the tokens of one request. Defaults to 10 s.
	TokenizeTimeout time.Duration
	// CanaryTimeout bounds [Engine.Canary], with its wait in the engine's queue. Defaults to 30 s.
	CanaryTimeout time.Duration
	// TLS is for https engines. By default the system's roots are trusted.
	TLS *tls.Config
}

const defaultMaxEvent = 1 << 20

func (c Config) withDefaults() Config {
	c.MaxErrorBytes = cmp.Or(c.MaxErrorBytes, 64<<10)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.HealthTimeout = cmp.Or(c.HealthTimeout, 5*time.Second)
	c.TokenizeTimeout = cmp.Or(c.TokenizeTimeout, 10*time.Second)
	c.CanaryTimeout = cmp.Or(c.CanaryTimeout, 30*time.Second)
	return c
}

func (c Config) validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value int
	}{{"MaxEventBytes", c.MaxEventBytes}, {"MaxErrorBytes", c.MaxErrorBytes}, {"MaxConns", c.MaxConns}} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %d; want 0 or more", f.name, f.value))
		}
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout}, {"HealthTimeout", c.HealthTimeout},
		{"TokenizeTimeout", c.TokenizeTimeout}, {"CanaryTimeout", c.CanaryTimeout},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %s; want 0 or more", f.name, f.value))
		}
	}
	if strings.ContainsFunc(c.APIKey, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		errs = append(errs, errors.New("APIKey holds a space or a character that is not printable ASCII"))
	}
	return errors.Join(errs...)
}

// target is an engine's address, taken apart.
type target struct {
	// base is what request paths are appended to.
	base string
	// name is the address without credentials.
	name string
	// socket is the path of a unix socket, or "".
	socket string
	user   *url.Userinfo
}

// parseTarget reads an engine's URL. Its errors show the URL only where that cannot hold credentials.
func parseTarget(raw string) (target, error) {
	shown := fmt.Sprintf("engine URL %q", raw)
	if strings.Contains(raw, "@") {
		shown = "engine URL (not shown: it may hold credentials)"
	}
	u, err := url.Parse(raw)
	if err != nil {
		return target{}, fmt.Errorf("%s cannot be read; want http://host:port, https://host:port or unix:///path", shown)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return target{}, fmt.Errorf("%s has a query or a fragment; want none", shown)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.User != nil || !path.IsAbs(u.Path) || u.Path == "/" {
			return target{}, fmt.Errorf("%s names no socket; want unix:///path", shown)
		}
		return target{base: "http://localhost", name: "unix://" + u.Path, socket: u.Path}, nil
	case "http", "https":
		if u.Hostname() == "" {
			return target{}, fmt.Errorf("%s has no host; want %s://host:port", shown, u.Scheme)
		}
		t := target{user: u.User}
		u.User = nil
		// Clients of the OpenAI API are configured with a URL that ends in /v1; here the paths carry it.
		u.Path, u.RawPath = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/v1"), ""
		t.base = u.String()
		t.name = t.base
		return t, nil
	default:
		return target{}, fmt.Errorf("%s has scheme %q; want http, https or unix", shown, u.Scheme)
	}
}
