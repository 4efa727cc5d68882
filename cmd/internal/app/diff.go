package app

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// change is a setting that two configurations have different values of.
type change struct {
	path string
	// from is the setting that it was inherited or derived from in the newer one, or path itself.
	from string
	// derived marks a value that was worked out from another setting, and holds as long as that does.
	derived bool
}

// reloadable are the settings that a running worker takes over, with [anyName] for a model. A block
// stands for all that is in it.
var reloadable = []string{
	"log", "moderation",
	"worker.drain_timeout", "worker.first_token_timeout", "worker.token_timeout", "worker.attempts", "worker.coalesce",
	"worker.standard_share", "worker.batch_share", "worker.group_size", "worker.group_wait",
	"vllm_integration.sampling_params",
	"conversation.commit_timeout", "conversation.serialize", "conversation.window",
	"ai_model_services.*.target_latency_ms", "ai_model_services.*.target_throughput_rps",
	"ai_model_services.*.sampling", "ai_model_services.*.capabilities", "ai_model_services.*.reserved",
	"ai_model_services.*.conversation",
	"ai_model_services.*.group_size", "ai_model_services.*.group_wait",
	"ai_model_services.*.first_token_timeout", "ai_model_services.*.token_timeout",
}

// reloadableOfRemote are those that a worker takes over unless the engine is the process's own.
var reloadableOfRemote = []string{"ai_model_services.*.api_key", "ai_model_services.*.max_model_len"}

// inheritedOnly are settings that work through the settings of models alone.
var inheritedOnly = []string{
	"vllm_integration.engine_args", "vllm_integration.performance_optimization", "vllm_integration.server.start_timeout", "worker.slots", "tenant",
}

func within(path string, blocks []string) bool {
	path = generic(path)
	return slices.ContainsFunc(blocks, func(b string) bool { return path == b || strings.HasPrefix(path, b+".") })
}

// modelOf is the model that a path is about, or "".
func modelOf(path string) string {
	if parts := strings.Split(path, "."); len(parts) > 1 && parts[0] == modelsPath {
		return parts[1]
	}
	return ""
}

// values lists the values of every setting of c by path. A model is one too, so that it is missed.
func (c *Config) values() map[string]any {
	out := map[string]any{}
	walk(reflect.ValueOf(c).Elem(), "", "", func(path, _ string, v reflect.Value) { out[path] = v.Interface() })
	for name := range c.Models {
		out[modelsPath+"."+name] = true
	}
	return out
}

// changes lists the settings in which next differs from c, in the order of their paths.
func (c *Config) changes(next *Config) []change {
	before, after := c.values(), next.values()
	sources := map[string]Source{}
	for _, s := range next.settings {
		sources[s.Path] = s.Source
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	var out []change
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if reflect.DeepEqual(before[path], after[path]) {
			continue
		}
		if m := modelOf(path); m != "" && path != modelsPath+"."+m && (before[modelsPath+"."+m] == nil || after[modelsPath+"."+m] == nil) {
			continue // the model says it for all that is in it
		}
		ch := change{path: path, from: path}
		for s := sources[path]; s.Layer == "inherited" || s.Layer == "derived"; s = sources[ch.from] {
			ch.from, ch.derived = s.Name, ch.derived || s.Layer == "derived"
		}
		out = append(out, ch)
	}
	return out
}

// overlay returns c with the values that next has at the paths that take wants.
func (c *Config) overlay(next *Config, take func(path string) bool) *Config {
	out := *c
	out.Models = maps.Clone(c.Models)
	for name := range out.Models {
		m := out.Models[name]
		newer := next.Models[name]
		overlay(reflect.ValueOf(&m).Elem(), reflect.ValueOf(&newer).Elem(), modelsPath+"."+name, take)
		out.Models[name] = m
	}
	overlay(reflect.ValueOf(&out).Elem(), reflect.ValueOf(next).Elem(), "", take)
	return &out
}

func overlay(dst, src reflect.Value, path string, take func(path string) bool) {
	for _, f := range fieldsOf(dst.Type()) {
		at, d, s := join(path, f.name), dst.Field(f.index), src.Field(f.index)
		switch {
		case d.Kind() == reflect.Struct:
			overlay(d, s, at, take)
		case d.Kind() == reflect.Map && at == modelsPath: // they are done
		case take(at):
			d.Set(s)
		}
	}
}
