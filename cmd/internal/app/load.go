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
	cfg.options, cfg.files = o, append(l.read, cfg.moderationFiles()...)
	return cfg, nil
}

type loader struct {
	k       *koanf.Koanf
	sources map[string]Source
	faults  faults
	notices []string
	extra   map[string]any // what inherit adds, by path
	read    []string       // the files
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
		l.read = append(l.read, name)
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

func (l *loader) modelBlocks() map[string]any {
	blocks, _ := l.k.Raw()["ai_model_services"].(map[string]any)
	return blocks
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
