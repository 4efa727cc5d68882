package vllm

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// maxMessage bounds the engine's words in an error, in bytes.
const maxMessage = 2 << 10

// wireError is an error in the engine's own words.
type wireError struct {
	// status is the HTTP status, or what stands for it in a stream.
	status                     int
	message, kind, param, code string
	// explicit is set if the engine sent an error object, and not just some text.
	explicit bool
}

// parseWireError reads every form in which engines report an error: {"error": {...}}, as vLLM since
// 0.10 and OpenAI; the bare object, as vLLM before that; {"error": "text"}; {"detail": ...}, as
// FastAPI; and text.
func parseWireError(body []byte) wireError {
	body = bytes.TrimSpace(body)
	var outer struct {
		Error json.RawMessage `json:"error"`
	}
	inner := json.RawMessage(body)
	if json.Unmarshal(body, &outer) == nil && len(outer.Error) > 0 && string(outer.Error) != "null" {
		inner = outer.Error
	}
	var text string
	if json.Unmarshal(inner, &text) == nil {
		return wireError{message: text, explicit: true, status: http.StatusInternalServerError}
	}
	var f struct {
		Message, Type, Param, Code, Detail json.RawMessage
	}
	if json.Unmarshal(inner, &f) != nil || f.Message == nil && f.Detail == nil {
		return wireError{message: string(body), status: http.StatusInternalServerError}
	}
	w := wireError{message: plain(f.Message), kind: plain(f.Type), param: plain(f.Param), code: plain(f.Code), explicit: true}
	if f.Message == nil {
		w.message, w.param = detail(f.Detail)
	}
	w.status = w.inferStatus()
	return w
}

// plain returns a JSON string decoded, "" for null, and any other value as it stands.
func plain(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// detail reads FastAPI's account of a request that does not validate: a text, or a list of faults
// with their places.
func detail(raw json.RawMessage) (message, param string) {
	var faults []struct {
		Loc []json.RawMessage `json:"loc"`
		Msg string            `json:"msg"`
	}
	if json.Unmarshal(raw, &faults) != nil || len(faults) == 0 {
		return plain(raw), ""
	}
	var messages []string
	for i, f := range faults {
		var place []string
		for _, part := range f.Loc {
			if p := plain(part); p != "body" {
				place = append(place, p)
			}
		}
		at := strings.Join(place, ".")
		if i == 0 {
			param = at
		}
		messages = append(messages, strings.TrimPrefix(at+": "+f.Msg, ": "))
	}
	return strings.Join(messages, "; "), param
}

// inferStatus finds the status of an error in a stream, whose HTTP status was 200.
func (w wireError) inferStatus() int {
	if n, err := strconv.Atoi(w.code); err == nil && n >= 400 && n <= 599 {
		return n
	}
	kind := strings.ToLower(strings.ReplaceAll(w.kind, "_", ""))
	for _, k := range []struct {
		part   string
		status int
	}{
		{"badrequest", http.StatusBadRequest},
		{"invalidrequest", http.StatusBadRequest},
		{"exceedcontextsize", http.StatusBadRequest},
		{"notfound", http.StatusNotFound},
		{"ratelimit", http.StatusTooManyRequests},
		{"notimplemented", http.StatusNotImplemented},
	} {
		if strings.Contains(kind, k.part) {
			return k.status
		}
	}
	if w.contextLength() {
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// contextLength reports whether the prompt and what it asks for do not fit the model, as vLLM,
// OpenAI and llama.cpp say that.
func (w wireError) contextLength() bool {
	if w.code == "context_length_exceeded" || w.kind == "exceed_context_size_error" {
		return true
	}
	m := strings.ToLower(w.message)
	return strings.Contains(m, "maximum context length") || strings.Contains(m, "maximum model length") ||
		strings.Contains(m, "exceeds the available context size") ||
		// max_tokens alone is above the window, as vLLM 0.32 says that; or the prompt leaves room for none.
		strings.Contains(m, "cannot be greater than max_model_len") || strings.Contains(m, "max_tokens must be at least 1, got 0")
}

// engineDead reports whether vLLM's API server says that its engine process has died: the server
// is about to exit, whatever status it answered with.
func (w wireError) engineDead() bool {
	return strings.Contains(w.message, "EngineCore encountered an issue") ||
		strings.Contains(w.message, "EngineDeadError") || w.kind == "EngineDeadError"
}
