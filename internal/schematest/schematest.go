// Package schematest checks messages against the JSON Schemas of package schemas. It is for tests:
// clients do not pay for a validator.
package schematest

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hxp-enterprise/hxp/schemas"
)

const base = "https://hxp.dev/schemas/v1/"

// Validate fails the test if data is not a message of one of [schemas.SchemaNames].
func Validate(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := Check(name, data); err != nil {
		t.Errorf("%s\n%.2000s", err, data)
	}
}

// Check says why data is not a message of one of [schemas.SchemaNames], or nil.
func Check(name string, data []byte) error {
	all, err := compiled()
	if err != nil {
		return err
	}
	schema, ok := all[name]
	if !ok {
		return fmt.Errorf("no JSON Schema %q", name)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// compiled are the schemas by name: compiled once, for a test may check thousands of events.
var compiled = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.AssertContent()
	for _, name := range schemas.SchemaNames() {
		text, err := schemas.Schema(name)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		if err := c.AddResource(base+name+".json", doc); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	out := make(map[string]*jsonschema.Schema)
	for _, name := range schemas.SchemaNames() {
		schema, err := c.Compile(base + name + ".json")
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		out[name] = schema
	}
	return out, nil
})
