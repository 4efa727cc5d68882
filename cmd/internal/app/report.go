package app

import (
	"fmt"
	"text/tabwriter"
	"time"
)

// report tells a person what runs where and what to do next.
func (u *up) report(took time.Duration, waiting []string) {
	t := tabwriter.NewWriter(u.o.Stderr, 2, 8, 2, ' ', 0)
	row := func(format string, args ...any) { _, _ = fmt.Fprintf(t, "  "+format+"\n", args...) }
	u.p.printf("hxp %s\n\n", u.o.Version)
	row("queue\t%s\tstored in %s", u.running.NATS, u.o.Data)
	switch {
	case u.redis == nil:
		row("redis\t%s\tas configured", u.running.Redis)
	case u.redis.Persistent():
		row("redis\t%s\tstored in %s", u.running.Redis, u.o.Data)
	default:
		row("redis\t%s\tin memory", u.running.Redis)
	}
	row("health\thttp://%s/readyz\tand /livez, /metrics", u.running.HTTP)
	_ = t.Flush()
	u.p.printf("\n")
	row("MODEL\tWORKER\tSLOTS\tWINDOW\tENGINE")
	simulated := ""
	for _, m := range u.models {
		kind := ""
		if u.simulates(m) {
			kind, simulated = " (simulated)", m
		}
		model := u.cfg.Models[m]
		row("%s\t%s\t%d\t%d\t%s%s", m, u.running.Workers[m], model.Slots, model.MaxModelLen, maskURL(u.running.Engines[m]), kind)
	}
	_ = t.Flush()
	u.p.printf("\n")
	if u.redis != nil && u.redis.Warning != "" {
		u.warnings = append(u.warnings, u.redis.Warning)
	}
	u.p.notes("warning", u.warnings)
	u.p.notes("warning", prefixed("not ready yet: ", waiting))
	if simulated != "" {
		u.p.printf("Simulated engines answer with text that means nothing. For a real one:\n  hxp up --engine %s=http://127.0.0.1:8000\n", u.models[0])
	}
	server := ""
	if u.running.NATS != "nats://127.0.0.1:4222" {
		server = " --server " + u.running.NATS
	}
	last := u.models[len(u.models)-1]
	u.p.printf("Try it:\n  hxp run%s %s \"Why is the sky blue?\"\n", server, last)
	u.p.printf("ready in %d ms; Ctrl-C stops\n", took.Milliseconds())
}

// simulates reports whether the engine of a model is one that up has started.
func (u *up) simulates(model string) bool { return u.engines[model] == EngineSim }

func prefixed(prefix string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = prefix + l
	}
	return out
}
