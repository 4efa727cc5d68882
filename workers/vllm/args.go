package vllm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Args are the arguments of `vllm serve`, as configuration names them. Zero fields are left to
// vLLM, apart from Host and Port.
type Args struct {
	// Model is the path or name of the model. It is required.
	Model string
	// ServedName is the name under which it is served. vLLM's default is Model.
	ServedName string
	// Host defaults to 127.0.0.1, where vLLM alone would listen on every address; Port to 8000.
	Host string
	Port int

	GPUMemoryUtilization float64
	TensorParallelSize   int
	MaxModelLen          int
	MaxNumSeqs           int
	MaxNumBatchedTokens  int
	TrustRemoteCode      bool
	EnforceEager         bool
	PrefixCaching        *bool
	ChunkedPrefill       *bool
	SchedulingPolicy     string
	// ChatTemplate is a file or the template itself.
	ChatTemplate string
	// ToolCallParser turns tool calls on.
	ToolCallParser string
	// Extra are further flags by name, with dashes or underscores: bool, number, string, a list of
	// these, or a map, which becomes JSON.
	Extra map[string]any
}

func (a Args) withDefaults() Args {
	a.Host = cmp.Or(a.Host, "127.0.0.1")
	a.Port = cmp.Or(a.Port, 8000)
	return a
}

// own are the flags that have a field, or may not be set.
var own = map[string]string{
	"model": "Model", "served-model-name": "ServedName", "host": "Host", "port": "Port",
	"gpu-memory-utilization": "GPUMemoryUtilization", "tensor-parallel-size": "TensorParallelSize",
	"max-model-len": "MaxModelLen", "max-num-seqs": "MaxNumSeqs", "max-num-batched-tokens": "MaxNumBatchedTokens",
	"trust-remote-code": "TrustRemoteCode", "enforce-eager": "EnforceEager",
	"enable-prefix-caching": "PrefixCaching", "enable-chunked-prefill": "ChunkedPrefill",
	"scheduling-policy": "SchedulingPolicy", "chat-template": "ChatTemplate", "tool-call-parser": "ToolCallParser",
}

// refused are flags that would make the Server look in the wrong place, or show a secret to everybody on the machine.
var refused = map[string]string{
	"api-key":  "arguments can be read by every user of the machine: set the engine's APIKey",
	"uds":      "the engine is reached by host and port",
	"config":   "set what is in the file here",
	"headless": "nothing would listen",
	"grpc":     "the engine is spoken to in HTTP",
	"help":     "nothing would start",
}

// flagName is a flag without its dashes. After a dot comes a key of a flag that takes JSON.
var flagName = regexp.MustCompile(`^[a-z][a-z0-9-]{1,99}(\.[A-Za-z0-9_.-]{1,200})?$`)

// flagKey is a name of Extra as vLLM spells it.
func flagKey(name string) string {
	name, key, dotted := strings.Cut(strings.TrimPrefix(name, "--"), ".")
	name = strings.ReplaceAll(name, "_", "-")
	if dotted {
		name += "." + key
	}
	return name
}

func (a Args) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(a.Model != "" && !strings.HasPrefix(a.Model, "-"), "Model is %q; want a path or a name", a.Model)
	check(a.Port > 0 && a.Port < 1<<16, "Port is %d; want 1 to 65535", a.Port)
	check(a.GPUMemoryUtilization >= 0 && a.GPUMemoryUtilization <= 1, "GPUMemoryUtilization is %g; want 0 to 1", a.GPUMemoryUtilization)
	for _, f := range []struct {
		name  string
		value int
	}{
		{"TensorParallelSize", a.TensorParallelSize}, {"MaxModelLen", a.MaxModelLen},
		{"MaxNumSeqs", a.MaxNumSeqs}, {"MaxNumBatchedTokens", a.MaxNumBatchedTokens},
	} {
		check(f.value >= 0, "%s is %d; want 0 or more", f.name, f.value)
	}
	keys := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(a.Extra)) {
		key := flagKey(name)
		positive := strings.TrimPrefix(key, "no-")
		check(flagName.MatchString(key), "Extra[%q] is no name of a flag", name)
		check(keys[key] == "", "Extra[%q] is the same flag as Extra[%q]", name, keys[key])
		check(own[positive] == "", "Extra[%q] has a field: set %s", name, own[positive])
		check(refused[key] == "", "Extra[%q] cannot be set: %s", name, refused[key])
		_, err := spell(key, a.Extra[name])
		check(err == nil, "Extra[%q]: %w", name, err)
		keys[key] = name
	}
	return errors.Join(errs...)
}

// secretFlag is a flag whose value is nobody's business.
var secretFlag = regexp.MustCompile(`(^|-)(token|key|secret|password)$`)

// secrets are the values of such flags. vLLM prints its arguments into its log.
func (a Args) secrets() []string {
	var list []string
	for name, value := range a.Extra {
		if text, err := scalar(value); err == nil && text != "" && secretFlag.MatchString(flagKey(name)) {
			list = append(list, text)
		}
	}
	return list
}

// url is where the engine will listen.
func (a Args) url() string {
	host := strings.Trim(a.Host, "[]")
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(a.Port))
}

// address is what the engine will bind.
func (a Args) address() string {
	return net.JoinHostPort(strings.Trim(a.Host, "[]"), strconv.Itoa(a.Port))
}

// flagValue is a flag with its value.
type flagValue struct {
	name  string
	value any
	// quiet marks a flag that nobody asked for: where it is not known, nothing is lost.
	quiet bool
}

// wants lists the flags, in the order in which they are passed. Those that nobody asked for make
// sampling what the request says and not the model's repository, count cached tokens, and keep the
// Server's own questions out of the log.
func (a Args) wants() []flagValue {
	list := []flagValue{
		{"host", strings.Trim(a.Host, "[]"), false}, {"port", a.Port, false},
		{"served-model-name", a.ServedName, false},
		{"gpu-memory-utilization", a.GPUMemoryUtilization, false}, {"tensor-parallel-size", a.TensorParallelSize, false},
		{"max-model-len", a.MaxModelLen, false}, {"max-num-seqs", a.MaxNumSeqs, false},
		{"max-num-batched-tokens", a.MaxNumBatchedTokens, false},
		{"scheduling-policy", a.SchedulingPolicy, false}, {"chat-template", a.ChatTemplate, false},
		{"tool-call-parser", a.ToolCallParser, false},
	}
	list = slices.DeleteFunc(list, func(w flagValue) bool { return w.value == "" || w.value == 0 || w.value == 0.0 })
	for name, on := range map[string]bool{
		"enable-auto-tool-choice": a.ToolCallParser != "", "trust-remote-code": a.TrustRemoteCode, "enforce-eager": a.EnforceEager,
	} {
		if on {
			list = append(list, flagValue{name, true, false})
		}
	}
	for name, set := range map[string]*bool{"enable-prefix-caching": a.PrefixCaching, "enable-chunked-prefill": a.ChunkedPrefill} {
		if set != nil {
			list = append(list, flagValue{name, *set, false})
		}
	}
	extra := make(map[string]bool)
	for name, value := range a.Extra {
		key := flagKey(name)
		extra[key] = true
		list = append(list, flagValue{key, value, false})
	}
	for name, value := range map[string]any{
		"generation-config": "vllm", "enable-prompt-tokens-details": true, "disable-access-log-for-endpoints": "/health,/metrics,/version,/v1/models",
	} {
		if !extra[name] && !extra["no-"+name] {
			list = append(list, flagValue{name, value, true})
		}
	}
	slices.SortFunc(list, func(x, y flagValue) int { return cmp.Compare(x.name, y.name) })
	return list
}

// argv returns the arguments that come after the program, as far as the installed version knows
// them, and what was left out, in words.
func (a Args) argv(known knownFlags) (argv, leftOut []string) {
	argv = []string{"serve", a.Model}
	for _, w := range a.wants() {
		name, _, _ := strings.Cut(w.name, ".")
		why := known.lacks(name)
		if off := w.value == false; off && why == "" {
			if known.lacks("no-"+name) != "" {
				continue // a switch that can only be turned on is off
			}
			argv = append(argv, "--no-"+name)
			continue
		}
		switch {
		case why == "":
			spelt, _ := spell(w.name, w.value) // validate has seen it
			argv = append(argv, spelt...)
		case !w.quiet:
			leftOut = append(leftOut, fmt.Sprintf("--%s is left out: %s", name, why))
		}
	}
	return argv, leftOut
}

// spell writes a flag with its value. One value is joined to its flag, so that it may begin with a dash.
func spell(name string, value any) ([]string, error) {
	if on, ok := value.(bool); ok {
		if on {
			return []string{"--" + name}, nil
		}
		return []string{"--no-" + name}, nil
	}
	switch list := value.(type) {
	case []string:
		return spellList(name, list)
	case []any:
		var values []string
		for i, v := range list {
			text, err := scalar(v)
			if err != nil {
				return nil, fmt.Errorf("element %d %w", i, err)
			}
			values = append(values, text)
		}
		return spellList(name, values)
	case map[string]any:
		text, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("cannot be written as JSON: %w", err)
		}
		return []string{"--" + name + "=" + string(text)}, nil
	}
	text, err := scalar(value)
	if err != nil {
		return nil, err
	}
	return []string{"--" + name + "=" + text}, nil
}

func spellList(name string, values []string) ([]string, error) {
	if len(values) == 0 {
		return nil, errors.New("is an empty list; want at least one value")
	}
	for i, v := range values {
		if strings.HasPrefix(v, "-") {
			return nil, fmt.Errorf("element %d is %q, which would be read as a flag", i, v)
		}
	}
	return append([]string{"--" + name}, values...), nil
}

func scalar(value any) (string, error) {
	switch v := value.(type) {
	case string:
		if strings.Contains(v, "\x00") {
			return "", errors.New("holds a zero byte")
		}
		return v, nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case int, int64, uint64, json.Number:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("is a %T; want a bool, a number, a string, a list of these or a map", value)
}
