package app_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hxp-enterprise/hxp/cmd/internal/app"
	"github.com/hxp-enterprise/hxp/internal/queue"
)

// file writes a configuration and returns its path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hxp.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, o app.LoadOptions) *app.Config {
	t.Helper()
	cfg, err := app.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// faultsOf loads text and returns its faults, without the folder of the file.
func faultsOf(t *testing.T, o app.LoadOptions, text string) []string {
	t.Helper()
	if text != "" {
		o.Files = []string{file(t, text)}
	}
	_, err := app.Load(o)
	ce, ok := errors.AsType[*app.ConfigError](err)
	if !ok {
		t.Fatalf("error is %T (%v), want *app.ConfigError", err, err)
	}
	var out []string
	for _, f := range ce.Faults {
		s := f.String()
		if len(o.Files) > 0 {
			s = strings.ReplaceAll(s, o.Files[0], "hxp.yaml")
		}
		out = append(out, s)
	}
	return out
}

// specModels are the models of the specification, with what the built-in defaults add.
func specModels() map[string]app.Model {
	models := map[string]app.Model{
		"mixtral": {
			Port: 11400, MemoryLimitGB: 90, CPUCores: 8, GPUMemoryUtilization: 0.9, TensorParallelSize: 1, MaxModelLen: 32768,
			TargetLatencyMS: 2000, TargetThroughputRPS: 50, ModelPath: "/opt/models/mixtral-8x7b", Slots: 256,
		},
		"hermes": {
			Port: 11401, MemoryLimitGB: 15, CPUCores: 4, GPUMemoryUtilization: 0.8, TensorParallelSize: 1, MaxModelLen: 8192,
			TargetLatencyMS: 1500, TargetThroughputRPS: 30, ModelPath: "/opt/models/hermes-2", Slots: 256,
		},
		"openchat": {
			Port: 11402, MemoryLimitGB: 8, CPUCores: 4, GPUMemoryUtilization: 0.7, TensorParallelSize: 1, MaxModelLen: 4096,
			TargetLatencyMS: 1000, TargetThroughputRPS: 40, ModelPath: "/opt/models/openchat-3.5", Slots: 256,
		},
		"phi3": {
			Port: 11403, MemoryLimitGB: 4, CPUCores: 2, GPUMemoryUtilization: 0.6, TensorParallelSize: 1, MaxModelLen: 2048,
			TargetLatencyMS: 500, TargetThroughputRPS: 60, ModelPath: "/opt/models/phi-3-mini", Slots: 256,
		},
	}
	for name, m := range models {
		m = inheriting(m)
		m.Capabilities = app.Capabilities{Chat: true, SystemRole: "native", Conversation: true}
		switch name {
		case "mixtral", "phi3":
			m.Capabilities.SystemRole = "fold"
		case "hermes":
			m.Capabilities.Tools, m.ToolCallParser = true, "hermes"
		}
		models[name] = m
	}
	return models
}

// inheriting is m with what a model takes from the general settings.
func inheriting(m app.Model) app.Model {
	m.Capabilities = app.Capabilities{Chat: true, SystemRole: "native", Tools: true, Conversation: true}
	m.Sampling = app.Sampling{TemperatureRange: app.Range{0.1, 2}, TopPRange: app.Range{0.1, 1}, MaxTokensRange: app.IntRange{1, 4096}}
	m.EngineArgs = app.EngineArgs{TrustRemoteCode: true, MaxNumBatchedTokens: 8192, MaxNumSeqs: 256, EnablePrefixCaching: true, EnableChunkedPrefill: true}
	m.Reserved.FromBatch, m.Fallback.After = m.Slots/8, 30*time.Second
	m.GroupSize, m.GroupWait = 32, 20*time.Millisecond
	m.Conversation.Window = app.Window{Strategy: "token_budget", LastN: 20, Keep: 0.75, SummaryTokens: 512}
	m.StartTimeout, m.FirstTokenTimeout, m.TokenTimeout = 15*time.Minute, time.Minute, 15*time.Second
	return m
}

func TestDefaultsServeTheFourModels(t *testing.T) {
	t.Parallel()
	cfg := load(t, app.LoadOptions{})
	if diff := cmp.Diff(specModels(), cfg.Models); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"mixtral", "hermes", "openchat", "phi3"}, cfg.ModelNames()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if len(cfg.Notices) != 0 {
		t.Errorf("notices of the defaults = %q, want none", cfg.Notices)
	}
}

// TestDefaultsAreThoseOfThePackages holds defaults.yaml to what the queue does by itself.
func TestDefaultsAreThoseOfThePackages(t *testing.T) {
	t.Parallel()
	want := queue.Config{
		Replicas: 1, Storage: jetstream.FileStorage, MaxJobs: 100_000, MaxBytes: 2 << 30, MaxJobsPerTenant: 10_000,
		MaxJobBytes: 1 << 20, DuplicateWindow: 10 * time.Minute, Lease: 4 * time.Second,
		EventsMaxAge: time.Hour, EventsMaxBytes: 1 << 30, ResultsMaxAge: 24 * time.Hour, ResultsMaxBytes: 2 << 30,
		DeadMaxAge: 14 * 24 * time.Hour, WorkerTTL: 10 * time.Second, CancelTTL: 14 * 24 * time.Hour, MaxBodiesBytes: 4 << 30, BodiesMaxAge: 14 * 24 * time.Hour,
		MaxBatchesBytes: 512 << 20, BatchesMaxAge: 30 * 24 * time.Hour,
	}
	cfg := load(t, app.LoadOptions{})
	if diff := cmp.Diff(want, cfg.Queue.Config()); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
	cfg.Queue.Storage = "memory"
	if got := cfg.Queue.Config().Storage; got != jetstream.MemoryStorage {
		t.Errorf("storage = %v, want memory", got)
	}
}

// TestSpecificationLoadsVerbatim loads the three blocks of the specification as they stand there,
// in one document and in three.
func TestSpecificationLoadsVerbatim(t *testing.T) {
	t.Parallel()
	parts := []string{"testdata/ai_model_services.yaml", "testdata/vllm_integration.yaml", "testdata/service_network.yaml"}
	var joined strings.Builder
	for _, p := range parts {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		joined.Write(text)
	}
	one, err := os.ReadFile("testdata/spec.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if joined.String() != string(one) {
		t.Fatal("testdata/spec.yaml is not its three parts")
	}
	wantNotices := []string{
		"vllm_integration.engine_args.use_v2_block_manager: true is not passed on",
		"vllm_integration.performance_optimization.enable_paged_attention: true is not passed on",
		"vllm_integration.performance_optimization.enable_v2_block_manager: true is not passed on",
		"vllm_integration.sampling_params.early_stopping: true is not passed on",
		"service_network.internal_communication.service_discovery: not contacted",
		"service_network.external_integration.api_gateway: kept for the HTTP edge",
		"service_network.external_integration.monitoring: not contacted",
		"service_network.external_integration.metrics: not contacted",
		"service_network.security_requirements.ssl_enabled: applies to the HTTP edge",
		"service_network.security_requirements.authentication_required: applies to the HTTP edge",
		"service_network.security_requirements.rate_limiting: applies to the HTTP edge",
	}
	for name, files := range map[string][]string{"one document": {"testdata/spec.yaml"}, "three documents": parts} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := load(t, app.LoadOptions{Files: files})
			if diff := cmp.Diff(specModels(), cfg.Models); diff != "" {
				t.Errorf("models (-want +got):\n%s", diff)
			}
			wantVLLM := app.VLLM{
				EngineArgs:   app.EngineArgs{TrustRemoteCode: true, MaxNumBatchedTokens: 8192, MaxNumSeqs: 256, EnablePrefixCaching: true, EnableChunkedPrefill: true},
				Sampling:     app.Sampling{TemperatureRange: app.Range{0.1, 2}, TopPRange: app.Range{0.1, 1}, MaxTokensRange: app.IntRange{1, 4096}},
				Optimization: app.Optimization{EnableChunkedPrefill: true, GPUMemoryUtilization: 0.9, MaxModelLen: 32768},
				Server: app.Server{
					Command: []string{"vllm"}, StartTimeout: 15 * time.Minute, StallTimeout: time.Minute, StopTimeout: 30 * time.Second,
					RestartDelay: time.Second, MaxRestartDelay: time.Minute,
				},
			}
			if diff := cmp.Diff(wantVLLM, cfg.VLLM); diff != "" {
				t.Errorf("vllm_integration (-want +got):\n%s", diff)
			}
			wantNetwork := app.Network{
				Internal: app.InternalCommunication{Localhost: "127.0.0.1", ServiceDiscovery: "192.168.10.29"},
				External: app.ExternalIntegration{APIGateway: "192.168.10.29:8000", Monitoring: "192.168.10.37:9090", Metrics: "192.168.10.37:3000"},
				Security: app.SecurityRequirements{SSLEnabled: true, AuthenticationRequired: true, RateLimiting: true, RequestValidation: true},
			}
			if diff := cmp.Diff(wantNetwork, cfg.Network); diff != "" {
				t.Errorf("service_network (-want +got):\n%s", diff)
			}
			if len(cfg.Notices) != len(wantNotices) {
				t.Fatalf("%d notices, want %d:\n%s", len(cfg.Notices), len(wantNotices), strings.Join(cfg.Notices, "\n"))
			}
			for i, want := range wantNotices {
				if !strings.HasPrefix(cfg.Notices[i], want) {
					t.Errorf("notice %d = %q, want it to begin %q", i, cfg.Notices[i], want)
				}
			}
		})
	}
}

func TestFifthModelIsOneBlock(t *testing.T) {
	t.Parallel()
	cfg := load(t, app.LoadOptions{Files: []string{file(t, `
ai_model_services:
  falcon:
    port: 11404
  mixtral:
vllm_integration: {engine_args: {max_num_seqs: 32}}
`)}})
	want := inheriting(app.Model{Port: 11404, GPUMemoryUtilization: 0.9, TensorParallelSize: 1, MaxModelLen: 32768, Slots: 32})
	want.EngineArgs.MaxNumSeqs = 32
	if diff := cmp.Diff(want, cfg.Models["falcon"]); diff != "" {
		t.Errorf("falcon (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"hermes", "openchat", "phi3", "falcon"}, cfg.ModelNames()); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ai_model_services.mixtral is empty: it is left out"}, cfg.Notices); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	t.Parallel()
	cfg := load(t, app.LoadOptions{Files: []string{file(t, `
ai_model_services:
  phi3: &small
    port: 11403
    max_model_len: 1024
    target_latency_ms: 400
  phi4:
    <<: *small
    port: 11410
nats: {timeout: &t 7s}
worker: {drain_timeout: *t}
`)}})
	if m := cfg.Models["phi4"]; m.MaxModelLen != 1024 || m.Port != 11410 || m.TargetLatencyMS != 400 {
		t.Errorf("phi4 = %+v, want phi3's block with a port of its own", m)
	}
	if cfg.Worker.DrainTimeout != 7*time.Second {
		t.Errorf("drain_timeout = %s, want the 7s of nats.timeout", cfg.Worker.DrainTimeout)
	}
}

func TestLayersOverrideOneAnother(t *testing.T) {
	t.Parallel()
	path := file(t, "worker:\n  slots: 8\n  attempts: 4\n  drain_timeout: 1s\nlog:\n  prompts: true\nnats:\n  password:\n")
	cfg := load(t, app.LoadOptions{
		Files: []string{path},
		Environ: []string{
			"HXP_WORKER_ATTEMPTS=5", "HXP_WORKER_DRAIN_TIMEOUT=2s", "NATS_URL=nats://a:1", "HXP_AI_MODEL_SERVICES_PHI3_PORT=12000",
			"NATS_USER=u", "HXP_NATS_USER=v", "NATS_PASSWORD=hunter2", "HXP_LOG_PROMPTS=0", "HXP_WORKER_SLTS=3", "HXP_PORT_4222_TCP=x",
			"HXP_VLLM_INTEGRATION_SAMPLING_PARAMS_TOP_P_RANGE=[0.5, 0.9]", "HXP_QUEUE_MAX_BYTES=3GiB", "HXP_TENANT=acme", "EMPTY", "HXP_LOG_LEVEL=",
			"REDIS_URL=redis://:geheim@127.0.0.1:6379/0", "HXP_AI_MODEL_SERVICES_PHI3_API_KEY=sk-1",
		},
		Flags: []app.FlagValue{{Path: "worker.drain_timeout", Value: "3s", Flag: "--drain-timeout"}, {Path: "nats.url", Value: "nats://joe:pw@b:2", Flag: "--server"}},
	})
	got := map[string]string{}
	for _, s := range cfg.Settings() {
		v, _ := s.Value.(string)
		got[s.Path] = v + "|" + strings.ReplaceAll(s.Source.String(), path, "hxp.yaml")
	}
	for path, want := range map[string]string{
		"worker.drain_timeout":                 "3s|flag --drain-timeout",
		"worker.attempts":                      "|env HXP_WORKER_ATTEMPTS",
		"worker.slots":                         "|hxp.yaml:2",
		"nats.url":                             "nats://********@b:2|flag --server",
		"nats.user":                            "v|env HXP_NATS_USER",
		"nats.password":                        "********|env NATS_PASSWORD",
		"log.prompts":                          "|env HXP_LOG_PROMPTS",
		"log.level":                            "info|default",
		"queue.max_bytes":                      "3GiB|env HXP_QUEUE_MAX_BYTES",
		"queue.max_job_bytes":                  "1MiB|default",
		"redis.url":                            "redis://********@127.0.0.1:6379/0|env REDIS_URL",
		"tenant":                               "acme|env HXP_TENANT",
		"ai_model_services.phi3.api_key":       "********|env HXP_AI_MODEL_SERVICES_PHI3_API_KEY",
		"ai_model_services.phi3.slots":         "|as worker.slots",
		"ai_model_services.phi3.model_path":    "/opt/models/phi-3-mini|default",
		"ai_model_services.phi3.max_model_len": "|default",
	} {
		if got[path] != want {
			t.Errorf("%s = %q, want %q", path, got[path], want)
		}
	}
	if cfg.Worker.Attempts != 5 || cfg.Worker.Slots != 8 || cfg.Models["phi3"].Port != 12000 || cfg.Models["phi3"].Slots != 8 || cfg.Log.Prompts {
		t.Errorf("worker %+v, phi3 %+v, log %+v", cfg.Worker, cfg.Models["phi3"], cfg.Log)
	}
	if cfg.VLLM.Sampling.TopPRange != (app.Range{0.5, 0.9}) || cfg.NATS.Password != "hunter2" {
		t.Errorf("top_p_range = %v, password = %q", cfg.VLLM.Sampling.TopPRange, cfg.NATS.Password)
	}
	wantNotices := []string{
		"the variable HXP_PORT_4222_TCP is not a setting",
		"the variable HXP_WORKER_SLTS is not a setting; did you mean HXP_WORKER_SLOTS?",
	}
	if diff := cmp.Diff(wantNotices, cfg.Notices); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	t.Parallel()
	got := faultsOf(t, app.LoadOptions{
		Environ: []string{"HXP_WORKER_ATTEMPTS=many"},
		Flags:   []app.FlagValue{{Path: "worker.slots", Value: "0", Flag: "--set"}, {Path: "worker.slot", Value: "1", Flag: "--set"}},
	}, `
ai_model_services:
  mixtral:
    gpu_memory_utilization: 1.4
    tensor_paralel_size: 2
  hermes:
    port: 11400
    gpu_memory_utilization: 0
  openchat:
    engine: "ftp://x"
    max_model_len: eight
    api_key: 12
  phi3:
    port: 70000
  "no dots.please":
    port: 1
vllm_integration:
  engine_args: {max_num_seqs: 300, max_num_batched_tokens: 200, swap_space: true, use_v2_block_manager: 3, early_stopping: [1]}
  sampling_params:
    temperature_range: [1.5, 0.5]
    top_p_range: [-1, 1]
    max_tokens_range: [1, 99999999]
    use_beam_serch: true
  performance_optimization: 5
nats: {url: "http://x", creds: c, user: u, timeout: 5, listen: nowhere, data: 7}
redis: {url: "redis://"}
queue: {replicas: 9, storage: tape, max_jobs: 0, max_bytes: lots, max_job_bytes: 1.5, lease: 1ms}
worker: {lease: 4s, batch_share: 0.9, slots: 2.5}
log: {level: loud, prompts: "no"}
http: {listen: "127.0.0.1:99999"}
tenant: "a.b"
spelling: {}
`)
	want := []string{
		`ai_model_services.hermes.gpu_memory_utilization: 0 is not above 0 (hxp.yaml:8)`,
		`ai_model_services.hermes.port: 11400 is taken by ai_model_services.mixtral.port (hxp.yaml:7)`,
		`ai_model_services.mixtral.gpu_memory_utilization: 1.4 is above 1 (hxp.yaml:4)`,
		`ai_model_services.mixtral.tensor_paralel_size: is not a setting; did you mean ai_model_services.mixtral.tensor_parallel_size? (hxp.yaml:5)`,
		`ai_model_services.no dots.please: the model's name "no dots.please" holds ' '; want letters, digits, '-' or '_' (hxp.yaml:15)`,
		`ai_model_services.openchat.api_key: 12 is a number; want text (in quotes) (hxp.yaml:12)`,
		`ai_model_services.openchat.engine: "ftp://x" is not a URL with http, https, unix (hxp.yaml:10)`,
		`ai_model_services.openchat.max_model_len: "eight" is text; want a whole number (hxp.yaml:11)`,
		`ai_model_services.phi3.port: 70000 is above 65535 (hxp.yaml:14)`,
		`http.listen: port "99999" is not between 0 and 65535 (hxp.yaml:30)`,
		`log.level: "loud" is no level; want trace, debug, info, warn, error or disabled (hxp.yaml:29)`,
		`log.prompts: "no" is text; want true or false (hxp.yaml:29)`,
		`nats.data: 7 is a number; want text (in quotes) (hxp.yaml:25)`,
		`nats.listen: "nowhere" is not an address; want host:port (hxp.yaml:25)`,
		`nats.timeout: 5 is a number; want a duration such as 500ms, 30s or 24h (hxp.yaml:25)`,
		`nats.url: "http://x" is not a URL with nats, tls, ws, wss (hxp.yaml:25)`,
		`nats.user: is set beside nats.creds; want one of the two (hxp.yaml:25)`,
		`queue.lease: 1ms is below 200ms (hxp.yaml:27)`,
		`queue.max_bytes: "lots" is text; want a size such as 1048576, 512MiB or 2GiB (hxp.yaml:27)`,
		`queue.max_job_bytes: 1.5 is a number; want a size such as 1048576, 512MiB or 2GiB (hxp.yaml:27)`,
		`queue.max_jobs: 0 is below 1 (hxp.yaml:27)`,
		`queue.replicas: 9 is above 5 (hxp.yaml:27)`,
		`queue.storage: "tape" is neither file nor memory (hxp.yaml:27)`,
		`redis.url: "redis://" names no host (hxp.yaml:26)`,
		`spelling: is not a setting (hxp.yaml:32)`,
		`tenant: "a.b" holds '.'; want letters, digits, '-' or '_' (hxp.yaml:31)`,
		`vllm_integration.engine_args.early_stopping: is a list of 1; want true or false (hxp.yaml:18)`,
		`vllm_integration.engine_args.max_num_batched_tokens: 200 is below max_num_seqs, 300 (hxp.yaml:18)`,
		`vllm_integration.engine_args.use_v2_block_manager: 3 is a number; want true or false (hxp.yaml:18)`,
		`vllm_integration.performance_optimization: 5 is a number; want a block of settings (hxp.yaml:24)`,
		`vllm_integration.sampling_params.max_tokens_range: the highest, 99999999, is above 16777216 (hxp.yaml:22)`,
		`vllm_integration.sampling_params.temperature_range: the lowest, 1.5, is above the highest, 0.5 (hxp.yaml:20)`,
		`vllm_integration.sampling_params.top_p_range: the lowest, -1, is below 0 (hxp.yaml:21)`,
		`vllm_integration.sampling_params.use_beam_serch: is not a setting (hxp.yaml:23)`,
		`worker.attempts: "many" is text; want a whole number (env HXP_WORKER_ATTEMPTS)`,
		`worker.batch_share: 0.9 is above 0.5 (hxp.yaml:28)`,
		`worker.lease: is not a setting; did you mean queue.lease? (hxp.yaml:28)`,
		`worker.slot: is not a setting; did you mean worker.slots? (flag --set)`,
		`worker.slots: 0 is below 1 (flag --set)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestSingleFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text, want string
		flags      []app.FlagValue
	}{
		"no models": {
			text: "ai_model_services: {mixtral: null, hermes: null, openchat: null, phi3: null}",
			want: "ai_model_services: declares no model; want at least one (hxp.yaml:1)",
		},
		"models are a list": {text: "ai_model_services: [a]", want: "ai_model_services: is a list of 1; want a block for each name (hxp.yaml:1)"},
		"model is a number": {text: "ai_model_services: {phi3: 4}", want: "ai_model_services.phi3: 4 is a number; want a block of settings (hxp.yaml:1)"},
		"not a pair":        {text: "vllm_integration: {sampling_params: {top_p_range: 1}}", want: "vllm_integration.sampling_params.top_p_range: 1 is a number; want a pair [lowest, highest] (hxp.yaml:1)"},
		"not finite":        {text: "worker: {batch_share: .nan}", want: "worker.batch_share: NaN is a number; want a number (hxp.yaml:1)"},
		"a block for text":  {text: "tenant: {a: 1}", want: "tenant: is a block; want text (in quotes) (hxp.yaml:1)"},
		"a word for a bool": {text: "log: {prompts: 1}", want: "log.prompts: 1 is a number; want true or false (hxp.yaml:1)"},
		"true for a number": {text: "worker: {batch_share: true}", want: "worker.batch_share: true is true or false; want a number (hxp.yaml:1)"},
		"swap_space text":   {text: "vllm_integration: {engine_args: {swap_space: big}}", want: `vllm_integration.engine_args.swap_space: "big" is text; want a number (hxp.yaml:1)`},
		"password alone":    {text: "nats: {password: x}", want: "nats.password: is set without nats.user (hxp.yaml:1)"},
		"no localhost":      {text: `service_network: {internal_communication: {localhost: ""}}`, want: "service_network.internal_communication.localhost: is empty; want the address at which the engines listen (hxp.yaml:1)"},
		"port used twice":   {text: `http: {listen: "127.0.0.1:4222"}`, want: "http.listen: 4222 is taken by nats.listen (hxp.yaml:1)"},
		"model needs port":  {text: "ai_model_services: {falcon: {max_model_len: 5}}", want: "ai_model_services.falcon.port: 0 is below 1"},
		"huge number":       {text: "queue: {max_jobs: 18446744073709551615}", want: "queue.max_jobs: 1.8446744073709552e+19 is a number; want a whole number (hxp.yaml:1)"},
		"not a URL":         {text: `redis: {url: "redis://[::"}`, want: "redis.url: is not a URL (hxp.yaml:1)"},
		"flag, other model": {
			flags: []app.FlagValue{{Path: "ai_model_services.falcon.port", Value: "0", Flag: "--set"}},
			want:  "ai_model_services.falcon.port: 0 is below 1 (flag --set)",
		},
		"flag is no path": {
			flags: []app.FlagValue{{Path: "ai_model_services", Value: "0", Flag: "--set"}},
			want:  "ai_model_services: is not a setting (flag --set)",
		},
		"flag with a secret": {
			flags: []app.FlagValue{{Path: "ai_model_services.phi3.api_key", Value: "sk-1", Flag: "--set"}},
			want:  "ai_model_services.phi3.api_key: is a secret, and every user of a machine can read arguments; set HXP_AI_MODEL_SERVICES_PHI3_API_KEY in the environment (flag --set)",
		},
		"list in a list": {text: "vllm_integration: {sampling_params: {top_p_range: [[1], 2]}}", want: "vllm_integration.sampling_params.top_p_range: is a list of 1; want a number (hxp.yaml:1)"},
		"infinite":       {text: "worker: {batch_share: .inf}", want: "worker.batch_share: +Inf is a number; want a number (hxp.yaml:1)"},
		"flag, whole number": {
			flags: []app.FlagValue{{Path: "log.prompts", Value: "perhaps", Flag: "--set"}},
			want:  `log.prompts: "perhaps" is text; want true or false (flag --set)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := faultsOf(t, app.LoadOptions{Flags: tc.flags}, tc.text)
			if diff := cmp.Diff([]string{tc.want}, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoticesOfRemovedSettings(t *testing.T) {
	t.Parallel()
	cfg := load(t, app.LoadOptions{Files: []string{file(t, `
vllm_integration:
  engine_args: {swap_space: 4, use_v2_block_manager: false}
  sampling_params: {use_beam_search: true, early_stopping: false}
`)}})
	want := []string{
		"vllm_integration.engine_args.swap_space: 4 is not passed on: vLLM has had no swap space since 0.18 (vllm#36216); see its --kv-offloading-size",
		"vllm_integration.engine_args.use_v2_block_manager: false is not passed on: vLLM has had no other block manager since 0.6.4, and no such setting since 0.8 (vllm#8704, #13492)",
		"vllm_integration.sampling_params.use_beam_search: true is not passed on: beam search cannot stream in vLLM; a request may still ask for it by itself",
	}
	if diff := cmp.Diff(want, cfg.Notices); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("a: {", 40) + strings.Repeat("}", 40)
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 8 {
		d := string(rune('0' + i))
		n := string(rune('1' + i))
		bomb.WriteString("a" + n + ": &a" + n + " [" + strings.TrimSuffix(strings.Repeat("*a"+d+",", 10), ",") + "]\n")
	}
	for name, tc := range map[string]struct{ text, want string }{
		"not YAML":       {"worker: {slots: 1\nlog: }", "hxp.yaml:"},
		"duplicate":      {"tenant: a\ntenant: b\n", `hxp.yaml:2:1: mapping key "tenant" already defined`},
		"two documents":  {"tenant: a\n---\ntenant: b\n", "holds more than one YAML document"},
		"a list":         {"- a\n", "is not a mapping"},
		"a word":         {"word\n", "is not a mapping"},
		"unknown alias":  {"tenant: *who\n", "who"},
		"alias in list":  {"tenant: [*who]\n", "who"},
		"alias to merge": {"worker:\n  <<: *who\n", "who"},
		"merge a number": {"worker:\n  <<: 3\n", "hxp.yaml:2: << wants a mapping"},
		"a tag":          {"tenant: !!binary aGk=\n", "is not supported"},
		"too deep":       {deep, "nested more than 32 levels deep"},
		"alias bomb":     {bomb.String(), "has more than 20000 values"},
		"too long":       {strings.Repeat("# padding\n", 110_000), "want at most 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := app.Load(app.LoadOptions{Files: []string{file(t, tc.text)}})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q in it", err, tc.want)
			}
			if _, ok := errors.AsType[*app.ConfigError](err); ok {
				t.Error("a file that cannot be read is not a list of faults")
			}
		})
	}
	if _, err := app.Load(app.LoadOptions{Files: []string{"no-such-file.yaml"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want that the file does not exist", err)
	}
	if _, err := app.Load(app.LoadOptions{Environ: []string{"HXP_CONFIG=nowhere.yaml"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v, want that the file of HXP_CONFIG does not exist", err)
	}
	load(t, app.LoadOptions{Files: []string{file(t, ""), file(t, "# only a comment\n")}})
}

func TestConfigErrorText(t *testing.T) {
	t.Parallel()
	one := &app.ConfigError{Faults: []app.Fault{{Path: "a", Text: "b"}}}
	two := &app.ConfigError{Faults: []app.Fault{{Path: "a", Text: "b"}, {Path: "c", Text: "d", Source: app.Source{Layer: "env", Name: "X"}}}}
	if diff := cmp.Diff("the configuration has 1 fault:\n  a: b", one.Error()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("the configuration has 2 faults:\n  a: b\n  c: d (env X)", two.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]app.Bytes{"0": 0, "17": 17, "17B": 17, "1.5KiB": 1536, "2 GiB": 2 << 30, "-1": -1} {
		if got, err := app.ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "x", "NaN", "Inf", "1e300", "0.5", "9223372036854775808GiB"} {
		if got, err := app.ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", text, got)
		}
	}
	for b, want := range map[app.Bytes]string{0: "0", 17: "17", 1536: "1536", 4096: "4KiB", 3 << 20: "3MiB", 5 << 30: "5GiB"} {
		if got := b.String(); got != want {
			t.Errorf("%d is written %q, want %q", int64(b), got, want)
		}
	}
}

// FuzzLoad feeds arbitrary files to the loader: it must answer with a configuration or an error.
func FuzzLoad(f *testing.F) {
	spec, err := os.ReadFile("testdata/spec.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(spec))
	f.Add("worker: {slots: 3}\n---\n")
	f.Add("a: &a [*a]\n? b\n: c\n<<: *a")
	f.Add("ai_model_services: {x: {port: 1, port: 2}}")
	path := filepath.Join(f.TempDir(), "hxp.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := app.Load(app.LoadOptions{Files: []string{path}})
		if (cfg == nil) == (err == nil) {
			t.Errorf("Load returned %v and %v", cfg, err)
		}
		if err == nil && len(cfg.Models) == 0 {
			t.Error("a configuration without models was accepted")
		}
	})
}
