package vllmsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	pathCompletions = "/v1/completions"
	pathChat        = "/v1/chat/completions"
)

// errDown says that the engine has crashed: the connection is cut.
var errDown = errors.New("the engine is down")

type route struct {
	methods []string
	extra   bool // vLLM's own: not there under NoExtras
	handle  http.HandlerFunc
}

// Handler serves the simulated API. It needs no Run.
func (s *Sim) Handler() http.Handler {
	get, post := []string{http.MethodGet}, []string{http.MethodPost}
	both := []string{http.MethodGet, http.MethodPost}
	routes := map[string]route{
		pathCompletions: {post, false, func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, false) }},
		pathChat:        {post, false, func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, true) }},
		"/v1/models":    {get, false, s.models},
		"/health":       {get, false, s.healthy},
		"/ping":         {both, false, s.healthy},
		"/version":      {get, true, s.version},
		"/load":         {get, true, s.serverLoad},
		"/metrics":      {get, true, s.scrape},
		"/tokenize":     {post, true, s.tokenize},
		"/detokenize":   {post, true, s.detokenize},
		"/sim/faults":   {[]string{http.MethodGet, http.MethodPost, http.MethodDelete}, false, s.faultsEndpoint},
		"/sim/stats":    {get, false, s.statsEndpoint},
		"/sim/prompts":  {get, false, s.promptsEndpoint},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		down, starting := s.down, s.starting.active(time.Now())
		s.mu.Unlock()
		rt, ok := routes[r.URL.Path]
		switch {
		case down:
			panic(http.ErrAbortHandler)
		case starting && !strings.HasPrefix(r.URL.Path, "/sim/"):
			writeError(w, unavailable("The engine is starting."))
		case !ok || rt.extra && s.cfg.NoExtras:
			writeJSON(w, http.StatusNotFound, detail("Not Found"))
		case !slices.Contains(rt.methods, r.Method):
			writeJSON(w, http.StatusMethodNotAllowed, detail("Method Not Allowed"))
		default:
			rt.handle(w, r)
		}
	})
}

// generate answers both generation endpoints.
func (s *Sim) generate(w http.ResponseWriter, r *http.Request, chat bool) {
	s.load.Add(1)
	defer s.load.Add(-1)
	body, err := s.readBody(w, r)
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	req, err := s.cfg.parse(chat, body, s.cfg.Model)
	if err != nil {
		writeError(w, asAPIError(err))
		return
	}
	if id := r.Header.Get("X-Request-Id"); id != "" {
		req.id = id
	}
	g := newGroup(s.cfg.Model, req.wireID(rand.Uint64), req)
	if err := s.submit(g); err != nil {
		if errors.Is(err, errDown) {
			panic(http.ErrAbortHandler)
		}
		writeError(w, asAPIError(err))
		return
	}
	// However this handler ends, what it leaves is aborted: that is all a disconnect is.
	defer s.abort(g)
	created := time.Now().Unix()
	if req.stream {
		s.stream(w, r, g, created)
		return
	}
	s.reply(w, r, g, created)
}

// readBody reads a JSON body up to the bound. The whole of it, since net/http sees a client go
// away only once the body is read.
func (s *Sim) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		e := badRequest("", "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed")
		e.Type = "Bad Request"
		return nil, e
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxBody))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, statusError(http.StatusRequestEntityTooLarge, "BadRequestError", fmt.Sprintf("The body is larger than %d bytes.", s.cfg.MaxBody))
	}
	return body, err
}

// decode reads a JSON body into v.
func (s *Sim) decode(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	return decodeBody(body, v)
}

func checkModel(asked, served string) error {
	if asked != "" && asked != served {
		return notFound("model", "The model `%s` does not exist. Valid aliases: %s.", asked, served)
	}
	return nil
}

// writeJSON answers with v. A client that has gone is noticed by its handler's caller, not here.
func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

// detail is what the web framework under vLLM says of paths that it does not know.
func detail(text string) map[string]string { return map[string]string{"detail": text} }

func writeError(w http.ResponseWriter, e *apiError) {
	writeJSON(w, e.Code, map[string]*apiError{"error": e})
}
