package batch_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/hxp-enterprise/hxp/internal/embedded"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/producer/batch"
	"github.com/hxp-enterprise/hxp/schemas"
)

const tenant = "acme"

// patience bounds every wait that is meant to end by an event.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a broker with the queues of two models.
type rig struct {
	t      testing.TB
	server *embedded.NATS
	nc     *nats.Conn
	js     jetstream.JetStream
}

func small() queue.Config {
	return queue.Config{
		Storage: jetstream.MemoryStorage, MaxBytes: 16 << 20, EventsMaxBytes: 64 << 20, ResultsMaxBytes: 64 << 20, MaxBodiesBytes: 64 << 20,
		Lease: patience, // workers here hold jobs for as long as a test wants
	}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigWith(t, small())
}

func newRigWith(t testing.TB, cfg queue.Config) *rig {
	t.Helper()
	server, err := embedded.StartNATS(embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	r := &rig{t: t, server: server}
	r.nc = r.connect()
	r.js = r.jetStream(r.nc)
	if _, err := queue.Ensure(t.Context(), r.js, []string{"phi3", "hermes"}, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	nc, err := r.server.Connect(nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

func (r *rig) jetStream(nc *nats.Conn) jetstream.JetStream {
	r.t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		r.t.Fatal(err)
	}
	return js
}

// crew serves both models: it answers each job as answer says.
type crew struct {
	r      *rig
	silent atomic.Bool // stores Results and announces nothing
	mu     sync.Mutex
	ran    map[string]int // jobs that were run, by id
	order  []string       // their tenants, as they were begun
	asked  []string       // their prompts, likewise
}

// answer is how a job ends; a nil error is a completion.
type answer func(job *schemas.Job) *schemas.Error

func echo(*schemas.Job) *schemas.Error { return nil }

// work serves both models with slots at a time until the test ends.
func (r *rig) work(slots int, end answer) *crew {
	r.t.Helper()
	c := &crew{r: r, ran: make(map[string]int)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var stops []func()
	for _, model := range []string{"phi3", "hermes"} {
		consumers, err := queue.Consumers(r.t.Context(), r.js, model)
		if err != nil {
			r.t.Fatal(err)
		}
		free := make(chan struct{}, slots)
		messages, err := consumers[schemas.Batch].Messages(jetstream.PullMaxMessages(max(slots, 8)), jetstream.PullExpiry(time.Second), jetstream.PullHeartbeat(500*time.Millisecond))
		if err != nil {
			r.t.Fatal(err)
		}
		stops = append(stops, messages.Stop)
		running.Go(func() {
			for {
				msg, err := messages.Next()
				if err != nil {
					return
				}
				select {
				case free <- struct{}{}:
				case <-ctx.Done():
					return
				}
				running.Go(func() {
					defer func() { <-free }()
					c.run(ctx, msg, end)
				})
			}
		})
	}
	r.t.Cleanup(func() {
		cancel()
		for _, stop := range stops {
			stop()
		}
		running.Wait()
	})
	return c
}

func (c *crew) run(ctx context.Context, msg jetstream.Msg, end answer) {
	job, err := schemas.DecodeJob(msg.Subject(), msg.Data(), "none")
	if err == nil && job.BodyRef != nil {
		job.Body, _, err = queue.GetBody(ctx, c.r.js, job.Tenant, job.ID, 16<<20)
	}
	if err != nil {
		c.r.t.Errorf("decode job: %v", err)
		return
	}
	if _, err := queue.GetResult(ctx, c.r.js, job.Tenant, job.ID); err == nil {
		_ = msg.Ack()
		return
	}
	c.mu.Lock()
	c.ran[job.ID]++
	c.order, c.asked = append(c.order, job.Tenant), append(c.asked, prompt(job.Body))
	c.mu.Unlock()
	r := &schemas.Result{
		ID: job.ID, Model: job.Model, Class: job.Class, Tenant: job.Tenant, Endpoint: job.Endpoint, Status: schemas.StatusCompleted,
		Attempts: 1, Metadata: job.Metadata, Created: time.Now().UTC(), Finished: time.Now().UTC(), LastSeq: 1,
	}
	if r.Error = end(job); r.Error != nil {
		r.Status = schemas.StatusFailed
		switch r.Error.Code {
		case schemas.CodeDeadlineExceeded:
			r.Status = schemas.StatusExpired
		case schemas.CodeCancelled:
			r.Status = schemas.StatusCancelled
		}
	} else {
		r.Text = "re: " + prompt(job.Body)
		r.Choices = fmt.Appendf(nil, `[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}]`, r.Text)
		r.Usage = &schemas.Usage{PromptTokens: 3, CompletionTokens: 5, TotalTokens: 8}
	}
	if ctx.Err() != nil {
		return
	}
	if err := queue.PutResult(ctx, c.r.js, r); err != nil && ctx.Err() == nil && !errors.Is(err, queue.ErrResultExists) {
		c.r.t.Errorf("store result: %v", err)
	}
	if !c.silent.Load() {
		if err := queue.AnnounceEnd(c.r.js, job, r); err != nil && ctx.Err() == nil {
			c.r.t.Errorf("announce: %v", err)
		}
	}
	_ = msg.Ack()
}

// begun are the tenants of the jobs in the order in which they were begun, and their prompts.
func (c *crew) begun() (tenants, prompts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order), slices.Clone(c.asked)
}

// most is how often the job was run that was run most often, and how many there were.
func (c *crew) most() (runs, jobs int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.ran {
		runs = max(runs, n)
	}
	return runs, len(c.ran)
}

func prompt(body []byte) string {
	var b struct {
		Messages []struct{ Content string }
		Prompt   string
	}
	if json.Unmarshal(body, &b) != nil || len(b.Messages) == 0 {
		return b.Prompt
	}
	return b.Messages[len(b.Messages)-1].Content
}

// chat is one line.
func chat(id, model, text string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":%q,"messages":[{"role":"user","content":%q}],"max_tokens":8}}`, id, model, text)
}

// many are n lines over both models.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(chat(fmt.Sprintf("c-%d", i), []string{"phi3", "hermes"}[i%2], fmt.Sprintf("question %d", i)) + "\n")
	}
	return b.String()
}

// entry is a record as a reader of OpenAI's form sees it.
type entry struct {
	ID       string  `json:"id"`
	CustomID *string `json:"custom_id"`
	Response *struct {
		StatusCode int             `json:"status_code"`
		RequestID  string          `json:"request_id"`
		Body       json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Param   string `json:"param"`
		Line    int64  `json:"line"`
	} `json:"error"`
}

func (e entry) custom() string {
	if e.CustomID == nil {
		return ""
	}
	return *e.CustomID
}

// entries reads records strictly.
func entries(t testing.TB, data []byte) []entry {
	t.Helper()
	var out []entry
	ids := make(map[string]bool)
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 32<<20)
	for lines.Scan() {
		var e entry
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("record %d: %v: %.200s", len(out)+1, err, lines.Text())
		}
		if !strings.HasPrefix(e.ID, "batch_req_") || ids[e.ID] || (e.Response == nil) == (e.Error == nil) {
			t.Fatalf("record %d: %.300s", len(out)+1, lines.Text())
		}
		ids[e.ID] = true
		out = append(out, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func readEntries(t testing.TB, path string) []entry {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return entries(t, data)
}

// place is a folder with an input.
type place struct{ in, out, errs string }

func newPlace(t testing.TB, input string) place {
	t.Helper()
	dir := t.TempDir()
	p := place{filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "errors.jsonl")}
	if err := os.WriteFile(p.in, []byte(input), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) config() batch.RunConfig {
	return batch.RunConfig{Tenant: tenant, Input: p.in, Output: p.out, Errors: p.errs, Sweep: 200 * time.Millisecond}
}

func newRun(t testing.TB, js jetstream.JetStream, cfg batch.RunConfig) *batch.Run {
	t.Helper()
	r, err := batch.NewRun(js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs a file to its end.
func run(t testing.TB, js jetstream.JetStream, cfg batch.RunConfig) batch.Progress {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := newRun(t, js, cfg)
	if err := r.Run(ctx); err != nil {
		t.Fatalf("run: %v; %+v", err, r.Progress())
	}
	return r.Progress()
}

// customs are the custom_ids of records, and fails if one is there twice.
func customs(t testing.TB, list []entry) map[string]entry {
	t.Helper()
	out := make(map[string]entry, len(list))
	for _, e := range list {
		if _, twice := out[e.custom()]; twice {
			t.Errorf("custom_id %q has two records", e.custom())
		}
		out[e.custom()] = e
	}
	return out
}

func wantError(t testing.TB, err, is error, parts ...string) {
	t.Helper()
	if err == nil || is != nil && !errors.Is(err, is) {
		t.Fatalf("error = %v, want %v", err, is)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error = %q, want %q in it", err, p)
		}
	}
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("never happened: %s", what)
		}
	}
}
