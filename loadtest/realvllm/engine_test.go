//go:build vllm && linux

package realvllm_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the engines are started with.
const (
	window   = 2048
	slots    = 8
	patience = 4 * time.Minute // for a start: two engines may start at once on two busy cores
)

// engine is a vLLM that serves one of the models. This file is the only one that starts engines.
type engine struct {
	program
	model string
	url   string
}

// newEngine says how the engine of a model is started. It does not start it.
func newEngine(t *testing.T, model, dir string, flags ...string) *engine {
	t.Helper()
	port := freePort(t)
	e := &engine{model: model, url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	e.program = program{
		name: "vllm-" + model, dir: dir, owner: t,
		args: append([]string{
			filepath.Join(venv, "bin", "vllm"), "serve", filepath.Join(models, model), "--served-model-name", model,
			// With 16 bits a near tie tips over when the same prefix is computed in another batch.
			"--dtype", "float32", "--enforce-eager",
			"--max-model-len", strconv.Itoa(window), "--max-num-batched-tokens", strconv.Itoa(window), "--max-num-seqs", strconv.Itoa(slots),
			"--host", "127.0.0.1", "--port", strconv.Itoa(port),
		}, flags...),
		env: []string{
			"PATH=" + filepath.Join(venv, "bin") + ":/usr/local/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=",
			"HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1",
			"VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "OMP_NUM_THREADS=1",
		},
	}
	return e
}

// run starts the engine, again if it ran before, and waits until it is well. It returns how long that took.
func (e *engine) run(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	e.start(t)
	eventually(t, patience, e.name+" is ready", func() bool {
		if !e.running() {
			t.Fatalf("%s ended with %s:\n%s", e.name, e.exit(), e.tail(2<<10))
		}
		return answers(e.url+"/health") == http.StatusOK
	})
	return time.Since(began)
}

// settings have a worker start the same engine on its own, as `hxp worker --engine vllm` does.
func (e *engine) settings(flags []string) []string {
	_, port, _ := strings.Cut(strings.TrimPrefix(e.url, "http://"), ":")
	of := "ai_model_services." + e.model
	set := []string{
		"vllm_integration.server.command=" + e.args[0], "vllm_integration.server.stop_timeout=10s",
		of + ".model_path=" + e.args[2], of + ".port=" + port, of + ".max_model_len=" + strconv.Itoa(window),
		of + ".memory_limit_gb=0", of + ".cpu_cores=0", of + ".engine_args.dtype=float32", of + ".engine_args.enforce_eager=true",
		of + ".engine_args.max_num_seqs=" + strconv.Itoa(slots), of + ".engine_args.max_num_batched_tokens=" + strconv.Itoa(window),
	}
	for i := 0; i+1 < len(flags); i += 2 {
		if flags[i] == "--scheduling-policy" {
			set = append(set, of+".scheduling_policy="+flags[i+1])
		}
	}
	return set
}

// first returns vLLM's first process, whoever started it, or 0.
func (e *engine) first() int {
	for _, p := range processes() {
		if !p.zombie && strings.Contains(p.title, "/vllm serve "+e.args[2]+" ") {
			return p.pid
		}
	}
	return 0
}

// scrape reads the engine's metrics: the sums over all labels by name, with the labels where they are asked for.
func (e *engine) scrape(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		out[name] += v
		if _, reason, ok := strings.Cut(labels, `finished_reason="`); ok {
			reason, _, _ = strings.Cut(reason, `"`)
			out[name+"/"+reason] += v
		}
	}
	return out, nil
}

// metric reads one value, which must be there.
func (e *engine) metric(t *testing.T, name string) float64 {
	t.Helper()
	all, err := e.scrape(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, ok := all[name]
	if !ok {
		t.Fatalf("%s has no metric %s", e.name, name)
	}
	return v
}
