package vllm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// ServerConfig says how a [Server] runs its process. Its zero value works.
type ServerConfig struct {
	// Command is the program and what comes before "serve". Defaults to "vllm", found on the PATH.
	Command []string
	// Env is added to this process's environment, of which variables that begin with HXP_ are not passed on.
	Env map[string]string
	// Dir is the working directory. Defaults to this process's own.
	Dir string

	// ProbeTimeout bounds each of asking for the version and for the flags; Python alone takes
	// tens of seconds of CPU time to load what it needs to answer. Defaults to 5 min.
	ProbeTimeout time.Duration
	// StartTimeout is how long the process may take to be ready. Defaults to 15 min.
	StartTimeout time.Duration
	// StallTimeout is how long no token may come while the engine has work, before a canary decides
	// whether it hangs. Defaults to 60 s.
	StallTimeout time.Duration
	// StopTimeout is the time between SIGTERM and SIGKILL. Defaults to 30 s; before a restart it is 5 s at most.
	StopTimeout time.Duration
	// RestartDelay is the wait before the first restart; it doubles with each. Defaults to 1 s.
	RestartDelay time.Duration
	// MaxRestartDelay bounds that wait, and is how long an engine must be ready for the doubling to begin anew. Defaults to 60 s.
	MaxRestartDelay time.Duration

	// MemoryLimit bounds the memory of all processes of the engine, in bytes; the GPU's does not count. 0 is no limit.
	MemoryLimit int64
	// MemoryGrace is how long the engine may stay over MemoryLimit where the kernel does not enforce it. Defaults to 30 s.
	MemoryGrace time.Duration
	// CPUs bounds the processors in use, and is the default of OMP_NUM_THREADS. 0 is no limit.
	CPUs int
	// Cgroup is a delegated cgroup v2 folder, under which the engine gets one of its own. By default
	// this process's own cgroup is tried if there is a limit to enforce.
	Cgroup string

	// Logger receives starts, ends, and progress of starts. The zero value is silent.
	Logger zerolog.Logger
	// Registry receives the metrics; several Servers may share one. nil keeps them to itself.
	Registry *prometheus.Registry
	// ModelName is the label of the metrics. Defaults to the served name, or the model.
	ModelName string
	// Stderr receives the engine's own log, line by line, one Write for each; secrets are
	// taken out. A Write that blocks holds the engine up. nil drops it.
	Stderr io.Writer
}

// restartGrace bounds StopTimeout before a restart: what was generating is lost either way.
const restartGrace = 5 * time.Second

func (c ServerConfig) withDefaults(args Args) ServerConfig {
	if len(c.Command) == 0 {
		c.Command = []string{"vllm"}
	}
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Minute)
	c.StartTimeout = cmp.Or(c.StartTimeout, 15*time.Minute)
	c.StallTimeout = cmp.Or(c.StallTimeout, time.Minute)
	c.StopTimeout = cmp.Or(c.StopTimeout, 30*time.Second)
	c.RestartDelay = cmp.Or(c.RestartDelay, time.Second)
	c.MaxRestartDelay = cmp.Or(c.MaxRestartDelay, time.Minute)
	c.MemoryGrace = cmp.Or(c.MemoryGrace, 30*time.Second)
	c.ModelName = cmp.Or(c.ModelName, args.ServedName, args.Model)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	return c
}

func (c ServerConfig) validate() error {
	var errs []error
	if c.Command[0] == "" {
		errs = append(errs, errors.New("Command[0] is empty; want a program"))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"ProbeTimeout", c.ProbeTimeout}, {"StartTimeout", c.StartTimeout}, {"StallTimeout", c.StallTimeout},
		{"StopTimeout", c.StopTimeout}, {"RestartDelay", c.RestartDelay}, {"MemoryGrace", c.MemoryGrace},
	} {
		if f.value <= 0 {
			errs = append(errs, fmt.Errorf("%s is %s; want above 0", f.name, f.value))
		}
	}
	if c.MaxRestartDelay < c.RestartDelay {
		errs = append(errs, fmt.Errorf("MaxRestartDelay is %s; want at least RestartDelay, %s", c.MaxRestartDelay, c.RestartDelay))
	}
	if c.MemoryLimit < 0 {
		errs = append(errs, fmt.Errorf("MemoryLimit is %d; want 0 or more", c.MemoryLimit))
	}
	if c.CPUs < 0 {
		errs = append(errs, fmt.Errorf("CPUs is %d; want 0 or more", c.CPUs))
	}
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			errs = append(errs, fmt.Errorf("Env[%q] is not a variable: its name is empty or holds =, or something holds a zero byte", name))
		}
	}
	return errors.Join(errs...)
}
