package vllm

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// knownFlags are the flags that an installed vLLM knows.
type knownFlags struct {
	// version is what `vllm --version` said, or "".
	version string
	// names are the flags in its help; nil if that could not be read.
	names map[string]bool
}

var (
	// optionLine is where the help describes a flag: it is indented by two.
	optionLine = regexp.MustCompile(`(?m)^ {2}-.*$`)
	optionName = regexp.MustCompile(`(?:^|[\s,])--([a-z][a-z0-9_-]*)`)
	// versionLine may have warnings before it.
	versionLine = regexp.MustCompile(`(?m)^(?:vllm\S*[ ,]+(?:version )?)?v?(\d+\.\d+\S*)\s*$`)
)

// parseHelp returns the flags in the output of `vllm serve --help=all`, or nil if it is not that.
// Plain --help of newer versions lists but the groups of flags.
func parseHelp(out string) map[string]bool {
	names := make(map[string]bool)
	for _, line := range optionLine.FindAllString(out, -1) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "  ") // what follows describes it
		for _, m := range optionName.FindAllStringSubmatch(line, -1) {
			names[strings.ReplaceAll(m[1], "_", "-")] = true
		}
	}
	if !names["port"] || !names["max-model-len"] {
		return nil
	}
	return names
}

func parseVersion(out string) string {
	all := versionLine.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// era is the versions that know a flag: from since, and before until. Empty is open.
type era struct{ since, until string }

// eras are the flags of which it is known when they came or went. never marks what configurations
// name and vLLM has no flag for.
var (
	never = era{"9999", ""}
	eras  = map[string]era{
		"use-v2-block-manager":             {"", "0.8"},
		"swap-space":                       {"", "0.18"},
		"enable-paged-attention":           never,
		"use-beam-search":                  never,
		"early-stopping":                   never,
		"num-scheduler-steps":              {"", "0.29"},
		"preemption-mode":                  {"", "0.29"},
		"num-lookahead-slots":              {"", "0.29"},
		"disable-log-requests":             {"", "0.29"},
		"guided-decoding-backend":          {"", "0.29"},
		"max-seq-len-to-capture":           {"", "0.29"},
		"device":                           {"", "0.29"},
		"task":                             {"", "0.29"},
		"generation-config":                {"0.7", ""},
		"enable-prompt-tokens-details":     {"0.7", ""},
		"shutdown-timeout":                 {"0.18", ""},
		"max-num-queued-reqs":              {"0.29", ""},
		"max-num-queued-tokens":            {"0.29", ""},
		"disable-access-log-for-endpoints": {"0.31", ""},
	}
)

// lacks says in words why a flag cannot be passed, or "".
func (k knownFlags) lacks(name string) string {
	if k.names != nil {
		if k.names[name] {
			return ""
		}
		return "vLLM " + k.shown() + " does not have it"
	}
	e, ok := eras[strings.TrimPrefix(name, "no-")]
	switch {
	case !ok:
		return ""
	case e == never:
		return "vLLM has no such flag"
	case e.until != "" && (k.version == "" || !before(k.version, e.until)):
		return fmt.Sprintf("vLLM %s does not have it: it was removed by %s", k.shown(), e.until)
	case e.since != "" && k.version != "" && before(k.version, e.since):
		return fmt.Sprintf("vLLM %s does not have it: it came with %s", k.shown(), e.since)
	}
	return ""
}

func (k knownFlags) shown() string {
	if k.version == "" {
		return "of unknown version"
	}
	return k.version
}

// before compares versions by their first two numbers. Builds from source, 0.1.dev and the like,
// are newer than all.
func before(version, than string) bool {
	major, minor, ok := majorMinor(version)
	if !ok || major == 0 && minor < 2 {
		return false
	}
	m, n, _ := majorMinor(than)
	return major < m || major == m && minor < n
}

func majorMinor(version string) (major, minor int, ok bool) {
	parts := strings.SplitN(version, ".", 3)
	major, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 2 {
		return major, 0, err == nil
	}
	minor, err = strconv.Atoi(parts[1])
	return major, minor, err == nil
}
