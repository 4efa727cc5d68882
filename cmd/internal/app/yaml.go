package app

import (
	"errors"
	"fmt"
	"math"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds of a configuration file.
const (
	maxConfigBytes = 1 << 20
	// maxConfigNodes also bounds what aliases can multiply.
	maxConfigNodes = 20_000
	maxConfigDepth = 32
)

// document is a parsed file: nested maps, and the line of every path.
type document struct {
	values map[string]any
	lines  map[string]int
}

// parseYAML reads one YAML document.
func parseYAML(name string, data []byte) (document, error) {
	if len(data) > maxConfigBytes {
		return document{}, fmt.Errorf("%s is %d bytes long; want at most %d", name, len(data), maxConfigBytes)
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return document{}, syntaxError(name, err)
	}
	r := reader{name: name, lines: map[string]int{}, anchors: map[string]ast.Node{}}
	var root any
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if root != nil {
			return document{}, fmt.Errorf("%s holds more than one YAML document; want one", name)
		}
		if root, err = r.read(d.Body, "", 0); err != nil {
			return document{}, err
		}
	}
	if root == nil {
		return document{values: map[string]any{}, lines: r.lines}, nil
	}
	m, ok := root.(map[string]any)
	if !ok {
		return document{}, fmt.Errorf("%s is not a mapping of settings", name)
	}
	return document{values: m, lines: r.lines}, nil
}

func syntaxError(name string, err error) error {
	if ye, ok := errors.AsType[yaml.Error](err); ok {
		if tok := ye.GetToken(); tok != nil && tok.Position != nil {
			return fmt.Errorf("%s:%d:%d: %s", name, tok.Position.Line, tok.Position.Column, ye.GetMessage())
		}
	}
	return fmt.Errorf("%s: %w", name, err)
}

type reader struct {
	name    string
	lines   map[string]int
	anchors map[string]ast.Node
	nodes   int
}

func (r *reader) read(n ast.Node, path string, depth int) (any, error) {
	if r.nodes++; r.nodes > maxConfigNodes {
		return nil, fmt.Errorf("%s has more than %d values", r.name, maxConfigNodes)
	}
	if depth > maxConfigDepth {
		return nil, r.faultAt(n, "nested more than %d levels deep", maxConfigDepth)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		m := map[string]any{}
		for _, v := range n.Values {
			if err := r.pair(m, v, path, depth); err != nil {
				return nil, err
			}
		}
		return m, nil
	case *ast.MappingValueNode:
		m := map[string]any{}
		return m, r.pair(m, n, path, depth)
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for _, v := range n.Values {
			item, err := r.read(v, path, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, nil
	case *ast.AnchorNode:
		r.anchors[n.Name.GetToken().Value] = n.Value
		return r.read(n.Value, path, depth+1)
	case *ast.AliasNode:
		to, ok := r.anchors[n.Value.GetToken().Value]
		if !ok {
			return nil, r.faultAt(n, "alias *%s has no anchor before it", n.Value.GetToken().Value)
		}
		return r.read(to, path, depth+1)
	case *ast.TagNode:
		return nil, r.faultAt(n, "tag %s is not supported in a configuration", n.Start.Value)
	case *ast.InfinityNode:
		return n.Value, nil
	case *ast.NanNode:
		return math.NaN(), nil
	case ast.ScalarNode:
		return scalar(n), nil
	default:
		return nil, r.faultAt(n, "%s is not supported in a configuration", n.Type())
	}
}

func scalar(n ast.ScalarNode) any {
	switch v := n.GetValue().(type) {
	case uint64:
		if v > math.MaxInt64 {
			return float64(v)
		}
		return int64(v)
	default:
		return v
	}
}

func (r *reader) pair(m map[string]any, v *ast.MappingValueNode, path string, depth int) error {
	if _, ok := v.Key.(*ast.MergeKeyNode); ok {
		merged, err := r.read(v.Value, path, depth+1)
		if err != nil {
			return err
		}
		from, ok := merged.(map[string]any)
		if !ok {
			return r.faultAt(v, "<< wants a mapping")
		}
		for k, x := range from {
			if _, set := m[k]; !set {
				m[k] = x
			}
		}
		return nil
	}
	key := v.Key.GetToken().Value
	at := join(path, key)
	r.lines[at] = v.Key.GetToken().Position.Line
	x, err := r.read(v.Value, at, depth+1)
	if err != nil {
		return err
	}
	m[key] = x
	return nil
}

func (r *reader) faultAt(n ast.Node, format string, args ...any) error {
	where := r.name
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		where = fmt.Sprintf("%s:%d", r.name, tok.Position.Line)
	}
	return fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...))
}
