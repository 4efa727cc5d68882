package workers

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hxp-enterprise/hxp/schemas"
)

// Check is one line of /readyz.
type Check struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Ready says whether the worker takes jobs, check by check.
func (w *Worker) Ready() (bool, map[string]Check) {
	checks := map[string]Check{
		"queue": {OK: w.nc.IsConnected(), Detail: w.nc.Status().String()},
		"pull":  {OK: true},
	}
	status := w.gate.status()
	if status.State == schemas.WorkerDraining {
		checks["pull"] = Check{Detail: "the worker is draining"}
	}
	for _, keeper := range []string{keeperEngine, keeperBreaker, keeperLease, keeperResults} {
		reason := w.gate.held(keeper)
		checks[keeper] = Check{OK: reason == "", Detail: reason}
	}
	if w.cfg.Conversations != nil {
		check := Check{OK: true}
		if why := w.sessions.away.Load(); why != nil {
			check = Check{Detail: "jobs with a session wait: " + *why}
		}
		checks["conversations"] = check // jobs without a session go on, so the worker is ready all the same
	}
	return status.Pulling && checks["queue"].OK, checks
}

func (w *Worker) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(rw http.ResponseWriter, _ *http.Request) {
		writeJSON(rw, http.StatusOK, map[string]bool{"ok": true})
	})
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		ok, checks := w.Ready()
		code := http.StatusOK
		if !ok {
			code = http.StatusServiceUnavailable
		}
		writeJSON(rw, code, struct {
			OK     bool   `json:"ok"`
			Worker string `json:"worker"`
			Model  string `json:"model"`
			Status
			Checks map[string]Check `json:"checks"`
		}{ok, w.cfg.ID, w.model, w.Status(), checks})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.cfg.Registry, promhttp.HandlerOpts{}))
	return mux
}

func writeJSON(rw http.ResponseWriter, status int, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	// The client has gone if this fails, and there is nobody left to tell.
	_ = json.NewEncoder(rw).Encode(v)
}
