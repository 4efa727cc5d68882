package vllm

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
)

// priority is the place of a class in the engine's own queue, lower first.
func (e *Engine) priority(class schemas.Class) int {
	if !e.cfg.Priority || e.noPriority.Load() {
		return 0
	}
	switch class {
	case schemas.Batch:
		return 20
	case schemas.Standard:
		return 10
	default:
		return 0
	}
}

// checkPriority refuses a priority that the request's author has set.
func checkPriority(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if f, err := strconv.ParseFloat(strings.Trim(string(raw), `" `), 64); err == nil && f == 0 {
		return nil
	}
	return schemas.Errorf(schemas.CodeInvalidRequest, "priority is %.40s; want none: the job's class is its place in the queue", raw).WithParam("priority")
}

// refusesPriority reports whether the engine may have refused a request for its priority: vLLM says so with a
// 400 or, from inside, with an error in its stream. The word may be the request's own, quoted, so only
// a repetition that is not refused proves it.
func refusesPriority(err error) bool {
	return schemas.ErrorCode(err) == schemas.CodeInvalidRequest && strings.Contains(strings.ToLower(err.Error()), "priority")
}
