package vllm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cpuPeriod is the period of cpu.max in microseconds, the kernel's default.
const cpuPeriod = 100_000

// cgroup is the control group of one engine.
type cgroup struct {
	path string
	// folder is open for the engine to be born in.
	folder *os.File
	// memory and cpus say that the kernel enforces the limit.
	memory, cpus bool
	// kills is what memory.events counted before the start.
	kills uint64
}

// ownCgroup returns the folder of this process's own cgroup.
func ownCgroup(procDir string) (string, error) {
	path := ""
	data, err := os.ReadFile(filepath.Join(procDir, "cgroup"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			path = strings.TrimSpace(rest)
		}
	}
	if path == "" {
		return "", errors.New("this process is in no cgroup of version 2")
	}
	mounts, err := os.ReadFile(filepath.Join(procDir, "mountinfo"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		below, err := filepath.Rel(fields[3], path)
		if err != nil || strings.HasPrefix(below, "..") {
			continue
		}
		return filepath.Join(fields[4], below), nil
	}
	return "", errors.New("no cgroup of version 2 is mounted")
}

// newCgroup makes a child of folder with the limits. Those that cannot be set are in the words it
// returns. There is no cgroup where none would be of use.
func newCgroup(folder, name string, memory int64, cpus int) (*cgroup, []string, error) {
	c := &cgroup{path: filepath.Join(folder, name)}
	if err := os.Mkdir(c.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, nil, fmt.Errorf("make a cgroup: %w", err)
	}
	var words []string
	set := func(controller, file, value string) bool {
		err := writeControl(filepath.Join(c.path, file), value)
		if errors.Is(err, fs.ErrNotExist) {
			// The folder may have the controller without passing it on.
			if on := writeControl(filepath.Join(folder, "cgroup.subtree_control"), "+"+controller); on == nil {
				err = writeControl(filepath.Join(c.path, file), value)
			}
		}
		if err != nil {
			words = append(words, fmt.Sprintf("cgroup %s does not limit %s: %v", folder, controller, err))
		}
		return err == nil
	}
	if memory > 0 {
		if c.memory = set("memory", "memory.max", strconv.FormatInt(memory, 10)); c.memory {
			// One process less is an engine that hangs; and swap would be a limit that is not.
			_ = writeControl(filepath.Join(c.path, "memory.oom.group"), "1")
			_ = writeControl(filepath.Join(c.path, "memory.swap.max"), "0")
		}
	}
	if cpus > 0 {
		c.cpus = set("cpu", "cpu.max", fmt.Sprintf("%d %d", cpus*cpuPeriod, cpuPeriod))
	}
	var err error
	if c.folder, err = os.Open(c.path); err != nil {
		_ = os.Remove(c.path)
		return nil, words, fmt.Errorf("open a cgroup: %w", err)
	}
	c.kills = c.oomKills()
	return c, words, nil
}

// writeControl writes a file of a cgroup, and never makes one.
func writeControl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// join moves a process inside.
func (c *cgroup) join(pid int) error {
	return writeControl(filepath.Join(c.path, "cgroup.procs"), strconv.Itoa(pid))
}

// members are the pids inside, and none where there is no cgroup.
func (c *cgroup) members() []int {
	if c == nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(c.path, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range bytes.FieldsSeq(data) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// kill ends all that is inside, in one step that no fork escapes. Kernels before 5.14 lack it.
func (c *cgroup) kill() {
	if c != nil {
		_ = writeControl(c.killFile(), "1") // the members are killed one by one as well
	}
}

func (c *cgroup) killFile() string {
	if c == nil {
		return ""
	}
	return filepath.Join(c.path, "cgroup.kill")
}

// oomKills is how many processes the kernel has killed for want of memory.
func (c *cgroup) oomKills() uint64 {
	if c == nil {
		return 0
	}
	data, _ := os.ReadFile(filepath.Join(c.path, "memory.events"))
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64)
			return n
		}
	}
	return 0
}

// limitsMemory reports whether the kernel enforces the memory limit.
func (c *cgroup) limitsMemory() bool { return c != nil && c.memory }

func (c *cgroup) close() {
	if c != nil {
		_ = c.folder.Close()
		_ = os.Remove(c.path) // it stays if something is in it, and is used again by the next start
	}
}
