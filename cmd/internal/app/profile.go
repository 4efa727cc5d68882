package app

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
)

//go:embed profiles.yaml
var profilesYAML []byte

// Profile is how fast the simulated engine of one model is.
type Profile struct {
	// TTFT, Prefill, ITL and LoadFactor are those of vllmsim.Config.
	TTFT       time.Duration `yaml:"ttft"`
	Prefill    time.Duration `yaml:"prefill"`
	ITL        time.Duration `yaml:"itl"`
	LoadFactor float64       `yaml:"load_factor"`
	// Source says where the figures come from, or that they are assumed.
	Source string `yaml:"source"`
}

var profiles = sync.OnceValues(func() (map[string]map[string]Profile, error) {
	var all map[string]map[string]Profile
	if err := yaml.Unmarshal(profilesYAML, &all); err != nil {
		return nil, fmt.Errorf("profiles.yaml: %w", err)
	}
	return all, nil
})

// Profiles are the figures of a profile by model.
func Profiles(name string) (map[string]Profile, error) {
	all, err := profiles()
	if err != nil {
		return nil, err
	}
	p, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("%q is no profile; want %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	return p, nil
}

// Simulation is how engines are simulated.
type Simulation struct {
	// Profile names figures of a kind of GPU; "" takes those that the command is given.
	Profile string `config:"profile"`
}

// timing is how fast the simulated engine of a model is: by the profile, or t where it says nothing.
func (c *Config) timing(model string, t Timing) Profile {
	if c.Sim.Profile != "" {
		if all, err := Profiles(c.Sim.Profile); err == nil { // validate has looked at it
			if p, ok := all[model]; ok {
				return p
			}
		}
	}
	return Profile{TTFT: t.TTFT, ITL: t.ITL}
}

func validateSim(s Simulation, f *faults) {
	if s.Profile != "" {
		if _, err := Profiles(s.Profile); err != nil {
			f.add("sim.profile", "%v", err)
		}
	}
}
