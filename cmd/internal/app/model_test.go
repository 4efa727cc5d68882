package app_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers"
)

const qwen = `
ai_model_services:
  qwen:
    port: 11404
    model_path: Qwen/Qwen3-8B
    engine: vllm
    capabilities: {system_role: refuse, conversation: false}
    chat_template: ./qwen.jinja
    sampling: {max_tokens_range: [1, 64]}
    engine_args: {max_num_seqs: 16, kv_cache_dtype: fp8, seed: 7, enable_sleep_mode: true, limit_mm: [image, 2], compilation: {level: 3}, use_v2_block_manager: true}
    fallback: {model: phi3}
    reserved: {from_standard: 2}
    group_size: 8
    priority: true
    start_timeout: 20m
    first_token_timeout: 5s
    target_latency_ms: 750
  phi3: {fallback: {model: qwen, after: 5s}}
vllm_integration:
  engine_args: {block_size: 32, swap_space: 4, seed: 1}
  server: {command: vllm, stop_timeout: 5s}
worker: {token_timeout: 9s}
`

func TestModelInheritsWhatItDoesNotSay(t *testing.T) {
	t.Parallel()
	path := file(t, qwen)
	cfg := load(t, app.LoadOptions{
		Files: []string{path}, Environ: []string{"HXP_AI_MODEL_SERVICES_QWEN_CAPABILITIES_TOOLS=false"},
		Flags: []app.FlagValue{
			{Path: "ai_model_services.qwen.engine_args.dtype", Value: "bfloat16", Flag: "--set"},
			{Path: "ai_model_services.qwen.engine_args.enable_lora", Value: "true", Flag: "--set"},
			{Path: "vllm_integration.engine_args.max_loras", Value: "3", Flag: "--set"},
			{Path: "vllm_integration.server.command", Value: "python -m vllm", Flag: "--set"},
		},
	})
	want := inheriting(app.Model{
		Port: 11404, ModelPath: "Qwen/Qwen3-8B", Engine: app.EngineVLLM, GPUMemoryUtilization: 0.9, TensorParallelSize: 1, MaxModelLen: 32768,
		ChatTemplate: "./qwen.jinja", Slots: 16, Priority: true, TargetLatencyMS: 750,
	})
	want.Capabilities = app.Capabilities{Chat: true, SystemRole: "refuse"}
	want.Sampling.MaxTokensRange = app.IntRange{1, 64}
	want.EngineArgs.MaxNumSeqs = 16
	want.EngineArgs.Extra = map[string]any{
		"kv_cache_dtype": "fp8", "seed": int64(7), "enable_sleep_mode": true, "limit_mm": []any{"image", int64(2)}, "compilation": map[string]any{"level": int64(3)},
		"block_size": int64(32), "dtype": "bfloat16", "enable_lora": true, "max_loras": 3.0,
	}
	want.Fallback, want.Reserved = app.Fallback{Model: "phi3", After: 30 * time.Second}, app.Reserved{FromStandard: 2, FromBatch: 2}
	want.GroupSize = 8
	want.StartTimeout, want.FirstTokenTimeout, want.TokenTimeout = 20*time.Minute, 5*time.Second, 9*time.Second
	if diff := cmp.Diff(want, cfg.Models["qwen"]); diff != "" {
		t.Errorf("qwen (-want +got):\n%s", diff)
	}
	if got := cfg.Models["phi3"].EngineArgs.Extra; !maps.Equal(got, map[string]any{"block_size": int64(32), "seed": int64(1), "max_loras": 3.0}) {
		t.Errorf("phi3's further flags = %v, want those of all models", got)
	}
	sources := map[string]string{}
	for _, s := range cfg.Settings() {
		sources[s.Path] = strings.ReplaceAll(s.Source.String(), path, "hxp.yaml")
	}
	for setting, want := range map[string]string{
		"slots": "as ai_model_services.qwen.engine_args.max_num_seqs", "engine_args.seed": "hxp.yaml:10", "engine_args.dtype": "flag --set",
		"engine_args.block_size": "as vllm_integration.engine_args.block_size", "engine_args.enforce_eager": "as vllm_integration.engine_args.enforce_eager",
		"sampling.max_tokens_range": "hxp.yaml:9", "sampling.top_p_range": "as vllm_integration.sampling_params.top_p_range",
		"token_timeout": "as worker.token_timeout", "capabilities.chat": "default", "capabilities.tools": "env HXP_AI_MODEL_SERVICES_QWEN_CAPABILITIES_TOOLS",
	} {
		if got := sources["ai_model_services.qwen."+setting]; got != want {
			t.Errorf("%s comes from %q, want %q", setting, got, want)
		}
	}
	if !slices.ContainsFunc(cfg.Notices, func(n string) bool {
		return strings.HasPrefix(n, "ai_model_services.qwen.engine_args.use_v2_block_manager: true is not passed on")
	}) {
		t.Errorf("notices = %q, want one of what vLLM has removed", cfg.Notices)
	}
}

// TestSupervisedEngineIsStartedWithItsBlock looks at what vllm serve is given.
func TestSupervisedEngineIsStartedWithItsBlock(t *testing.T) {
	t.Parallel()
	cfg := load(t, app.LoadOptions{Files: []string{file(t, qwen)}, Environ: []string{"HXP_VLLM_INTEGRATION_SERVER_COMMAND=nice vllm"}})
	args := app.ServeArgs(cfg, "qwen")
	if args.Model != "Qwen/Qwen3-8B" || args.ServedName != "qwen" || args.Host != "127.0.0.1" || args.Port != 11404 || args.SchedulingPolicy != "priority" ||
		args.ChatTemplate != "./qwen.jinja" || args.MaxNumSeqs != 16 || !*args.PrefixCaching || !*args.ChunkedPrefill || args.Extra["kv_cache_dtype"] != "fp8" {
		t.Errorf("qwen is served with %+v", args)
	}
	if args := app.ServeArgs(cfg, "hermes"); args.ToolCallParser != "hermes" || args.SchedulingPolicy != "" || args.MaxModelLen != 8192 {
		t.Errorf("hermes is served with %+v", args)
	}
	sc := app.ServerConfig(cfg, "phi3")
	if sc.MemoryLimit != 4<<30 || sc.CPUs != 2 || sc.StartTimeout != 15*time.Minute || sc.StopTimeout != 5*time.Second || !slices.Equal(sc.Command, []string{"nice", "vllm"}) {
		t.Errorf("phi3 is watched over with %+v", sc)
	}
	if diff := cmp.Diff("[{qwen 30s}]", fmt.Sprint(app.Covers(cfg, "phi3"))); diff != "" {
		t.Errorf("phi3 covers (-want +got):\n%s", diff)
	}
	if got := app.Covers(cfg, "hermes"); got != nil {
		t.Errorf("hermes covers %v, want nobody", got)
	}
	if got := app.TargetLatency(cfg, "qwen"); got != 750*time.Millisecond {
		t.Errorf("target = %s, want 750ms", got)
	}
}

func TestFaultsOfModels(t *testing.T) {
	t.Parallel()
	got := faultsOf(t, app.LoadOptions{Flags: []app.FlagValue{{Path: "ai_model_services.phi3.engine_args.a.b", Value: "1", Flag: "--set"}}}, `
ai_model_services:
  mixtral:
    engine: pigeon
    capabilities: {system_role: guess, chats: true}
    engine_args: {max_num_seqs: 9000, max_num_seq: 1, kv-cache-dtype: fp8, 9x: 1, max_model_len: 5, no_api_key: 1, no_enable_lora: true, quantization: [], seed: [[1]], dtype: [{}], hf: .nan, api_key: x}
  hermes:
    engine: vllm
    model_path: ""
    fallback: {model: hermes, after: 1ms}
    priority: true
    scheduling_policy: fcfs
    reserved: {from_batch: 256, from_standard: -1}
  openchat:
    engine: vllm
    engine_args: {enable_chunked_prefill: false, max_num_batched_tokens: 4000}
    fallback: {model: nobody}
    scheduling_policy: fair
    sampling: {top_p_range: [0, 2]}
    group_size: 0
    sampling_params: {}
  phi3:
    first_token_timeout: 1ms
    start_timeout: 1ms
vllm_integration:
  server: {command: [], stall_timeout: 1ms, restart_delay: 2m, cgroup: a/b}
  engine_args: {host: a, tensor_parallel_size: 2}
`)
	want := []string{
		`ai_model_services.hermes.fallback.after: 1ms is below 100ms (hxp.yaml:10)`,
		`ai_model_services.hermes.fallback.model: is the model itself (hxp.yaml:10)`,
		`ai_model_services.hermes.model_path: is empty; want the model that vllm serve is to load (hxp.yaml:9)`,
		`ai_model_services.hermes.priority: is true beside scheduling_policy fcfs, with which vLLM refuses requests that have a priority (hxp.yaml:11)`,
		`ai_model_services.hermes.reserved.from_batch: 256 is above 255 (hxp.yaml:13)`,
		`ai_model_services.hermes.reserved.from_standard: -1 is below 0 (hxp.yaml:13)`,
		`ai_model_services.mixtral.capabilities.chats: is not a setting; did you mean ai_model_services.mixtral.capabilities.chat? (hxp.yaml:5)`,
		`ai_model_services.mixtral.capabilities.system_role: "guess" is none of native, fold, refuse (hxp.yaml:5)`,
		`ai_model_services.mixtral.engine: "pigeon" is neither vllm nor sim, nor a URL with http, https, unix (hxp.yaml:4)`,
		`ai_model_services.mixtral.engine_args.9x: is not the name of a flag; want letters, digits and underscores (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.api_key: is set as ai_model_services.mixtral.api_key (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.dtype: element 0 is a block; want true or false, a number, text, a list of these or a block (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.hf: NaN is a number; want true or false, a number, text, a list of these or a block (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.kv-cache-dtype: is spelled with underscores: kv_cache_dtype (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.max_model_len: is set as ai_model_services.mixtral.max_model_len (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.max_num_seq: is not a setting; did you mean ai_model_services.mixtral.engine_args.max_num_seqs? (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.max_num_seqs: 9000 is above max_num_batched_tokens, 8192 (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.no_api_key: is set as ai_model_services.mixtral.api_key (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.no_enable_lora: is set as ai_model_services.mixtral.engine_args.enable_lora: false (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.quantization: is an empty list; want true or false, a number, text, a list of these or a block (hxp.yaml:6)`,
		`ai_model_services.mixtral.engine_args.seed: element 0 is a list of 1; want true or false, a number, text, a list of these or a block (hxp.yaml:6)`,
		`ai_model_services.openchat.fallback.model: "nobody" is not configured (hxp.yaml:17)`,
		`ai_model_services.openchat.group_size: 0 is below 1 (hxp.yaml:20)`,
		`ai_model_services.openchat.max_model_len: 4096 is above engine_args.max_num_batched_tokens, 4000, which vLLM allows with enable_chunked_prefill alone`,
		`ai_model_services.openchat.sampling.top_p_range: the highest, 2, is above 1 (hxp.yaml:19)`,
		`ai_model_services.openchat.sampling_params: is not a setting; did you mean ai_model_services.openchat.sampling? (hxp.yaml:21)`,
		`ai_model_services.openchat.scheduling_policy: "fair" is neither fcfs nor priority (hxp.yaml:18)`,
		`ai_model_services.phi3.engine_args.a.b: is not a setting (flag --set)`,
		`ai_model_services.phi3.first_token_timeout: 1ms is below 10ms (hxp.yaml:23)`,
		`ai_model_services.phi3.start_timeout: 1ms is below 1s (hxp.yaml:24)`,
		`vllm_integration.engine_args.host: is set as service_network.internal_communication.localhost (hxp.yaml:27)`,
		`vllm_integration.engine_args.tensor_parallel_size: is set as ai_model_services.MODEL.tensor_parallel_size (hxp.yaml:27)`,
		`vllm_integration.server.cgroup: "a/b"; want an absolute path (hxp.yaml:26)`,
		`vllm_integration.server.command: is empty; want a program (hxp.yaml:26)`,
		`vllm_integration.server.max_restart_delay: 1m0s is below 2m0s`,
		`vllm_integration.server.stall_timeout: 1ms is below 1s (hxp.yaml:26)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if got := faultsOf(t, app.LoadOptions{}, "vllm_integration: {server: {command: 7}}"); !slices.Equal(got, []string{"vllm_integration.server.command: 7 is a number; want a list of text (hxp.yaml:1)"}) {
		t.Errorf("faults = %q", got)
	}
}

// TestFifthModelAnswers starts the worker of a model that one block of YAML declares.
func TestFifthModelAnswers(t *testing.T) {
	t.Parallel()
	base := file(t, "ai_model_services: {mixtral: null, hermes: null, openchat: null, phi3: null}\n")
	one := file(t, "ai_model_services:\n  qwen:\n    port: 11404\n    capabilities: {system_role: fold, tools: false}\n    sampling: {max_tokens_range: [1, 8]}\n")
	flags := []app.FlagValue{}
	for path, v := range map[string]string{"queue.max_bytes": "1MiB", "queue.events_max_bytes": "1MiB", "queue.results_max_bytes": "1MiB", "queue.max_bodies_bytes": "64MiB"} {
		flags = append(flags, app.FlagValue{Path: path, Value: v, Flag: "--set"})
	}
	cfg := load(t, app.LoadOptions{Files: []string{base, one}, Flags: flags})
	r := up(t, cfg, app.UpOptions{})
	c := dial(t, r.cfg)
	for _, tc := range []struct {
		prompt app.Prompt
		want   schemas.Status
		param  string
	}{
		{app.Prompt{Model: "qwen", System: "Be kind.", Text: "Hello", MaxTokens: 8}, schemas.StatusCompleted, ""},
		{app.Prompt{Model: "qwen", Text: "Hello", MaxTokens: 9}, schemas.StatusFailed, "max_tokens"},
	} {
		job, err := tc.prompt.Job()
		if err != nil {
			t.Fatal(err)
		}
		result, err := c.Do(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if result.Status != tc.want || result.Error != nil && result.Error.Param != tc.param {
			t.Errorf("%+v: %s %v, want %s", tc.prompt, result.Status, result.Error, tc.want)
		}
	}
}

// TestEngineElsewhereIsSpokenTo passes every question on.
func TestEngineElsewhereIsSpokenTo(t *testing.T) {
	t.Parallel()
	r := up(t, quick(t), app.UpOptions{})
	e, own, err := app.NewEngine(r.cfg, "phi3", r.Engines["phi3"])
	if err != nil || own {
		t.Fatalf("the engine is the process's own: %v (%v)", own, err)
	}
	body := []byte(`{"prompt":"Hello there"}`)
	ids, err := e.Tokenize(t.Context(), schemas.Completions, body)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := e.CountTokens(t.Context(), schemas.Completions, body); err != nil || n != len(ids) {
		t.Errorf("%d tokens counted (%v), want %d", n, err, len(ids))
	}
	if text, err := e.Detokenize(t.Context(), ids); err != nil || !strings.Contains(text, "Hello there") {
		t.Errorf("the ids spell %q (%v)", text, err)
	}
	if _, err := e.Load(t.Context()); err != nil && !errors.Is(err, workers.ErrUnsupported) {
		t.Errorf("load: %v", err)
	}
	if err := e.Canary(t.Context()); err != nil {
		t.Errorf("canary: %v", err)
	}
	if err := e.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
}
