package vllm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// A Server is an engine: from nothing to a reply, and back to nothing.
func TestServerLife(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "ok"})
	if words := b.unready(workers.ErrStarting); !strings.Contains(words, "not started yet") {
		t.Errorf("health before Run says %q", words)
	}
	b.run().ready(0)
	h, err := b.Health(t.Context())
	if err != nil || h.Model != "m" || !h.Simulated {
		t.Errorf("health = %+v, %v", h, err)
	}
	r := result{}
	for d, err := range b.Generate(t.Context(), chat(simChat)) {
		if err != nil {
			t.Fatal(err)
		}
		r.tokens += d.Tokens
	}
	if r.tokens != 40 {
		t.Errorf("%d tokens, want 40", r.tokens)
	}
	for range b.Generate(t.Context(), chat(simChat)) { //nolint:errcheck // the point is to leave
		break
	}
	st := b.Status()
	if st.Version != "0.31.0" || st.PID == 0 || !living(st.PID) || len(st.Notes) != 0 || st.Restarts != 0 || st.Progress != "" {
		t.Errorf("status = %+v", st)
	}
	eventually(t, "usage", func() bool { st = b.Status(); return st.MemoryBytes > 1<<20 && st.CPUSeconds > 0 })
	if m, s := b.metric(`hxp_engine_memory_bytes{model="m"}`), b.metric(`hxp_engine_start_seconds{model="m"}`); m < 1<<20 || s <= 0 || s > 10 {
		t.Errorf("memory %v, start %v", m, s)
	}
	if b.metric(`hxp_engine_cpu_seconds_total{model="m"}`) <= 0 || b.restarts("exited") != 0 || b.restarts("hung") != 0 {
		t.Error("CPU time or restarts are not there")
	}
	b.stop()
	if err := b.finish(); err != nil || living(st.PID) {
		t.Errorf("Run = %v; alive: %t", err, living(st.PID))
	}
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "has run already") {
		t.Errorf("second Run = %v", err)
	}
	if _, err := b.Health(t.Context()); err == nil || errors.Is(err, workers.ErrRestarting) || schemas.AsError(err).Code != schemas.CodeEngineUnavailable {
		t.Errorf("health of a stopped engine = %v", err)
	}
}

func TestRestartIsAskedFor(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "ok", cfg: vllm.ServerConfig{RestartDelay: 300 * time.Millisecond}})
	b.Restart("too early")
	b.run().ready(0)
	b.Restart("its canary got no answer")
	b.Restart("and another")
	eventually(t, "the end of the first", func() bool { return b.Status().Restarts == 1 })
	if words := b.unready(workers.ErrRestarting); !strings.Contains(words, "asked: its canary got no answer") {
		t.Errorf("health says %q", words)
	}
	b.ready(1)
	if b.restarts("asked") != 1 || len(b.starts()) != 2 {
		t.Errorf("%v restarts, %d starts", b.restarts("asked"), len(b.starts()))
	}
}

// What the process is given: the key in its environment and nowhere else, and none of hxp's own settings.
func TestServerEnvironment(t *testing.T) {
	t.Setenv("HXP_NATS_PASSWORD", "s3cret-of-hxp")
	t.Setenv("VLLM_NO_USAGE_STATS", "0")
	const key = "k"
	b := newBed(t, setting{
		plan: "ok", engine: vllm.Config{APIKey: key}, args: vllm.Args{Extra: map[string]any{"hf_token": "hf-of-the-flags"}},
		cfg: vllm.ServerConfig{CPUs: 3, StartTimeout: 90 * time.Second, Env: map[string]string{"CUDA_VISIBLE_DEVICES": "1", "TEST_VLLM_HELP": "exit"}},
	}).run()
	b.ready(0)
	rec := b.starts()[0]
	for _, want := range []string{
		"VLLM_API_KEY=" + key, "OMP_NUM_THREADS=3", "VLLM_ENGINE_READY_TIMEOUT_S=90", "VLLM_NO_USAGE_STATS=0",
		"VLLM_HTTP_TIMEOUT_KEEP_ALIVE=30", "CUDA_DEVICE_ORDER=PCI_BUS_ID",
	} {
		if !slices.Contains(rec.Env, want) {
			t.Errorf("the environment lacks %s", want)
		}
	}
	if slices.ContainsFunc(rec.Env, func(v string) bool { return strings.HasPrefix(v, "HXP_") }) {
		t.Error("the environment holds a setting of hxp's own")
	}
	if slices.ContainsFunc(rec.Argv, func(a string) bool { return strings.Contains(a, "api-key") || a == key }) {
		t.Errorf("the arguments hold the key: %q", rec.Argv)
	}
	if !slices.Contains(rec.Argv, "--hf-token=hf-of-the-flags") || strings.Contains(b.log.String(), "hf-of-the-flags") {
		t.Error("the token is not handed on, or it is in the log")
	}
	if strings.Contains(b.log.String(), "key is "+key) || strings.Contains(strings.Join(b.Status().Notes, ""), "key is "+key) {
		t.Errorf("the log or the notes hold the key: %q", b.Status().Notes)
	}
}

func TestServerThatCannotRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		cfg  vllm.ServerConfig
		want string
	}{
		"not on the PATH":      {vllm.ServerConfig{Command: []string{"no-such-vllm"}, Env: map[string]string{"PATH": dir + ":relative"}}, "it is not on the PATH"},
		"not there":            {vllm.ServerConfig{Command: []string{"./no-such-vllm"}, Dir: dir}, "no such file"},
		"a folder":             {vllm.ServerConfig{Command: []string{dir}}, "permission denied"},
		"not executable":       {vllm.ServerConfig{Command: []string{write("plain", "x", 0o600)}}, "permission denied"},
		"no interpreter":       {vllm.ServerConfig{Command: []string{write("script", "#!/no/such/python\n", 0o700)}}, "no such file"},
		"no program":           {vllm.ServerConfig{Command: []string{write("junk", "\x00junk", 0o700)}}, "exec format error"},
		"no working directory": {vllm.ServerConfig{Dir: filepath.Join(dir, "none")}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, setting{plan: "ok", cfg: tt.cfg}).run()
			if err := b.finish(); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "engine http://") {
				t.Errorf("Run = %v; want %q", err, tt.want)
			}
			if st := b.Status(); st.State != vllm.StateFailed {
				t.Errorf("status = %+v", st)
			}
		})
	}
}

// Run can be ended at any moment.
func TestServerStopsAnyTime(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		plan  string
		cfg   vllm.ServerConfig
		until func(b *bed) bool
	}{
		"while asking for flags": {"ok", vllm.ServerConfig{Env: map[string]string{"TEST_VLLM_HELP": "hang"}}, func(b *bed) bool {
			return strings.HasPrefix(b.Status().Progress, "asking vLLM")
		}},
		"while starting":   {"slow", vllm.ServerConfig{}, func(b *bed) bool { return len(b.starts()) == 1 }},
		"while waiting":    {"broken", vllm.ServerConfig{RestartDelay: time.Minute}, func(b *bed) bool { return b.Status().Restarts == 1 }},
		"while generating": {"ok", vllm.ServerConfig{}, func(b *bed) bool { return b.Status().State == vllm.StateReady }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, setting{plan: tt.plan, cfg: tt.cfg}).run()
			eventually(t, name, func() bool { return tt.until(b) })
			b.stop()
			if err := b.finish(); err != nil || b.Status().State != vllm.StateStopped {
				t.Errorf("Run = %v, status %+v", err, b.Status())
			}
		})
	}
}

// The engine's log is passed on line by line, bounded, without colours; a progress bar is news and no line.
func TestEngineLog(t *testing.T) {
	t.Parallel()
	script := `printf '\033[31mred\033[0m\r\n\001bar 10%%\rbar 20%%\r\nlong %05000d\n\n last words' 0 >&2; [ "$1" = serve ] && [ "$2" != --help=all ] && exit 1; exec "$0" "$@"`
	b := newBed(t, setting{plan: "ok", cfg: vllm.ServerConfig{Command: []string{"/bin/sh", "-c", script, os.Args[0]}}}).run()
	eventually(t, "a crash", func() bool { return b.Status().Restarts > 0 })
	b.stop()
	if err := b.finish(); err != nil {
		t.Error(err)
	}
	log := b.log.String()
	for _, want := range []string{"\nred\n", "\nbar 20%\n", "\nlong 0000", "\nlast words\n"} {
		if !strings.Contains("\n"+log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	longest := 0
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "long") {
			longest = max(longest, len(line))
		}
	}
	if longest == 0 || longest > 4200 || strings.Contains(log, "\nbar 10%") {
		t.Errorf("the longest line has %d bytes", longest)
	}
	if last := b.Status().LastExit; !strings.HasSuffix(last, "last words") || len(last) > 3000 {
		t.Errorf("last exit %q", last)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestLogThatCannotBeWrittenStopsNobody(t *testing.T) {
	t.Parallel()
	b := newBed(t, setting{plan: "ok"})
	s, err := vllm.NewServer(vllm.Args{Model: "path/m", ServedName: "m", Port: freePort(t)}, vllm.ServerConfig{
		Command: []string{os.Args[0]}, Env: map[string]string{roleVar: roleVLLM, planVar: "ok", dirVar: b.dir}, Stderr: brokenWriter{},
	}, vllm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	b.run().ready(0)
}

// A group that cannot be waited for any longer is named. A stopped tracer would be such a process; a
// zombie, which nobody asks for, is none.
func TestZombieIsNoSurvivor(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "orphan|ok"})
	rec := b.starts()[0]
	if err := syscall.Kill(rec.Child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a zombie", func() bool { return !living(rec.Child) })
	b.stop()
	if err := b.finish(); err != nil {
		t.Error(err)
	}
}

func TestNewServerNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := vllm.NewServer(vllm.Args{
		Port: 70000, GPUMemoryUtilization: 1.5, TensorParallelSize: -1, MaxModelLen: -2, MaxNumSeqs: -3, MaxNumBatchedTokens: -4,
		Extra: map[string]any{
			"api_key": "x", "max_model_len": 5, "no_enable_prefix_caching": true, "--stop-words": []string{"-x"}, "stop_words": "y",
			"a b": 1, "empty": []any{}, "chan": make(chan int), "deep": []any{map[string]any{}}, "json": map[string]any{"x": make(chan int)}, "zero": "a\x00",
		},
	}, vllm.ServerConfig{
		Command: []string{""}, ProbeTimeout: -1, StartTimeout: -1, StallTimeout: -1, StopTimeout: -1, RestartDelay: -1, MemoryGrace: -1,
		MaxRestartDelay: -2, MemoryLimit: -1, CPUs: -1, Env: map[string]string{"A=B": "c"},
	}, vllm.Config{})
	for _, want := range []string{
		`Model is ""`, "Port is 70000; want 1 to 65535", "GPUMemoryUtilization is 1.5; want 0 to 1", "TensorParallelSize is -1", "MaxModelLen is -2",
		"MaxNumSeqs is -3", "MaxNumBatchedTokens is -4", `Extra["api_key"] cannot be set`, `Extra["max_model_len"] has a field: set MaxModelLen`,
		`Extra["no_enable_prefix_caching"] has a field: set PrefixCaching`, "would be read as a flag", `is the same flag as Extra["--stop-words"]`,
		`Extra["a b"] is no name of a flag`, "is an empty list", "is a chan int", "element 0 is a map", "cannot be written as JSON", "holds a zero byte",
		"Command[0] is empty", "ProbeTimeout is -1ns; want above 0", "StartTimeout", "StallTimeout", "StopTimeout", "RestartDelay is", "MemoryGrace",
		"MaxRestartDelay is -2ns; want at least RestartDelay", "MemoryLimit is -1", "CPUs is -1", `Env["A=B"]`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	if _, err := vllm.NewServer(vllm.Args{Model: "m"}, vllm.ServerConfig{}, vllm.Config{MaxConns: -1}); err == nil {
		t.Error("a faulty engine configuration passed")
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "hxp_engine_restarts_total", Help: "x"}))
	if _, err := vllm.NewServer(vllm.Args{Model: "m"}, vllm.ServerConfig{Registry: reg}, vllm.Config{}); err == nil || !strings.Contains(err.Error(), "register metrics") {
		t.Errorf("a taken name of a metric: %v", err)
	}
}

// Servers share a registry.
func TestServersShareARegistry(t *testing.T) {
	t.Parallel()
	cfg := vllm.ServerConfig{Registry: prometheus.NewRegistry()}
	for i, host := range []string{"0.0.0.0", "::", "[::1]", "gpu-1"} {
		s, err := vllm.NewServer(vllm.Args{Model: fmt.Sprint("m", i), Host: host}, cfg, vllm.Config{})
		want := []string{"http://127.0.0.1:8000", "http://[::1]:8000", "http://[::1]:8000", "http://gpu-1:8000"}[i]
		if err != nil || s.String() != want {
			t.Errorf("host %s: %v, %v; want %s", host, s, err, want)
		}
	}
}

func ExampleServer() {
	server, err := vllm.NewServer(
		vllm.Args{Model: "/models/phi-3-mini", ServedName: "phi3", Port: 11403, MaxModelLen: 4096},
		vllm.ServerConfig{Command: []string{"/no/such/vllm"}, MemoryLimit: 16 << 30, CPUs: 4},
		vllm.Config{},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(server, server.Status().State)
	// Run starts the process, and starts it again however it ends, until the context does. It
	// returns earlier only when that can never work.
	err = server.Run(context.Background())
	fmt.Println(server.Status().State, err)
	// Output:
	// http://127.0.0.1:11403 starting
	// failed engine http://127.0.0.1:11403: command "/no/such/vllm" cannot be run: stat /no/such/vllm: no such file or directory
}
