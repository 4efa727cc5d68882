package loadtest

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Environment is where a run was made: figures mean nothing without it.
type Environment struct {
	Version    string `json:"version"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	MemoryMiB  int64  `json:"memory_mib,omitempty"`
	// LoadAverage is how many processes wanted to compute in the last minute before the run: above nothing the machine is shared.
	LoadAverage float64 `json:"load_average"`
	// Engines say what was asked, by model.
	Engines map[string]string `json:"engines,omitempty"`
	// Notes are for the reader of the figures.
	Notes []string `json:"notes,omitempty"`
}

// Observe describes this machine, as far as it tells. version is that of hxp.
func Observe(version string) Environment {
	e := Environment{
		Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0),
	}
	e.CPU = field("/proc/cpuinfo", "model name")
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		e.MemoryMiB = kib >> 10
	}
	if one, _, ok := strings.Cut(string(head("/proc/loadavg")), " "); ok {
		e.LoadAverage, _ = strconv.ParseFloat(one, 64) // 0 where it is not told
	}
	return e
}

// field is the value of a name in a file of "name: value" lines, "" where there is none.
func field(file, name string) string {
	s := bufio.NewScanner(bytes.NewReader(head(file)))
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// head is the beginning of a file, nothing where it cannot be read.
func head(file string) []byte {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()                 // it is only read
	data, _ := io.ReadAll(io.LimitReader(f, 64<<10)) // what was read will do
	return data
}
