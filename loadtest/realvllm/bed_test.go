//go:build vllm && linux

package realvllm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/producer"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// bed is a broker, a client of it and an engine.
type bed struct {
	*engine
	model  model
	owner  *testing.T
	dir    string
	broker *program
	worker *program // the newest
	server string
	jobs   *producer.Client
	lives  int
}

func newBed(t *testing.T, m model, e *engine) *bed {
	t.Helper()
	b := &bed{engine: e, model: m, owner: t, dir: e.dir}
	port := freePort(t)
	b.server = fmt.Sprintf("nats://127.0.0.1:%d", port)
	b.broker = &program{name: "nats", dir: b.dir, owner: t, args: []string{natsBinary, "-a", "127.0.0.1", "-p", fmt.Sprint(port), "-js", "-sd", b.dir + "/store"}}
	b.broker.start(t)
	var nc *nats.Conn
	eventually(t, 20*time.Second, "connect to NATS", func() (ok bool) {
		var err error
		nc, err = nats.Connect(b.server, nats.Timeout(time.Second))
		return err == nil
	})
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "JetStream", func() bool {
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
	if b.jobs, err = producer.New(nc, producer.Config{Tenant: "verify"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.jobs.Close() })
	return b
}

// startWorker starts a worker on the engine and waits until it is ready to pull.
func (b *bed) startWorker(t *testing.T, set ...string) *program {
	t.Helper()
	return b.startWorkerOn(t, b.engine.url, set...)
}

// startWorkerOn starts a worker on an engine, as --engine names it. Each has an id of its own.
func (b *bed) startWorkerOn(t *testing.T, where string, set ...string) *program {
	t.Helper()
	b.lives++
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	w := &program{name: fmt.Sprintf("worker-%d", b.lives), dir: b.dir, owner: b.owner, env: b.engine.env}
	w.args = []string{
		hxpBinary, "worker", "--model", b.model.name, "--engine", where, "--id", w.name, "--slots", fmt.Sprint(slots),
		"--server", b.server, "--listen", address, "--set", "queue.max_bytes=64MiB",
		"--set", "queue.events_max_bytes=128MiB", "--set", "queue.results_max_bytes=64MiB", "--set", "queue.max_bodies_bytes=64MiB",
		"--set", "vllm_integration.sampling_params.temperature_range=[0,2]",
	}
	for _, s := range set {
		w.args = append(w.args, "--set", s)
	}
	b.worker = w
	w.start(t)
	eventually(t, patience, w.name+" is ready", func() bool {
		if !w.running() {
			t.Fatalf("%s ended with %s:\n%s", w.name, w.exit(), w.tail(2<<10))
		}
		return answers("http://"+address+"/readyz") == http.StatusOK
	})
	return w
}

// stop asks a worker to stop and waits for it.
func stop(t *testing.T, w *program) {
	t.Helper()
	terminate(t, w)
	select {
	case <-w.done:
	case <-time.After(40 * time.Second):
		t.Errorf("%s did not stop within 40 s", w.name)
	}
}

// job is a job under way, read event by event.
type job struct {
	stream  *producer.Stream
	choices map[int]*reply
	kinds   []schemas.Kind
	events  int // deltas
	sent    int // tokens, when the job went on
	last    schemas.Event
	resumed []schemas.Event
	prompt  *schemas.Prompt // of the newest attempt
	leftOut bool            // something of the session's history was not shown
	again   []string        // why it began again
}

func (b *bed) submit(t *testing.T, path string, body object) *job {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.jobs.Submit(t.Context(), schemas.Job{Model: b.model.name, Endpoint: schemas.Endpoint(path), Body: raw, Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	b.owner.Cleanup(s.Close) // a job may outlive the check that it began in
	return &job{stream: s, choices: map[int]*reply{}}
}

// read follows the job until so many deltas have come in all; 0 is to its end.
func (j *job) read(t *testing.T, deltas int) {
	t.Helper()
	j.until(t, func() bool { return deltas > 0 && j.events >= deltas })
}

// until follows the job until enough says so, or to its end.
func (j *job) until(t *testing.T, enough func() bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	for e, err := range j.stream.Events(ctx) {
		if err != nil {
			t.Fatalf("job %s after %v: %v", j.stream.Job().ID, j.kinds, err)
		}
		j.take(t, e)
		if enough() {
			return
		}
	}
}

func (j *job) take(t *testing.T, e schemas.Event) {
	t.Helper()
	j.last = e
	j.leftOut = j.leftOut || e.Turn != nil && e.Turn.LeftOut != nil
	switch e.Kind {
	case schemas.DeltaKind:
		j.events++
		if e.Prompt != nil {
			j.prompt = e.Prompt
		}
		parts, err := openai.ParseChoices(e.Choices, nil)
		if err != nil {
			t.Fatalf("event %d: %v", e.Seq, err)
		}
		s := streamed{choices: j.choices}
		for i := range parts {
			s.add(&parts[i])
		}
		return
	case schemas.Restarted:
		j.again = append(j.again, e.Reason)
		j.choices = map[int]*reply{}
	case schemas.Resumed:
		j.resumed = append(j.resumed, e)
		if c := j.choices[0]; c != nil {
			j.sent = len(c.ids)
			c.ids = c.ids[:e.Kept]
		}
	}
	j.kinds = append(j.kinds, e.Kind)
}

// result waits for the job's end.
func (j *job) result(t *testing.T) *schemas.Result {
	t.Helper()
	j.read(t, 0)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r, err := j.stream.Result(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// equalJSON compares JSON texts by what they say.
func equalJSON(a, b string) bool {
	var x, y any
	return a == b || json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// is fails the test unless the job's stream and its Result are the reply want.
func (j *job) is(t *testing.T, want reply) *schemas.Result {
	t.Helper()
	r := j.result(t)
	if r.Status != schemas.StatusCompleted {
		t.Fatalf("job %s: %s %v after %v", r.ID, r.Status, r.Error, j.kinds)
	}
	got := j.choices[0]
	if got == nil {
		t.Fatalf("job %s has no choice 0 after %v", r.ID, j.kinds)
	}
	if string(got.text) != string(want.text) || fmt.Sprint(got.ids) != fmt.Sprint(want.ids) || got.finish != want.finish || !equalJSON(got.stop, want.stop) {
		t.Errorf("job %s after %v:\n got %q %v %s %s\nwant %q %v %s %s", r.ID, j.kinds,
			got.text, got.ids, got.finish, got.stop, want.text, want.ids, want.finish, want.stop)
	}
	if r.Text != string(want.text) {
		t.Errorf("the result of job %s is %q, want %q", r.ID, r.Text, want.text)
	}
	if r.Usage == nil || r.Usage.CompletionTokens != len(want.ids) {
		t.Errorf("job %s counts %+v, want %d tokens", r.ID, r.Usage, len(want.ids))
	}
	return r
}
