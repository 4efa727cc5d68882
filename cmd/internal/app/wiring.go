package app

import (
	"time"

	"github.com/hxp-enterprise/hxp/workers"
)

// cover is a model whose jobs the workers of another take while it has had no worker for some time.
type cover struct {
	Model string
	After time.Duration
}

// covers are the models that name this one as their fallback.
func (c *Config) covers(model string) []cover {
	var out []cover
	for _, name := range c.ModelNames() {
		if f := c.Models[name].Fallback; f.Model == model {
			out = append(out, cover{name, f.After})
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
