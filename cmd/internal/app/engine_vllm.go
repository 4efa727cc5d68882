package app

import (
	"cmp"
	"fmt"

	"github.com/hxp-enterprise/hxp/workers"
	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// serveArgs are those with which the engine of a model is started.
func (c *Config) serveArgs(model string) vllm.Args {
	m := c.Models[model]
	policy := m.SchedulingPolicy
	if m.Priority {
		policy = "priority" // validate has refused any other
	}
	return vllm.Args{
		Model: m.ModelPath, ServedName: cmp.Or(m.ServedName, model), Host: c.Network.Internal.Localhost, Port: m.Port,
		GPUMemoryUtilization: m.GPUMemoryUtilization, TensorParallelSize: m.TensorParallelSize, MaxModelLen: m.MaxModelLen,
		MaxNumSeqs: m.EngineArgs.MaxNumSeqs, MaxNumBatchedTokens: m.EngineArgs.MaxNumBatchedTokens,
		TrustRemoteCode: m.EngineArgs.TrustRemoteCode, EnforceEager: m.EngineArgs.EnforceEager,
		PrefixCaching: &m.EngineArgs.EnablePrefixCaching, ChunkedPrefill: &m.EngineArgs.EnableChunkedPrefill,
		SchedulingPolicy: policy, ChatTemplate: m.ChatTemplate, ToolCallParser: m.ToolCallParser, Extra: m.EngineArgs.Extra,
	}
}

// serverConfig is how an engine that is started is watched over.
func (c *Config) serverConfig(model string) vllm.ServerConfig {
	m, s := c.Models[model], c.VLLM.Server
	return vllm.ServerConfig{
		Command: s.Command, StartTimeout: m.StartTimeout, StallTimeout: s.StallTimeout, StopTimeout: s.StopTimeout,
		RestartDelay: s.RestartDelay, MaxRestartDelay: s.MaxRestartDelay, Cgroup: s.Cgroup,
		MemoryLimit: int64(m.MemoryLimitGB * (1 << 30)), CPUs: m.CPUCores, ModelName: model,
	}
}

// newServer starts and watches over the engine of a model.
func (c *Config) newServer(model string, p process) (workers.Engine, runner, error) {
	cfg := c.serverConfig(model)
	cfg.Logger, cfg.Registry, cfg.Stderr = p.log, p.reg, p.stderr
	s, err := vllm.NewServer(c.serveArgs(model), cfg, c.engineConfig(model))
	if err != nil {
		return nil, nil, fmt.Errorf("engine of %s: %w", model, err)
	}
	return s, s, nil
}
