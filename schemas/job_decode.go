package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// DecodeJob reads a message from a jobs subject. The subject decides model, class and tenant; a
// payload that contradicts it is refused. fallbackID names a job that brings no id of its own.
// What is missing gets its default, and the whole is validated: every fault is told at once.
//
// On error the returned Job still holds whatever could be read, so that the refusal can be
// addressed: its ID is fallbackID where the payload's own cannot stand in a subject, and a ReplyTo
// or Metadata that was refused is gone. Only if subject is not a jobs subject is the Job empty.
// The error is an [*Error] with code [CodeInvalidRequest].
func DecodeJob(subject string, payload []byte, fallbackID string) (*Job, error) {
	j := &Job{}
	model, class, tenant, err := ParseJobSubject(subject)
	if err != nil {
		return j, Errorf(CodeInvalidRequest, "%v", err)
	}
	var f faults
	whole := j.unmarshal(payload, &f)
	agree(&f, "model", &j.Model, model)
	agree(&f, "class", &j.Class, class)
	agree(&f, "tenant", &j.Tenant, tenant)
	if j.ID == "" {
		j.ID = fallbackID
	}
	if whole {
		j.SetDefaults()
		j.validate(&f)
	}
	if err := f.err(); err != nil {
		j.makeAddressable(fallbackID)
		return j, err
	}
	return j, nil
}

// agree lets the subject decide, and a payload only repeat it.
func agree[S ~string](f *faults, name string, have *S, want S) {
	if *have != "" && *have != want {
		f.add(name, "%.64q contradicts the subject's %q", *have, want)
	}
	*have = want
}

// makeAddressable takes out of a refused job what its refusal cannot be sent with.
func (j *Job) makeAddressable(fallbackID string) {
	if CheckToken(j.ID) != nil {
		j.ID = fallbackID
	}
	if _, _, err := ReplySubject(j.ReplyTo, j.Tenant, j.ID); err != nil {
		j.ReplyTo = ""
	}
	var f faults
	if j.validateMetadata(&f); f.err() != nil {
		j.Metadata = nil
	}
}

// unmarshal reads the payload and reports whether all of it could be read.
func (j *Job) unmarshal(payload []byte, f *faults) bool {
	// encoding/json stops at a time that it cannot parse; the rest is wanted all the same.
	wire := struct {
		*Job
		Created  json.RawMessage `json:"created"`
		Deadline json.RawMessage `json:"deadline"`
	}{Job: j}
	err := json.Unmarshal(payload, &wire)
	if err != nil {
		addUnmarshalFault(f, err)
	}
	if j.BodyRef != nil && string(j.Body) == "null" {
		j.Body = nil
	}
	readTime(f, "created", wire.Created, &j.Created)
	readTime(f, "deadline", wire.Deadline, &j.Deadline)
	return len(f.texts) == 0
}

func readTime(f *faults, name string, raw json.RawMessage, into *time.Time) {
	if len(raw) > 0 && into.UnmarshalJSON(raw) != nil {
		*into = time.Time{}
		f.add(name, "is %.64s; want a time as of RFC 3339, such as \"2026-01-02T15:04:05Z\"", raw)
	}
}

func addUnmarshalFault(f *faults, err error) {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := strings.TrimPrefix(e.Field, "Job.")
		switch {
		case field == "":
			f.add("the job", "is %s; want an object", have(e.Value))
			f.param = ""
		case field == "metadata" && e.Type.Kind() == reflect.String:
			f.add(field, "holds %s; want only strings", have(e.Value))
		default:
			f.add(field, "is %s; want %s", have(e.Value), want(e.Type))
		}
		return
	}
	at := ""
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = fmt.Sprintf(" (at byte %d)", e.Offset)
	}
	f.add("the job", "is not valid JSON: %w%s", err, at)
	f.param = ""
}

// have puts encoding/json's word for a value into a sentence.
func have(value string) string {
	if number, ok := strings.CutPrefix(value, "number "); ok {
		return fmt.Sprintf("%.32s", number)
	}
	switch value {
	case "bool":
		return "true or false"
	case "array", "object":
		return "an " + value
	default:
		return "a " + value
	}
}

// want names what a field of type t holds.
func want(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	default:
		return "an object"
	}
}
