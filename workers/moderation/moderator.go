package moderation

import (
	"errors"
	"fmt"

	"github.com/hxp-enterprise/hxp/workers"
)

// Off is the name of the policy that checks nothing.
const Off = "off"

// Assignment says which policy holds where, by its name. The most specific one that is named counts: that
// of the model and the tenant, of the tenant, of the model, the default. "" names none.
type Assignment struct {
	// Default is what holds where nothing else does. Defaults to Off.
	Default string
	Tenants map[string]string
	Models  map[string]ModelAssignment
}

// ModelAssignment is what holds for a model.
type ModelAssignment struct {
	Policy  string
	Tenants map[string]string
}

// Moderator implements [workers.Moderator]. It does not change.
type Moderator struct {
	policies map[string]*policy
	apply    Assignment
}

// New makes policies ready. It reads no file and asks nobody.
func New(policies map[string]Config, apply Assignment) (*Moderator, error) {
	m := &Moderator{policies: map[string]*policy{}, apply: apply}
	var errs []error
	for _, name := range sortedKeys(policies) {
		if name == Off {
			errs = append(errs, fmt.Errorf("policy %s: the name stands for no policy", name))
			continue
		}
		p, err := newPolicy(name, policies[name])
		errs = append(errs, err)
		m.policies[name] = p
	}
	apply.each(func(path, name string) {
		if _, ok := policies[name]; !ok && name != Off {
			errs = append(errs, fmt.Errorf("%s: there is no policy %q", path, name))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("moderation: %w", err)
	}
	return m, nil
}

// each calls f for every policy that is named, with the path of the setting.
func (a Assignment) each(f func(path, name string)) {
	call := func(path, name string) {
		if name != "" {
			f(path, name)
		}
	}
	call("default", a.Default)
	for _, tenant := range sortedKeys(a.Tenants) {
		call("tenants."+tenant, a.Tenants[tenant])
	}
	for _, model := range sortedKeys(a.Models) {
		of := a.Models[model]
		call("models."+model+".policy", of.Policy)
		for _, tenant := range sortedKeys(of.Tenants) {
			call("models."+model+".tenants."+tenant, of.Tenants[tenant])
		}
	}
}

// Unknown lists the settings that name a policy which there is not, with the name.
func (a Assignment) Unknown(policies map[string]Config) [][2]string {
	var out [][2]string
	a.each(func(path, name string) {
		if _, ok := policies[name]; !ok && name != Off {
			out = append(out, [2]string{path, name})
		}
	})
	return out
}

// Policy implements [workers.Moderator].
func (m *Moderator) Policy(model, tenant string) workers.ModerationPolicy {
	of := m.apply.Models[model]
	for _, name := range []string{of.Tenants[tenant], m.apply.Tenants[tenant], of.Policy, m.apply.Default} {
		if name == "" {
			continue
		}
		if p := m.policies[name]; p != nil {
			return p
		}
		return nil
	}
	return nil
}

// Close closes connections to endpoints that nobody uses. Those in use are finished first.
func (m *Moderator) Close() {
	for _, p := range m.policies {
		if p.judge != nil {
			p.judge.close()
		}
	}
}
