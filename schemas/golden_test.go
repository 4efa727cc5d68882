package schemas_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	at      = time.Date(2026, 1, 2, 15, 4, 5, 600_000, time.UTC)
	micros  = at.UnixMicro()
	usage   = &schemas.Usage{PromptTokens: 5, CompletionTokens: 7, TotalTokens: 12}
	timings = &schemas.Timings{Queue: 1.5, TTFT: 20.25, Generate: 90, Total: 91.5}
	rev     = int64(3)
)

// events are one of each kind, and some that are hard to write.
var events = map[string]schemas.Event{
	"accepted": {ID: "j1", Kind: schemas.Accepted, TS: micros},
	"started":  {ID: "j1", Seq: 1, Attempt: 1, Kind: schemas.Started, TS: micros, Worker: "gpu-1-phi3", Source: "HXP_JOBS_phi3/17"},
	"delta": {ID: "j1", Seq: 2, Attempt: 1, Kind: schemas.DeltaKind, TS: micros,
		Choices: json.RawMessage(`[{"index":0,"delta":{"content":"a < b & c"},"token_ids":[15043]},{"index":1,"delta":{"content":"\u00e9"}}]`)},
	"first": {ID: "j1", Seq: 2, Attempt: 1, Kind: schemas.DeltaKind, TS: micros,
		Choices: json.RawMessage(`[{"index":0,"text":"a"}]`), Prompt: &schemas.Prompt{Tokens: 21, Hash: "00c0ffee00c0ffee"}},
	"interrupted": {ID: "j1", Seq: 3, Attempt: 1, Kind: schemas.Interrupted, TS: micros, Handback: true,
		Error: schemas.Errorf(schemas.CodeEngineUnavailable, "worker %s is stopping", "gpu-1-phi3")},
	"resumed": {ID: "j1", Seq: 4, Attempt: 2, Kind: schemas.Resumed, TS: micros, Worker: "gpu-2-phi3", Source: "HXP_JOBS_phi3/17", Kept: 1, Reason: "after 1 token"},
	"covered": {ID: "j1", Seq: 1, Attempt: 1, Kind: schemas.Started, TS: micros, Worker: "gpu-1-openchat", Source: "HXP_JOBS_phi3/17", ServedBy: "openchat",
		Reason: "no worker of phi3 was there for 30s: openchat answers"},
	"turn": {ID: "j1", Seq: 1, Attempt: 2, Kind: schemas.Started, TS: micros, Worker: "gpu-1-hermes", Source: "HXP_JOBS_hermes/17", Excused: true,
		Turn: &schemas.Turn{Session: "s1", ID: "t-j1", Parent: "t-j0", Branch: "main", Rev: 3,
			LeftOut: &schemas.LeftOut{Strategy: schemas.WindowSummarize, Turns: 2, Messages: 4, Tokens: 512, Summary: "t-j9"}}},
	"stored": {ID: "j1", Seq: 6, Attempt: 2, Kind: schemas.Done, TS: micros, Timings: timings,
		Turn: &schemas.Turn{Session: "s1", ID: "t-j1", Branch: "main", State: schemas.TurnStored, Rev: 4, Head: true}},
	"restarted": {ID: "j1", Seq: 4, Attempt: 2, Kind: schemas.Restarted, TS: micros, Worker: "gpu-2-phi3", Reason: "the request has \"tools\"\n\u2028<é\x7f>"},
	"usage":     {ID: "j1", Seq: 5, Attempt: 2, Kind: schemas.UsageKind, TS: micros, Usage: usage},
	"done":      {ID: "j1", Seq: 6, Attempt: 2, Kind: schemas.Done, TS: micros, Timings: timings},
	"failed": {ID: "j1", Seq: 1, Attempt: 1, Kind: schemas.Failed, TS: micros,
		Error: schemas.Errorf(schemas.CodeModelNotFound, "no model %q", "phi4").WithParam("model")},
	"cancelled": {ID: "j1", Seq: 3, Attempt: 1, Kind: schemas.Cancelled, TS: micros, Usage: usage, Timings: timings,
		Error: schemas.Errorf(schemas.CodeCancelled, "cancelled in decode")},
	"expired": {ID: "j1", Seq: 3, Attempt: 1, Kind: schemas.Expired, TS: micros,
		Error: schemas.Errorf(schemas.CodeDeadlineExceeded, "the deadline passed")},
}

var (
	smallJob = schemas.Job{Body: json.RawMessage(`{"prompt":"Once upon a time"}`)}
	fullJob  = schemas.Job{
		ID: "0199d2c8-b8f0-7c9e-8a51-0c6f3b1d2e4f", Model: "phi3", Class: schemas.Interactive, Tenant: "acme",
		Endpoint: schemas.ChatCompletions, Stream: true, Created: at, Deadline: at.Add(time.Minute),
		Body: json.RawMessage(`{ "messages": [{"role":"user","content":"a < b"}], "temperature": 0.70, "my_field": 1e2 }`),
		Session: &schemas.Session{ID: "s1", Parent: "t-j0", Branch: "try-2", ExpectRev: &rev, Serialize: true,
			Window: schemas.WindowSummarize, Summarize: "t-j9"},
		OnInterrupt: schemas.ContinueOnInterrupt, ReplyTo: "hxp.v1.events.acme.web-1", Metadata: map[string]string{"a": "b<c"},
	}
	largeJob = schemas.Job{
		ID: "j1", Model: "phi3", Class: schemas.Standard, Tenant: "acme", Endpoint: schemas.Completions, OnInterrupt: schemas.ContinueOnInterrupt,
		BodyRef: &schemas.BodyRef{Size: 10 << 20, Digest: "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="}, Created: at,
	}
	result = schemas.Result{
		ID: "j1", Model: "phi3", Class: schemas.Standard, Tenant: "acme", Endpoint: schemas.Completions,
		Status: schemas.StatusCompleted, Text: " there was", Usage: usage, Timings: *timings, Attempts: 1, Worker: "gpu-1-phi3",
		Choices:  json.RawMessage(`[{"index":0,"text":" there was","finish_reason":"length"}]`),
		Metadata: map[string]string{"a": "b"}, Created: at, Finished: at, LastSeq: 5,
	}
	coveredResult = schemas.Result{
		ID: "j1", Model: "phi3", ServedBy: "openchat", Class: schemas.Standard, Tenant: "acme", Endpoint: schemas.Completions,
		Status: schemas.StatusCompleted, Text: " there was", Timings: *timings, Attempts: 1, Worker: "gpu-1-openchat", Finished: at, LastSeq: 5,
	}
	turnResult = schemas.Result{
		ID: "j1", Model: "hermes", Class: schemas.Standard, Tenant: "acme", Endpoint: schemas.ChatCompletions,
		Status: schemas.StatusCompleted, Text: "Hello", Timings: *timings, Attempts: 1, Worker: "gpu-1-hermes", Finished: at, LastSeq: 5,
		Turn: &schemas.Turn{Session: "s1", ID: "t-j1", Branch: "main", State: schemas.TurnPending, Reason: "the conversation store is away"},
	}
	failedResult = schemas.Result{
		ID: "j1", Model: "phi3", Class: schemas.Standard, Tenant: "acme", Status: schemas.StatusFailed, Finished: at, LastSeq: 1,
		Error: schemas.Errorf(schemas.CodeInvalidRequest, "body is missing").WithParam("body"),
	}
	deadLetter = schemas.DeadLetter{
		ID: "j1", Model: "phi3", Tenant: "acme", Subject: "hxp.v1.jobs.phi3.standard.acme", Time: at, Payload: `{"body":{}}`,
		Reason:   schemas.Errorf(schemas.CodeMaxAttempts, "1 attempt failed"),
		Attempts: []schemas.Attempt{{Attempt: 1, Worker: "gpu-1-phi3", Error: schemas.Errorf(schemas.CodeEngineUnavailable, "it is gone")}},
	}
	deadBytes = schemas.DeadLetter{
		ID: "j1", Model: "phi3", Tenant: "acme", Subject: "hxp.v1.jobs.phi3.standard.acme", Time: at, PayloadBase64: []byte{0xff, 0},
		Reason: schemas.Errorf(schemas.CodeInvalidRequest, "not JSON"), Attempts: []schemas.Attempt{{Attempt: 1}},
	}
	worker = schemas.WorkerInfo{
		ID: "gpu-1-phi3", Model: "phi3", State: schemas.WorkerReady, Slots: 32, Busy: 7, Engine: "http://127.0.0.1:11403", Version: "0.11.0",
		Simulated: true, Host: "gpu-1", PID: 4711, Started: at, Updated: at, Pulling: true,
	}
	degraded = schemas.WorkerInfo{
		ID: "gpu-1-openchat", Model: "openchat", State: schemas.WorkerDegraded, Since: at, Pulling: true, Slots: 32, Busy: 32,
		Causes: []schemas.WorkerCause{schemas.CauseSaturated, schemas.CauseSlow}, Covering: []string{"phi3"},
		Reason: "all slots were taken for 10s, and more jobs are queued; the 90th percentile of the time to the first token is 2.1s, above the target of 1.5s",
		Engine: "http://127.0.0.1:11402", Host: "gpu-1", PID: 4711, Started: at, Updated: at,
	}
)

// messages returns every golden message by file name, as it crosses the queue. What stands before
// the first dot is the name of its schema.
func messages(t *testing.T) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	for kind, e := range events {
		out["event."+kind] = e.Append(nil)
	}
	for name, j := range map[string]*schemas.Job{"job.small": &smallJob, "job.full": &fullJob, "job.large": &largeJob} {
		b, err := j.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	for name, v := range map[string]any{
		"result.completed":     result,
		"result.covered":       coveredResult,
		"result.turn":          turnResult,
		"result.failed":        failedResult,
		"error":                schemas.Errorf(schemas.CodeQueueFull, "model %s has 100,000 jobs queued", "phi3"),
		"attempt-query":        schemas.AttemptQuery{ID: "j1", Tenant: "acme", Attempt: 2},
		"attempt-reply":        schemas.AttemptReply{Worker: "gpu-1-phi3", Excused: true},
		"cancel":               schemas.Cancel{ID: "j1", Tenant: "acme", Reason: "stop", Requested: at},
		"cancel-reply":         schemas.CancelReply{ID: "j1", Phase: schemas.PhaseDecode, Worker: "gpu-1-phi3"},
		"dead-letter.text":     deadLetter,
		"dead-letter.bytes":    deadBytes,
		"drain-reply":          schemas.DrainReply{ID: "gpu-1-phi3", State: schemas.WorkerDraining},
		"worker-info.ready":    worker,
		"worker-info.degraded": degraded,
		"turn":                 events["stored"].Turn,
		"usage":                usage,
		"timings":              timings,
	} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func schemaOf(message string) string {
	name, _, _ := strings.Cut(message, ".")
	return name
}

func TestGolden(t *testing.T) {
	t.Parallel()
	all := messages(t)
	for name, got := range all {
		file := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v (go test ./schemas -update writes it)", err)
			continue
		}
		if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
		schematest.Validate(t, schemaOf(name), want)
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(all) {
		t.Errorf("testdata holds %d messages, want %d (%v)", len(files), len(all), err)
	}
	for _, name := range schemas.SchemaNames() {
		if !slices.ContainsFunc(files, func(f string) bool { return schemaOf(filepath.Base(f)) == name }) {
			t.Errorf("no golden message for schema %s", name)
		}
	}
}

func TestGoldenMessagesReadBack(t *testing.T) {
	t.Parallel()
	for kind, want := range events {
		var got schemas.Event
		if err := got.Decode(want.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
	payload, err := fullJob.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := schemas.DecodeJob(schemas.JobSubject("phi3", schemas.Interactive, "acme"), payload, "unused")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&fullJob, got); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
	if payload, err = largeJob.Append([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if got, err = schemas.DecodeJob(schemas.JobSubject("phi3", schemas.Standard, "acme"), payload[1:], "unused"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&largeJob, got); diff != "" {
		t.Errorf("large job (-want +got):\n%s", diff)
	}
	readBack(t, result)
	readBack(t, failedResult)
	readBack(t, deadLetter)
	readBack(t, deadBytes)
	readBack(t, worker)
}

func readBack[T any](t *testing.T, want T) {
	t.Helper()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got T
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%T (-want +got):\n%s", want, diff)
	}
}

// slowly is what encoding/json makes of an event with HTML escaping off.
func slowly(t *testing.T, e *schemas.Event) string {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(buf.String(), "\n")
}
