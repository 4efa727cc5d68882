package batch

import (
	"encoding/json"
	"fmt"

	"github.com/hxp-enterprise/hxp/schemas"
)

// LineError is what is wrong with one line, as an entry of OpenAI's errors.data.
type LineError struct {
	Code schemas.Code `json:"code"`
	// Message says what is wrong, with the value and what is wanted.
	Message string `json:"message"`
	// Param is the field at fault, as a path into the line; empty if it is the line as a whole.
	Param string `json:"param,omitempty"`
	// Line is its number, from 1.
	Line int64 `json:"line"`
	// CustomID is the line's own, if it could be read.
	CustomID string `json:"custom_id,omitempty"`
}

func newFault(line int64, customID string, err *schemas.Error) *LineError {
	return &LineError{Code: err.Code, Message: err.Message, Param: err.Param, Line: line, CustomID: customID}
}

// Error names the line and what is wrong with it.
func (f *LineError) Error() string { return fmt.Sprintf("line %d: %s", f.Line, f.Message) }

// invalid is a fault of a field: it names the field, and format goes on with what it is and what is wanted.
func invalid(field, format string, args ...any) *schemas.Error {
	return schemas.Errorf(schemas.CodeInvalidRequest, field+" "+format, args...).WithParam(field)
}

// shown is a value as a message quotes it.
func shown(value json.RawMessage) string {
	const most = 80
	if len(value) > most {
		return string(value[:most]) + "..."
	}
	return string(value)
}
