package app

import (
	"cmp"
	"fmt"
	"time"

	"github.com/hxp-enterprise/hxp/workers"
)

// serveArgs are the arguments of vllm serve.
type serveArgs struct {
	Model, ServedName, Host string
	Port                    int

	GPUMemoryUtilization                                             float64
	TensorParallelSize, MaxModelLen, MaxNumSeqs, MaxNumBatchedTokens int
	TrustRemoteCode, EnforceEager                                    bool
	PrefixCaching, ChunkedPrefill                                    *bool
	SchedulingPolicy, ChatTemplate, ToolCallParser                   string
	Extra                                                            map[string]any
}

// serveArgs are those with which the engine of a model is started.
func (c *Config) serveArgs(model string) serveArgs {
	m := c.Models[model]
	policy := m.SchedulingPolicy
	if m.Priority {
		policy = "priority" // validate has refused any other
	}
	return serveArgs{
		Model: m.ModelPath, ServedName: cmp.Or(m.ServedName, model), Host: c.Network.Internal.Localhost, Port: m.Port,
		GPUMemoryUtilization: m.GPUMemoryUtilization, TensorParallelSize: m.TensorParallelSize, MaxModelLen: m.MaxModelLen,
		MaxNumSeqs: m.EngineArgs.MaxNumSeqs, MaxNumBatchedTokens: m.EngineArgs.MaxNumBatchedTokens,
		TrustRemoteCode: m.EngineArgs.TrustRemoteCode, EnforceEager: m.EngineArgs.EnforceEager,
		PrefixCaching: &m.EngineArgs.EnablePrefixCaching, ChunkedPrefill: &m.EngineArgs.EnableChunkedPrefill,
		SchedulingPolicy: policy, ChatTemplate: m.ChatTemplate, ToolCallParser: m.ToolCallParser, Extra: m.EngineArgs.Extra,
	}
}

// serverConfig is how an engine that is started is watched over.
type serverConfig struct {
	Command                                                                []string
	StartTimeout, StallTimeout, StopTimeout, RestartDelay, MaxRestartDelay time.Duration
	MemoryLimit                                                            int64
	CPUs                                                                   int
}

func (c *Config) serverConfig(model string) serverConfig {
	m, s := c.Models[model], c.VLLM.Server
	return serverConfig{
		Command: s.Command, StartTimeout: m.StartTimeout, StallTimeout: s.StallTimeout, StopTimeout: s.StopTimeout,
		RestartDelay: s.RestartDelay, MaxRestartDelay: s.MaxRestartDelay,
		MemoryLimit: int64(m.MemoryLimitGB * (1 << 30)), CPUs: m.CPUCores,
	}
}

// newServer starts and watches over the engine of a model.
func (c *Config) newServer(model string, _ process) (workers.Engine, runner, error) {
	return nil, nil, fmt.Errorf("%w: the engine of %s is vllm, which this build does not start", ErrUsage, model)
}
