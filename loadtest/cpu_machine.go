package loadtest

import (
	"strconv"
	"strings"
	"time"
)

// ticks are how many a second the kernel counts in /proc/stat; USER_HZ is 100 on every system that Go runs on.
const ticks = 100

// machineTime is how long all cores together have computed, for whomever; 0 where that is not told.
func machineTime() time.Duration { return busy(string(head("/proc/stat"))) }

// busy sums the first line of /proc/stat up: user, nice, system, then idle and iowait, which are no work, irq, softirq, steal.
func busy(stat string) time.Duration {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0
	}
	var sum int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks
}

// others is how many cores other processes used meanwhile, on average.
func others(machine, own, took time.Duration) float64 {
	if machine <= 0 || took <= 0 {
		return 0
	}
	return max(0, float64(machine-own)/float64(took))
}
