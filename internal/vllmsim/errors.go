package vllmsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// ErrCrashed is what Run returns after a crash fault.
var ErrCrashed = errors.New("simulated engine crash")

// apiError is an error as vLLM answers it.
type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    int     `json:"code"`
}

func (e *apiError) Error() string { return e.Message }

// badRequest makes a 400; param may be "".
func badRequest(param, format string, args ...any) *apiError {
	e := &apiError{Message: fmt.Sprintf(format, args...), Type: "BadRequestError", Code: http.StatusBadRequest}
	if param != "" {
		e.Param = &param
	}
	return e
}

// badValue makes a 400 that names the parameter, and the value if there is one, in its message as well.
func badValue(param string, value any, format string, args ...any) *apiError {
	e := badRequest(param, format, args...)
	e.Message += " (parameter=" + param
	if value != nil {
		e.Message += fmt.Sprintf(", value=%v", value)
	}
	e.Message += ")"
	return e
}

// invalid makes the 400 of a body that does not validate: place is where in the body, kind and message are pydantic's.
func invalid(place, kind, message string) *apiError {
	e := badRequest(place, "1 validation error:\n  {'type': '%s', 'loc': '%s', 'msg': '%s'}", kind, place, message)
	e.Type = "Bad Request"
	return e
}

func notFound(param, format string, args ...any) *apiError {
	e := badRequest(param, format, args...)
	e.Type, e.Code = "NotFoundError", http.StatusNotFound
	return e
}

func statusError(code int, kind, message string) *apiError {
	return &apiError{Message: message, Type: kind, Code: code}
}

func internalError() *apiError {
	return statusError(http.StatusInternalServerError, "InternalServerError", "Internal server error")
}

func unavailable(message string) *apiError {
	return statusError(http.StatusServiceUnavailable, "Service Unavailable", message)
}

// frame is the error as a JSON object, of a response body and of a stream alike.
func (e *apiError) frame() []byte {
	b, _ := json.Marshal(map[string]*apiError{"error": e}) // strings and a number always encode
	return b
}

// asAPIError returns err as an answer.
func asAPIError(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	return badRequest("", "%v", err)
}
