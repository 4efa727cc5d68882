package app

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"strings"

	"github.com/knadh/koanf/v2"
)

//go:embed defaults.yaml
var defaultsYAML []byte

// DefaultFile is read from the working directory if it is there and no other file is named.
const DefaultFile = "hxp.yaml"

// LoadOptions says where the configuration comes from, beside the built-in defaults.
type LoadOptions struct {
	// Files are YAML files, a later one over an earlier one. By default HXP_CONFIG, or [DefaultFile] if it exists.
	Files []string
	// Environ is the environment, as os.Environ returns it. nil for none.
	Environ []string
	// Flags are settings by path, as text, with the flag that set them.
	Flags []FlagValue
}

// FlagValue is one setting made by a flag.
type FlagValue struct {
	Path, Value string
	// Flag is how the flag is spelled, such as --server.
	Flag string
}

// Load lays defaults, files, environment and flags over one another and checks the outcome. Every
// fault is in the error, which is a [*ConfigError] unless a file cannot be read or is not YAML.
func Load(o LoadOptions) (*Config, error) {
	l := loader{k: koanf.New("."), sources: map[string]Source{}}
	l.faults.sources = l.sources
	defaults, err := parseYAML("defaults.yaml", defaultsYAML)
	if err != nil {
		return nil, err
	}
	if err := l.lay(defaults.values, func(string) Source { return Source{Layer: "default"} }); err != nil {
		return nil, err
	}
	env := environment(o.Environ)
	if err := l.files(o.Files, env); err != nil {
		return nil, err
	}
	if err := l.environment(env); err != nil {
		return nil, err
	}
	if err := l.flags(o.Flags); err != nil {
		return nil, err
	}
	l.inherit()

	cfg := &Config{}
	decoder{&l.faults, &l.notices}.into("", l.raw(), reflect.ValueOf(cfg).Elem())
	validate(cfg, &l.faults)
	if err := l.faults.err(); err != nil {
		return nil, err
	}
	cfg.Notices = append(l.notices, unusedNotices(cfg)...)
	cfg.settings = listSettings(cfg, l.sources)
	return cfg, nil
}

type loader struct {
	k       *koanf.Koanf
	sources map[string]Source
	faults  faults
	notices []string
	extra   map[string]any // what inherit adds, by path
}

// layer is one layer's nested values, as koanf takes them.
type layer map[string]any

func (l layer) Read() (map[string]any, error) { return l, nil }

// ReadBytes is there for koanf's interface: a layer is parsed already.
func (l layer) ReadBytes() ([]byte, error) { return nil, errors.ErrUnsupported }

// lay puts one layer over those below it and notes where its values come from.
func (l *loader) lay(values map[string]any, source func(path string) Source) error {
	prune(values, "")
	leaves(values, "", func(path string, _ any) { l.sources[path] = source(path) })
	if err := l.k.Load(layer(values), nil); err != nil {
		return fmt.Errorf("merge the configuration: %w", err)
	}
	return nil
}

func (l *loader) files(names []string, env map[string]string) error {
	if len(names) == 0 {
		switch name := env["HXP_CONFIG"]; {
		case name != "":
			names = []string{name}
		default:
			if _, err := os.Stat(DefaultFile); err == nil {
				names = []string{DefaultFile}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("configuration: %w", err)
			}
		}
	}
	for _, name := range names {
		data, err := readBounded(name)
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		doc, err := parseYAML(name, data)
		if err != nil {
			return err
		}
		at := func(path string) Source {
			return Source{Layer: "file", Name: fmt.Sprintf("%s:%d", name, lineOf(doc.lines, path))}
		}
		if err := l.lay(doc.values, at); err != nil {
			return err
		}
	}
	return nil
}

// lineOf is the line of a path, or of the nearest block around it (a value that came by an alias has no line of its own).
func lineOf(lines map[string]int, path string) int {
	for {
		if n, ok := lines[path]; ok {
			return n
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return 1
		}
		path = path[:i]
	}
}

func readBounded(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxConfigBytes {
		return nil, fmt.Errorf("%s is %d bytes long; want at most %d", name, info.Size(), maxConfigBytes)
	}
	return os.ReadFile(name)
}

// inherited are the settings that take another's value where they have none.
var inheritedByModel = []struct{ name, from string }{
	{"gpu_memory_utilization", "vllm_integration.performance_optimization.gpu_memory_utilization"},
	{"max_model_len", "vllm_integration.performance_optimization.max_model_len"},
	{"slots", "worker.slots"},
}

// inherit fills what a model, or the worker block, takes from a more general setting.
func (l *loader) inherit() {
	l.extra = map[string]any{}
	fill := func(path, from string) {
		v := l.k.Get(from)
		if x, ok := l.extra[from]; ok {
			v = x
		}
		if l.k.Get(path) == nil && v != nil {
			l.extra[path] = v
			l.sources[path] = Source{Layer: "inherited", Name: from}
		}
	}
	fill("worker.slots", "vllm_integration.engine_args.max_num_seqs")
	for name, block := range l.modelBlocks() {
		if _, ok := block.(map[string]any); !ok {
			continue
		}
		for _, in := range inheritedByModel {
			fill("ai_model_services."+name+"."+in.name, in.from)
		}
		if path := "ai_model_services." + name + ".tensor_parallel_size"; l.k.Get(path) == nil {
			l.extra[path] = int64(1)
		}
	}
}

func (l *loader) modelBlocks() map[string]any {
	blocks, _ := l.k.Raw()["ai_model_services"].(map[string]any)
	return blocks
}

// raw returns the merged values with what was inherited.
func (l *loader) raw() map[string]any {
	out := l.k.Raw()
	for path, v := range l.extra {
		m := out
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			next, ok := m[p].(map[string]any)
			if !ok {
				m = nil // the block is of a wrong type, which decoding reports
				break
			}
			m = next
		}
		if m != nil {
			m[parts[len(parts)-1]] = v
		}
	}
	return out
}

// prune drops empty values, which leave a setting as it is. An empty block of a model stays: it
// takes that model out.
func prune(m map[string]any, path string) {
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil && path != "ai_model_services" })
	for k, v := range m {
		if block, ok := v.(map[string]any); ok {
			prune(block, join(path, k))
		}
	}
}

// leaves calls f for every value that is not a block.
func leaves(m map[string]any, path string, f func(path string, v any)) {
	for k, v := range m {
		at := join(path, k)
		if block, ok := v.(map[string]any); ok {
			f(at, nil)
			leaves(block, at, f)
			continue
		}
		f(at, v)
	}
}
