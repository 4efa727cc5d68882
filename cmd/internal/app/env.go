package app

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// envPrefix begins the name of every variable that is a setting.
const envPrefix = "HXP_"

// wellKnown are variables under names that other tools use too. The HXP_ name of a setting wins.
var wellKnown = []struct{ name, path string }{
	{"NATS_URL", "nats.url"},
	{"NATS_CREDS", "nats.creds"},
	{"NATS_USER", "nats.user"},
	{"NATS_PASSWORD", "nats.password"},
	{"NATS_CA", "nats.ca"},
	{"REDIS_URL", "redis.url"},
	{"REDIS_PASSWORD", "redis.password"},
}

// reservedEnv are HXP_ variables that are no settings.
var reservedEnv = []string{"HXP_CONFIG", "HXP_MT_BENCH"}

func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return env
}

// envName is the variable of a setting: HXP_AI_MODEL_SERVICES_PHI3_PORT.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(path))
}

// environment lays the variables that are set, and not empty, over what is there.
func (l *loader) environment(env map[string]string) error {
	names := map[string]bool{}
	for _, r := range reservedEnv {
		names[r] = true
	}
	values := map[string]any{}
	sources := map[string]Source{}
	set := func(name, path string, kind reflect.Type) {
		if v := env[name]; v != "" {
			put(values, path, fromText(kind, v))
			sources[path] = Source{Layer: "env", Name: name}
		}
	}
	types := l.paths()
	for _, w := range wellKnown {
		set(w.name, w.path, types[w.path])
	}
	for path, kind := range types {
		names[envName(path)] = true
		set(envName(path), path, kind)
	}
	for name := range env {
		if strings.HasPrefix(name, envPrefix) && !names[name] {
			l.notices = append(l.notices, unknownVariable(name, names))
		}
	}
	slices.Sort(l.notices)
	return l.lay(values, func(path string) Source { return sources[path] })
}

// unknownVariable is a notice and no fault: platforms put variables of their own under any prefix.
func unknownVariable(name string, known map[string]bool) string {
	candidates := make([]string, 0, len(known))
	for k := range known {
		candidates = append(candidates, k)
	}
	slices.Sort(candidates)
	s := fmt.Sprintf("the variable %s is not a setting", name)
	if near := nearest(name, candidates); near != "" {
		s += "; did you mean " + near + "?"
	}
	return s
}

// flags lays what flags set over everything else.
func (l *loader) flags(flags []FlagValue) error {
	types := l.paths()
	for _, f := range flags {
		kind, ok := types[f.Path]
		if !ok {
			l.sources[f.Path] = Source{Layer: "flag", Name: f.Flag}
			// A model that no file declares may be declared by flags: its path is that of any other model.
			if kind, ok = types[generic(f.Path)]; !ok && isEngineArg(f.Path) {
				kind, ok = anyType, true
			}
			if !ok {
				l.faults.add(f.Path, "is not a setting%s", didYouMean(f.Path))
				continue
			}
		}
		if secret(f.Path) {
			l.sources[f.Path] = Source{Layer: "flag", Name: f.Flag}
			l.faults.add(f.Path, "is a secret, and every user of a machine can read arguments; set %s in the environment", envName(f.Path))
			continue
		}
		values := map[string]any{}
		put(values, f.Path, fromText(kind, f.Value))
		if err := l.lay(values, func(string) Source { return Source{Layer: "flag", Name: f.Flag} }); err != nil {
			return err
		}
	}
	return nil
}

// secret reports whether the setting at path must not be seen.
func secret(path string) bool {
	return path == "nats.password" || path == "redis.password" || strings.HasSuffix(path, ".api_key")
}

// generic puts [anyName] in the place of a name that a block gives: of a model, or of a policy.
func generic(path string) string {
	parts := strings.Split(path, ".")
	if len(parts) > 2 && parts[0] == modelsPath {
		parts[1] = anyName
	}
	if parts[0] != moderationPath {
		return strings.Join(parts, ".")
	}
	for i, t := 0, reflect.TypeFor[Config](); i < len(parts); i++ {
		switch t.Kind() {
		case reflect.Map:
			parts[i], t = anyName, t.Elem()
		case reflect.Struct:
			at := slices.IndexFunc(fieldsOf(t), func(f field) bool { return f.name == parts[i] })
			if at < 0 {
				return strings.Join(parts, ".")
			}
			t = t.Field(fieldsOf(t)[at].index).Type
		default:
			return strings.Join(parts, ".")
		}
	}
	return strings.Join(parts, ".")
}

// paths maps every setting's path, with those of the models and policies that are declared so far, to its type.
func (l *loader) paths() map[string]reflect.Type {
	out := map[string]reflect.Type{}
	var visit func(t reflect.Type, path string)
	visit = func(t reflect.Type, path string) {
		switch t.Kind() {
		case reflect.Struct:
			for _, f := range fieldsOf(t) {
				visit(t.Field(f.index).Type, join(path, f.name))
			}
		case reflect.Map:
			visit(t.Elem(), join(path, anyName))
			blocks, _ := l.k.Get(path).(map[string]any)
			for name, block := range blocks {
				if block != nil {
					visit(t.Elem(), join(path, name))
				}
			}
		default:
			out[path] = t
		}
	}
	visit(reflect.TypeFor[Config](), "")
	return out
}

// fromText turns a variable or a flag into what YAML would hold. What cannot be turned stays text,
// which decoding reports.
func fromText(t reflect.Type, s string) any {
	switch {
	case t == durationType || t == bytesType:
		return s
	case t == anyType:
		return anyFromText(s)
	case t.Kind() == reflect.Slice:
		var list []any
		for part := range strings.FieldsSeq(s) {
			list = append(list, part)
		}
		return list
	case t.Kind() == reflect.Bool:
		if b, err := strconv.ParseBool(s); err == nil {
			return b
		}
	case t.Kind() == reflect.Array:
		var list []any
		for part := range strings.SplitSeq(strings.Trim(s, "[] "), ",") {
			list = append(list, fromText(t.Elem(), strings.TrimSpace(part)))
		}
		return list
	case t.Kind() != reflect.String:
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f
		}
	}
	return s
}

// put sets the value at a path of nested maps.
func put(m map[string]any, path string, v any) {
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	m[parts[len(parts)-1]] = v
}
