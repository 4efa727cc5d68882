package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestUpServesEveryModelAndItsMetrics(t *testing.T) {
	t.Parallel()
	r := up(t, load(t, app.LoadOptions{}), app.UpOptions{Version: "test"})
	c := dial(t, r.cfg)
	for _, m := range r.cfg.ModelNames() {
		job, err := app.Prompt{Model: m, System: "Be kind.", Text: "Hello", MaxTokens: 3, Stream: true}.Job()
		if err != nil {
			t.Fatal(err)
		}
		result, err := c.Do(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if result.Status != schemas.StatusCompleted || result.Worker != r.Workers[m] {
			t.Errorf("%s: result %+v", m, result)
		}
	}
	status, body := get(t, "http://"+r.HTTP+"/readyz")
	var ready struct {
		OK      bool
		Workers map[string]map[string]struct{ OK bool }
		Health  map[string]workers.Status
	}
	if err := json.Unmarshal([]byte(body), &ready); err != nil {
		t.Fatal(err)
	}
	if status != http.StatusOK || !ready.OK || len(ready.Workers) != 4 || !ready.Workers[r.Workers["phi3"]]["engine"].OK || ready.Health[r.Workers["phi3"]].State != schemas.WorkerReady {
		t.Errorf("readyz: %d %s", status, body)
	}
	_, metrics := get(t, "http://"+r.HTTP+"/metrics")
	for _, m := range r.cfg.ModelNames() {
		if want := `hxp_jobs_total{class="standard",model="` + m + `",outcome="completed"} 1`; !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
	if err := r.stop(); err != nil {
		t.Errorf("Up ended with %v", err)
	}
}

// TestUpDrainsBeforeItStops lets what runs finish.
func TestUpDrainsBeforeItStops(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{Timing: app.Timing{ITL: 10 * time.Millisecond}})
	c := dial(t, r.cfg)
	job, err := app.Prompt{Model: "phi3", Text: "Hello", MaxTokens: 30, Stream: true}.Job()
	if err != nil {
		t.Fatal(err)
	}
	first := true
	got, err := c.Generate(t.Context(), job, app.Watcher{Text: func(string) error {
		if first {
			r.cancel()
			first = false
		}
		return nil
	}})
	if err != nil || got.Usage.CompletionTokens != 30 || got.Attempts != 1 {
		t.Errorf("result = %+v, %v; want all 30 tokens of the one attempt", got, err)
	}
	if err := r.stop(); err != nil {
		t.Errorf("Up ended with %v", err)
	}
}

// TestUpWithAnEngineOfItsOwn attaches a running engine, ready or not.
func TestUpWithAnEngineOfItsOwn(t *testing.T) {
	t.Parallel()
	cfg := quick(t, "ai_model_services.phi3.engine=http://127.0.0.1:1", "redis.url=redis://:pw@127.0.0.1:6379")
	r := up(t, cfg, app.UpOptions{})
	for _, want := range []string{"warning: not ready yet: phi3: http://127.0.0.1:1: ", "redis   redis://********@127.0.0.1:6379  as configured"} {
		if !strings.Contains(r.stderr.String(), want) {
			t.Errorf("stderr without %q:\n%s", want, r.stderr)
		}
	}
	if strings.Contains(r.stderr.String(), "simulated") {
		t.Errorf("stderr speaks of simulated engines:\n%s", r.stderr)
	}
	if status, _ := get(t, "http://"+r.HTTP+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz = %d while the engine is away", status)
	}
	findings := diagnose(t, r.cfg)
	find(t, findings, app.Warning, "phi3: worker "+r.Workers["phi3"], "is the engine at http://127.0.0.1:1 running?")
}

func TestUpThatCannotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	address := taken.Addr().String()
	_, port, _ := strings.Cut(address, ":")
	free := func(path string) string { return path + "=127.0.0.1:0" }
	for name, tc := range map[string]struct {
		flags []string
		o     app.UpOptions
		want  []string
	}{
		"NATS port taken":   {[]string{"nats.listen=" + address}, app.UpOptions{}, []string{port, "--nats-listen"}},
		"engine port taken": {[]string{free("nats.listen"), free("redis.listen"), free("http.listen"), "ai_model_services.phi3.port=" + port}, app.UpOptions{}, []string{"--engine phi3=http://" + address}},
		"HTTP port taken":   {[]string{free("nats.listen"), free("redis.listen"), "http.listen=" + address}, app.UpOptions{Engines: map[string]string{"phi3": "http://127.0.0.1:1"}}, []string{"http.listen: cannot listen on " + address}},
		"no engine URL":     {[]string{free("nats.listen"), free("redis.listen"), free("http.listen")}, app.UpOptions{Engines: map[string]string{"phi3": "carrier pigeon"}}, []string{"engine of phi3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.o.Data, tc.o.InMemoryRedis, tc.o.Stderr = t.TempDir(), true, io.Discard
			wantError(t, app.Up(t.Context(), quick(t, tc.flags...), tc.o), nil, tc.want...)
		})
	}
	t.Run("usage", func(t *testing.T) {
		t.Parallel()
		cfg := load(t, app.LoadOptions{})
		for _, o := range []app.UpOptions{
			{Models: []string{"gpt9"}}, {Engines: map[string]string{"gpt9": "http://x"}},
			{Models: []string{"phi3"}, Engines: map[string]string{"hermes": "http://x"}},
		} {
			o.Stderr = io.Discard
			wantError(t, app.Up(t.Context(), cfg, o), app.ErrUsage)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(app.ErrInterrupted)
		err := app.Up(ctx, quick(t), app.UpOptions{RandomPorts: true, InMemoryRedis: true, Data: t.TempDir(), Stderr: io.Discard})
		if err != nil {
			t.Errorf("Up that was interrupted at its start ended with %v", err)
		}
	})
}

// TestUpEndsWithAnEngineThatDies does not go on with a part of itself.
func TestUpEndsWithAnEngineThatDies(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{})
	fault(t, r.Engines["phi3"], `{"kind":"crash"}`)
	<-r.ended
	wantError(t, r.err, nil, "simulated engine of phi3")
}

// TestUpFitsTheDisk halves the queue's bounds where the disk is smaller, and says so.
func TestUpFitsTheDisk(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t, "queue.max_bytes=4096GiB", "queue.events_max_bytes=4096GiB", "queue.results_max_bytes=4096GiB"), app.UpOptions{})
	if !strings.Contains(r.stderr.String(), "for now, not 4096GiB") {
		t.Errorf("stderr does not say that the bounds are smaller:\n%s", r.stderr)
	}
	find(t, diagnose(t, r.cfg), app.Warning, "HXP_JOBS_phi3: max_bytes is", "hxp queue apply")
}

// TestDefaultFile is read from the working directory if no other file is named.
func TestDefaultFile(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(app.DefaultFile, []byte("a: &a {slots: 0}\nworker: *a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := app.Load(app.LoadOptions{})
	wantError(t, err, nil, "worker.slots: 0 is below 1 (hxp.yaml:", "a: is not a setting (hxp.yaml:1)")
	if got := app.DefaultTiming(); got.TTFT <= got.ITL || got.ITL <= 0 {
		t.Errorf("default timing = %+v", got)
	}
}

func TestDataDir(t *testing.T) {
	cfg := quick(t)
	t.Setenv("XDG_STATE_HOME", "")
	if got := app.DataDir(cfg); got != ".hxp" {
		t.Errorf("data = %q, want .hxp", got)
	}
	t.Setenv("XDG_STATE_HOME", "/state")
	if got := app.DataDir(cfg); got != "/state/hxp" {
		t.Errorf("data = %q, want hxp under XDG_STATE_HOME", got)
	}
	if got := app.DataDir(quick(t, "nats.data=/elsewhere")); got != "/elsewhere" {
		t.Errorf("data = %q, want nats.data", got)
	}
}

func worker(t *testing.T, cfg *app.Config, o app.WorkerOptions) *role {
	t.Helper()
	return begin(t, cfg, func(ctx context.Context, r *role, started func(app.Running)) error {
		o.Stderr, o.Started = r.stderr, started
		return app.Worker(ctx, cfg, o)
	})
}

func TestWorkerRole(t *testing.T) {
	t.Parallel()
	sims := up(t, quick(t), app.UpOptions{})
	cfg := quick(t, "nats.url="+sims.NATS, "http.listen=127.0.0.1:0", "queue.max_jobs=5", "ai_model_services.phi3.engine="+sims.Engines["phi3"])
	w := worker(t, cfg, app.WorkerOptions{Model: "phi3", ID: "second"})
	if want := "warning: HXP_JOBS_phi3: max_msgs is 100000, configured 5: it is left as it is; hxp queue apply changes it\n"; !strings.Contains(w.stderr.String(), want) {
		t.Errorf("stderr without the difference:\n%s", w.stderr)
	}
	c := dial(t, cfg)
	awaitWorker(t, c, "second")
	if d, err := c.Drain(t.Context(), "second"); err != nil || d != (app.Drained{ID: "second", State: schemas.WorkerDraining}) {
		t.Errorf("drain = %+v, %v", d, err)
	}
	<-w.ended
	if w.err != nil {
		t.Errorf("a worker that was drained ended with %v", w.err)
	}

	for name, tc := range map[string]struct {
		cfg  *app.Config
		o    app.WorkerOptions
		is   error
		want string
	}{
		"unknown model": {quick(t), app.WorkerOptions{Model: "gpt9"}, app.ErrUsage, `model "gpt9" is not configured; there are phi3`},
		"no server":     {quick(t, "nats.url=nats://127.0.0.1:1"), app.WorkerOptions{Model: "phi3"}, app.ErrCannotConnect, "hxp up"},
		"no JetStream":  {quick(t, "nats.url="+broker(t, server.Options{})), app.WorkerOptions{Model: "phi3"}, nil, "JetStream is not enabled"},
		"bad engine":    {cfg, app.WorkerOptions{Model: "phi3", Engine: "pigeon"}, nil, "engine of phi3"},
		"bad id":        {cfg, app.WorkerOptions{Model: "phi3", ID: "a.b"}, nil, `ID "a.b"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.o.Stderr = io.Discard
			wantError(t, app.Worker(t.Context(), tc.cfg, tc.o), tc.is, tc.want)
		})
	}
}

// awaitWorker waits until a worker has announced itself.
func awaitWorker(t *testing.T, c *app.Client, id string) {
	t.Helper()
	for t.Context().Err() == nil {
		all, err := queue.Workers(t.Context(), c.JS)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(all, func(w schemas.WorkerInfo) bool { return w.ID == id }) {
			return
		}
	}
}

// TestWorkerIsTurnedAway ends a worker whose credentials are withdrawn.
func TestWorkerIsTurnedAway(t *testing.T) {
	t.Parallel()
	users := func(password string) server.Options {
		return server.Options{JetStream: true, Username: "u", Password: password}
	}
	o := users("first")
	o.Host, o.Port, o.NoSigs, o.NoLog, o.StoreDir = "127.0.0.1", -1, true, true, t.TempDir()
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	cfg := load(t, app.LoadOptions{
		Environ: []string{"NATS_USER=u", "NATS_PASSWORD=first"},
		Flags: []app.FlagValue{
			{Path: "nats.url", Value: s.ClientURL()}, {Path: "http.listen", Value: "127.0.0.1:0"}, {Path: "queue.storage", Value: "memory"},
			{Path: "queue.max_bytes", Value: "1MiB"}, {Path: "queue.events_max_bytes", Value: "1MiB"}, {Path: "queue.results_max_bytes", Value: "1MiB"},
		},
	})
	w := worker(t, cfg, app.WorkerOptions{Model: "phi3", Engine: "http://127.0.0.1:1"})
	changed := o
	changed.Password = "second"
	if err := s.ReloadOptions(&changed); err != nil {
		t.Fatal(err)
	}
	<-w.ended
	if !errors.Is(w.err, app.ErrNotAllowed) {
		t.Errorf("the worker ended with %v, want that it is not allowed", w.err)
	}
}

func TestSimRole(t *testing.T) {
	t.Parallel()
	wantError(t, app.Sim(t.Context(), quick(t), app.SimOptions{Model: "gpt9", Stderr: io.Discard}), app.ErrUsage, "gpt9")
	wantError(t, app.Sim(t.Context(), quick(t), app.SimOptions{Model: "phi3", Timing: app.Timing{TTFT: -1}, Stderr: io.Discard}), nil, "TTFT")
	cfg := quick(t, "ai_model_services.phi3.served_name=microsoft/phi")
	r := begin(t, cfg, func(ctx context.Context, r *role, started func(app.Running)) error {
		return app.Sim(ctx, cfg, app.SimOptions{Model: "phi3", Listen: "127.0.0.1:0", Stderr: r.stderr, Started: func(a string) { started(app.Running{HTTP: a}) }})
	})
	if _, body := get(t, "http://"+r.HTTP+"/v1/models"); !strings.Contains(body, "microsoft/phi") {
		t.Errorf("models = %s, want the served name", body)
	}
	fault(t, "http://"+r.HTTP, `{"kind":"crash"}`)
	<-r.ended
	wantError(t, r.err, nil, "simulated engine of phi3")
}
