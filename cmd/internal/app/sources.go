package app

import (
	"fmt"
	"net/url"
	"reflect"
	"sort"
	"strings"
)

// Source says where a value was written.
type Source struct {
	// Layer is "default", "file", "env", "flag", "inherited" or "derived".
	Layer string `json:"layer"`
	// Name is the file and line, the variable, the flag, or the path it was inherited or derived from.
	Name string `json:"name,omitempty"`
}

func (s Source) String() string {
	switch s.Layer {
	case "file":
		return s.Name
	case "inherited":
		return "as " + s.Name
	case "derived":
		return "by " + s.Name
	case "default":
		return "default"
	default:
		return s.Layer + " " + s.Name
	}
}

// Setting is one value of the configuration. Secrets are masked.
type Setting struct {
	Path   string `json:"path"`
	Value  any    `json:"value"`
	Source Source `json:"source"`
}

// Settings lists every setting, models and sections in the order of their paths.
func (c *Config) Settings() []Setting { return c.settings }

const mask = "********"

func listSettings(cfg *Config, sources map[string]Source) []Setting {
	var out []Setting
	walk(reflect.ValueOf(cfg).Elem(), "", "", func(path, option string, v reflect.Value) {
		src, ok := sources[path]
		if !ok {
			src = Source{Layer: "default"}
		}
		out = append(out, Setting{Path: path, Value: display(v, option), Source: src})
	})
	sort.SliceStable(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// walk calls leaf for every setting of v, a struct.
func walk(v reflect.Value, path, option string, leaf func(path, option string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			walk(v.Field(f.index), join(path, f.name), f.option, leaf)
		}
		if i, ok := extraField(v.Type()); ok {
			for _, k := range v.Field(i).MapKeys() {
				leaf(join(path, k.String()), "", v.Field(i).MapIndex(k))
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			walk(v.MapIndex(k), join(path, k.String()), "", leaf)
		}
	default:
		leaf(path, option, v)
	}
}

func display(v reflect.Value, option string) any {
	switch x := v.Interface().(type) {
	case string:
		switch {
		case x != "" && option == "secret":
			return mask
		case option == "secret-url":
			return maskURL(x)
		}
		return x
	case fmt.Stringer:
		return x.String()
	default:
		return x
	}
}

// maskURL hides the password, or the token, that a URL may carry.
func maskURL(s string) string {
	parts := strings.Split(s, ",")
	for i, p := range parts {
		u, err := url.Parse(p)
		if err != nil {
			parts[i] = mask
			continue
		}
		if u.User == nil && strings.Contains(p, "@") {
			parts[i] = mask // the end of a password with a comma in it
			continue
		}
		if u.User == nil {
			continue
		}
		at := strings.LastIndex(p, "@")
		parts[i] = u.Scheme + "://" + mask + p[at:]
	}
	return strings.Join(parts, ",")
}

type field struct {
	name, option string
	index        int
}

// fieldsOf lists the settings of a struct type.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("config"), ",")
		if name != "" && name != "-" {
			out = append(out, field{name, option, i})
		}
	}
	return out
}

// extraField is the field that takes the settings which have none of their own.
func extraField(t reflect.Type) (int, bool) {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("config") == ",extra" {
			return i, true
		}
	}
	return 0, false
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
