package app

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hxp-enterprise/hxp/schemas"
	"github.com/hxp-enterprise/hxp/workers/moderation"
)

// validateModeration adds what is wrong with the policies, and with where they hold.
func validateModeration(c *Config, f *faults) {
	m := c.Moderation
	configs := map[string]moderation.Config{}
	for _, name := range slices.Sorted(maps.Keys(m.Policies)) {
		p, path := m.Policies[name], policiesPath+"."+name
		if err := schemas.CheckToken(name); err != nil {
			f.add(path, "the policy's name %v", err)
		}
		if name == moderation.Off {
			f.add(path, "the name %s stands for no policy", name)
		}
		validatePolicy(p, path, f)
		for _, fault := range p.config().Check() {
			f.add(path+"."+fault.Path, "%s", fault.Text)
		}
		if name != moderation.Off {
			configs[name] = p.config()
		}
	}
	for _, unknown := range m.assignment().Unknown(configs) {
		f.add(moderationPath+"."+unknown[0], "%q is not a policy; want off%s", unknown[1], listed(slices.Sorted(maps.Keys(configs))))
	}
	tenants := func(path string, of map[string]string) {
		for _, tenant := range slices.Sorted(maps.Keys(of)) {
			if err := schemas.CheckToken(tenant); err != nil {
				f.add(path+"."+tenant, "the tenant's name %v", err)
			}
		}
	}
	tenants(moderationPath+".tenants", m.Tenants)
	for _, name := range slices.Sorted(maps.Keys(m.Models)) {
		path := moderationPath + ".models." + name
		if _, ok := c.Models[name]; !ok {
			f.add(path, "the model %q is not configured", name)
		}
		tenants(path+".tenants", m.Models[name].Tenants)
	}
}

func listed(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " or one of " + strings.Join(names, ", ")
}

func validatePolicy(p ModerationPolicy, path string, f *faults) {
	if p.Mode != "enforce" && p.Mode != "audit" {
		f.add(path+".mode", "%q is neither enforce nor audit", p.Mode)
	}
	if p.OnError != "open" && p.OnError != "closed" {
		f.add(path+".on_error", "%q is neither open nor closed", p.OnError)
	}
	if len(p.Stages) == 0 {
		f.add(path+".stages", "is empty; want input, output or both")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Expressions)) {
		if a := p.Expressions[name].Action; a != "block" && a != "mask" {
			f.add(path+".expressions."+name+".action", "%q is neither block nor mask", a)
		}
	}
	between(f, path+".hold_back", p.HoldBack, 1, moderation.MaxHoldBack)
	e := p.Endpoint
	if e.URL != "" {
		between(f, path+".endpoint.timeout", e.Timeout, time.Millisecond, time.Minute)
		between(f, path+".endpoint.chunk", e.Chunk, 1, moderation.MaxPiece)
		between(f, path+".endpoint.overlap", e.Overlap, 0, moderation.MaxPiece)
	}
	switch {
	case e.URL == "" && cmp.Or(e.Kind, e.Model, e.APIKey, e.APIKeyFile) != "":
		f.add(path+".endpoint.url", "is empty; want the address of the endpoint")
	case e.APIKey != "" && e.APIKeyFile != "":
		f.add(path+".endpoint.api_key_file", "is set beside api_key; want one of the two")
	}
	between(f, path+".endpoint.retries", e.Retries, 0, 10)
}
