package schemas_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/schemas"
)

func TestRefTo(t *testing.T) {
	t.Parallel()
	want := schemas.BodyRef{Size: 2, Digest: "SHA-256=RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o="}
	if diff := cmp.Diff(want, schemas.RefTo([]byte("{}"))); diff != "" {
		t.Errorf("RefTo (-want +got):\n%s", diff)
	}
	if got := schemas.BodyName("acme", "j1"); got != "acme.j1" {
		t.Errorf("BodyName = %q", got)
	}
}

func TestResolveFillsWhatFollowsFromTheBody(t *testing.T) {
	t.Parallel()
	body := json.RawMessage(`{"messages":[],"stream":true}`)
	ref, err := json.Marshal(schemas.RefTo(body))
	if err != nil {
		t.Fatal(err)
	}
	j, err := schemas.DecodeJob(jobSubject, []byte(`{"id":"j1","body":null,"body_ref":`+string(ref)+`}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if j.Endpoint != "" || j.Stream || j.Body != nil || *j.BodyRef != schemas.RefTo(body) {
		t.Errorf("before its body is there the job says %+v", j)
	}
	if err := j.Resolve(body); err != nil {
		t.Fatal(err)
	}
	if j.Endpoint != schemas.ChatCompletions || !j.Stream || string(j.Body) != string(body) || j.BodyRef != nil {
		t.Errorf("resolved job = %+v", j)
	}
	if err := j.Resolve(json.RawMessage(`[]`)); schemas.ErrorCode(err) != schemas.CodeInvalidRequest {
		t.Errorf("Resolve with a list = %v, want %s", err, schemas.CodeInvalidRequest)
	}
}

func TestBodyRefRefused(t *testing.T) {
	t.Parallel()
	const good = "SHA-256=RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o="
	for payload, want := range map[string]string{
		`{"body":{},"body_ref":{"size":2,"digest":"` + good + `"}}`:            "body_ref is given together with body; want one of them",
		`{"body_ref":{"size":0,"digest":"` + good + `"}}`:                      "body_ref.size is 0; want the length of the body, at least 1",
		`{"body_ref":{"size":2,"digest":"MD5=abc"}}`:                           `body_ref.digest is "MD5=abc"; want "SHA-256="`,
		`{"body_ref":{"size":2,"digest":"SHA-256=RBNv"}}`:                      "URL-safe base64 of 32 bytes",
		`{"body_ref":{"size":2}}`:                                              `body_ref.digest is ""`,
		`{"body_ref":{"size":"2","digest":"` + good + `"}}`:                    "body_ref.size is a string; want a whole number",
		`{"body_ref":"here"}`:                                                  "body_ref is a string; want an object",
		`{"body_ref":null}`:                                                    "body is missing",
		`{"endpoint":"/x","body_ref":{"size":2,"digest":"` + good + `"}}`:      `endpoint is "/x"`,
		`{"body_ref":{"size":1e30,"digest":"` + good + `"}}`:                   "body_ref.size is 1e30; want a whole number",
		`{"body_ref":{"size":2,"digest":"` + strings.Repeat("x", 9999) + `"}}`: "body_ref.digest is",
	} {
		_, err := schemas.DecodeJob(jobSubject, []byte(payload), "j1")
		if schemas.ErrorCode(err) != schemas.CodeInvalidRequest || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("DecodeJob(%.80s) = %v, want in it %s", payload, err, want)
		}
	}
	ref := schemas.RefTo([]byte("{}"))
	both := schemas.Job{ID: "j1", Body: json.RawMessage(`{}`), BodyRef: &ref}
	if got, err := both.Append(nil); err == nil || !strings.Contains(err.Error(), "body_ref is given together with body") {
		t.Errorf("Append of a job with both = %s, %v", got, err)
	}
}
