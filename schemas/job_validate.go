package schemas

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of [Job.Metadata], in pairs and bytes.
const (
	MaxMetadata      = 16
	MaxMetadataKey   = 64
	MaxMetadataValue = 512
)

// maxTurnID is the length in bytes that the id of a turn may have: a job id with a prefix.
const maxTurnID = 2 * MaxToken

// Validate returns every structural fault of a job as one [*Error] with code
// [CodeInvalidRequest], or nil. It looks at the envelope, not into Body's fields:
// the worker checks those against the model's own ranges.
func (j *Job) Validate() error {
	var f faults
	j.validate(&f)
	return f.err()
}

func (j *Job) validate(f *faults) {
	for _, field := range []struct{ name, value string }{{"id", j.ID}, {"model", j.Model}, {"tenant", j.Tenant}} {
		if err := CheckToken(field.value); err != nil {
			f.add(field.name, "%w", err)
		}
	}
	if !j.Class.Valid() {
		f.add("class", "is %.64q; want one of %s", j.Class, classList())
	}
	if !j.Endpoint.Valid() && (j.Endpoint != "" || !j.referred()) {
		f.add("endpoint", "is %.64q; want %s or %s", j.Endpoint, ChatCompletions, Completions)
	}
	if j.BodyRef != nil {
		j.BodyRef.validate(f)
		if len(j.Body) > 0 {
			f.add("body_ref", "is given together with body; want one of them")
		}
	} else if len(j.Body) == 0 {
		f.add("body", "is missing; want the OpenAI request, a JSON object")
	} else if _, err := scanBody(j.Body); err != nil {
		f.add("body", "is not a JSON object: %w", err)
	}
	switch j.OnInterrupt {
	case "", ContinueOnInterrupt, RestartOnInterrupt, FailOnInterrupt:
	default:
		f.add("on_interrupt", "is %.64q; want continue, restart or fail", j.OnInterrupt)
	}
	if s := j.Session; s != nil {
		s.validate(f)
	}
	if _, _, err := ReplySubject(j.ReplyTo, j.Tenant, j.ID); err != nil {
		f.add("reply_to", "is %.80q; want %s", j.ReplyTo, replyForms(j.Tenant))
	}
	j.validateMetadata(f)
}

func (j *Job) validateMetadata(f *faults) {
	if len(j.Metadata) > MaxMetadata {
		f.add("metadata", "has %d pairs; want at most %d", len(j.Metadata), MaxMetadata)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(j.Metadata)) {
		if v := j.Metadata[k]; len(k) > MaxMetadataKey || len(v) > MaxMetadataValue {
			f.add("metadata", "pair %.64q has a key of %d and a value of %d bytes; want at most %d and %d",
				k, len(k), len(v), MaxMetadataKey, MaxMetadataValue)
		}
	}
}

// faults collects what is wrong with a job.
type faults struct {
	texts []string
	param string // the field of the first fault
}

func (f *faults) add(field, format string, args ...any) {
	if f.param == "" {
		f.param = field
	}
	f.texts = append(f.texts, field+" "+fmt.Errorf(format, args...).Error())
}

func (f *faults) err() error {
	if len(f.texts) == 0 {
		return nil
	}
	return Errorf(CodeInvalidRequest, "%s", strings.Join(f.texts, "; ")).WithParam(f.param)
}
