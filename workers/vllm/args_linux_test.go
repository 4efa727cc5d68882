package vllm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/workers/vllm"
)

// full sets every argument.
func full(extra map[string]any) vllm.Args {
	no, yes := false, true
	return vllm.Args{
		Host: "127.0.0.1", GPUMemoryUtilization: 0.9, TensorParallelSize: 2, MaxModelLen: 4096, MaxNumSeqs: 256, MaxNumBatchedTokens: 8192,
		TrustRemoteCode: true, EnforceEager: true, PrefixCaching: &no, ChunkedPrefill: &yes,
		SchedulingPolicy: "priority", ChatTemplate: "-x", ToolCallParser: "hermes", Extra: extra,
	}
}

// started returns the arguments of the first start, without host, port and the model, and the notes.
func started(t *testing.T, args vllm.Args, env map[string]string) (argv, notes []string) {
	t.Helper()
	probe := time.Duration(0)
	if env["TEST_VLLM_VERSION"] == "hang" {
		probe = 3 * time.Second
	}
	b := newBed(t, setting{plan: "ok", args: args, cfg: vllm.ServerConfig{Env: env, ProbeTimeout: probe}}).run()
	eventually(t, "a start", func() bool { return len(b.starts()) == 1 })
	for _, a := range b.starts()[0].Argv[2:] {
		if !strings.HasPrefix(a, "--host=") && !strings.HasPrefix(a, "--port=") && !strings.HasPrefix(a, "--served-model-name=") {
			argv = append(argv, a)
		}
	}
	return argv, b.Status().Notes
}

// What the help does not list is not passed, and said.
func TestFlagsOfTheInstalledVersion(t *testing.T) {
	t.Parallel()
	argv, notes := started(t, full(map[string]any{
		"swap_space": 4, "use_v2_block_manager": true, "enable-log-requests": false, "stop_words": []any{"a", 1, 2.5},
		"override_generation_config": map[string]any{"top_k": 1}, "override_generation_config.top_p": 0.5, "hostage": "x", "use_beam_search": false,
	}), nil)
	want := []string{
		"--enable-auto-tool-choice", "--no-enable-prefix-caching", "--generation-config=vllm", "--max-model-len=4096", "--max-num-seqs=256",
		`--override-generation-config={"top_k":1}`, "--override-generation-config.top_p=0.5", "--stop-words", "a", "1", "2.5",
		"--tool-call-parser=hermes", "--trust-remote-code",
	}
	if diff := cmp.Diff(want, argv); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	var left []string
	for _, n := range notes {
		name, why, _ := strings.Cut(n, " is left out: ")
		if why != "vLLM 0.31.0 does not have it" {
			t.Errorf("note %q", n)
		}
		left = append(left, name)
	}
	if diff := cmp.Diff([]string{
		"--chat-template", "--enable-chunked-prefill", "--enforce-eager", "--gpu-memory-utilization", "--hostage", "--max-num-batched-tokens",
		"--scheduling-policy", "--swap-space", "--tensor-parallel-size", "--use-beam-search", "--use-v2-block-manager",
	}, left); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

// Without a help, a table of versions decides.
func TestFlagsByVersion(t *testing.T) {
	t.Parallel()
	extra := map[string]any{"swap_space": 4, "enable_paged_attention": true, "max_num_queued_reqs": 9, "generation_config": "auto", "new-flag": true}
	for version, tt := range map[string]struct{ with, without string }{
		"0.17.1":                     {"--swap-space=4 --generation-config=auto --new-flag", "--enable-paged-attention --max-num-queued-reqs=9"},
		"vllm 0.31.0":                {"--max-num-queued-reqs=9 --generation-config=auto", "--swap-space=4 --enable-paged-attention"},
		"0.6.0":                      {"--swap-space=4", "--generation-config=auto --max-num-queued-reqs=9"},
		"v1.0.0":                     {"--max-num-queued-reqs=9", "--swap-space=4"},
		"0.1.dev7+g1234":             {"--max-num-queued-reqs=9", "--swap-space=4"},
		"no version, but words: 1.2": {"--max-num-queued-reqs=9", "--swap-space=4"},
		"exit":                       {"--max-num-queued-reqs=9 --new-flag", "--swap-space=4"},
		"hang":                       {"--max-num-queued-reqs=9", "--swap-space=4"},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			argv, notes := started(t, full(extra), map[string]string{"TEST_VLLM_VERSION": version, "TEST_VLLM_HELP": "exit"})
			all := " " + strings.Join(argv, " ") + " "
			for flag := range strings.FieldsSeq(tt.with) {
				if !strings.Contains(all, " "+flag+" ") {
					t.Errorf("arguments %q lack %s", argv, flag)
				}
			}
			for flag := range strings.FieldsSeq(tt.without) {
				name, _, _ := strings.Cut(flag, "=")
				if strings.Contains(all, " "+flag+" ") || !strings.Contains(fmt.Sprint(notes), name+" is left out") {
					t.Errorf("arguments %q hold %s, or no note says why not: %q", argv, flag, notes)
				}
			}
			if !strings.Contains(all, " --chat-template=-x ") || !strings.Contains(fmt.Sprint(notes), "from a table of versions") {
				t.Errorf("arguments %q, notes %q", argv, notes)
			}
		})
	}
}

// Older versions do not know --help=all.
func TestFlagsOfAnOlderHelp(t *testing.T) {
	t.Parallel()
	argv, notes := started(t, vllm.Args{MaxNumSeqs: 7, EnforceEager: true}, map[string]string{"TEST_VLLM_HELP": "exit", "TEST_VLLM_PLAINHELP": helpText})
	if diff := cmp.Diff([]string{"--generation-config=vllm", "--max-num-seqs=7"}, argv); diff != "" || len(notes) != 1 {
		t.Errorf("notes %q, arguments (-want +got):\n%s", notes, diff)
	}
}
