package vllm

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/schemas/openai"
	"github.com/hxp-enterprise/hxp/workers"
)

// maxN bounds n where it is multiplied. The engine refuses less than that.
const maxN = 1 << 20

// prepared is a request in the form in which the engine gets it.
type prepared struct {
	call call
	// choices is how many choices the reply must finish: n for each prompt.
	choices int
}

// prepare makes the request for the engine. A priority of 0, every engine's default, is not sent.
func prepare(req *workers.Request, id *identity, priority int) (prepared, error) {
	if !req.Endpoint.Valid() {
		return prepared{}, schemas.Errorf(schemas.CodeInvalidRequest, "endpoint is %q; want %s or %s",
			req.Endpoint, schemas.ChatCompletions, schemas.Completions).WithParam("endpoint")
	}
	if req.ID != "" {
		if err := schemas.CheckToken(req.ID); err != nil {
			return prepared{}, schemas.Errorf(schemas.CodeInvalidRequest, "id %v", err).WithParam("id")
		}
	}
	fields, err := parseBody(req.Body)
	if err != nil {
		return prepared{}, err
	}
	if err := checkPriority(fields["priority"]); err != nil {
		return prepared{}, err
	}
	var tokenIDs []byte // nil takes the field out: the engine does not know it
	if id.tokenIDs {
		tokenIDs = []byte("true")
	}
	replaced := []openai.Field{
		{Name: "model", Value: quote(id.Model)},
		{Name: "stream", Value: []byte("true")},
		{Name: "stream_options", Value: []byte(`{"include_usage":true}`)},
		{Name: "return_token_ids", Value: tokenIDs},
	}
	if priority != 0 {
		replaced = append(replaced, openai.Field{Name: "priority", Value: strconv.AppendInt(nil, int64(priority), 10)})
	}
	body, err := openai.Splice(req.Body, replaced...)
	if err != nil {
		return prepared{}, schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	}
	return prepared{
		call: call{
			method: http.MethodPost, path: string(req.Endpoint), body: body,
			accept: "text/event-stream", id: requestID(req),
		},
		choices: countChoices(req.Endpoint, fields),
	}, nil
}

// requestID names the attempt in the engine's log: the job's id, and from the second attempt its number.
func requestID(req *workers.Request) string {
	if req.ID == "" || req.Attempt < 2 {
		return req.ID
	}
	return req.ID + "-" + strconv.Itoa(req.Attempt)
}

// quote returns s as a JSON string.
func quote(s string) []byte {
	b, _ := json.Marshal(s) // a string always has a JSON form
	return b
}

func parseBody(body []byte) (map[string]json.RawMessage, error) {
	// A map and not a struct: struct fields also match names in another case, which the engine ignores.
	var fields map[string]json.RawMessage
	err := json.Unmarshal(body, &fields)
	switch {
	case err != nil:
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "body: %v", err).WithParam("body")
	case fields == nil:
		return nil, schemas.Errorf(schemas.CodeInvalidRequest, "body is null; want a JSON object").WithParam("body")
	}
	return fields, nil
}

// countChoices tells how many choices the engine will send: in a completion, the choice of output i
// of prompt p has index i + p*n.
func countChoices(endpoint schemas.Endpoint, fields map[string]json.RawMessage) int {
	prompts := 1
	if endpoint == schemas.Completions {
		prompts = max(1, len(splitPrompts(fields["prompt"]))+len(splitPrompts(fields["prompt_embeds"])))
	}
	return parseN(fields["n"]) * prompts
}

// parseN reads n as the engine does, which also takes 2.0 and "2". What is no number is left to the engine to refuse.
func parseN(raw json.RawMessage) int {
	f, err := strconv.ParseFloat(strings.Trim(string(raw), `" `), 64)
	if err != nil || !(f >= 1) {
		return 1
	}
	return int(min(f, maxN))
}

// splitPrompts takes a prompt apart, which may be one (a text, or token ids) or a list of such. It
// returns nil for none.
func splitPrompts(raw json.RawMessage) []json.RawMessage {
	switch rest := bytes.TrimLeft(raw, " \t\r\n"); {
	case len(rest) == 0, string(rest) == "null":
		return nil
	case rest[0] != '[' || isTokenIDs(rest):
		return []json.RawMessage{raw}
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return list
}

// isTokenIDs reports whether raw, a JSON value, is a list that begins with a number.
func isTokenIDs(raw json.RawMessage) bool {
	rest, ok := bytes.CutPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("["))
	rest = bytes.TrimLeft(rest, " \t\r\n")
	return ok && len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9'
}
