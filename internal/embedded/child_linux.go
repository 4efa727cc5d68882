package embedded

import "syscall"

// childAttr puts the child into a group of its own, out of reach of a terminal's interrupt, and
// has the kernel kill it when its parent dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
