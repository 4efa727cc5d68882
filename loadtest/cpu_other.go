//go:build !unix

package loadtest

import "time"

// cpuTime is not known here: figures of CPU are 0.
func cpuTime() time.Duration { return 0 }
