package app

import (
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing wrong with the configuration.
type Fault struct {
	// Path is the setting.
	Path string `json:"path"`
	// Text says what is wrong with which value, and what the bound is.
	Text string `json:"text"`
	// Source says where the value was written.
	Source Source `json:"source"`
}

func (f Fault) String() string {
	s := f.Path + ": " + f.Text
	if f.Source.Layer != "" && f.Source.Layer != "default" {
		s += " (" + f.Source.String() + ")"
	}
	return s
}

// ConfigError holds every fault of a configuration.
type ConfigError struct{ Faults []Fault }

// Error lists the faults, one a line.
func (e *ConfigError) Error() string {
	lines := []string{fmt.Sprintf("the configuration has %d faults:", len(e.Faults))}
	if len(e.Faults) == 1 {
		lines[0] = "the configuration has 1 fault:"
	}
	for _, f := range e.Faults {
		lines = append(lines, "  "+f.String())
	}
	return strings.Join(lines, "\n")
}

// faults collects at most one fault for each path and the blocks around it: the first says enough.
type faults struct {
	list    []Fault
	sources map[string]Source
}

func (f *faults) add(path, format string, args ...any) {
	known := func(x Fault) bool { return x.Path == path || strings.HasPrefix(path, x.Path+".") }
	// What is inherited is judged where it was written.
	if slices.ContainsFunc(f.list, known) || f.sources[path].Layer == "inherited" {
		return
	}
	f.list = append(f.list, Fault{Path: path, Text: fmt.Sprintf(format, args...), Source: f.sources[path]})
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	slices.SortStableFunc(f.list, func(a, b Fault) int { return strings.Compare(a.Path, b.Path) })
	return &ConfigError{Faults: f.list}
}
