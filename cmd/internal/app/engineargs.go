package app

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// elsewhere are flags of vllm serve that have a setting outside engine_args. An asterisk is the model's block.
var elsewhere = map[string]string{
	"model": "*.model_path", "served_model_name": "*.served_name", "port": "*.port", "api_key": "*.api_key",
	"host":                   "service_network.internal_communication.localhost",
	"gpu_memory_utilization": "*.gpu_memory_utilization", "tensor_parallel_size": "*.tensor_parallel_size",
	"max_model_len": "*.max_model_len", "scheduling_policy": "*.scheduling_policy",
	"chat_template": "*.chat_template", "tool_call_parser": "*.tool_call_parser", "enable_auto_tool_choice": "*.tool_call_parser",
}

// argName is the name of a flag, with underscores.
var argName = regexp.MustCompile(`^[a-z][a-z0-9_]{1,99}$`)

// engineArg takes a flag of vllm serve that has no field. Which flags there are depends on the
// installed version, so any name will do but for one that is nearly that of a setting.
func (d decoder) engineArg(path, name string, raw any, dst reflect.Value) {
	own := strings.TrimPrefix(name, "no_")
	switch to, ok := elsewhere[own]; {
	case ok:
		model := modelsPath + ".MODEL"
		if parts := strings.Split(path, "."); parts[0] == modelsPath {
			model = modelsPath + "." + parts[1]
		}
		d.faults.add(path, "is set as %s", strings.Replace(to, "*", model, 1))
		return
	case strings.Contains(name, "-"):
		d.faults.add(path, "is spelled with underscores: %s", strings.ReplaceAll(strings.TrimLeft(name, "-"), "-", "_"))
		return
	case !argName.MatchString(name):
		d.faults.add(path, "is not the name of a flag; want letters, digits and underscores")
		return
	case own != name:
		d.faults.add(path, "is set as %s: false", strings.TrimSuffix(path, name)+own)
		return
	}
	for _, f := range fieldsOf(reflect.TypeFor[EngineArgs]()) {
		if distance(name, f.name) <= 2 {
			d.faults.add(path, "is not a setting; did you mean %s?", strings.TrimSuffix(path, name)+f.name)
			return
		}
	}
	if why := badArg(raw, true); why != "" {
		d.faults.add(path, "%s; want true or false, a number, text, a list of these or a block", why)
		return
	}
	if dst.IsNil() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	dst.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(raw))
}

// badArg says what is wrong with the value of a flag, or "".
func badArg(raw any, whole bool) string {
	switch v := raw.(type) {
	case string, bool:
		return ""
	case map[string]any:
		if whole {
			return ""
		}
	case []any:
		if whole && len(v) == 0 {
			return "is an empty list"
		}
		for i, x := range v {
			if why := badArg(x, false); why != "" {
				return fmt.Sprintf("element %d %s", i, why)
			}
		}
		if whole {
			return ""
		}
	default:
		if _, ok := number(raw); ok {
			return ""
		}
	}
	return describe(raw)
}

// isEngineArg reports whether path is that of a flag of vllm serve, of all models or of one.
func isEngineArg(path string) bool {
	parts := strings.Split(path, ".")
	switch {
	case len(parts) == 3:
		return strings.HasPrefix(path, engineArgs+".")
	case len(parts) == 4:
		return parts[0] == modelsPath && parts[2] == "engine_args"
	}
	return false
}

// anyFromText turns a flag's text into what YAML would make of it.
func anyFromText(s string) any {
	if b, err := strconv.ParseBool(s); err == nil && len(s) > 1 {
		return b
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return f
	}
	return s
}
