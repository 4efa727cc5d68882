package vllm_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func countConns(t *testing.T, h http.HandlerFunc) (*atomic.Int64, *httptest.Server) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewUnstartedServer(fake{version: "0.31.0", models: vllmModels, routes: generation(h)})
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return &n, srv
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	conns, srv := countConns(t, stream(text(0, "a", "stop", 1), usage, done))
	e := newEngine(t, srv.URL, vllm.Config{})
	for range 5 {
		if _, err := e.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := collect(t.Context(), e, completion(`{}`)); r.err != nil {
			t.Fatal(r.err)
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections for 5 health checks and 5 generations, want 2", n)
	}
}

// A server that says [DONE] and leaves the reply open does not hold the job.
func TestReplyThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		_, _ = io.Copy(io.Discard, r.Body)
		stream(text(0, "a", "stop", 1), done)(w, r)
		<-r.Context().Done()
	})
	if r := collect(t.Context(), newEngine(t, srv.URL, vllm.Config{}), completion(`{}`)); r.err != nil || r.tokens != 1 {
		t.Errorf("reply = %+v", r)
	}
	wait(t, "the end of the connection", gone)
}

// raw is a server of which the test decides what becomes of each generation, on whichever
// connection: serve counts them over all connections and within one. It reports whether the
// connection goes on.
func raw(tb testing.TB, handle func(conn net.Conn, total, onConn int) bool) (url string, total *atomic.Int64) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	total = new(atomic.Int64)
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for onConn := 1; ; {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					body := map[string]string{"/v1/models": vllmModels, "/version": `{"version":"0.31.0"}`}[req.URL.Path]
					if body != "" {
						fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
						continue
					}
					if !handle(conn, int(total.Add(1)), onConn) {
						return
					}
					onConn++
				}
			})
		}
	})
	tb.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String(), total
}

func writeReply(conn net.Conn) bool {
	body := fmt.Sprintf("data: %s\n\ndata: [DONE]\n\n", text(0, "a", "stop", 1))
	_, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return err == nil
}

// uvicorn closes idle connections after 5 s: a request that crosses with that is lost on its way.
func TestDeadKeepAliveIsRetriedOnce(t *testing.T) {
	t.Parallel()
	url, total := raw(t, func(conn net.Conn, _, onConn int) bool {
		return onConn == 1 && writeReply(conn) // the second request on a connection finds it closed
	})
	e := newEngine(t, url, vllm.Config{})
	for i := range 3 {
		if r := collect(t.Context(), e, completion(`{"prompt":"x"}`)); r.err != nil || r.tokens != 1 {
			t.Errorf("generation %d: %+v", i, r)
		}
	}
	if n := total.Load(); n != 5 {
		t.Errorf("the server saw %d requests, want 5: the second and third were sent twice", n)
	}
}

func TestWhatIsNotRetried(t *testing.T) {
	t.Parallel()
	tests := map[string]func(conn net.Conn, total, onConn int) bool{
		"a connection that was fresh": func(conn net.Conn, total, _ int) bool {
			if total == 1 {
				writeReply(conn)
			}
			return false
		},
		"an answer that had begun": func(conn net.Conn, total, _ int) bool {
			if total == 1 {
				return writeReply(conn)
			}
			io.WriteString(conn, "HTTP/1.1 200 ")
			return false
		},
		"a request that was worked on": func(conn net.Conn, total, _ int) bool {
			if total == 1 {
				return writeReply(conn)
			}
			<-time.After(1100 * time.Millisecond) // longer than a reset takes
			return false
		},
	}
	for name, handle := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, total := raw(t, handle)
			e := newEngine(t, url, vllm.Config{})
			if r := collect(t.Context(), e, completion(`{}`)); r.err != nil {
				t.Fatal(r.err)
			}
			if name == "a connection that was fresh" {
				e.Close()
			}
			check(t, collect(t.Context(), e, completion(`{}`)).err, schemas.CodeEngineUnavailable, true, "no usable answer")
			if n := total.Load(); n != 2 {
				t.Errorf("the server saw %d requests, want 2", n)
			}
		})
	}
}

// The repeated request finds a server that drops it too: once is enough.
func TestRetryHappensOnlyOnce(t *testing.T) {
	t.Parallel()
	url, total := raw(t, func(conn net.Conn, total, _ int) bool { return total == 1 && writeReply(conn) })
	e := newEngine(t, url, vllm.Config{})
	if r := collect(t.Context(), e, completion(`{}`)); r.err != nil {
		t.Fatal(r.err)
	}
	check(t, collect(t.Context(), e, completion(`{}`)).err, schemas.CodeEngineUnavailable, true, "no usable answer")
	if n := total.Load(); n != 3 {
		t.Errorf("the server saw %d requests, want 3", n)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(fake{version: "0.31.0", models: vllmModels, routes: generation(stream(text(0, "a", "stop", 1), done))})
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	e := newEngine(t, "unix://"+path, vllm.Config{})
	if r := collect(t.Context(), e, completion(`{}`)); r.err != nil || r.text[0] != "a" {
		t.Errorf("reply = %+v", r)
	}
	if got := e.String(); got != "unix://"+path {
		t.Errorf("String() = %q", got)
	}
}

func TestTLSAndCredentialsInTheURL(t *testing.T) {
	t.Parallel()
	auths := make(chan string, 1)
	srv := httptest.NewUnstartedServer(fake{version: "0.31.0", models: vllmModels, routes: map[string]http.HandlerFunc{
		"/prefix/v1/models": plainAnswer("application/json", vllmModels),
		"/prefix/version":   plainAnswer("application/json", `{"version":"0.31.0"}`),
		"/prefix/v1/completions": func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			auths <- user + "/" + password
			answer(http.StatusUnauthorized, `{"error":"not s3cret but `+strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")+`"}`)(w, r)
		},
	}})
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	url := strings.Replace(srv.URL, "https://", "https://me:s3cret@", 1) + "/prefix/v1/"
	e := newEngine(t, url, vllm.Config{TLS: srv.Client().Transport.(*http.Transport).TLSClientConfig})
	err := collect(t.Context(), e, completion(`{}`)).err
	check(t, err, schemas.CodeEngineUnavailable, true, "not [redacted] but [redacted]")
	if got := <-auths; got != "me/s3cret" {
		t.Errorf("credentials = %q", got)
	}
	if got, want := e.String(), srv.URL+"/prefix"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}
