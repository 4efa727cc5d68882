package app

import (
	"net/url"
	"time"
)

// Model is one served model.
type Model struct {
	// Port is where the model's engine listens.
	Port                 int     `config:"port"`
	MemoryLimitGB        float64 `config:"memory_limit_gb"`
	CPUCores             int     `config:"cpu_cores"`
	GPUMemoryUtilization float64 `config:"gpu_memory_utilization"`
	TensorParallelSize   int     `config:"tensor_parallel_size"`
	// MaxModelLen is the context window in tokens.
	MaxModelLen         int     `config:"max_model_len"`
	TargetLatencyMS     float64 `config:"target_latency_ms"`
	TargetThroughputRPS float64 `config:"target_throughput_rps"`
	// ModelPath is the model as the engine loads it.
	ModelPath string `config:"model_path"`
	// Engine is the URL of a running engine, [EngineVLLM] or [EngineSim]. By default one that runs on
	// Port of the local address, which up simulates.
	Engine string `config:"engine"`
	// ServedName is the name under which the engine serves the model. By default the engine is asked.
	ServedName string `config:"served_name"`
	// APIKey is sent to the engine as a bearer token.
	APIKey string `config:"api_key,secret"`

	Capabilities Capabilities `config:"capabilities"`
	// Conversation inherits from conversation.
	Conversation ModelConversation `config:"conversation"`
	// ChatTemplate is a file, or the template itself, for an engine that is started with it.
	ChatTemplate string `config:"chat_template"`
	// ToolCallParser is vLLM's parser of tool calls, for an engine that is started with it.
	ToolCallParser string `config:"tool_call_parser"`
	// Sampling inherits from vllm_integration.sampling_params.
	Sampling Sampling `config:"sampling"`
	// EngineArgs inherit from vllm_integration.engine_args.
	EngineArgs EngineArgs `config:"engine_args"`

	// Slots is how many sequences run at once.
	Slots    int      `config:"slots"`
	Reserved Reserved `config:"reserved"`
	Fallback Fallback `config:"fallback"`
	// GroupSize is how many batch completions go to the engine as one request, GroupWait how long the first waits for others.
	GroupSize int           `config:"group_size"`
	GroupWait time.Duration `config:"group_wait"`
	// Priority passes a job's class on to the engine, which must have been started with the scheduling policy priority.
	Priority bool `config:"priority"`
	// SchedulingPolicy is vLLM's: fcfs or priority.
	SchedulingPolicy string `config:"scheduling_policy"`

	// StartTimeout is how long an engine that is started may take to be ready.
	StartTimeout      time.Duration `config:"start_timeout"`
	FirstTokenTimeout time.Duration `config:"first_token_timeout"`
	TokenTimeout      time.Duration `config:"token_timeout"`
}

// Values of [Model.Engine] that are no URL.
const (
	// EngineVLLM has the worker start vllm serve and watch over it.
	EngineVLLM = "vllm"
	// EngineSim simulates an engine.
	EngineSim = "sim"
)

// remote reports whether the engine is one that hxp has not started.
func (m Model) remote() bool { return m.Engine != EngineVLLM && m.Engine != EngineSim }

func isEngineURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme != ""
}

// Capabilities are what a model can do. Everything, unless said otherwise.
type Capabilities struct {
	Chat bool `config:"chat"`
	// SystemRole is native, fold (into the user message that follows) or refuse.
	SystemRole   string `config:"system_role"`
	Tools        bool   `config:"tools"`
	Conversation bool   `config:"conversation"`
}

// Reserved are slots that jobs of a class leave free for more urgent ones.
type Reserved struct {
	// FromStandard is how many standard jobs, and therefore batch jobs, leave free.
	FromStandard int `config:"from_standard"`
	// FromBatch is how many batch jobs leave free.
	FromBatch int `config:"from_batch"`
}

// Fallback names the model whose workers take this one's jobs when its own workers have been away for some time.
type Fallback struct {
	Model string        `config:"model"`
	After time.Duration `config:"after"`
}

// VLLM is what the engines are started with and what requests may ask for.
type VLLM struct {
	EngineArgs   EngineArgs   `config:"engine_args"`
	Sampling     Sampling     `config:"sampling_params"`
	Optimization Optimization `config:"performance_optimization"`
	Server       Server       `config:"server"`
}

// EngineArgs are arguments of vllm serve.
type EngineArgs struct {
	TrustRemoteCode      bool `config:"trust_remote_code"`
	EnforceEager         bool `config:"enforce_eager"`
	MaxNumBatchedTokens  int  `config:"max_num_batched_tokens"`
	MaxNumSeqs           int  `config:"max_num_seqs"`
	EnablePrefixCaching  bool `config:"enable_prefix_caching"`
	EnableChunkedPrefill bool `config:"enable_chunked_prefill"`
	// Extra are further flags by name, with underscores: true or false, a number, text, a list of these or a block.
	Extra map[string]any `config:",extra"`
}

// Sampling bounds what a request may ask for.
type Sampling struct {
	TemperatureRange Range    `config:"temperature_range"`
	TopPRange        Range    `config:"top_p_range"`
	MaxTokensRange   IntRange `config:"max_tokens_range"`
}

// Optimization holds the values that a model inherits where it has none of its own.
type Optimization struct {
	EnableChunkedPrefill bool    `config:"enable_chunked_prefill"`
	GPUMemoryUtilization float64 `config:"gpu_memory_utilization"`
	MaxModelLen          int     `config:"max_model_len"`
}

// Server is how an engine that a worker starts is watched over.
type Server struct {
	// Command is the program and what comes before serve.
	Command []string `config:"command"`
	// StartTimeout is how long it may take to be ready.
	StartTimeout time.Duration `config:"start_timeout"`
	// StallTimeout is how long it may have work and no token before it counts as hanging.
	StallTimeout time.Duration `config:"stall_timeout"`
	// StopTimeout is the time between SIGTERM and SIGKILL.
	StopTimeout time.Duration `config:"stop_timeout"`
	// RestartDelay is the wait before the first restart; it doubles up to MaxRestartDelay.
	RestartDelay    time.Duration `config:"restart_delay"`
	MaxRestartDelay time.Duration `config:"max_restart_delay"`
	// Cgroup is a delegated cgroup v2 folder, without processes of its own, in which engines get theirs
	// with memory_limit_gb and cpu_cores as limits. By default that of this process, where it allows it.
	Cgroup string `config:"cgroup"`
}
