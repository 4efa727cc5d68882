package batch

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hxp-enterprise/hxp/schemas"
)

// maxCustomID is the length in bytes that a custom_id may have.
const maxCustomID = 512

// Rules are what lines are checked against. The zero value checks their form.
type Rules struct {
	// Models are those that a line may ask for. Empty allows any.
	Models []string
	// Endpoint is the one that all lines are for. By default that of the first line that has a valid one.
	Endpoint schemas.Endpoint
	// MaxLine is the length in bytes that a line may have. Defaults to [DefaultMaxLine].
	MaxLine int
	// MaxBody is the length in bytes that a body may have. Defaults to 16 MiB.
	MaxBody int
}

func (r Rules) withDefaults() Rules {
	if r.MaxLine <= 0 {
		r.MaxLine = DefaultMaxLine
	}
	if r.MaxBody <= 0 {
		r.MaxBody = 16 << 20
	}
	return r
}

// credentials are fields with which clients of other services send secrets or say where to send the
// request. A line with one of them is refused: it would store a secret in the queue, to no effect.
var credentials = []string{
	"api_key", "api_base", "base_url", "authorization", "headers", "extra_headers", "access_token", "credentials",
	"aws_access_key_id", "aws_secret_access_key", "aws_session_token", "azure_ad_token", "vertex_credentials",
}

// item is one valid line.
type item struct {
	line     int64
	customID string
	job      string // its id
	model    string
	endpoint schemas.Endpoint
	body     json.RawMessage
	prefix   uint64 // of the part of the prompt that lines may share
	cost     int64  // an estimate of its tokens
}

// checker checks the lines of one file, in order.
type checker struct {
	rules Rules
	seed  maphash.Seed
}

func newChecker(rules Rules) *checker {
	return &checker{rules: rules.withDefaults(), seed: maphash.MakeSeed()}
}

// check returns a line as an item, or its fault. The item's body is part of raw.
func (c *checker) check(raw []byte, n int64) (*item, *LineError) {
	x := &item{line: n}
	if err := c.fill(x, raw); err != nil {
		return nil, newFault(n, x.customID, err)
	}
	return x, nil
}

func (c *checker) fill(x *item, raw []byte) *schemas.Error {
	if !utf8.Valid(raw) {
		return schemas.Errorf(schemas.CodeInvalidRequest, "the line is not UTF-8 text")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		if err == nil || json.Valid(raw) {
			return schemas.Errorf(schemas.CodeInvalidRequest, "the line is %s; want a JSON object", shown(raw))
		}
		return schemas.Errorf(schemas.CodeInvalidRequest, "the line is not JSON: %v", err)
	}
	if err := c.envelope(x, fields); err != nil {
		return err
	}
	return c.fillBody(x, fields["body"])
}

// envelope checks what is around the body.
func (c *checker) envelope(x *item, fields map[string]json.RawMessage) *schemas.Error {
	var err *schemas.Error
	if x.customID, err = text(fields, "custom_id", "a text of 1 to 512 bytes"); err != nil {
		return err
	}
	if len(x.customID) > maxCustomID {
		size := len(x.customID)
		x.customID = ""
		return invalid("custom_id", "is %d bytes; want 1 to %d", size, maxCustomID)
	}
	if err := noCredentials(fields, ""); err != nil {
		return err
	}
	method, err := text(fields, "method", `"POST"`)
	if err != nil {
		return err
	}
	if method != "POST" {
		return invalid("method", "is %.80q; want %q", method, "POST")
	}
	url, err := text(fields, "url", `"`+string(schemas.ChatCompletions)+`" or "`+string(schemas.Completions)+`"`)
	if err != nil {
		return err
	}
	x.endpoint = schemas.Endpoint(url)
	switch {
	case !x.endpoint.Valid():
		return invalid("url", "is %.80q; want %q or %q", url, schemas.ChatCompletions, schemas.Completions)
	case c.rules.Endpoint == "":
		c.rules.Endpoint = x.endpoint
	case c.rules.Endpoint != x.endpoint:
		return invalid("url", "is %q; want %q: all lines of a batch are for one endpoint", url, c.rules.Endpoint)
	}
	return nil
}

// text returns a field that must be a text that is not empty.
func text(fields map[string]json.RawMessage, name, want string) (string, *schemas.Error) {
	raw, ok := fields[name]
	if !ok {
		return "", invalid(name, "is missing; want %s", want)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil || s == "" {
		return "", invalid(name, "is %s; want %s", shown(raw), want)
	}
	return s, nil
}

func noCredentials(fields map[string]json.RawMessage, path string) *schemas.Error {
	for _, name := range credentials {
		if raw, ok := fields[name]; ok && !isNull(raw) {
			return invalid(path+name, "is given; want none: credentials and addresses of other services do not go into a batch")
		}
	}
	return nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || bytes.Equal(raw, []byte("null")) }

// fillBody checks what every model would refuse, and leaves the rest to the worker.
func (c *checker) fillBody(x *item, raw json.RawMessage) *schemas.Error {
	if isNull(raw) {
		return invalid("body", "is missing; want the OpenAI request, a JSON object")
	}
	if len(raw) > c.rules.MaxBody {
		return schemas.Errorf(schemas.CodePayloadTooLarge, "body is %d bytes; want at most %d", len(raw), c.rules.MaxBody).WithParam("body")
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(raw, &body); err != nil {
		return invalid("body", "is %s; want the OpenAI request, a JSON object", shown(raw))
	}
	model, err := text(body, "model", c.wantModel())
	if err != nil {
		return inBody(err, "model")
	}
	if err := schemas.CheckToken(model); err != nil || len(c.rules.Models) > 0 && !slices.Contains(c.rules.Models, model) {
		return schemas.Errorf(schemas.CodeModelNotFound, "body.model is %.80q; want %s", model, c.wantModel()).WithParam("body.model")
	}
	if raw := body["stream"]; !isNull(raw) && string(raw) != "false" {
		return invalid("body.stream", "is %s; want false or none: a batch is answered in whole", shown(raw))
	}
	if err := noCredentials(body, "body."); err != nil {
		return err
	}
	prompt := "prompt"
	if x.endpoint == schemas.ChatCompletions {
		prompt = "messages"
	}
	if isNull(body[prompt]) {
		return invalid("body."+prompt, "is missing; want it in a request to %s", x.endpoint)
	}
	x.model, x.body = model, raw
	x.prefix = c.prefix(x, body[prompt])
	x.cost = cost(body, len(raw))
	return nil
}

func (c *checker) wantModel() string {
	if len(c.rules.Models) == 0 {
		return "the name of a model"
	}
	return "one of " + strings.Join(c.rules.Models, ", ")
}

// inBody gives an error of a field of the body its whole path.
func inBody(err *schemas.Error, field string) *schemas.Error {
	e := *err
	e.Message, e.Param = "body."+e.Message, "body."+field
	return &e
}

// defaultTokens is what a request without a bound is taken to generate.
const defaultTokens = 256

// cost estimates the tokens of a request: a quarter of its bytes, and what it may generate.
func cost(body map[string]json.RawMessage, size int) int64 {
	tokens := int64(defaultTokens)
	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		var n int64
		if json.Unmarshal(body[name], &n) == nil && n > 0 {
			tokens = min(n, 1<<20)
		}
	}
	var n int64
	if json.Unmarshal(body["n"], &n) == nil && n > 1 {
		tokens *= min(n, 128)
	}
	return int64(size)/4 + tokens
}
