package app

import (
	"cmp"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Redis is where conversations are kept.
type Redis struct {
	// URL of a running Redis: redis://, rediss:// or unix://. Several addresses in it, separated by commas,
	// are nodes of one cluster. Empty: up starts a Redis of its own, and worker keeps no conversations.
	URL string `config:"url,secret-url"`
	// Addresses are further nodes of a cluster, or all of them: what else the URL says holds for each.
	Addresses []string `config:"addresses"`
	// Cluster says that a single address is that of a cluster.
	Cluster bool `config:"cluster"`
	// User and Password, unless the URL has them.
	User     string `config:"user"`
	Password string `config:"password,secret"`
	// Listen is where the Redis that up starts listens, and where the client commands look for one if
	// nothing else is configured. It has no password, so the address is one of 127.0.0.1.
	Listen string `config:"listen"`
}

// configured reports whether there is a Redis that is not up's own.
func (r Redis) configured() bool { return r.URL != "" || len(r.Addresses) > 0 }

// shown is where it is, without secrets.
func (r Redis) shown() string {
	switch {
	case r.URL != "" && len(r.Addresses) > 0:
		return maskURL(r.URL) + "," + strings.Join(r.Addresses, ",")
	case r.URL != "":
		return maskURL(r.URL)
	case len(r.Addresses) > 0:
		return strings.Join(r.Addresses, ",")
	}
	return "redis://" + r.Listen
}

// options are those of a client of the Redis that is configured, or of up's own.
func (r Redis) options(name string) (*redis.UniversalOptions, error) {
	text := r.URL
	if !r.configured() {
		text = "redis://" + r.Listen
	}
	first, more := splitNodes(cmp.Or(text, "redis://"+strings.Join(r.Addresses, ",")))
	one, err := redis.ParseURL(first)
	if err != nil {
		return nil, errors.New("is not the URL of a Redis") // go-redis quotes it, with its password
	}
	addrs := append([]string{one.Addr}, more...)
	if text != "" {
		addrs = append(addrs, r.Addresses...)
	}
	return &redis.UniversalOptions{
		Addrs: addrs, IsClusterMode: r.Cluster || len(addrs) > 1, DB: one.DB, TLSConfig: one.TLSConfig,
		Username: cmp.Or(one.Username, r.User), Password: cmp.Or(one.Password, r.Password), ClientName: name,
		// A call ends when the store says so, and the store's caller knows when to try again.
		ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 1, DialTimeout: one.DialTimeout,
	}, nil
}

// splitNodes takes a URL with several addresses apart: the URL with the first of them, and the others.
func splitNodes(text string) (first string, more []string) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || scheme == "unix" {
		return text, nil
	}
	end := len(rest)
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		end = i
	}
	start := strings.LastIndexByte(rest[:end], '@') + 1
	nodes := strings.Split(rest[start:end], ",")
	for _, n := range nodes[1:] {
		more = append(more, strings.TrimSpace(n))
	}
	return scheme + "://" + rest[:start] + strings.TrimSpace(nodes[0]) + rest[end:], more
}

func validateRedis(r Redis, f *faults, ports *ports) {
	first, more := splitNodes(r.URL)
	if r.URL != "" {
		checkURL(f, "redis.url", first, "redis", "rediss", "unix")
		if _, err := redis.ParseURL(first); err != nil { // said once: what the line above found says more
			f.add("redis.url", "%q has a database or an option that is none", maskURL(first))
		}
		for _, n := range more {
			checkNode(f, "redis.url", n)
		}
	}
	for _, n := range r.Addresses {
		checkNode(f, "redis.addresses", n)
	}
	if host, _, err := net.SplitHostPort(r.Listen); err == nil && host != redisHost && host != "localhost" {
		f.add("redis.listen", "%q is not an address of %s; the Redis that up starts has no password", r.Listen, redisHost)
	}
	ports.listen("redis.listen", r.Listen)
}

// redisHost is the one host on which up's own Redis listens.
const redisHost = "127.0.0.1"

func checkNode(f *faults, path, node string) {
	_, port, err := net.SplitHostPort(node)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		f.add(path, "%.80q is not an address; want host:port", node)
	}
}
