package app

import (
	"path/filepath"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
)

func validateModels(c *Config, f *faults, ports *ports) {
	if len(c.Models) == 0 {
		f.add(modelsPath, "declares no model; want at least one")
	}
	for _, name := range c.ModelNames() {
		m, path := c.Models[name], modelsPath+"."+name
		if err := schemas.CheckToken(name); err != nil {
			f.add(path, "the model's name %v", err)
			continue
		}
		if m.Port != 0 || !m.remote() || m.Engine == "" {
			if between(f, path+".port", m.Port, 1, 65535) {
				ports.take(path+".port", c.Network.Internal.Localhost, m.Port)
			}
		}
		atLeast(f, path+".memory_limit_gb", m.MemoryLimitGB, 0)
		atLeast(f, path+".cpu_cores", m.CPUCores, 0)
		fraction(f, path+".gpu_memory_utilization", m.GPUMemoryUtilization)
		between(f, path+".tensor_parallel_size", m.TensorParallelSize, 1, 1024)
		between(f, path+".max_model_len", m.MaxModelLen, 1, 1<<24)
		atLeast(f, path+".target_latency_ms", m.TargetLatencyMS, 0)
		atLeast(f, path+".target_throughput_rps", m.TargetThroughputRPS, 0)
		validateEngine(m, path, f)
		validateSampling(m.Sampling, path+".sampling", f)
		validateArgs(m.EngineArgs, path+".engine_args", f)
		validateSlots(m, path, f)
		if r := m.Capabilities.SystemRole; r != "native" && r != "fold" && r != "refuse" {
			f.add(path+".capabilities.system_role", "%q is none of native, fold, refuse", r)
		}
		validateWindow(m.Conversation.Window, path+".conversation.window", f)
		validateFallback(c, name, path+".fallback", f)
		between(f, path+".start_timeout", m.StartTimeout, time.Second, 24*time.Hour)
		between(f, path+".first_token_timeout", m.FirstTokenTimeout, 10*time.Millisecond, time.Hour)
		between(f, path+".token_timeout", m.TokenTimeout, 10*time.Millisecond, time.Hour)
	}
}

func validateEngine(m Model, path string, f *faults) {
	switch {
	case m.Engine == EngineVLLM && m.ModelPath == "":
		f.add(path+".model_path", "is empty; want the model that vllm serve is to load")
	case m.Engine == "" || !m.remote():
	case !isEngineURL(m.Engine):
		f.add(path+".engine", "%q is neither vllm nor sim, nor a URL with http, https, unix", maskURL(m.Engine))
	default:
		checkURL(f, path+".engine", m.Engine, "http", "https", "unix")
	}
	if a := m.EngineArgs; m.Engine == EngineVLLM && !a.EnableChunkedPrefill && a.MaxNumBatchedTokens < m.MaxModelLen {
		f.add(path+".max_model_len", "%d is above engine_args.max_num_batched_tokens, %d, which vLLM allows with enable_chunked_prefill alone", m.MaxModelLen, a.MaxNumBatchedTokens)
	}
	switch {
	case m.SchedulingPolicy != "" && m.SchedulingPolicy != "fcfs" && m.SchedulingPolicy != "priority":
		f.add(path+".scheduling_policy", "%q is neither fcfs nor priority", m.SchedulingPolicy)
	case m.SchedulingPolicy == "fcfs" && m.Priority:
		f.add(path+".priority", "is true beside scheduling_policy fcfs, with which vLLM refuses requests that have a priority")
	}
}

func validateSlots(m Model, path string, f *faults) {
	between(f, path+".slots", m.Slots, 1, 65536)
	between(f, path+".reserved.from_standard", m.Reserved.FromStandard, 0, max(0, m.Slots-1))
	between(f, path+".reserved.from_batch", m.Reserved.FromBatch, 0, max(0, m.Slots-1))
	validateGroup(f, path, m.GroupSize, m.GroupWait)
}

func validateGroup(f *faults, path string, size int, wait time.Duration) {
	between(f, path+".group_size", size, 1, 1024)
	between(f, path+".group_wait", wait, 0, 10*time.Second)
}

func validateFallback(c *Config, name, path string, f *faults) {
	fb := c.Models[name].Fallback
	switch _, known := c.Models[fb.Model]; {
	case fb.Model == name:
		f.add(path+".model", "is the model itself")
	case fb.Model != "" && !known:
		f.add(path+".model", "%q is not configured", fb.Model)
	}
	between(f, path+".after", fb.After, 100*time.Millisecond, 24*time.Hour)
}

func validateVLLM(v VLLM, f *faults) {
	const perf, server = "vllm_integration.performance_optimization", "vllm_integration.server"
	validateArgs(v.EngineArgs, engineArgs, f)
	validateSampling(v.Sampling, "vllm_integration.sampling_params", f)
	fraction(f, perf+".gpu_memory_utilization", v.Optimization.GPUMemoryUtilization)
	between(f, perf+".max_model_len", v.Optimization.MaxModelLen, 1, 1<<24)
	if s := v.Server; len(s.Command) == 0 || s.Command[0] == "" {
		f.add(server+".command", "is empty; want a program")
	}
	between(f, server+".start_timeout", v.Server.StartTimeout, time.Second, 24*time.Hour)
	between(f, server+".stall_timeout", v.Server.StallTimeout, time.Second, time.Hour)
	between(f, server+".stop_timeout", v.Server.StopTimeout, time.Second, time.Hour)
	between(f, server+".restart_delay", v.Server.RestartDelay, 10*time.Millisecond, time.Hour)
	if c := v.Server.Cgroup; c != "" && !filepath.IsAbs(c) {
		f.add(server+".cgroup", "%q; want an absolute path", c)
	}
	between(f, server+".max_restart_delay", v.Server.MaxRestartDelay, max(v.Server.RestartDelay, 10*time.Millisecond), 24*time.Hour)
}

func validateArgs(a EngineArgs, path string, f *faults) {
	seqs, tokens := path+".max_num_seqs", path+".max_num_batched_tokens"
	switch {
	case !between(f, seqs, a.MaxNumSeqs, 1, 65536) || a.MaxNumBatchedTokens >= a.MaxNumSeqs:
	case f.sources[tokens].Layer == "inherited":
		f.add(seqs, "%d is above max_num_batched_tokens, %d", a.MaxNumSeqs, a.MaxNumBatchedTokens)
	default:
		f.add(tokens, "%d is below max_num_seqs, %d", a.MaxNumBatchedTokens, a.MaxNumSeqs)
	}
}

func validateSampling(s Sampling, path string, f *faults) {
	bounds(f, path+".temperature_range", s.TemperatureRange, 0, 2)
	bounds(f, path+".top_p_range", s.TopPRange, 0, 1)
	bounds(f, path+".max_tokens_range", s.MaxTokensRange, 1, 1<<24)
}
