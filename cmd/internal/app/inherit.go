package app

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hxp-enterprise/hxp/schemas"
)

// modelsPath is the block of the models.
const modelsPath = "ai_model_services"

// inheritedByModel are the settings of a model that take another's value where they have none.
var inheritedByModel = []struct{ name, from string }{
	{"gpu_memory_utilization", "vllm_integration.performance_optimization.gpu_memory_utilization"},
	{"max_model_len", "vllm_integration.performance_optimization.max_model_len"},
	{"sampling.temperature_range", "vllm_integration.sampling_params.temperature_range"},
	{"sampling.top_p_range", "vllm_integration.sampling_params.top_p_range"},
	{"sampling.max_tokens_range", "vllm_integration.sampling_params.max_tokens_range"},
	{"start_timeout", "vllm_integration.server.start_timeout"},
	{"first_token_timeout", "worker.first_token_timeout"},
	{"token_timeout", "worker.token_timeout"},
	{"group_size", "worker.group_size"},
	{"group_wait", "worker.group_wait"},
	{"conversation.serialize", "conversation.serialize"},
	{"conversation.window.strategy", "conversation.window.strategy"},
	{"conversation.window.last_n", "conversation.window.last_n"},
	{"conversation.window.keep", "conversation.window.keep"},
	{"conversation.window.margin", "conversation.window.margin"},
	{"conversation.window.summary_tokens", "conversation.window.summary_tokens"},
	{"conversation.window.reply_tokens", "conversation.window.reply_tokens"},
}

// ofEveryModel are the values of a model that says nothing else.
var ofEveryModel = map[string]any{
	"tensor_parallel_size":      int64(1),
	"capabilities.chat":         true,
	"capabilities.system_role":  "native",
	"capabilities.tools":        true,
	"capabilities.conversation": true,
	"fallback.after":            "30s",
}

const engineArgs = "vllm_integration.engine_args"

// inherit fills what a model, or a general block, takes from a more general setting.
func (l *loader) inherit() {
	l.extra = map[string]any{}
	l.fill(engineArgs+".enable_chunked_prefill", "vllm_integration.performance_optimization.enable_chunked_prefill")
	ownSlots := l.k.Get("worker.slots") != nil
	l.fill("worker.slots", engineArgs+".max_num_seqs")
	l.moderation()
	args, _ := l.k.Get(engineArgs).(map[string]any)
	for name, block := range l.modelBlocks() {
		if _, ok := block.(map[string]any); !ok || schemas.CheckToken(name) != nil {
			continue // which is reported later
		}
		path := modelsPath + "." + name + "."
		l.slots(path, ownSlots)
		for _, in := range inheritedByModel {
			l.fill(path+in.name, in.from)
		}
		for _, arg := range append(slices.Collect(maps.Keys(args)), "enable_chunked_prefill") {
			if _, gone := removedSettings[arg]; !gone {
				l.fill(path+"engine_args."+arg, engineArgs+"."+arg)
			}
		}
		for setting, v := range ofEveryModel {
			if l.k.Get(path+setting) == nil {
				l.extra[path+setting] = v
			}
		}
	}
}

// fill gives path the value of from if it has none.
func (l *loader) fill(path, from string) {
	v := l.value(from)
	if l.k.Get(path) == nil && v != nil {
		l.extra[path] = v
		l.sources[path] = Source{Layer: "inherited", Name: from}
	}
}

// slots takes a model's slots from its own max_num_seqs, unless worker.slots asks for fewer.
func (l *loader) slots(path string, asked bool) {
	from := "worker.slots"
	if own, ok := number(l.k.Get(path + "engine_args.max_num_seqs")); ok {
		if all, ok := number(l.value(from)); !asked || ok && own < all {
			from = path + "engine_args.max_num_seqs"
		}
	}
	l.fill(path+"slots", from)
	// Batch jobs leave an eighth of the slots free, and one at least if there are two.
	if n, ok := number(l.value(path + "slots")); ok && n >= 1 && l.k.Get(path+"reserved.from_batch") == nil {
		l.sources[path+"reserved.from_batch"] = Source{Layer: "derived", Name: path + "slots"}
		l.extra[path+"reserved.from_batch"] = math.Min(math.Max(1, math.Floor(n/8)), math.Floor(n)-1)
	}
}

// value is what path has, of itself or by inheritance.
func (l *loader) value(path string) any {
	if v := l.k.Get(path); v != nil {
		return v
	}
	return l.extra[path]
}

// raw returns the merged values with what was inherited.
func (l *loader) raw() map[string]any {
	out := l.k.Raw()
	for path, v := range l.extra {
		m := out
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			if m[p] == nil {
				m[p] = map[string]any{}
			}
			next, ok := m[p].(map[string]any)
			if !ok {
				m = nil // the block is of a wrong type, which decoding reports
				break
			}
			m = next
		}
		if m != nil {
			m[parts[len(parts)-1]] = v
		}
	}
	return out
}
