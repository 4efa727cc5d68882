package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestPrompt(t *testing.T) {
	t.Parallel()
	cool := 0.5
	for _, tc := range []struct {
		prompt         app.Prompt
		body, endpoint string
	}{
		{app.Prompt{Text: "Hi"}, `{"messages":[{"role":"user","content":"Hi"}]}`, "/v1/chat/completions"},
		{
			app.Prompt{System: "S", Text: "Hi", MaxTokens: 5, Temperature: &cool},
			`{"messages":[{"role":"system","content":"S"},{"role":"user","content":"Hi"}],"max_tokens":5,"temperature":0.5}`, "/v1/chat/completions",
		},
		{app.Prompt{Raw: true, Text: "Hi"}, `{"prompt":"Hi"}`, "/v1/completions"},
	} {
		job, err := tc.prompt.Job()
		if err != nil || string(job.Body) != tc.body || string(job.Endpoint) != tc.endpoint {
			t.Errorf("%+v makes %s for %s (%v), want %s for %s", tc.prompt, job.Body, job.Endpoint, err, tc.body, tc.endpoint)
		}
	}
	for _, p := range []app.Prompt{{}, {Raw: true, System: "S", Text: "x"}} {
		if _, err := p.Job(); !errors.Is(err, app.ErrUsage) {
			t.Errorf("%+v: error %v, want usage", p, err)
		}
	}
}

// TestGenerateAcrossAnEngineFailure shows the text of the attempt that counts.
func TestGenerateAcrossAnEngineFailure(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{Timing: app.Timing{ITL: time.Millisecond}})
	c := dial(t, r.cfg)
	fault(t, r.Engines["phi3"], `{"kind":"error_in_stream","after_tokens":5}`)
	job, err := app.Prompt{Model: "phi3", Text: "Hello", MaxTokens: 12, Stream: true}.Job()
	if err != nil {
		t.Fatal(err)
	}
	job.OnInterrupt = schemas.RestartOnInterrupt
	var text strings.Builder
	var why string
	result, err := c.Generate(t.Context(), job, app.Watcher{
		Text:      func(s string) error { text.WriteString(s); return nil },
		Restarted: func(s string) { why = s; text.Reset() },
	})
	if err != nil {
		t.Fatal(err)
	}
	if why == "" || result.Attempts != 2 || text.String() != result.Text || result.Usage.CompletionTokens != 12 {
		t.Errorf("restarted %q, text %q, result %+v", why, text.String(), result)
	}
	// What cannot be written ends the command, and not the job.
	full := errors.New("no space left")
	if _, err := c.Watch(t.Context(), result.ID, 0, app.Watcher{Text: func(string) error { return full }}); !errors.Is(err, full) {
		t.Errorf("error = %v, want that of the writer", err)
	}
	if _, err := c.Watch(t.Context(), "a.b", 0, app.Watcher{}); err == nil {
		t.Error("a job id that is no token is followed")
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{})
	c := dial(t, r.cfg)
	if err := queue.PutTombstone(t.Context(), c.JS, &schemas.Cancel{ID: "doomed", Tenant: "default"}); err != nil {
		t.Fatal(err)
	}
	_, state, err := c.Look(t.Context(), "doomed")
	if err != nil || *state != (app.JobState{ID: "doomed", State: "cancelling"}) {
		t.Errorf("state = %+v, %v", state, err)
	}
	if _, _, err := c.Look(t.Context(), "a.b"); err == nil {
		t.Error("a job id that is no token is looked for")
	}
}

func TestReplayOfWhatCannotBe(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{})
	c := dial(t, r.cfg)
	letter := func(seq uint64, subject, payload string, binary []byte) *queue.StoredDeadLetter {
		return &queue.StoredDeadLetter{Stored: seq, DeadLetter: schemas.DeadLetter{ID: "x", Subject: subject, Payload: payload, PayloadBase64: binary}}
	}
	good := schemas.JobSubject("phi3", schemas.Standard, "default")
	out, err := c.Replay(t.Context(), []*queue.StoredDeadLetter{
		letter(1, good, "", []byte{0xff}),
		letter(2, good, "", nil),
		letter(3, "elsewhere", `{"body":{}}`, nil),
		letter(4, schemas.JobSubject("phi3", schemas.Standard, "acme"), `{"body":{}}`, nil),
	})
	if _, ok := errors.AsType[*app.PartlyError](err); ok || err == nil {
		t.Errorf("error = %v, want that none was replayed", err)
	}
	for i, want := range []string{"not text", "too large", "not of the form", "not this client's"} {
		if !strings.Contains(out[i].Error, want) {
			t.Errorf("letter %d: %q, want %q", i+1, out[i].Error, want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if out, err := c.Replay(gone, []*queue.StoredDeadLetter{letter(5, good, `{"body":{"prompt":"x"}}`, nil), letter(6, good, `{}`, nil)}); len(out) != 1 || err == nil {
		t.Errorf("replay with an ended context: %+v, %v", out, err)
	}
	partly := &app.PartlyError{Done: 1, All: 2, Errs: []error{app.ErrUsage}}
	if partly.Error() != "1 of 2 done:\nusage" || !errors.Is(partly, app.ErrUsage) {
		t.Errorf("partly = %q", partly)
	}
}

func TestDrainWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{})
	c := dial(t, r.cfg)
	answers := make(chan string, 1)
	sub, err := c.NC.Subscribe(schemas.DrainSubject("odd"), func(m *nats.Msg) {
		select {
		case a := <-answers:
			_ = m.Respond([]byte(a))
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Drain(ctx, "odd")
	wantError(t, err, context.DeadlineExceeded, "drain worker odd")
	answers <- "?"
	_, err = c.Drain(t.Context(), "odd")
	wantError(t, err, nil, "its answer")
}

// TestNotAllowed says what the server forbids, instead of that nothing answers.
func TestNotAllowed(t *testing.T) {
	t.Parallel()
	url := broker(t, server.Options{JetStream: true, Users: []*server.User{
		{Username: "all", Password: "pw"},
		{Username: "little", Password: "pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"hxp.>", "$JS.>", "$KV.>"}}}},
	}})
	as := func(user, password string) *app.Config {
		return load(t, app.LoadOptions{
			Environ: []string{"NATS_USER=" + user, "NATS_PASSWORD=" + password},
			Flags:   []app.FlagValue{{Path: "nats.url", Value: url}, {Path: "nats.timeout", Value: "300ms"}},
		})
	}
	_, err := app.Connect(t.Context(), as("all", "wrong"), "test", nil)
	wantError(t, err, app.ErrNotAllowed, "check nats.creds")

	denied := make(chan error, 8)
	c, err := app.NewClient(t.Context(), as("little", "pw"), "default", "test", func(err error) { denied <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Generate(t.Context(), schemas.Job{Model: "phi3", Body: json.RawMessage(`{"prompt":"x"}`)}, app.Watcher{})
	wantError(t, err, app.ErrNotAllowed, "hxp.v1.jobs.phi3.standard.default")
	wantError(t, <-denied, app.ErrNotAllowed)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = c.QueueStats(ctx)
	wantError(t, err, app.ErrNotAllowed)
	findings := app.Diagnose(ctx, as("little", "pw"), c.Connection, nil)
	find(t, findings, app.Problem, "JetStream is not available", "enable it")

	_, err = app.NewClient(t.Context(), as("all", "pw"), "a.b", "test", nil)
	wantError(t, err, nil, "Tenant")
	for flag, value := range map[string]string{"nats.creds": "no-such-file", "nats.ca": "no-such-file"} {
		cfg := load(t, app.LoadOptions{Flags: []app.FlagValue{{Path: flag, Value: value}, {Path: "nats.url", Value: url}}})
		if _, err := app.Connect(t.Context(), cfg, "test", nil); err == nil {
			t.Errorf("%s: a file that is not there is accepted", flag)
		}
	}
	over, interrupt := context.WithCancelCause(t.Context())
	interrupt(app.ErrInterrupted)
	if _, err := app.Connect(over, load(t, app.LoadOptions{Flags: []app.FlagValue{{Path: "nats.url", Value: "nats://127.0.0.1:1"}}}), "test", nil); !errors.Is(err, app.ErrInterrupted) {
		t.Errorf("error = %v, want the interruption", err)
	}
}
