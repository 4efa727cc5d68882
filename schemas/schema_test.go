package schemas_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/internal/schematest"
	"github.com/hxp-enterprise/hxp/schemas"
)

func TestSchemas(t *testing.T) {
	t.Parallel()
	want := []string{"attempt-query", "attempt-reply", "cancel", "cancel-reply", "dead-letter", "drain-reply", "error", "event", "job", "result", "timings", "turn", "usage", "worker-info"}
	if diff := cmp.Diff(want, schemas.SchemaNames()); diff != "" {
		t.Errorf("SchemaNames (-want +got):\n%s", diff)
	}
	for _, name := range schemas.SchemaNames() {
		text, err := schemas.Schema(name)
		if err != nil {
			t.Error(err)
			continue
		}
		var s struct {
			Schema      string `json:"$schema"`
			ID          string `json:"$id"`
			Title, Type string
		}
		if err := json.Unmarshal(text, &s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.Schema != "https://json-schema.org/draft/2020-12/schema" || s.ID != "https://hxp.dev/schemas/v1/"+name+".json" || s.Title == "" || s.Type != "object" {
			t.Errorf("%s: %+v", name, s)
		}
	}
	for _, name := range []string{"", "jobs", "../doc", "job.json"} {
		if _, err := schemas.Schema(name); err == nil || !strings.Contains(err.Error(), "there are attempt-query, ") {
			t.Errorf("Schema(%q) = %v, want an error that lists the names", name, err)
		}
	}
}

func TestSchemasRefuse(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string][]string{
		"job": {`{}`, `{"body":[]}`, `{"body":{},"body_ref":{"size":1,"digest":"SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="}}`,
			`{"body_ref":{"size":0,"digest":"SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="}}`, `{"body_ref":{"size":1,"digest":"x"}}`, `{"body_ref":{"size":1}}`,
			`{"body":{},"id":"a.b"}`, `{"body":{},"id":""}`, `{"body":{},"class":"urgent"}`, `{"body":{},"endpoint":"/v1/embeddings"}`,
			`{"body":{},"stream":"true"}`, `{"body":{},"session":{}}`, `{"body":{},"session":{"id":"s","expect_rev":-1}}`, `{"body":{},"deadline":"soon"}`,
			`{"body":{},"on_interrupt":"retry"}`, `{"body":{},"reply_to":"hxp.v1.results.acme.x"}`, `{"body":{},"reply_to":"_INBOX.>"}`,
			`{"body":{},"metadata":{"a":1}}`, `{"body":{},"metadata":{"a":"` + strings.Repeat("x", 513) + `"}}`},
		"event": {`{}`, `{"id":"j","seq":0,"attempt":1,"kind":"started","ts":1}`, `{"id":"j","seq":1,"attempt":0,"kind":"started","ts":1}`,
			`{"id":"j","seq":1,"attempt":1,"kind":"stopped","ts":1}`, `{"id":"j","seq":1,"attempt":1,"kind":"delta","ts":1}`,
			`{"id":"j","seq":1,"attempt":1,"kind":"delta","ts":1,"choices":{}}`, `{"id":"j","seq":1,"attempt":1,"kind":"usage","ts":1}`,
			`{"id":"j","seq":1,"attempt":1,"kind":"usage","ts":1,"usage":{"prompt_tokens":1}}`, `{"id":"j","seq":1,"attempt":1,"kind":"failed","ts":1}`,
			`{"id":"j","seq":1,"attempt":1,"kind":"failed","ts":1,"error":{"code":"x","message":"","retryable":false,"http_status":500}}`},
		"error":        {`{}`, `{"code":"internal","message":"x","retryable":true,"http_status":200}`, `{"code":"internal","message":"x","http_status":500}`},
		"cancel":       {`{"id":"j","tenant":"t"}`, `{"id":"j","tenant":"t","requested":"now"}`, `{"id":"*","tenant":"t","requested":"2026-01-02T15:04:05Z"}`},
		"cancel-reply": {`{"id":"j","phase":"done","worker":"w"}`, `{"id":"j","phase":"decode"}`},
		"drain-reply":  {`{"id":"w","state":"gone"}`},
		"usage":        {`{"prompt_tokens":-1,"completion_tokens":0,"total_tokens":0}`},
		"timings":      {`{"queue":"1ms","ttft":0,"generate":0,"total":0}`},
	} {
		for _, data := range bad {
			if schematest.Check(name, []byte(data)) == nil {
				t.Errorf("%s: %s is taken for valid", name, data)
			}
		}
	}
	// Every field that a message must have is missed, and none of its fields may be a list of lists.
	for name, message := range messages(t) {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(message, &fields); err != nil {
			t.Fatal(err)
		}
		for field, value := range fields {
			fields[field] = json.RawMessage(`[[]]`)
			b, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			if schematest.Check(schemaOf(name), b) == nil {
				t.Errorf("%s: %s may be a list of lists", name, field)
			}
			fields[field] = value
		}
	}
}

func TestSchemasListEveryValue(t *testing.T) {
	t.Parallel()
	for code := range codes {
		b, err := json.Marshal(schemas.Errorf(code, "x"))
		if err != nil {
			t.Fatal(err)
		}
		schematest.Validate(t, "error", b)
	}
	for _, phase := range []schemas.Phase{schemas.PhaseQueued, schemas.PhasePrefill, schemas.PhaseDecode, schemas.PhaseEnded} {
		schematest.Validate(t, "cancel-reply", fmt.Appendf(nil, `{"id":"j","phase":%q,"worker":"w"}`, phase))
	}
	for _, state := range []schemas.WorkerState{schemas.WorkerStarting, schemas.WorkerReady, schemas.WorkerDegraded, schemas.WorkerDown, schemas.WorkerDraining} {
		schematest.Validate(t, "drain-reply", fmt.Appendf(nil, `{"id":"w","state":%q}`, state))
	}
	info := worker
	info.Causes = schemas.WorkerCauses()
	b, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	schematest.Validate(t, "worker-info", b)
	for _, class := range schemas.Classes() {
		schematest.Validate(t, "job", fmt.Appendf(nil, `{"body":{},"class":%q}`, class))
	}
}

func TestAsyncAPINamesEverything(t *testing.T) {
	t.Parallel()
	text := string(schemas.AsyncAPI())
	names := []string{
		schemas.JobSubject("{model}", "{class}", "{tenant}"), schemas.JobsStream("{model}"), schemas.JobsOfModel("{model}"),
		schemas.EventSubject("{tenant}", "{client}", "{job}"), schemas.EventsOfClient("{tenant}", "{client}"), schemas.EventsStream, schemas.AllEvents,
		schemas.ResultSubject("{tenant}", "{job}"), schemas.ResultsStream, schemas.AllResults,
		schemas.DeadSubject("{model}", "{tenant}"), schemas.DeadStream, schemas.AllDead,
		schemas.CancelSubject("{tenant}", "{job}"), schemas.AllCancels, schemas.CancelKey("{tenant}", "{job}"), schemas.CancelsBucket,
		schemas.WorkersBucket, schemas.BodiesBucket, schemas.BodyName("{tenant}", "{job}"), schemas.DrainSubject("{worker}"), schemas.NoClient,
		schemas.HeaderMsgID, schemas.HeaderJobID, schemas.HeaderContentType, schemas.ContentTypeJSON,
		string(schemas.ChatCompletions),
	}
	for _, class := range schemas.Classes() {
		names = append(names, schemas.JobsOfClass("{model}", class), "durable: "+schemas.ClassConsumer(class)+",")
	}
	for _, e := range events {
		names = append(names, "kind: "+string(e.Kind)+",", "\n    "+string(e.Kind)+":\n", "/events/messages/"+string(e.Kind))
	}
	for _, name := range names {
		if name != "/events/messages/accepted" && !strings.Contains(text, name) {
			t.Errorf("asyncapi.yaml does not have %q", name)
		}
	}
}

// asyncAPI is what the tests read of the document.
type asyncAPI struct {
	Channels map[string]struct {
		Address  *string
		Messages map[string]ref
	}
	Components struct {
		Messages map[string]struct {
			Payload  map[string]any
			Examples []struct{ Payload any }
		}
	}
}

type ref struct {
	Ref string `yaml:"$ref"`
}

func TestAsyncAPIExamplesAreValid(t *testing.T) {
	t.Parallel()
	var doc asyncAPI
	if err := yaml.Unmarshal(schemas.AsyncAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for name, message := range doc.Components.Messages {
		file, _ := message.Payload["$ref"].(string)
		if file == "" {
			if name != "drain" {
				t.Errorf("message %s has no schema", name)
			}
			continue
		}
		schema := strings.TrimSuffix(strings.TrimPrefix(file, "jsonschema/"), ".json")
		used[schema] = true
		if len(message.Examples) == 0 {
			t.Errorf("message %s has no example", name)
		}
		for _, example := range message.Examples {
			b, err := json.Marshal(example.Payload)
			if err != nil {
				t.Fatal(err)
			}
			schematest.Validate(t, schema, b)
		}
	}
	for _, part := range []string{"error", "timings", "turn", "usage"} {
		used[part] = true
	}
	if diff := cmp.Diff(schemas.SchemaNames(), slices.Sorted(maps.Keys(used))); diff != "" {
		t.Errorf("schemas that messages use (-want +got):\n%s", diff)
	}
}
