package vllm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

const (
	// clockTicks is the unit of CPU times in /proc, which Linux shows as 100 to a second everywhere.
	clockTicks = 100
	// readsProc says that memory and CPU time of the members can be read.
	readsProc = true
)

// detach gives the process a session and a group of its own, has the kernel kill it when the thread
// that starts it ends, and lets it be born in the cgroup that is open as folder, unless that is nil.
func detach(cmd *exec.Cmd, folder *os.File) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if folder != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(folder.Fd())
	}
}

// detachGuard is for what must outlive this process.
func detachGuard(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// member is one living process of an engine.
type member struct {
	pid  int
	name string
	// start tells the process from a later one of the same pid.
	start uint64
	ticks uint64
	rss   int64

	parent, group, session int
	state                  byte
}

// tree finds the processes of an engine: those of the leader's session and group, and what descends
// or was once seen to descend from one of them.
type tree struct {
	leader int

	mu   sync.Mutex
	seen map[int]uint64
}

func newTree(leader int) *tree { return &tree{leader: leader, seen: make(map[int]uint64)} }

// scan returns the members that live, and those of inside, the pids in the engine's cgroup.
func (t *tree) scan(inside []int) []member {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pid := range inside {
		if m, ok := readMember(pid); ok {
			t.seen[pid] = m.start
		}
	}
	all := processes()
	in := make(map[int]bool)
	for again := true; again; {
		again = false
		for _, m := range all {
			if in[m.pid] || m.pid == os.Getpid() {
				continue
			}
			start, known := t.seen[m.pid]
			if m.pid == t.leader || m.session == t.leader || m.group == t.leader || known && start == m.start || in[m.parent] {
				in[m.pid] = true
				again = true
			}
		}
	}
	t.seen = make(map[int]uint64, len(in))
	var alive []member
	for _, m := range all {
		switch {
		case !in[m.pid]:
		case m.state == 'Z' || m.state == 'X':
			// Its parent has yet to ask for it. An orphan's may be this process, as the first of a container.
			if m.parent == os.Getpid() && m.pid != t.leader {
				_, _ = syscall.Wait4(m.pid, nil, syscall.WNOHANG, nil)
			}
		default:
			t.seen[m.pid] = m.start
			alive = append(alive, m)
		}
	}
	return alive
}

// kill sends SIGKILL to the group at once, and then to each member that has left it.
func (t *tree) kill(members []member) {
	for _, m := range members {
		if m.group == t.leader {
			_ = syscall.Kill(-t.leader, syscall.SIGKILL) // who is gone needs no signal
			break
		}
	}
	for _, m := range members {
		if m.group == t.leader {
			continue
		}
		p, err := os.FindProcess(m.pid)
		if err != nil {
			continue
		}
		// The handle holds the pid: what has the same start is the same process.
		if at, ok := readMember(m.pid); ok && at.start == m.start {
			_ = p.Kill()
		}
		_ = p.Release()
	}
}

// processes lists all processes that can be seen.
func processes() []member {
	entries, _ := os.ReadDir("/proc") // without it, nobody is seen
	var all []member
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if m, ok := readMember(pid); ok {
			all = append(all, m)
		}
	}
	return all
}

// readMember reads /proc/PID/stat; proc(5) numbers its fields from 1.
func readMember(pid int) (member, bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return member{}, false
	}
	return parseStat(pid, data)
}

func parseStat(pid int, data []byte) (member, bool) {
	// The name, in brackets, may hold anything.
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return member{}, false
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 22 {
		return member{}, false
	}
	number := func(field int) int64 {
		n, _ := strconv.ParseInt(string(fields[field-3]), 10, 64) // unsigned fields that do not fit are none of these
		return n
	}
	return member{
		pid: pid, name: string(data[open+1 : end]), state: fields[0][0],
		parent: int(number(4)), group: int(number(5)), session: int(number(6)),
		ticks: uint64(number(14) + number(15)), start: uint64(number(22)), rss: number(24) * int64(os.Getpagesize()),
	}, true
}

// proportional returns the member's memory with what it shares divided among those who share it,
// or 0 if the kernel does not say. It takes the kernel longer than the resident size.
func (m member) proportional() int64 {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(m.pid), "smaps_rollup"))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(data, []byte("\nPss:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(string(fields[0]), 10, 64)
	return kib << 10
}
