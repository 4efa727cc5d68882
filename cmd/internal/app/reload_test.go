package app_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/schemas"
)

// only leaves phi3 of the built-in models, and lets the queue be small.
const only = `
ai_model_services: {mixtral: null, hermes: null, openchat: null}
queue: {storage: memory, max_bytes: 1MiB, events_max_bytes: 1MiB, results_max_bytes: 1MiB, max_bodies_bytes: 64MiB}
`

// replace puts text in the place of the file, by a rename as editors do.
func replace(t *testing.T, path, text string) {
	t.Helper()
	next := path + ".new"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// says waits until the role has written text.
func (r *role) says(t *testing.T, text string) {
	t.Helper()
	r.repeats(t, text, 1)
}

// repeats waits until the role has written text n times.
func (r *role) repeats(t *testing.T, text string, n int) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for strings.Count(r.stderr.String(), text) < n {
		select {
		case <-limit:
			t.Fatalf("stderr without %d times %q:\n%s", n, text, r.stderr)
		case <-tick.C:
		}
	}
}

// ask submits a job and returns its error.
func ask(t *testing.T, c *app.Client, maxTokens int) *schemas.Error {
	t.Helper()
	job, err := app.Prompt{Model: "phi3", Text: "Hello", MaxTokens: maxTokens}.Job()
	if err != nil {
		t.Fatal(err)
	}
	result, err := c.Do(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return result.Error
}

type configLine struct {
	OK     bool
	Config struct {
		OK     bool
		Detail string
	}
}

// ready asks for /readyz, which must answer with 200.
func (r *role) ready(t *testing.T) configLine {
	t.Helper()
	status, body := get(t, "http://"+r.HTTP+"/readyz")
	var line configLine
	if err := json.Unmarshal([]byte(body), &line); err != nil || status != http.StatusOK {
		t.Fatalf("readyz: %d %s (%v)", status, body, err)
	}
	return line
}

func (r *role) wantMetrics(t *testing.T, want ...string) {
	t.Helper()
	_, metrics := get(t, "http://"+r.HTTP+"/metrics")
	for _, w := range want {
		if !strings.Contains(metrics, w+"\n") {
			t.Errorf("metrics without %s", w)
		}
	}
}

func TestReloadByEdit(t *testing.T) {
	t.Parallel()
	path := file(t, only+"log: {level: disabled}\n")
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	c := dial(t, r.cfg)
	if err := ask(t, c, 32); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.stderr.String(), "job ended") {
		t.Error("a log that is disabled tells of jobs")
	}
	r.wantMetrics(t, "hxp_config_last_reload_success 1", `hxp_config_reloads_total{outcome="applied"} 0`, `hxp_config_reloads_total{outcome="rejected"} 0`)

	replace(t, path, only+"log: {level: info}\nvllm_integration: {sampling_params: {max_tokens_range: [1, 8]}}\n")
	r.says(t, "configuration: reloaded: vllm_integration.sampling_params.max_tokens_range, log.level\n")
	if err := ask(t, c, 32); err == nil || err.Param != "max_tokens" || !strings.Contains(err.Message, "want 1 to 8") {
		t.Errorf("error = %v, want the new bound of max_tokens", err)
	}
	r.says(t, "job ended")

	// What is written in place, in steps, is taken over once it is whole.
	if err := os.WriteFile(path, []byte(only+"log: {level: error}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.repeats(t, "configuration: reloaded: vllm_integration.sampling_params.max_tokens_range, log.level\n", 2)
	if err := ask(t, c, 32); err != nil {
		t.Errorf("error = %v, want the old bound", err)
	}
	if got := r.ready(t); !got.Config.OK || got.Config.Detail != "" {
		t.Errorf("readyz: %+v, want nothing to say", got)
	}
}

func TestReloadByHangup(t *testing.T) {
	t.Parallel()
	hangup := make(chan os.Signal, 1)
	path := file(t, only)
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{Hangup: hangup})
	hangup <- syscall.SIGHUP
	r.says(t, "configuration: reloaded, nothing that concerns this process has changed\n")
	r.wantMetrics(t, `hxp_config_reloads_total{outcome="unchanged"} 1`)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	hangup <- syscall.SIGHUP
	r.says(t, "configuration: not reloaded, the one before it stays in force: configuration: stat "+path)
}

// TestReloadOfABadFile changes nothing, says so, and keeps the worker at work.
func TestReloadOfABadFile(t *testing.T) {
	t.Parallel()
	path := file(t, only)
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	c := dial(t, r.cfg)
	replace(t, path, only+"worker: {attempts: 0, batch_share: 9}\nvllm_integration: {sampling_params: {max_tokens_range: [1, 8]}}\n")
	r.says(t, "configuration: not reloaded, the one before it stays in force: the configuration has 2 faults:\n  worker.attempts: 0 is below 1 ("+path+":")
	if got := r.ready(t); !got.OK || got.Config.OK || !strings.Contains(got.Config.Detail, "worker.batch_share: 9 is above 0.5") {
		t.Errorf("readyz: %+v, want it ready, and what is wrong with the file", got)
	}
	r.wantMetrics(t, "hxp_config_last_reload_success 0", `hxp_config_reloads_total{outcome="rejected"} 1`)
	if err := ask(t, c, 32); err != nil {
		t.Errorf("error = %v, want the bounds of the configuration in force", err)
	}
	replace(t, path, only+"worker: {attempts: 5}\n")
	r.says(t, "configuration: reloaded: worker.attempts\n")
	if got := r.ready(t); !got.Config.OK {
		t.Errorf("readyz: %+v, want the good file to end it", got)
	}
	r.wantMetrics(t, "hxp_config_last_reload_success 1", `hxp_config_reloads_total{outcome="applied"} 1`)
}

// TestReloadThatNeedsARestart applies what it can and names the rest, until the file agrees again.
func TestReloadThatNeedsARestart(t *testing.T) {
	t.Parallel()
	path := file(t, only)
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	c := dial(t, r.cfg)
	more := strings.Replace(only, "{mixtral", "{falcon: {port: 11409}, phi3: {port: 12000, max_model_len: 64, fallback: {model: falcon}}, mixtral", 1)
	replace(t, path, more+"nats: {timeout: 9s}\nvllm_integration: {engine_args: {max_num_seqs: 16}, sampling_params: {max_tokens_range: [1, 8]}}\n")
	r.says(t, "configuration: takes effect after a restart: ")
	got := r.ready(t)
	want := "takes effect after a restart: ai_model_services.falcon, vllm_integration.engine_args.max_num_seqs, ai_model_services.phi3.fallback.model, " +
		"ai_model_services.phi3.max_model_len, ai_model_services.phi3.port, nats.timeout"
	if !got.OK || !got.Config.OK || got.Config.Detail != want {
		t.Errorf("readyz: %+v, want %q", got, want)
	}
	if err := ask(t, c, 32); err == nil || err.Param != "max_tokens" {
		t.Errorf("error = %v, want the bound that could be applied", err)
	}
	r.wantMetrics(t, `hxp_config_reloads_total{outcome="restart_needed"} 1`)
	replace(t, path, strings.Replace(only, "mixtral", "phi3: null, falcon: {port: 11409}, mixtral", 1))
	r.says(t, "after a restart: ai_model_services.falcon, ai_model_services.phi3\n")
	replace(t, path, only)
	r.repeats(t, "configuration: reloaded: vllm_integration.sampling_params.max_tokens_range\n", 3)
	if got := r.ready(t); got.Config.Detail != "" {
		t.Errorf("readyz: %+v, want that nothing waits for a restart", got)
	}
	if err := ask(t, c, 32); err != nil {
		t.Error(err)
	}
}

// TestReloadBehindALink turns ..data round, as Kubernetes does with a mounted ConfigMap.
func TestReloadBehindALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(name, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "hxp.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", only)
	path := filepath.Join(dir, "hxp.yaml")
	if err := os.Symlink(filepath.Join("..data", "hxp.yaml"), path); err != nil {
		t.Fatal(err)
	}
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	version("..2", only+"worker: {attempts: 4}\n")
	r.says(t, "configuration: reloaded: worker.attempts\n")
	version("..3", only+"worker: {attempts: 4, drain_timeout: 1h}\n")
	r.says(t, "configuration: reloaded: worker.drain_timeout\n")
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	r.says(t, "stopping: jobs in flight have 1h0m0s to finish")
}

// TestReloadOfAWorker takes over the key and the window of an engine that runs elsewhere, and does
// not care about other models.
func TestReloadOfAWorker(t *testing.T) {
	t.Parallel()
	sim, err := vllmsim.New(vllmsim.Config{Model: "phi3"})
	if err != nil {
		t.Fatal(err)
	}
	keys := make(chan string, 4096)
	engine := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		keys <- req.Header.Get("Authorization")
		sim.Handler().ServeHTTP(rw, req)
	}))
	t.Cleanup(engine.Close)
	broker := up(t, quick(t), app.UpOptions{})
	text := func(rest string) string {
		return "ai_model_services: {phi3: {engine: '" + engine.URL + "', " + rest + "}\n"
	}
	path := file(t, text("api_key: first}"))
	w := worker(t, load(t, app.LoadOptions{
		Files: []string{path},
		Flags: []app.FlagValue{{Path: "nats.url", Value: broker.NATS}, {Path: "http.listen", Value: "127.0.0.1:0"}},
	}), app.WorkerOptions{Model: "phi3"})
	bearer := func(want string) { // the worker looks at its engine by itself
		t.Helper()
		for got := range keys {
			if got == "Bearer "+want {
				return
			}
		}
	}
	bearer("first")
	replace(t, path, text("api_key: second, max_model_len: 512, slots: 3}, hermes: {port: 12001}"))
	w.says(t, "configuration: reloaded: ai_model_services.phi3.api_key, ai_model_services.phi3.max_model_len\n")
	w.says(t, "configuration: takes effect after a restart: ai_model_services.phi3.slots\n")
	bearer("second")
	if strings.Contains(w.stderr.String(), "second") {
		t.Error("stderr holds a key")
	}
	replace(t, path, text("api_key: second, max_model_len: 512}, hermes: {port: 12002}"))
	w.says(t, "nothing that concerns this process has changed\n")
}

// TestReloadThatAnEngineRefuses is rejected as a whole.
func TestReloadThatAnEngineRefuses(t *testing.T) {
	t.Parallel()
	text := strings.Replace(only, "{mixtral", "{phi3: {engine: 'http://u:p@127.0.0.1:1'KEY}, mixtral", 1)
	path := file(t, strings.Replace(text, "KEY", "", 1))
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	replace(t, path, strings.Replace(text, "KEY", ", api_key: k", 1)+"log: {level: disabled}\n")
	r.says(t, "configuration: not reloaded, the one before it stays in force: engine of phi3: engine http://127.0.0.1:1 has credentials in its URL and an APIKey")
	r.wantMetrics(t, `hxp_config_reloads_total{outcome="rejected"} 1`)
}

// TestWatcherWaitsForAWholeFile does not take a file that is being written for an empty one.
func TestWatcherWaitsForAWholeFile(t *testing.T) {
	t.Parallel()
	path := file(t, "tenant: a\n")
	w, err := app.WatchFiles([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"nothing", func() error { return nil }, false},
		{"truncated", func() error { return os.Truncate(path, 0) }, false},
		{"written again as it was", func() error { return os.WriteFile(path, []byte("tenant: a\n"), 0o600) }, false},
		{"changed", func() error { return os.WriteFile(path, []byte("tenant: b\n"), 0o600) }, true},
		{"removed", func() error { return os.Remove(path) }, false},
		{"back", func() error { return os.WriteFile(path, []byte("tenant: c\n"), 0o600) }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := w.Settled(); got != step.want {
			t.Errorf("%s: changed = %v, want %v", step.name, got, step.want)
		}
	}
	if _, err := app.WatchFiles([]string{filepath.Join(t.TempDir(), "away", "hxp.yaml")}); err == nil {
		t.Error("a folder that is not there is watched")
	}
}

func TestWorkerWithAnEngineOfItsOwn(t *testing.T) {
	t.Parallel()
	broker := up(t, quick(t), app.UpOptions{})
	flags := []string{"nats.url=" + broker.NATS, "http.listen=127.0.0.1:0", "service_network.internal_communication.localhost=" + loopback()}
	w := worker(t, quick(t, flags...), app.WorkerOptions{Model: "phi3", Engine: app.EngineSim, ID: "own"})
	if !strings.Contains(w.Engines["phi3"], ":11403") {
		t.Errorf("engine = %s, want a simulated one on the model's port", w.Engines["phi3"])
	}
	if _, body := get(t, w.Engines["phi3"]+"/v1/models"); !strings.Contains(body, "phi3") {
		t.Errorf("models = %s", body)
	}
	wantError(t, app.Worker(t.Context(), w.cfg, app.WorkerOptions{Model: "phi3", Engine: app.EngineSim, Stderr: &safe{}}), nil, "simulated engine of phi3: ai_model_services.phi3.port: cannot listen")
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	none := quick(t, append(flags, "ai_model_services.phi3.model_path=")...)
	wantError(t, app.Worker(t.Context(), none, app.WorkerOptions{Model: "phi3", Engine: app.EngineVLLM, Stderr: &safe{}}), app.ErrUsage, "model_path is empty")
}

// TestReloadOfTheWindow changes what a model is shown, from the next job on.
func TestReloadOfTheWindow(t *testing.T) {
	t.Parallel()
	path := file(t, only)
	r := up(t, load(t, app.LoadOptions{Files: []string{path}}), app.UpOptions{})
	c := dial(t, r.cfg)
	for range 3 {
		converse(t, c, "Hello")
	}
	replace(t, path, only+"conversation: {window: {strategy: last_n, last_n: 1, keep: 1}}\n")
	r.says(t, "configuration: reloaded: conversation.window.keep, conversation.window.last_n, conversation.window.strategy")
	if got := converse(t, c, "Hello"); got.Turn.LeftOut == nil || got.Turn.LeftOut.Turns != 2 {
		t.Errorf("left out %+v, want 2 turns", got.Turn.LeftOut)
	}
	replace(t, path, only+"conversation: {window: {strategy: last_n, last_n: 1, keep: 1}, ttl: 1h}\n")
	r.says(t, "takes effect after a restart: conversation.ttl")
}
