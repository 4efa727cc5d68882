package app

import (
	"slices"
	"time"

	"github.com/hxp-enterprise/hxp/workers"
)

// covers are the models that name this one as their fallback.
func (c *Config) covers(model string) []workers.Cover {
	var out []workers.Cover
	for _, name := range c.ModelNames() {
		if f := c.Models[name].Fallback; f.Model == model {
			out = append(out, workers.Cover{Model: name, After: f.After})
		}
	}
	return out
}

// queues are the models whose queues the workers of some models need.
func (c *Config) queues(models ...string) []string {
	out := slices.Clone(models)
	for _, m := range models {
		for _, covered := range c.covers(m) {
			if !slices.Contains(out, covered.Model) {
				out = append(out, covered.Model)
			}
		}
	}
	return out
}

// targetLatency is the time to the first token that the worker of a model is to keep; 0 is none.
func (c *Config) targetLatency(model string) time.Duration {
	return time.Duration(c.Models[model].TargetLatencyMS * float64(time.Millisecond))
}

// config is how package workers says what a model can do.
func (c Capabilities) config() workers.Capabilities {
	return workers.Capabilities{NoChat: !c.Chat, NoTools: !c.Tools, NoConversation: !c.Conversation, SystemRole: workers.SystemRole(c.SystemRole)}
}

// config is how package workers says how many slots stay free, where 0 asks for a default.
func (r Reserved) config() workers.Reserved {
	if r.FromBatch == 0 {
		r.FromBatch = -1
	}
	return workers.Reserved{FromStandard: r.FromStandard, FromBatch: r.FromBatch}
}
