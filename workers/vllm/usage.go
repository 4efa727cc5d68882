package vllm

import (
	"context"
	"fmt"
	"time"
)

// usageInterval is the time between two looks at the engine's processes.
const usageInterval = time.Second

// usage watches the memory and the CPU time of a process.
type usage struct {
	s *Server
	p *process
	// ticks is the CPU time of each living member when it was last seen.
	ticks map[int]cpuTime
	// over is when the memory rose over the limit, or zero.
	over time.Time
}

type cpuTime struct{ start, ticks uint64 }

// watchUsage looks at the members until ctx ends, and stops the process when it has been over its
// memory limit for too long.
func (s *Server) watchUsage(ctx context.Context, p *process, stop context.CancelCauseFunc) {
	u := &usage{s: s, p: p, ticks: make(map[int]cpuTime)}
	tick := time.NewTicker(usageInterval)
	defer tick.Stop()
	for {
		u.look(time.Now(), stop)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (u *usage) look(now time.Time, stop context.CancelCauseFunc) {
	members := u.p.members()
	var memory int64
	var spent uint64
	next := make(map[int]cpuTime, len(members))
	for _, m := range members {
		memory += m.rss
		before := u.ticks[m.pid]
		if before.start != m.start {
			before.ticks = 0
		}
		spent += m.ticks - min(m.ticks, before.ticks)
		next[m.pid] = cpuTime{m.start, m.ticks}
	}
	u.ticks = next
	seconds := float64(spent) / clockTicks
	u.s.metrics.memory.Set(float64(memory))
	u.s.metrics.cpu.Add(seconds)
	u.s.mu.Lock()
	u.s.status.MemoryBytes = memory
	u.s.status.CPUSeconds += seconds
	u.s.mu.Unlock()
	if u.s.srv.MemoryLimit > 0 && !u.p.cgroup.limitsMemory() {
		u.limit(now, memory, members, stop)
	}
}

// limit compares memory with the limit where the kernel does not.
func (u *usage) limit(now time.Time, memory int64, members []member, stop context.CancelCauseFunc) {
	limit, grace := u.s.srv.MemoryLimit, u.s.srv.MemoryGrace
	if memory > limit {
		// Resident pages count once for each who shares them.
		var shared int64
		for _, m := range members {
			shared += m.proportional()
		}
		if shared > 0 {
			memory = shared
		}
	}
	switch {
	case memory <= limit:
		u.over = time.Time{}
	case u.over.IsZero():
		u.over = now
		u.s.metrics.overLimit.Inc()
		u.s.log.Warn().Int64("bytes", memory).Int64("limit", limit).Stringer("grace", grace).
			Msg("the engine's memory is over its limit; it is restarted if that lasts")
	case now.Sub(u.over) >= grace:
		stop(&verdict{reasonMemory, fmt.Sprintf("its processes held %d bytes of memory for %s; the limit is %d",
			memory, now.Sub(u.over).Round(time.Second), limit)})
	}
}
