package app

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// anyName stands for the name of a model in a path.
const anyName = "*"

// knownPaths lists the path of every setting, with [anyName] for a model.
func knownPaths() []string {
	var out []string
	var visit func(t reflect.Type, path string)
	visit = func(t reflect.Type, path string) {
		switch t.Kind() {
		case reflect.Struct:
			for _, f := range fieldsOf(t) {
				visit(t.Field(f.index).Type, join(path, f.name))
			}
		case reflect.Map:
			visit(t.Elem(), join(path, anyName))
		default:
			out = append(out, path)
		}
	}
	visit(reflect.TypeFor[Config](), "")
	return out
}

// didYouMean suggests the setting that path was probably meant to be: a sibling that is spelled
// nearly the same, or a setting of that very name elsewhere.
func didYouMean(path string) string {
	best, bestDistance := "", math.MaxInt
	parts := strings.Split(path, ".")
	for _, known := range knownPaths() {
		k := strings.Split(known, ".")
		candidate := k[:min(len(k), len(parts))]
		if !sameParent(parts, candidate) {
			if k[len(k)-1] == parts[len(parts)-1] && !slices.Contains(k, anyName) && bestDistance > 3 {
				best, bestDistance = known, 3
			}
			continue
		}
		name := candidate[len(candidate)-1]
		if strings.HasPrefix(parts[len(parts)-1], name+"_") && bestDistance > 2 {
			best, bestDistance = strings.Join(append(slices.Clone(parts[:len(parts)-1]), name), "."), 2
		}
		if d := distance(parts[len(parts)-1], name); d > 0 && d < bestDistance && d <= max(2, len(name)/3) {
			best = strings.Join(append(slices.Clone(parts[:len(parts)-1]), name), ".")
			bestDistance = d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// sameParent reports whether known differs from path in its last part only.
func sameParent(path, known []string) bool {
	if len(path) != len(known) {
		return false
	}
	for i := range len(path) - 1 {
		if known[i] != path[i] && known[i] != anyName {
			return false
		}
	}
	return known[len(known)-1] != anyName
}

// nearest returns the candidate closest to s, or "" if none is close.
func nearest(s string, candidates []string) string {
	best, bestDistance := "", max(2, len(s)/4)+1
	for _, c := range candidates {
		if d := distance(s, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the letters to insert, drop or replace to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
