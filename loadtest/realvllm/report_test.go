//go:build vllm && linux

package realvllm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// outcome is what every check came to, by check and model.
type outcome struct {
	mu    sync.Mutex
	cells map[string]map[string]string
}

func (o *outcome) record(check, model, said string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cells == nil {
		o.cells = map[string]map[string]string{}
	}
	if o.cells[check] == nil {
		o.cells[check] = map[string]string{}
	}
	o.cells[check][model] = said
}

// check runs one check of a model and notes how it went. What the check returns is a figure, or "".
func check(t *testing.T, name, model string, f func(t *testing.T) string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		figure := ""
		defer func() {
			said := "pass"
			if t.Failed() {
				said = "**FAIL**"
			}
			results.record(name, model, strings.TrimSpace(said+" "+figure))
		}()
		figure = f(t)
		t.Log(figure)
	})
}

// seconds is a figure with as many digits as mean something.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// write writes the outcome of all checks, under what was tested. It fails if a check did not pass.
func (o *outcome) write(file, about string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Verification against vLLM

What `+"`make test-vllm`"+` found. Written by it; do not edit.

hxp ran against real vLLM processes: four models with the architectures, chat templates and end tokens
of the real ones, tiny, with random weights, on a CPU. It shows that the protocols fit and that nothing
is lost; it says nothing about speed on a GPU, nor about what the real models write.

%s
## Checks

`, about)
	names := make([]string, len(all))
	for i, m := range all {
		names[i] = m.name
	}
	fmt.Fprintf(&b, "| check | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	failed := 0
	for _, c := range slices.Sorted(maps.Keys(o.cells)) {
		row := make([]string, len(names))
		for i, n := range names {
			row[i] = strings.ReplaceAll(o.cells[c][n], "|", `\|`)
			switch {
			case row[i] != "":
			case c == "continues_after_vllm_stopped":
				row[i] = "-" // no job was left
			default:
				row[i] = "**not run**"
			}
			if strings.HasPrefix(row[i], "**") {
				failed++
			}
		}
		fmt.Fprintf(&b, "| %s | %s |\n", strings.ReplaceAll(c, "_", " "), strings.Join(row, " | "))
	}
	fmt.Fprintf(&b, "\n%d checks of %d models; %d did not pass.\n", len(o.cells), len(names), failed)
	var err error
	if failed > 0 {
		err = fmt.Errorf("%s: %d checks did not pass", file, failed)
	}
	return errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b.Bytes(), 0o644))
}

// versions says what was tested, when and on what.
func versions() (string, error) {
	script := `import importlib.metadata as m, json, platform
print(json.dumps({**{n: m.version(n) for n in ("vllm", "torch", "transformers")}, "python": platform.python_version()}))`
	out, err := exec.Command(filepath.Join(venv, "bin", "python"), "-c", script).Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for versions: %w", venv, err)
	}
	var v struct{ VLLM, Torch, Transformers, Python string }
	if err := json.Unmarshal(out, &v); err != nil {
		return "", err
	}
	commit, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*").Output()
	if err != nil {
		return "", fmt.Errorf("ask git for the commit: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | |\n|---|---|\n")
	for _, row := range [][2]string{
		{"date", time.Now().UTC().Format("2006-01-02 15:04") + " UTC"},
		{"hxp", strings.TrimSpace(string(commit)) + ", " + runtime.Version()},
		{"vLLM", v.VLLM},
		{"torch", v.Torch},
		{"transformers", v.Transformers},
		{"Python", v.Python},
		{"machine", fmt.Sprintf("%s, %d cores, %s/%s", processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", row[0], row[1])
	}
	return b.String(), nil
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}
