package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/internal/vllmsim"
	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
)

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	return v
}

// answer is what the engine says to a prompt.
func answer(t *testing.T, model, prompt string, maxTokens int) string {
	t.Helper()
	body := fmt.Sprintf(`{"messages":[{"role":"user","content":%q}],"max_tokens":%d}`, prompt, maxTokens)
	want, err := vllmsim.Expected(model, []byte(body), string(schemas.ChatCompletions))
	if err != nil {
		t.Fatal(err)
	}
	return want[0].Text
}

func TestRun(t *testing.T) {
	t.Parallel()
	c := start(t)
	t.Run("streams text and sums up", func(t *testing.T) {
		t.Parallel()
		s := c.hxp(t, "run", "phi3", "Why is the sky", "blue?", "--max-tokens", "20").must(t, exitOK)
		if want := answer(t, "phi3", "Why is the sky blue?", 20) + "\n"; s.out != want {
			t.Errorf("stdout = %q, want %q", s.out, want)
		}
		if ok, _ := regexp.MatchString(`^job \S+ · \d+\+20 tokens · ttft \d+ ms · \d+ tok/s · total \d+ ms\n$`, s.stderr); !ok {
			t.Errorf("stderr = %q", s.stderr)
		}
	})
	t.Run("json is the result", func(t *testing.T) {
		t.Parallel()
		s := c.hxp(t, "run", "hermes", "-o", "json", "--system", "Be brief.", "--max-tokens", "5", "--temperature", "0.7", "Hello").must(t, exitOK)
		r := decode[schemas.Result](t, s.out)
		if r.Status != schemas.StatusCompleted || r.Class != schemas.Interactive || r.Usage.CompletionTokens != 5 || r.Text == "" {
			t.Errorf("result = %+v", r)
		}
	})
	t.Run("prompt from stdin", func(t *testing.T) {
		t.Parallel()
		s := command(t.Context(), "Hello\n", "run", "phi3", "--max-tokens", "8", "--server", c.NATS).must(t, exitOK)
		if want := answer(t, "phi3", "Hello", 8) + "\n"; s.out != want {
			t.Errorf("stdout = %q, want %q", s.out, want)
		}
		s = command(t.Context(), "Hello", "run", "phi3", "Say:", "-", "--max-tokens", "8", "--server", c.NATS).must(t, exitOK)
		if want := answer(t, "phi3", "Say: Hello", 8) + "\n"; s.out != want {
			t.Errorf("stdout = %q, want %q", s.out, want)
		}
	})
	t.Run("raw", func(t *testing.T) {
		t.Parallel()
		s := c.hxp(t, "run", "phi3", "--raw", "Once upon a time", "--max-tokens", "8", "-o", "ndjson").must(t, exitOK)
		if r := decode[schemas.Result](t, s.out); r.Endpoint != schemas.Completions || r.Text == "" {
			t.Errorf("result = %+v, want one of the completions endpoint", r)
		}
	})
	t.Run("a refused job fails", func(t *testing.T) {
		t.Parallel()
		s := c.hxp(t, "run", "phi3", "Hello", "--temperature", "9").must(t, exitFailed)
		if !strings.Contains(s.stderr, "temperature is 9; want 0.1 to 2") {
			t.Errorf("stderr = %q, want the bound in it", s.stderr)
		}
		s = c.hxp(t, "run", "gpt9", "Hello").must(t, exitFailed)
		if !strings.Contains(s.stderr, `model "gpt9"`) {
			t.Errorf("stderr = %q, want the model in it", s.stderr)
		}
	})
	t.Run("usage", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{
			{"run"}, {"run", "phi3", ""}, {"run", "phi3", "x", "--class", "urgent"}, {"run", "phi3", "x", "--raw", "--system", "y"},
			{"run", "phi3", "x", "-o", "xml"}, {"run", "phi3", "x", "--max-tokens", "many"}, {"submit", "phi3", "x", "--file", "y"},
			{"submit", "phi3", "--file", "no-such-file"}, {"submit", "phi3", "--file", "cli_test.go"}, {"submit", "phi3", "--class", "urgent", "-f", "cli_test.go"},
		} {
			c.hxp(t, args...).must(t, exitUsage)
		}
		command(t.Context(), "", "run", "phi3", "--server", c.NATS).must(t, exitUsage)
	})
}

// TestRunInterrupted cancels on the cluster what nobody waits for any more.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	c := start(t, "--sim-itl", "50ms", "--models", "phi3")
	for name, tc := range map[string]struct {
		args []string
		code int
	}{
		"by Ctrl-C":    {nil, exitInterrupted},
		"by --timeout": {[]string{"--timeout", "300ms"}, exitTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, interrupt := context.WithCancelCause(t.Context())
			defer interrupt(nil)
			out := notify{after: 3, f: func() {
				if tc.args == nil {
					interrupt(app.ErrInterrupted)
				}
			}}
			var stderr safe
			args := append([]string{"run", "phi3", "Count to a thousand", "--server", c.NATS}, tc.args...)
			code := run(ctx, args, strings.NewReader(""), &out, &stderr, nil)
			if code != tc.code {
				t.Fatalf("exit code %d, want %d; stderr: %s", code, tc.code, stderr.String())
			}
			found := regexp.MustCompile(`job (\S+) was cancelled \(decode\)`).FindStringSubmatch(stderr.String())
			if found == nil {
				t.Fatalf("stderr = %q, want that the job was cancelled in decode", stderr.String())
			}
			s := c.hxp(t, "get", found[1], "-o", "json").must(t, exitFailed)
			if r := decode[schemas.Result](t, s.out); r.Status != schemas.StatusCancelled {
				t.Errorf("status = %s, want cancelled", r.Status)
			}
		})
	}
}

// notify is a writer that calls f at its nth write.
type notify struct {
	after int
	f     func()
}

func (n *notify) Write(p []byte) (int, error) {
	if n.after--; n.after == 0 {
		n.f()
	}
	return len(p), nil
}

func TestSubmitWatchGetCancel(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3,mixtral")
	want := answer(t, "mixtral", "Hello", 30)

	id := strings.TrimSpace(c.hxp(t, "submit", "mixtral", "Hello", "--max-tokens", "30").must(t, exitOK).out)
	if s := c.hxp(t, "watch", id).must(t, exitOK); s.out != want+"\n" {
		t.Errorf("watch wrote %q, want %q", s.out, want)
	}
	if s := c.hxp(t, "get", id).must(t, exitOK); s.out != want+"\n" || !strings.Contains(s.stderr, "tokens") {
		t.Errorf("get wrote %q and %q, want %q and a summary", s.out, s.stderr, want)
	}
	if s := c.hxp(t, "cancel", id).must(t, exitOK); !strings.Contains(s.out, "ended") {
		t.Errorf("cancel wrote %q, want that the job had ended", s.out)
	}

	lines := strings.Split(strings.TrimSpace(c.hxp(t, "watch", id, "-o", "ndjson").must(t, exitOK).out), "\n")
	first, last := decode[schemas.Event](t, lines[0]), decode[schemas.Event](t, lines[len(lines)-1])
	if first.Kind != schemas.Started || first.Seq != 1 || last.Kind != schemas.Done || last.Seq != uint64(len(lines)) {
		t.Errorf("events from %s %d to %s %d, want started 1 to done %d", first.Kind, first.Seq, last.Kind, last.Seq, len(lines))
	}
	rest := decode[[]schemas.Event](t, c.hxp(t, "watch", id, "--after", "3", "-o", "json").must(t, exitOK).out)
	if len(rest) != len(lines)-3 || rest[0].Seq != 4 {
		t.Errorf("%d events from %d, want %d from 4", len(rest), rest[0].Seq, len(lines)-3)
	}

	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte(`{"messages":[{"role":"user","content":"Hello"}],"max_tokens":30}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := c.hxp(t, "submit", "mixtral", "-f", body, "--id", "mine", "--class", "batch", "--wait").must(t, exitOK)
	if s.out != want+"\n" || strings.Contains(s.stderr, "submitted before") {
		t.Errorf("submit --wait wrote %q and %q, want %q", s.out, s.stderr, want)
	}
	huge := filepath.Join(t.TempDir(), "huge.json")
	if err := os.WriteFile(huge, []byte(`{"prompt":"Hello","max_tokens":4,"padding":"`+strings.Repeat("x", 10<<20)+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := c.hxp(t, "submit", "mixtral", "-f", huge, "--wait").must(t, exitOK); s.out == "\n" {
		t.Errorf("submit --wait of 10 MiB wrote %q and %q", s.out, s.stderr)
	}
	s = command(t.Context(), `{"prompt":"Hello","max_tokens":4}`, "submit", "mixtral", "-f", "-", "--id", "mine", "-o", "json", "--server", c.NATS).must(t, exitOK)
	if diff := cmp.Diff(map[string]string{"id": "mine"}, decode[map[string]string](t, s.out)); diff != "" || !strings.Contains(s.stderr, "submitted before") {
		t.Errorf("second submission: %s (stderr %q)", diff, s.stderr)
	}

	s = c.hxp(t, "get", "nobody").must(t, exitFailed)
	if !strings.Contains(s.stderr, "never submitted") {
		t.Errorf("get of an unknown job: %q", s.stderr)
	}
	s = c.hxp(t, "cancel", "unheard-of", "not.an.id").must(t, exitPartly)
	if !strings.Contains(s.out, "queued") || !strings.Contains(s.out, "not cancelled") {
		t.Errorf("cancel wrote %q", s.out)
	}
	c.hxp(t, "cancel", "not.an.id").must(t, exitFailed)
	s = c.hxp(t, "watch", "unheard-of", "-o", "ndjson").must(t, exitFailed)
	if e := decode[schemas.Event](t, s.out); e.Kind != schemas.Cancelled {
		t.Errorf("event = %+v, want cancelled", e)
	}
	s = c.hxp(t, "watch", "waits-for-ever", "--timeout", "200ms").must(t, exitTimeout)
	if !strings.Contains(s.stderr, "nothing is stored of job waits-for-ever yet") {
		t.Errorf("stderr = %q", s.stderr)
	}
}

func TestGetOfARunningJob(t *testing.T) {
	t.Parallel()
	c := start(t, "--sim-itl", "30ms", "--models", "phi3")
	id := strings.TrimSpace(c.hxp(t, "submit", "phi3", "Count to a thousand").must(t, exitOK).out)
	ctx, leave := context.WithCancelCause(t.Context())
	var stderr safe
	code := run(ctx, []string{"watch", id, "--server", c.NATS}, strings.NewReader(""), &notify{2, func() { leave(app.ErrInterrupted) }}, &stderr, nil)
	if code != exitInterrupted {
		t.Errorf("watch ended with %d, want %d: %s", code, exitInterrupted, stderr.String())
	}
	s := c.hxp(t, "get", id).must(t, exitOK)
	if ok, _ := regexp.MatchString(`^running: attempt 1, last event \d+ \(delta\); hxp watch `+id, s.out); !ok {
		t.Errorf("get wrote %q", s.out)
	}
	if s := c.hxp(t, "cancel", id, "-o", "ndjson").must(t, exitOK); s.out != fmt.Sprintf("{\"id\":%q,\"phase\":\"decode\"}\n", id) {
		t.Errorf("cancel wrote %q, want phase decode", s.out)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	golden(t, "config_show.golden", command(t.Context(), "", "config", "show").must(t, exitOK).out)
	if a, b := command(t.Context(), "", "config").out, command(t.Context(), "", "config", "show").out; a != b {
		t.Error("config alone is not config show")
	}
	if s := command(t.Context(), "", "config", "show", "-o", "ndjson", "--set", "worker.slots=3").must(t, exitOK); !strings.Contains(s.out,
		`{"path":"worker.slots","value":3,"source":{"layer":"flag","name":"--set"}}`) {
		t.Errorf("worker.slots is not shown with its source: %q", s.out)
	}
	spec := "../internal/app/testdata/spec.yaml"
	golden(t, "config_check.golden", command(t.Context(), "", "config", "check", spec).must(t, exitOK).stderr)
	if s := command(t.Context(), "", "config", "check", spec, "-o", "json").must(t, exitOK); s.out != "[]\n" {
		t.Errorf("stdout = %q, want no faults", s.out)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("ai_model_services:\n  mixtral:\n    gpu_memory_utilization: 1.4\nwroker: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := command(t.Context(), "", "config", "check", bad).must(t, exitUsage)
	want := "hxp: the configuration has 2 faults:\n  ai_model_services.mixtral.gpu_memory_utilization: 1.4 is above 1 (" + bad + ":3)\n" +
		"  wroker: is not a setting; did you mean worker? (" + bad + ":4)\n"
	if diff := cmp.Diff(want, s.stderr); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
	s = command(t.Context(), "", "config", "check", bad, "-o", "json").must(t, exitUsage)
	if faults := decode[[]app.Fault](t, s.out); len(faults) != 2 || faults[0].Source.Name != bad+":3" {
		t.Errorf("faults = %+v", faults)
	}
	command(t.Context(), "", "config", "check", "no-such-file").must(t, exitUsage)
	command(t.Context(), "", "config", "show", "--set", "worker.slots").must(t, exitUsage)
	s = command(t.Context(), "", "config", "show", "--set", "nats.password=x").must(t, exitUsage)
	if !strings.Contains(s.stderr, "set HXP_NATS_PASSWORD in the environment") || strings.Contains(s.stderr, "=x") {
		t.Errorf("stderr = %q", s.stderr)
	}
}

func TestHelpVersionAndUnknown(t *testing.T) {
	t.Parallel()
	golden(t, "help.golden", command(t.Context(), "", "--help").must(t, exitOK).out)
	if s := command(t.Context(), "", "version").must(t, exitOK); !strings.HasPrefix(s.out, "hxp ") {
		t.Errorf("version wrote %q", s.out)
	}
	if v := decode[map[string]string](t, command(t.Context(), "", "version", "-o", "json").must(t, exitOK).out); v["version"] == "" || v["go"] == "" {
		t.Errorf("version = %v", v)
	}
	command(t.Context(), "", "version", "-o", "xml").must(t, exitUsage)
	s := command(t.Context(), "", "rnu", "phi3").must(t, exitUsage)
	if !strings.Contains(s.stderr, `unknown command "rnu"`) {
		t.Errorf("stderr = %q", s.stderr)
	}
	command(t.Context(), "", "--no-such-flag").must(t, exitUsage)
	command(t.Context(), "", "get").must(t, exitUsage)
	command(t.Context(), "", "completion", "bash").must(t, exitOK)
	for _, parent := range []string{"dead", "queue", "workers"} {
		command(t.Context(), "", parent).must(t, exitOK)
	}
	command(t.Context(), "").must(t, exitOK)
}

// TestEveryCommandHasExamples holds the rule that help shows how.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	c := &cli{out: newOutput(&safe{}, &safe{}, nil)}
	commands := c.root().Commands()
	for i := 0; i < len(commands); i++ {
		commands = append(commands, commands[i].Commands()...)
		if commands[i].Example == "" || commands[i].Short == "" {
			t.Errorf("hxp %s has no example or no description", commands[i].Name())
		}
	}
}

func TestUp(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, want := range []string{"hxp dev\n", "queue   " + c.NATS, "(simulated)", "Conversations are kept in memory only", "hxp run --server " + c.NATS + " phi3", "ready in "} {
		if !strings.Contains(c.stderr.String(), want) {
			t.Errorf("up did not say %q:\n%s", want, c.stderr)
		}
	}
	for path, status := range map[string]int{"/livez": 200, "/readyz": 200, "/metrics": 200, "/": 404} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.HTTP+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s answers %d, want %d", path, resp.StatusCode, status)
		}
	}
	if code := c.stop(); code != exitOK {
		t.Errorf("up ended with %d after an interrupt, want 0", code)
	}
	if !strings.Contains(c.stderr.String(), "stopping: jobs in flight have 30s to finish") {
		t.Errorf("up did not say that it stops:\n%s", c.stderr)
	}
	for _, args := range [][]string{
		{"up", "--engine", "phi3"}, {"up", "--engine", "gpt9=http://x"}, {"up", "--models", "gpt9"},
		{"up", "--models", "phi3", "--engine", "hermes=http://x"}, {"up", "extra"}, {"worker"}, {"worker", "--model", "gpt9"}, {"sim", "gpt9"}, {"up", "--listen", "x"},
		{"worker", "--model", "phi3", "--slots", "0"}, {"sim", "phi3", "--set", "worker=1"},
	} {
		command(t.Context(), "", args...).must(t, exitUsage)
	}
}

// TestRolesApart runs engine, worker and broker as processes of their own would.
func TestRolesApart(t *testing.T) {
	t.Parallel()
	broker := start(t, "--models", "hermes")
	sim := begin(t, "sim", "phi3", "--listen", "127.0.0.1:0", "--ttft", "1ms", "--itl", "1ms")
	worker := begin(t, "worker", "--model", "phi3", "--engine", sim.Engines["phi3"], "--server", broker.NATS, "--listen", "127.0.0.1:0", "--id", "apart",
		"--set", "queue.max_bytes=1MiB", "--set", "queue.events_max_bytes=1MiB", "--set", "queue.results_max_bytes=1MiB", "--drain-timeout", "0s")
	if s := broker.hxp(t, "run", "phi3", "Hello", "--max-tokens", "6").must(t, exitOK); s.out != answer(t, "phi3", "Hello", 6)+"\n" {
		t.Errorf("stdout = %q", s.out)
	}
	if !strings.Contains(worker.stderr.String(), "worker apart: model phi3, engine "+sim.Engines["phi3"]) {
		t.Errorf("worker said %q", worker.stderr)
	}
	broker.hxp(t, "workers", "drain", "apart").must(t, exitOK)
	if code := worker.stop(); code != exitOK {
		t.Errorf("a drained worker ends with %d, want 0: %s", code, worker.stderr)
	}
	if code := sim.stop(); code != exitOK {
		t.Errorf("the engine ends with %d, want 0: %s", code, sim.stderr)
	}
	command(t.Context(), "", "worker", "--model", "phi3", "--server", "nats://127.0.0.1:1").must(t, exitConnect)
	command(t.Context(), "", "worker", "--model", "phi3", "--server", broker.NATS, "--listen", broker.HTTP).must(t, exitFailed)
	command(t.Context(), "", "sim", "phi3", "--listen", broker.HTTP).must(t, exitFailed)
	command(t.Context(), "", "run", "phi3", "x", "--server", "nats://127.0.0.1:1").must(t, exitConnect)
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	interrupted, interrupt := context.WithCancelCause(t.Context())
	interrupt(app.ErrInterrupted)
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, 0},
		{t.Context(), errors.New("anything"), 1},
		{t.Context(), schemas.Errorf(schemas.CodeQueueFull, "full"), 1},
		{t.Context(), quietError{1}, 1},
		{t.Context(), fmt.Errorf("x: %w", app.ErrUsage), 2},
		{t.Context(), &app.ConfigError{}, 2},
		{t.Context(), fmt.Errorf("x: %w", app.ErrCannotConnect), 3},
		{t.Context(), nats.ErrNoServers, 3},
		{t.Context(), fmt.Errorf("%w: %w", app.ErrNotAllowed, context.DeadlineExceeded), 4},
		{t.Context(), nats.ErrAuthorization, 4},
		{t.Context(), fmt.Errorf("x: %w", context.DeadlineExceeded), 5},
		{t.Context(), &producer.TimeoutError{Err: nats.ErrTimeout}, 5},
		{t.Context(), &app.PartlyError{Done: 1, All: 2, Errs: []error{app.ErrNotAllowed}}, 6},
		{t.Context(), fmt.Errorf("x: %w", app.ErrInterrupted), 130},
		{interrupted, fmt.Errorf("x: %w", context.Canceled), 130},
		{t.Context(), context.Canceled, 1},
	} {
		if got := exitCode(tc.ctx, tc.err); got != tc.want {
			t.Errorf("exit code of %v = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestOutputDetails(t *testing.T) {
	t.Parallel()
	if err := outcome(&schemas.Result{ID: "a", Status: schemas.StatusExpired}); err == nil || err.Error() != "job a expired: internal: no reason is given" {
		t.Errorf("outcome = %v", err)
	}
	r := &schemas.Result{ID: "a", Attempts: 2, Usage: &schemas.Usage{PromptTokens: 3, CompletionTokens: 11}, Timings: schemas.Timings{TTFT: 20, Generate: 120, Total: 130}}
	if got, want := usageLine(r), "job a · 3+11 tokens · ttft 20 ms · 100 tok/s · total 130 ms · 2 attempts"; got != want {
		t.Errorf("usage line = %q, want %q", got, want)
	}
	o := output{color: true}
	if got := o.paint(31, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("painted %q", got)
	}
	if terminal(os.Stderr) && newOutput(os.Stderr, os.Stderr, []string{"NO_COLOR=1"}).color {
		t.Error("NO_COLOR is not respected")
	}
	if got := short(strings.Repeat("a b\n", 40)); len([]rune(got)) != 80 || !strings.HasSuffix(got, "…") {
		t.Errorf("short = %q", got)
	}
	if got := delivery(queue.ClassStats{Paused: true, PauseRemaining: time.Minute}); got != "paused for 1m0s" {
		t.Errorf("delivery = %q", got)
	}
	if got := age(time.Now().Add(-time.Minute)); got != "1m0s" {
		t.Errorf("age = %q", got)
	}
	if got := reasonOf(&queue.StoredDeadLetter{}); got != "" {
		t.Errorf("reason = %q", got)
	}
	if _, err := readBounded(strings.NewReader(strings.Repeat("x", maxPrompt+1))); err == nil {
		t.Error("a prompt of any size is read")
	}
	c := &cli{out: output{data: &safe{}, progress: &safe{}, format: formatTable}}
	c.printer().Restarted("again")
}

// full is an output that takes nothing.
type full struct{}

var errFull = errors.New("no space left on device")

func (full) Write([]byte) (int, error) { return 0, errFull }

// TestNothingIsLostSilently fails a command whose data cannot be written, or whose input cannot be read.
func TestNothingIsLostSilently(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3")
	id := strings.TrimSpace(c.hxp(t, "submit", "phi3", "Hello", "--max-tokens", "5").must(t, exitOK).out)
	c.hxp(t, "watch", id).must(t, exitOK)
	bury(t, c.jetStream(t), "one", schemas.CodeMaxAttempts, `{"body":{"prompt":"Hello"}}`)
	for _, args := range [][]string{
		{"run", "phi3", "Hello"}, {"run", "phi3", "Hello", "-o", "json"}, {"watch", id}, {"watch", id, "-o", "ndjson"}, {"watch", id, "-o", "json"}, {"get", id},
		{"submit", "phi3", "Hello"}, {"queue", "ls"}, {"workers", "ls", "-o", "ndjson"}, {"dead", "ls"}, {"config", "show", "-o", "ndjson"}, {"doctor"}, {"cancel", id}, {"version"},
	} {
		var stderr safe
		if got := run(t.Context(), append(args, "--server", c.NATS), strings.NewReader(""), full{}, &stderr, nil); got != exitFailed || !strings.Contains(stderr.String(), errFull.Error()) {
			t.Errorf("hxp %s: exit code %d, stderr %q; want 1 and the reason", strings.Join(args, " "), got, stderr.String())
		}
	}
	for _, args := range [][]string{{"run", "phi3"}, {"submit", "phi3", "-f", "-"}} {
		var out, stderr safe
		if got := run(t.Context(), append(args, "--server", c.NATS), failing{}, &out, &stderr, nil); got != exitFailed || !strings.Contains(stderr.String(), errFull.Error()) {
			t.Errorf("hxp %s: exit code %d, stderr %q; want 1 and the reason", strings.Join(args, " "), got, stderr.String())
		}
	}
}

// failing is an input that breaks off.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFull }

// TestWorkersThatAreDown shows why.
func TestWorkersThatAreDown(t *testing.T) {
	t.Parallel()
	c := start(t, "--models", "phi3", "--engine", "phi3=http://127.0.0.1:1")
	// A worker announces itself a moment after it has started.
	var s said
	for stop := time.Now().Add(10 * time.Second); !strings.Contains(s.out, "starting: ") && time.Now().Before(stop); {
		s = c.hxp(t, "workers", "ls").must(t, exitOK)
	}
	if !strings.Contains(s.out, "starting: ") {
		t.Errorf("workers ls wrote %q, want a worker that starts, and why it has not", s.out)
	}
	c.hxp(t, "doctor").must(t, exitOK)
	id := strings.TrimSpace(c.hxp(t, "submit", "phi3", "Hello").must(t, exitOK).out)
	s = c.hxp(t, "doctor").must(t, exitFailed)
	if !strings.Contains(s.out, "problem  phi3: worker "+c.Workers["phi3"]) || !strings.Contains(s.out, "jobs waiting: 1") {
		t.Errorf("doctor wrote %q", s.out)
	}
	if s := c.hxp(t, "cancel", id).must(t, exitOK); !strings.Contains(s.out, "queued") {
		t.Errorf("cancel wrote %q, want that the job was queued", s.out)
	}
	c.hxp(t, "doctor", "--set", "a=b").must(t, exitUsage)
}
