package app

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	anyType      = reflect.TypeFor[any]()
)

// decoder moves nested maps into a Config and collects every fault on the way.
type decoder struct {
	faults  *faults
	notices *[]string
}

// into decodes raw into dst. What raw does not hold is left as it is.
func (d decoder) into(path string, raw any, dst reflect.Value) {
	if raw == nil {
		return
	}
	switch {
	case dst.Type() == durationType:
		d.duration(path, raw, dst)
	case dst.Type() == bytesType:
		d.bytes(path, raw, dst)
	case dst.Kind() == reflect.Struct:
		d.section(path, raw, dst)
	case dst.Kind() == reflect.Map:
		d.table(path, raw, dst)
	case dst.Kind() == reflect.Array:
		d.pair(path, raw, dst)
	case dst.Kind() == reflect.Slice:
		d.list(path, raw, dst)
	default:
		d.scalar(path, raw, dst)
	}
}

func (d decoder) section(path string, raw any, dst reflect.Value) {
	m, ok := raw.(map[string]any)
	if !ok {
		d.faults.add(path, "%s; want a block of settings", describe(raw))
		return
	}
	fields := fieldsOf(dst.Type())
	known := map[string]int{}
	for _, f := range fields {
		known[f.name] = f.index
	}
	for _, name := range sortedKeys(m) {
		at := join(path, name)
		if i, ok := known[name]; ok {
			d.into(at, m[name], dst.Field(i))
			continue
		}
		if d.removed(at, name, m[name]) {
			continue
		}
		if i, ok := extraField(dst.Type()); ok {
			d.engineArg(at, name, m[name], dst.Field(i))
			continue
		}
		d.faults.add(at, "is not a setting%s", didYouMean(at))
	}
}

func (d decoder) table(path string, raw any, dst reflect.Value) {
	m, ok := raw.(map[string]any)
	if !ok {
		d.faults.add(path, "%s; want a block for each name", describe(raw))
		return
	}
	dst.Set(reflect.MakeMap(dst.Type()))
	for _, name := range sortedKeys(m) {
		if m[name] == nil {
			*d.notices = append(*d.notices, fmt.Sprintf("%s is empty: it is left out", join(path, name)))
			continue
		}
		v := reflect.New(dst.Type().Elem()).Elem()
		d.into(join(path, name), m[name], v)
		dst.SetMapIndex(reflect.ValueOf(name), v)
	}
}

func (d decoder) pair(path string, raw any, dst reflect.Value) {
	list, ok := raw.([]any)
	if !ok || len(list) != dst.Len() {
		d.faults.add(path, "%s; want a pair [lowest, highest]", describe(raw))
		return
	}
	for i, x := range list {
		d.scalar(path, x, dst.Index(i))
	}
}

// list takes a list of text, or one text for a list of one.
func (d decoder) list(path string, raw any, dst reflect.Value) {
	items, ok := raw.([]any)
	if s, isText := raw.(string); isText {
		items, ok = []any{s}, true
	}
	if !ok {
		d.faults.add(path, "%s; want a list of text", describe(raw))
		return
	}
	dst.Set(reflect.MakeSlice(dst.Type(), len(items), len(items)))
	for i, x := range items {
		d.scalar(path, x, dst.Index(i))
	}
}

func (d decoder) scalar(path string, raw any, dst reflect.Value) {
	switch dst.Kind() {
	case reflect.String:
		if s, ok := raw.(string); ok {
			dst.SetString(s)
			return
		}
		d.faults.add(path, "%s; want text (in quotes)", describe(raw))
	case reflect.Bool:
		if b, ok := raw.(bool); ok {
			dst.SetBool(b)
			return
		}
		d.faults.add(path, "%s; want true or false", describe(raw))
	case reflect.Float64:
		if f, ok := number(raw); ok {
			dst.SetFloat(f)
			return
		}
		d.faults.add(path, "%s; want a number", describe(raw))
	default:
		if f, ok := number(raw); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			dst.SetInt(int64(f))
			return
		}
		d.faults.add(path, "%s; want a whole number", describe(raw))
	}
}

func (d decoder) duration(path string, raw any, dst reflect.Value) {
	if s, ok := raw.(string); ok {
		if v, err := time.ParseDuration(s); err == nil {
			dst.SetInt(int64(v))
			return
		}
	}
	d.faults.add(path, "%s; want a duration such as 500ms, 30s or 24h", describe(raw))
}

func (d decoder) bytes(path string, raw any, dst reflect.Value) {
	text, ok := raw.(string)
	if f, isNumber := number(raw); isNumber {
		text, ok = strconv.FormatFloat(f, 'f', -1, 64), true
	}
	if v, err := ParseBytes(text); ok && err == nil {
		dst.SetInt(int64(v))
		return
	}
	d.faults.add(path, "%s; want a size such as 1048576, 512MiB or 2GiB", describe(raw))
}

func number(raw any) (float64, bool) {
	switch v := raw.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return 0, false
}

// describe says what a value is, for a fault about its type.
func describe(raw any) string {
	switch v := raw.(type) {
	case nil:
		return "is empty"
	case string:
		return fmt.Sprintf("%.60q is text", v)
	case bool:
		return fmt.Sprintf("%t is true or false", v)
	case []any:
		return fmt.Sprintf("is a list of %d", len(v))
	case map[string]any:
		return "is a block"
	default:
		return fmt.Sprintf("%v is a number", v)
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
