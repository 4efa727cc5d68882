package vllm_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hxp-enterprise/hxp/workers/vllm"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(data), "\n")
}

// A folder that looks like a cgroup with both controllers. The kernel does not let a process be born
// in it, so it is moved there.
func TestCgroupLimits(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	at := func(name string) string { return filepath.Join(dir, fmt.Sprint("hxp-engine-", port), name) }
	for _, name := range []string{"memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "cgroup.procs", "cgroup.kill"} {
		put(t, at(name), "")
	}
	put(t, at("memory.events"), "low 0\noom_kill 3\noom_group_kill 0\n")
	b := launch(t, setting{plan: "ok", args: vllm.Args{Port: port}, cfg: vllm.ServerConfig{Cgroup: dir, MemoryLimit: 1 << 20, CPUs: 2}})
	got := map[string]string{}
	for _, name := range []string{"memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "cgroup.procs"} {
		got[name] = get(t, at(name))
	}
	if diff := cmp.Diff(map[string]string{
		"memory.max": "1048576", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "200000 100000", "cgroup.procs": fmt.Sprint(b.Status().PID),
	}, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if notes := b.Status().Notes; len(notes) != 1 || !strings.Contains(notes[0], "cannot be born in cgroup") {
		t.Errorf("notes = %q", notes)
	}
	// The kernel ends an engine at its limit.
	put(t, at("memory.events"), "low 0\noom_kill 4\noom_group_kill 1\n")
	kill(t, b.Status().PID)
	b.ready(1)
	if st := b.Status(); b.restarts("memory") != 1 || !strings.Contains(st.LastExit, "the kernel ended it at its memory limit of 1048576 bytes") {
		t.Errorf("restarts %v, status %+v", b.restarts("memory"), st)
	}
}

// What a folder cannot do is said, and the memory is watched instead.
func TestCgroupThatIsNone(t *testing.T) {
	t.Parallel()
	plain, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	put(t, file, "")
	put(t, filepath.Join(plain, "cgroup.subtree_control"), "")
	for name, tt := range map[string]struct{ folder, want string }{
		"a plain folder": {plain, "does not limit memory"},
		"a file":         {file, "the kernel enforces no limits: make a cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := launch(t, setting{plan: "ok", cfg: vllm.ServerConfig{Cgroup: tt.folder, MemoryLimit: 1 << 40}})
			if notes := strings.Join(b.Status().Notes, "; "); !strings.Contains(notes, tt.want) {
				t.Errorf("notes %q lack %q", notes, tt.want)
			}
			if tt.folder != plain {
				return
			}
			if got := get(t, filepath.Join(plain, "cgroup.subtree_control")); got != "+memory" {
				t.Errorf("asked for controllers: %q", got)
			}
		})
	}
}

// realCgroup is a cgroup v2 folder of the kernel's that this test may fill, or else one that only looks like it.
func realCgroup(t *testing.T) (folder string, genuine bool) {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		folder := filepath.Join(strings.Fields(before)[4], fmt.Sprintf("hxp-test-%d", os.Getpid()))
		if os.Mkdir(folder, 0o700) == nil {
			t.Cleanup(func() {
				if err := os.Remove(folder); err != nil {
					t.Errorf("the cgroup is not empty: %v", err)
				}
			})
			return folder, true
		}
	}
	return t.TempDir(), false
}

// Where the host allows it, an engine is born in a cgroup, nothing escapes from that, and it is removed.
func TestCgroupOfTheKernel(t *testing.T) {
	t.Parallel()
	folder, genuine := realCgroup(t)
	b := launch(t, setting{plan: "orphan in a session|ok", cfg: vllm.ServerConfig{Cgroup: folder}})
	rec := b.starts()[0]
	inside := strings.Contains(get(t, fmt.Sprintf("/proc/%d/cgroup", rec.Child)), "/hxp-engine-")
	if inside != genuine {
		t.Errorf("child in the cgroup: %t; want %t", inside, genuine)
	}
	kill(t, rec.PID)
	b.ready(1)
	if genuine && living(rec.Child) {
		t.Error("the child has escaped")
	}
	kill(t, rec.Child) // a folder that is none does not hold what was never seen
}

// Without a folder, this process's own cgroup is tried; what comes of it is the host's matter.
func TestOwnCgroup(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "ok", cfg: vllm.ServerConfig{MemoryLimit: 1 << 40, CPUs: 64}})
	b.stop()
	if err := b.finish(); err != nil {
		t.Error(err)
	}
}

// nvidiaSMI puts a script of that name on a PATH and returns that.
func nvidiaSMI(t *testing.T, script string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "nvidia-smi"), "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(dir, "nvidia-smi"), 0o700); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"PATH": dir + ":" + os.Getenv("PATH"), "CUDA_VISIBLE_DEVICES": "0,3", "ASKED": filepath.Join(dir, "asked")}
}

func TestGPUReadings(t *testing.T) {
	t.Parallel()
	env := nvidiaSMI(t, `echo "$*" >"$ASKED"
echo '0, NVIDIA H200, 1024, 143771, 37'
echo '3, NVIDIA GB10, [N/A], [Not Supported], 0'`)
	b := newBed(t, setting{plan: "slow", cfg: vllm.ServerConfig{Env: env}}).run()
	eventually(t, "readings", func() bool { return len(b.Status().GPUs) == 2 })
	if diff := cmp.Diff([]vllm.GPU{
		{Index: "0", Name: "NVIDIA H200", MemoryUsed: 1 << 30, MemoryTotal: 143771 << 20, Utilization: 0.37},
		{Index: "3", Name: "NVIDIA GB10", MemoryUsed: -1, MemoryTotal: -1, Utilization: 0},
	}, b.Status().GPUs); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
	for series, want := range map[string]float64{
		`hxp_gpu_memory_used_bytes{gpu="0",model="m"}`: 1 << 30, `hxp_gpu_memory_total_bytes{gpu="0",model="m"}`: 143771 << 20,
		`hxp_gpu_utilization_ratio{gpu="0",model="m"}`: 0.37, `hxp_gpu_utilization_ratio{gpu="3",model="m"}`: 0, `hxp_gpu_memory_used_bytes{gpu="3",model="m"}`: -1,
	} {
		if got := b.metric(series); got != want {
			t.Errorf("%s = %v, want %v", series, got, want)
		}
	}
	if asked := get(t, env["ASKED"]); !strings.Contains(asked, "--query-gpu=") || !strings.HasSuffix(asked, "--id=0,3") {
		t.Errorf("asked with %q", asked)
	}
}

func TestNoGPUReadings(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"echo no driver >&2; exit 9": "exit status 9: no driver",
		"echo all is well":           "answered what is no table",
		"echo 'a, b'; echo '\"'; :":  "answered what is no table",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, setting{plan: "ok", cfg: vllm.ServerConfig{Env: nvidiaSMI(t, script)}}).run()
			eventually(t, "words", func() bool { return strings.Contains(b.log.String(), want) })
			b.ready(0)
			if b.metric(`hxp_gpu_utilization_ratio{gpu="0",model="m"}`) != -1 {
				t.Error("there is a reading")
			}
		})
	}
}

// Over the limit for a moment is no reason to restart.
func TestMemoryOverTheLimitForAMoment(t *testing.T) {
	t.Parallel()
	b := launch(t, setting{plan: "ok", cfg: vllm.ServerConfig{MemoryLimit: 1, MemoryGrace: time.Hour}})
	over := func() float64 { return b.metric(`hxp_engine_memory_limit_exceeded_total{model="m"}`) }
	eventually(t, "over the limit", func() bool { return over() == 1 })
	before := b.Status().CPUSeconds
	b.post("/v1/completions", longPrompt)
	eventually(t, "another look", func() bool { return b.Status().CPUSeconds > before })
	if st := b.Status(); over() != 1 || st.Restarts != 0 {
		t.Errorf("counted %v times, status %+v", over(), st)
	}
}
