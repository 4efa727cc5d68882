package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hxp-enterprise/hxp/workers"
)

// listen opens a TCP listener and says in words what to do if the address is taken.
func listen(ctx context.Context, address, setting string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %s: %w: set another address", setting, address, err)
	}
	return l, nil
}

// serve answers HTTP on l until the returned stop is called. failed hears of an end that nobody asked for.
func serve(l net.Listener, h http.Handler, failed func(error)) (stop func() error) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("serve %s: %w", l.Addr(), err))
		}
	}()
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := s.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.Close() // a scraper that does not finish keeps nobody from stopping
		}
		<-done
		return err
	}
}

// readiness is the body of /readyz of a process with several workers.
type readiness struct {
	OK      bool                                `json:"ok"`
	Workers map[string]map[string]workers.Check `json:"workers"`
	Health  map[string]workers.Status           `json:"health"`
	// Config says what came of the last reload. It does not count for OK.
	Config workers.Check `json:"config"`
	// Conversations says whether Redis is there. It does not count for OK either; nil if none is configured.
	Conversations *workers.Check `json:"conversations,omitempty"`
}

// monitor serves health and metrics of every worker in the process.
func monitor(all []*workers.Worker, reg *prometheus.Registry, reloads *reloader, kept *talks) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(rw http.ResponseWriter, _ *http.Request) {
		reply(rw, http.StatusOK, map[string]bool{"ok": true})
	})
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, req *http.Request) {
		r := readiness{OK: true, Workers: map[string]map[string]workers.Check{}, Health: map[string]workers.Status{}, Config: reloads.check()}
		for _, w := range all {
			ok, checks := w.Ready()
			r.OK = r.OK && ok
			r.Workers[w.ID()], r.Health[w.ID()] = checks, w.Status()
		}
		if kept.rdb != nil {
			check := kept.check(req.Context())
			r.Conversations = &check
		}
		status := http.StatusOK
		if !r.OK {
			status = http.StatusServiceUnavailable
		}
		reply(rw, status, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

func reply(rw http.ResponseWriter, status int, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(v) // fails only if the client has gone
}
