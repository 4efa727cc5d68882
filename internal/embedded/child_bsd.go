//go:build unix && !linux

package embedded

import "syscall"

// childAttr puts the child into a group of its own, out of reach of a terminal's interrupt. A parent
// that is killed leaves it running on this system.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
