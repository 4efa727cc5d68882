package schemas

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed jsonschema/*.json
var schemaFiles embed.FS

//go:embed asyncapi.yaml
var asyncAPI string

// SchemaNames lists the JSON Schemas, sorted: one for each message (job, event, result, cancel,
// cancel-reply, dead-letter, drain-reply, worker-info) and for the parts they share (error,
// timings, usage).
func SchemaNames() []string {
	files, err := fs.Glob(schemaFiles, "jsonschema/*.json")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(path.Base(file), ".json")
	}
	slices.Sort(files)
	return files
}

// Schema returns the JSON Schema (2020-12) of one of [SchemaNames]. Its $id is
// https://hxp.dev/schemas/v1/<name>.json, and references between schemas are relative to that.
func Schema(name string) ([]byte, error) {
	b, err := schemaFiles.ReadFile("jsonschema/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("no JSON Schema %.40q; there are %s", name, strings.Join(SchemaNames(), ", "))
	}
	return b, nil
}

// AsyncAPI returns the AsyncAPI 3.0 document, in YAML: every channel, operation and message, and
// under x-jetstream what the broker stores and how. It refers to the JSON Schemas by relative
// paths, jsonschema/<name>.json.
func AsyncAPI() []byte { return []byte(asyncAPI) }
