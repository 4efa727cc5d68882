package vllm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// The test binary plays these programs, by the value of roleVar.
const (
	roleVar = "TEST_VLLM_ROLE"
	// planVar is what the fake vllm does at each of its starts, separated by |; the last goes on.
	planVar = "TEST_VLLM_PLAN"
	// dirVar is where it leaves what it knows.
	dirVar = "TEST_VLLM_DIR"

	roleVLLM       = "vllm"       // vllm, with planVar
	roleServe      = "serve"      // a child of it that serves and ignores SIGTERM
	roleIdle       = "idle"       // a child of it that does nothing and ignores SIGTERM
	roleSupervisor = "supervisor" // an hxp that is to be killed
)

const helpText = `usage: vllm serve [model_tag] [options]

options:
  --host HOST           Host name. Not the same as --hostage.
  --port PORT           Port number.
  --served-model-name SERVED_MODEL_NAME [SERVED_MODEL_NAME ...]
  --max-model-len MAX_MODEL_LEN
  --max-num-seqs MAX_NUM_SEQS
  --enable-prefix-caching, --no-enable-prefix-caching
  --generation-config GENERATION_CONFIG
  --enable-auto-tool-choice, --no-enable-auto-tool-choice
  --tool-call-parser {hermes,mistral} or name registered in --tool-parser-plugin
  --trust-remote-code, --no-trust-remote-code
  --enable-log-requests
  --stop-words [STOP_WORDS ...]
  --override-generation-config OVERRIDE_GENERATION_CONFIG
  -h, --help            Show this help.
`

// record is what the fake vllm writes down at a start.
type record struct {
	PID   int
	Child int
	Argv  []string
	Env   []string
}

func play(role string, args []string) int {
	switch role {
	case roleServe, roleIdle:
		signal.Ignore(syscall.SIGTERM)
		if role == roleServe {
			return serveSim(args, nil)
		}
		fmt.Println("idle")
		forever()
	case roleSupervisor:
		return supervise()
	}
	switch strings.Join(args, " ") {
	case "--version":
		return fakeAnswer(os.Getenv("TEST_VLLM_VERSION"), "WARNING 11-23 no GPU\n0.31.0\n")
	case "serve --help=all":
		return fakeAnswer(os.Getenv("TEST_VLLM_HELP"), helpText)
	case "serve --help":
		return fakeAnswer(os.Getenv("TEST_VLLM_PLAINHELP"), "options by group\n")
	}
	return fakeServe(args)
}

// forever outlasts every test. An empty select would be a deadlock, which ends a program.
func forever() { <-time.After(time.Hour) }

// fakeAnswer prints the usual, or what the test wants: "exit" fails, "hang" never answers.
func fakeAnswer(want, usual string) int {
	switch want {
	case "":
		fmt.Print(usual)
	case "exit":
		fmt.Fprintln(os.Stderr, "no such option; key is", os.Getenv("VLLM_API_KEY"))
		return 1
	case "hang":
		forever()
	default:
		fmt.Println(want)
	}
	return 0
}

func fakeServe(args []string) int {
	dir := os.Getenv(dirVar)
	starts, _ := filepath.Glob(filepath.Join(dir, "start-*.json"))
	plan := strings.Split(os.Getenv(planVar), "|")
	act := plan[min(len(starts), len(plan)-1)]
	rec := record{PID: os.Getpid(), Argv: args, Env: os.Environ()}
	save := func() {
		data, _ := json.Marshal(rec)
		path := filepath.Join(dir, fmt.Sprintf("start-%03d.json", len(starts)))
		if err := os.WriteFile(path+".new", data, 0o600); err == nil {
			_ = os.Rename(path+".new", path)
		}
	}
	child := func(role string, setsid bool) {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), roleVar+"="+role)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: setsid}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			panic(err)
		}
		_, _ = io.ReadFull(out, make([]byte, 4)) // it ignores signals now
		rec.Child = cmd.Process.Pid
	}
	switch act {
	case "refuse":
		save()
		fmt.Fprintln(os.Stderr, "usage: vllm serve\nvllm: error: unrecognized arguments: --enable-paged-attention")
		return 2
	case "broken":
		save()
		fmt.Fprintln(os.Stderr, "OSError: no such model; token is", os.Getenv("HF_TOKEN"))
		return 1
	case "slow":
		save()
		fmt.Fprint(os.Stderr, "INFO loading\nshards:  0%\rshards: 50%\r")
		forever()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		child(roleIdle, false)
		save()
		forever()
	case "orphan":
		child(roleIdle, false)
	case "orphan in a session":
		child(roleIdle, true)
	case "child serves":
		child(roleServe, false)
		save()
		forever()
	}
	return serveSim(args, save)
}

// serveSim serves the simulator where the arguments say.
func serveSim(args []string, ready func()) int {
	value := func(name string) string {
		for _, a := range args {
			if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
				return v
			}
		}
		return ""
	}
	sim, err := vllmsim.New(vllmsim.Config{Model: value("served-model-name"), ITL: time.Millisecond})
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(value("host"), value("port")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if ready == nil {
		fmt.Println("serving")
	} else {
		ready()
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() { <-stop; os.Exit(0) }()
	}
	fmt.Fprintln(os.Stderr, "\x1b[32mINFO\x1b[0m serving")
	mux := http.NewServeMux()
	mux.Handle("/", sim.Handler())
	mux.HandleFunc("/test/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	var hog []byte
	mux.HandleFunc("/test/hog", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("bytes"))
		hog = bytes.Repeat([]byte{1}, n)
		fmt.Fprint(w, len(hog))
	})
	_ = http.Serve(l, mux)
	return 1
}

// supervise is an hxp with nothing but a Server.
func supervise() int {
	port, _ := strconv.Atoi(os.Getenv("TEST_VLLM_PORT"))
	s, err := vllm.NewServer(vllm.Args{Model: "m", ServedName: "m", Port: port}, vllm.ServerConfig{
		Command: []string{os.Args[0]}, Env: map[string]string{roleVar: roleVLLM}, Stderr: os.Stderr,
	}, vllm.Config{})
	if err == nil {
		err = s.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// bed is a Server with a fake vllm.
type bed struct {
	*vllm.Server

	t   *testing.T
	dir string
	reg *prometheus.Registry
	log *buffer
	url string
	// ended is closed when Run has returned err.
	ended chan struct{}
	err   error
	stop  context.CancelFunc
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// setting is what a test changes of the usual.
type setting struct {
	plan   string
	args   vllm.Args
	cfg    vllm.ServerConfig
	engine vllm.Config
}

// newBed makes a Server whose fake vllm follows the plan.
func newBed(t *testing.T, set setting) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir(), reg: prometheus.NewRegistry(), log: &buffer{}, ended: make(chan struct{})}
	args, cfg := set.args, set.cfg
	args.Model, args.ServedName = "path/m", "m"
	if args.Port == 0 {
		args.Port = freePort(t)
	}
	b.url = fmt.Sprintf("http://127.0.0.1:%d", args.Port)
	if cfg.Command == nil {
		cfg.Command = []string{os.Args[0]}
	}
	env := map[string]string{roleVar: roleVLLM, planVar: set.plan, dirVar: b.dir, "GOCOVERDIR": b.dir}
	maps.Copy(env, cfg.Env)
	cfg.Env, cfg.Registry = env, b.reg
	cfg.Logger, cfg.Stderr = zerolog.New(b.log), b.log
	if cfg.RestartDelay == 0 {
		cfg.RestartDelay = 10 * time.Millisecond
	}
	if set.engine.CanaryTimeout == 0 {
		set.engine.CanaryTimeout = 2 * time.Second
	}
	s, err := vllm.NewServer(args, cfg, set.engine)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	return b
}

// run runs the Server until the test ends.
func (b *bed) run() *bed {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	b.stop = cancel
	go func() {
		defer close(b.ended)
		b.err = b.Run(ctx)
	}()
	b.t.Cleanup(func() {
		cancel()
		<-b.ended
		b.Close()
		if b.t.Failed() {
			b.t.Logf("the log:\n%s", b.log)
		}
	})
	return b
}

// launch runs a Server with a plan until it is ready.
func launch(t *testing.T, set setting) *bed {
	t.Helper()
	b := newBed(t, set).run()
	b.ready(0)
	return b
}

// ready waits until the engine is ready after so many restarts.
func (b *bed) ready(restarts int) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("ready after %d restarts", restarts), func() bool {
		st := b.Status()
		return st.State == vllm.StateReady && st.Restarts >= restarts
	})
}

// finish waits for the end of Run.
func (b *bed) finish() error {
	b.t.Helper()
	select {
	case <-b.ended:
	case <-time.After(20 * time.Second):
		b.t.Fatal("Run has not returned within 20s")
	}
	return b.err
}

// starts are the starts of the fake vllm.
func (b *bed) starts() []record {
	b.t.Helper()
	files, _ := filepath.Glob(filepath.Join(b.dir, "start-*.json"))
	var all []record
	for _, f := range files {
		data, err := os.ReadFile(f)
		var rec record
		if err == nil {
			err = json.Unmarshal(data, &rec)
		}
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

// restarts is the metric, for a reason.
func (b *bed) restarts(reason string) float64 {
	b.t.Helper()
	return b.metric(fmt.Sprintf(`hxp_engine_restarts_total{model="m",reason=%q}`, reason))
}

// metric is one series of the registry, or -1.
func (b *bed) metric(series string) float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if f.GetName()+"{"+strings.Join(labels, ",")+"}" == series {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// post asks the fake vllm for something; the answer may never come.
func (b *bed) post(path, body string) {
	b.t.Helper()
	resp, err := http.Post(b.url+path, "application/json", strings.NewReader(body))
	if err == nil {
		resp.Body.Close()
	}
}

// living reports whether a process is there and no zombie.
func living(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(after, "Z")
}

// rss is the resident memory of a process in bytes.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, pages int64
	if err == nil {
		_, err = fmt.Sscan(string(data), &size, &pages)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// cmdlines are the command lines of the living children of a process.
func cmdlines(t *testing.T, parent int) string {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	var all []string
	for _, f := range files {
		data, _ := os.ReadFile(f) // it may be gone
		_, after, _ := strings.Cut(string(data), ") ")
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			all = append(all, string(line))
		}
	}
	return strings.Join(all, "\n")
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// unready checks the error of Health and returns its words.
func (b *bed) unready(want error) string {
	b.t.Helper()
	_, err := b.Health(b.t.Context())
	if !errors.Is(err, want) {
		b.t.Errorf("health: %v; want %v", err, want)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

var _ workers.Engine = (*bed)(nil)
