package schemas_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

const jobSubject = "hxp.v1.jobs.phi3.batch.acme"

func TestDecodeJobTakesFromTheSubjectAndFillsDefaults(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]*schemas.Job{
		`{"body":{"prompt":"x"}}`: {Endpoint: schemas.Completions, Body: json.RawMessage(`{"prompt":"x"}`)},
		`{"body":{"messages":[],"stream":true},"id":"mine","model":"phi3","class":"batch","tenant":"acme"}`: {
			ID: "mine", Endpoint: schemas.ChatCompletions, Stream: true, Body: json.RawMessage(`{"messages":[],"stream":true}`)},
		`{"body":{"messages":null,"stream":"true"}}`: {
			Endpoint: schemas.Completions, Body: json.RawMessage(`{"messages":null,"stream":"true"}`)},
		`{"body":{"x":{"messages":[],"stream":true}},"stream":true,"endpoint":"/v1/chat/completions","on_interrupt":"fail"}`: {
			Endpoint: schemas.ChatCompletions, Stream: true, OnInterrupt: schemas.FailOnInterrupt, Body: json.RawMessage(`{"x":{"messages":[],"stream":true}}`)},
		`{"body":{},"created":"2026-01-02T15:04:05.0006Z","deadline":null,"unknown":1}`: {
			Endpoint: schemas.Completions, Created: at, Body: json.RawMessage(`{}`)},
	} {
		if want.ID == "" {
			want.ID = "fallback"
		}
		if want.OnInterrupt == "" {
			want.OnInterrupt = schemas.ContinueOnInterrupt
		}
		want.Model, want.Class, want.Tenant = "phi3", schemas.Batch, "acme"
		got, err := schemas.DecodeJob(jobSubject, []byte(payload), "fallback")
		if err != nil {
			t.Errorf("DecodeJob(%s): %v", payload, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("DecodeJob(%s) (-want +got):\n%s", payload, diff)
		}
	}
}

func TestDecodeJobKeepsTheBodyByteForByte(t *testing.T) {
	t.Parallel()
	body := "{ \"prompt\" : \"<b>\\u00e9\u2028\", \"n\":1.0,\"n\": 1e2,\t\"big\":12345678901234567890 }"
	got, err := schemas.DecodeJob(jobSubject, []byte(`{"id":"j1","body":`+body+` , "stream":true}`), "fallback")
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Body) != body {
		t.Errorf("decoded body = %s\nwant %s", got.Body, body)
	}
	wire, err := got.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(wire), `"body":`+body+`,"stream":true`) {
		t.Errorf("encoded job = %s\nwant in it %s", wire, body)
	}
	again, err := schemas.DecodeJob(jobSubject, wire, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func TestJobAppend(t *testing.T) {
	t.Parallel()
	// A value that looks like the place where the body goes.
	j := schemas.Job{ID: `"body":null`, Body: json.RawMessage(`{"body":null}`)}
	got, err := j.Append([]byte("before "))
	if want := `before {"id":"\"body\":null","body":{"body":null}}`; string(got) != want || err != nil {
		t.Errorf("Append = %s, %v; want %s", got, err, want)
	}
	for _, j := range []schemas.Job{{}, {Body: json.RawMessage(`[]`)}, {Body: json.RawMessage(`{`)}, {Body: json.RawMessage(`{}`), Deadline: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}} {
		if got, err := j.Append(nil); err == nil {
			t.Errorf("Append of a job with body %q = %s, want an error", j.Body, got)
		}
	}
}

func TestDecodeJobRefuses(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", 100_000)
	for _, tt := range []struct {
		name, payload, param string
		want                 []string
	}{
		{"nothing", ``, "", []string{"the job is not valid JSON", "at byte 0"}},
		{"malformed JSON", `{"body":{}`, "", []string{"the job is not valid JSON", "at byte 10"}},
		{"an array", `[]`, "", []string{"the job is an array; want an object"}},
		{"null", `null`, "body", []string{"body is missing"}},
		{"no body", `{"id":"j1"}`, "body", []string{"body is missing; want the OpenAI request, a JSON object"}},
		{"a body that is no object", `{"body":"{}"}`, "body", []string{"body is not a JSON object"}},
		{"model", `{"body":{},"model":"hermes2"}`, "model", []string{`model "hermes2" contradicts the subject's "phi3"`}},
		{"class", `{"body":{},"class":"urgent"}`, "class", []string{`class "urgent" contradicts the subject's "batch"`}},
		{"tenant", `{"body":{},"tenant":"other"}`, "tenant", []string{`tenant "other" contradicts the subject's "acme"`}},
		{"all at once", `{"body":[],"model":"a","class":"b","tenant":"c","on_interrupt":"d"}`, "model",
			[]string{`model "a"`, `class "b"`, `tenant "c"`, "body is not", `on_interrupt is "d"; want continue, restart or fail`}},
		{"an id with a wildcard", `{"body":{},"id":"*"}`, "id", []string{`id "*" holds '*'`}},
		{"a huge id", `{"body":{},"id":"` + huge + `"}`, "id", []string{"id is 100000 bytes long; want at most 64"}},
		{"huge everything", `{"body":{},"class":"` + huge + `","endpoint":"` + huge + `","on_interrupt":"` + huge + `","reply_to":"` + huge + `","created":"` + huge + `"}`,
			"created", []string{"created is"}},
		{"a string for a boolean", `{"body":{},"stream":"yes"}`, "stream", []string{"stream is a string; want true or false"}},
		{"a boolean for a string", `{"body":{},"id":true}`, "id", []string{"id is true or false; want a string"}},
		{"a number for an object", `{"body":{},"session":12}`, "session", []string{"session is a number; want an object"}},
		{"a list for a map", `{"body":{},"metadata":[]}`, "metadata", []string{"metadata is an array; want an object"}},
		{"a number in a map of strings", `{"body":{},"metadata":{"a":1}}`, "metadata", []string{"metadata holds a number; want only strings"}},
		{"a string within a session", `{"body":{},"session":{"expect_rev":"3"}}`, "session.expect_rev", []string{"session.expect_rev is a string; want a whole number"}},
		{"a fraction", `{"body":{},"session":{"expect_rev":1.5}}`, "session.expect_rev", []string{"session.expect_rev is 1.5; want a whole number"}},
		{"times", `{"body":{},"created":"yesterday","deadline":17}`, "created", []string{`created is "yesterday"; want a time`, "deadline is 17; want a time"}},
		{"session", `{"body":{},"session":{"parent":"a b","expect_rev":-1}}`, "session.id",
			[]string{"session.id is empty", `session.parent "a b" holds ' '`, "session.expect_rev is -1; want 0 or more"}},
		{"session, the rest", `{"body":{},"session":{"id":"s","branch":"a.b","summarize":"*","window":"all"}}`, "session.branch",
			[]string{`session.branch "a.b" holds '.'`, `session.summarize "*" holds '*'`, `session.window is "all"; want one of token_budget, last_n, summarize, error`}},
		{"another tenant's subject", `{"body":{},"reply_to":"hxp.v1.events.other.web"}`, "reply_to",
			[]string{`reply_to is "hxp.v1.events.other.web"; want hxp.v1.events.acme.<client> or an inbox`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j, err := schemas.DecodeJob(jobSubject, []byte(tt.payload), "fallback")
			e := schemas.AsError(err)
			if e == nil {
				t.Fatalf("DecodeJob = %+v, want an error", j)
			}
			if e.Code != schemas.CodeInvalidRequest || e.Retryable || e.HTTPStatus != 400 || e.Param != tt.param {
				t.Errorf("error = %+v, want a permanent invalid_request of %q", e, tt.param)
			}
			for _, want := range tt.want {
				if !strings.Contains(e.Message, want) {
					t.Errorf("message = %s\nwant in it %s", e.Message, want)
				}
			}
			if len(e.Message) > 2000 {
				t.Errorf("the message is %d bytes long", len(e.Message))
			}
			if j.Model != "phi3" || j.Class != schemas.Batch || j.Tenant != "acme" || schemas.CheckToken(j.ID) != nil {
				t.Errorf("the refusal cannot be addressed: %q %q %q %.80q", j.Model, j.Class, j.Tenant, j.ID)
			}
			if _, _, err := schemas.ReplySubject(j.ReplyTo, j.Tenant, j.ID); err != nil {
				t.Errorf("the refusal cannot be addressed: %v", err)
			}
		})
	}
}

func TestDecodeJobKeepsWhatTheRefusalIsAddressedWith(t *testing.T) {
	t.Parallel()
	const rest = `"id":"mine","reply_to":"_INBOX.abc","metadata":{"a":"b"}`
	for _, fault := range []string{`"stream":1`, `"created":"x"`, `"body":[]`, `"session":{}`, `"model":"other"`} {
		j, err := schemas.DecodeJob(jobSubject, []byte(`{`+fault+`,`+rest+`}`), "fallback")
		if err == nil || j.ID != "mine" || j.ReplyTo != "_INBOX.abc" || j.Metadata["a"] != "b" {
			t.Errorf("with %s: %v, %+v", fault, err, j)
		}
	}
	j, err := schemas.DecodeJob(jobSubject, []byte(`{"body":{},"metadata":{"a":"`+strings.Repeat("x", 513)+`"}}`), "fallback")
	if err == nil || j.Metadata != nil {
		t.Errorf("metadata that was refused: %v, kept %d pairs", err, len(j.Metadata))
	}
}

func TestDecodeJobRefusesSubjects(t *testing.T) {
	t.Parallel()
	j, err := schemas.DecodeJob("hxp.v1.jobs.phi3.acme", []byte(`{"body":{}}`), "fallback")
	if schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("error = %v, want invalid_request", err)
	}
	if diff := cmp.Diff(&schemas.Job{}, j); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
}

func TestValidateTellsEveryFaultAtOnce(t *testing.T) {
	t.Parallel()
	j := schemas.Job{
		ID: "a b", Model: "", Tenant: "t.x", Class: "urgent", Endpoint: "/v1/embeddings", OnInterrupt: "retry", ReplyTo: "hxp.v1.results.acme.x",
		Session: &schemas.Session{ID: ">"}, Metadata: map[string]string{strings.Repeat("k", 65): "", "v": strings.Repeat("v", 513)},
	}
	e := schemas.AsError(j.Validate())
	if e == nil {
		t.Fatal("valid")
	}
	want := `id "a b" holds ' '; want letters, digits, '-' or '_'; ` +
		`model is empty; want 1 to 64 letters, digits, '-' or '_'; ` +
		`tenant "t.x" holds '.'; want letters, digits, '-' or '_'; ` +
		`class is "urgent"; want one of interactive, standard, batch; ` +
		`endpoint is "/v1/embeddings"; want /v1/chat/completions or /v1/completions; ` +
		`body is missing; want the OpenAI request, a JSON object; ` +
		`on_interrupt is "retry"; want continue, restart or fail; ` +
		`session.id ">" holds '>'; want letters, digits, '-' or '_'; ` +
		`reply_to is "hxp.v1.results.acme.x"; want hxp.v1.events.t.x.<client> or an inbox (_INBOX...); ` +
		`metadata pair "` + strings.Repeat("k", 64) + `" has a key of 65 and a value of 0 bytes; want at most 64 and 512; ` +
		`metadata pair "v" has a key of 1 and a value of 513 bytes; want at most 64 and 512`
	if diff := cmp.Diff(want, e.Message); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e.Code != schemas.CodeInvalidRequest || e.Param != "id" {
		t.Errorf("code %s, param %s; want invalid_request, id", e.Code, e.Param)
	}
	if err := fullJob.Validate(); err != nil {
		t.Errorf("the full job: %v", err)
	}
	many := fullJob
	many.Metadata = make(map[string]string)
	for i := range 17 {
		many.Metadata[strings.Repeat("k", i)] = ""
	}
	if e := schemas.AsError(many.Validate()); e == nil || e.Message != "metadata has 17 pairs; want at most 16" || e.Param != "metadata" {
		t.Errorf("17 pairs: %v", e)
	}
}

func TestSetDefaults(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{", "[]", `{"messages":[1}`, `{"messages":[1],}`, `{"messages":[1]} x`, `{"a":1,`} {
		j := schemas.Job{Body: json.RawMessage(body)}
		j.SetDefaults()
		want := schemas.Job{Class: schemas.Standard, Endpoint: schemas.Completions, OnInterrupt: schemas.ContinueOnInterrupt, Body: json.RawMessage(body)}
		if diff := cmp.Diff(want, j); diff != "" {
			t.Errorf("body %s (-want +got):\n%s", body, diff)
		}
	}
	kept := fullJob
	kept.SetDefaults()
	if diff := cmp.Diff(fullJob, kept); diff != "" {
		t.Errorf("what was set has changed (-want +got):\n%s", diff)
	}
	escaped := schemas.Job{Body: json.RawMessage(`{"\u006dessages":[],"stream":false,"stream":true}`)}
	escaped.SetDefaults()
	if escaped.Endpoint != schemas.ChatCompletions || !escaped.Stream {
		t.Errorf("endpoint %s, stream %t; want chat and true", escaped.Endpoint, escaped.Stream)
	}
}

func FuzzDecodeJob(f *testing.F) {
	for _, payload := range []string{
		`{"body":{"prompt":"x"}}`, `{"body":{},"id":"*"}`, `{"body":[]}`, `{"created":5}`, `{"session":{"expect_rev":"x"}}`,
		`{"body":{"messages":[]},"reply_to":"hxp.v1.events.acme.web.j1","id":"j1","metadata":{"a":"b"}}`, `null`, `{`, `{"Job":{"id":1}}`,
	} {
		f.Add(jobSubject, []byte(payload))
	}
	if full, err := fullJob.Append(nil); err == nil {
		f.Add("hxp.v1.jobs.phi3.interactive.acme", full)
	}
	f.Fuzz(func(t *testing.T, subject string, payload []byte) {
		j, err := schemas.DecodeJob(subject, payload, "fallback")
		if _, _, _, bad := schemas.ParseJobSubject(subject); bad != nil {
			if err == nil {
				t.Fatalf("subject %q was taken", subject)
			}
			return
		}
		// Whatever comes, the answer can be addressed, and only to where it may go.
		if schemas.JobSubject(j.Model, j.Class, j.Tenant) != subject || schemas.CheckToken(j.ID) != nil {
			t.Fatalf("job %q of subject %q is for %q", j.ID, subject, schemas.JobSubject(j.Model, j.Class, j.Tenant))
		}
		event, inbox, refused := schemas.ReplySubject(j.ReplyTo, j.Tenant, j.ID)
		if refused != nil || !strings.HasPrefix(event, "hxp.v1.events."+j.Tenant+".") || inbox != "" && !strings.HasPrefix(inbox, "_INBOX") {
			t.Fatalf("the answer goes to %q and %q (%v)", event, inbox, refused)
		}
		if err != nil {
			if e := schemas.AsError(err); e.Code != schemas.CodeInvalidRequest || e.Message == "" {
				t.Fatalf("error = %+v", e)
			}
			return
		}
		if err := j.Validate(); err != nil {
			t.Fatalf("a job that was taken is not valid: %v", err)
		}
		wire, err := j.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		schematest.Validate(t, "job", wire)
		again, err := schemas.DecodeJob(subject, wire, "")
		if err != nil {
			t.Fatal(err)
		}
		if string(again.Body) != string(j.Body) || again.ID != j.ID || again.Stream != j.Stream || again.Endpoint != j.Endpoint {
			t.Fatalf("read back %s as %+v", wire, again)
		}
	})
}

func BenchmarkDecodeJob(b *testing.B) {
	body := `{"messages":[{"role":"user","content":"` + strings.Repeat("lorem ipsum ", 80) + `"}],"max_tokens":64}`
	payload := []byte(`{"id":"0199d2c8-b8f0-7c9e-8a51-0c6f3b1d2e4f","body":` + body + `,"stream":true,"reply_to":"hxp.v1.events.acme.web-1"}`)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := schemas.DecodeJob(jobSubject, payload, ""); err != nil {
			b.Fatal(err)
		}
	}
}
