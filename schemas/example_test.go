package schemas_test

import (
	"fmt"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
)

// What a person typed after `nats pub hxp.v1.jobs.phi3.standard.acme` becomes a job, and what the
// worker says about it becomes text.
func Example() {
	subject := schemas.JobSubject("phi3", schemas.Standard, "acme")
	job, err := schemas.DecodeJob(subject, []byte(`{"body": {"prompt": "Once upon", "max_tokens": 2}}`), "stored-17")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(job.ID, job.Model, job.Class, job.Tenant, job.Endpoint)

	answer := schemas.Event{ID: job.ID, Seq: 2, Attempt: 1, Kind: schemas.DeltaKind, Choices: []byte(`[{"index":0,"text":" a time"}]`)}
	wire := answer.Append(nil)
	fmt.Println(schemas.EventSubject(job.Tenant, schemas.NoClient, job.ID), string(wire))

	var event schemas.Event
	if err := event.Decode(wire); err != nil {
		fmt.Println(err)
		return
	}
	text, err := openai.Text(event.Choices)
	fmt.Printf("%q %v\n", text, err)

	_, err = schemas.DecodeJob(subject, []byte(`{"tenant": "other", "stream": "yes"}`), "stored-18")
	fmt.Println(err)
	// Output:
	// stored-17 phi3 standard acme /v1/completions
	// hxp.v1.events.acme.none.stored-17 {"id":"stored-17","seq":2,"attempt":1,"kind":"delta","ts":0,"choices":[{"index":0,"text":" a time"}]}
	// " a time" <nil>
	// invalid_request: stream is a string; want true or false; tenant "other" contradicts the subject's "acme"
}
