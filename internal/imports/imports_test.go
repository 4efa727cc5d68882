// Package imports_test holds the import rule of the module: see rules.
package imports_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/hxp-enterprise/hxp"

// root is the module's folder, from this one.
const root = "../.."

// node is a package as the go command lists it.
type node struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func TestImports(t *testing.T) {
	t.Parallel()
	pkgs := list(t)
	if len(pkgs) == 0 {
		t.Fatal("go list names no package")
	}
	for _, fault := range slices.Concat(checkRules(rules), check(pkgs, rules)) {
		t.Error(fault)
	}
}

// list asks the go command for every package of the module.
func list(t *testing.T) []node {
	t.Helper()
	touch(t)
	// -e: what does not compile is for the compiler to say; its imports are here all the same.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []node
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var n node
		switch err := dec.Decode(&n); {
		case errors.Is(err, io.EOF):
			return pkgs
		case err != nil:
			t.Fatalf("decode go list's output: %v", err)
		}
		pkgs = append(pkgs, n)
	}
}

// touch looks at every Go file of the module, because what the go command reads in a process of
// its own is not part of the key under which `go test` caches this test's result.
func touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.IsDir() && filepath.Ext(path) == ".go":
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// check compares what packages import with what the rules allow, and returns every fault.
func check(pkgs []node, rules []rule) []string {
	var faults []string
	allowed, tests := map[string][]string{}, map[string][]string{}
	for _, r := range rules {
		allowed[r.pkg], tests[r.pkg] = r.imports, r.tests
	}
	seen := map[string]bool{}
	for _, n := range pkgs {
		pkg := relative(n.ImportPath)
		seen[pkg] = true
		imports, listed := allowed[pkg]
		if !listed {
			faults = append(faults, fmt.Sprintf("%s has no row in rules_test.go: add one that says what it may import", pkg))
			continue
		}
		for _, imported := range ours(n.Imports) {
			if !slices.Contains(imports, imported) {
				faults = append(faults, fmt.Sprintf("%s imports %s: its row in rules_test.go does not allow it", pkg, imported))
			}
		}
		for _, imported := range ours(slices.Concat(n.TestImports, n.XTestImports)) {
			if imported != pkg && !slices.Contains(slices.Concat(imports, tests[pkg], forTests), imported) {
				faults = append(faults, fmt.Sprintf("a test of %s imports %s: neither its row nor forTests allows it", pkg, imported))
			}
		}
	}
	for _, r := range rules {
		if !seen[r.pkg] {
			faults = append(faults, fmt.Sprintf("%s has a row in rules_test.go but is no package: remove the row", r.pkg))
		}
	}
	return faults
}

// checkRules returns every fault of the rules themselves, so that no row can allow an arrow that
// the drawing forbids.
func checkRules(rules []rule) []string {
	var faults []string
	fault := func(r rule, imported, why string) {
		faults = append(faults, fmt.Sprintf("the row of %s allows %s: %s", r.pkg, imported, why))
	}
	rows := map[string]int{}
	for _, r := range rules {
		if rows[r.pkg]++; rows[r.pkg] == 2 {
			faults = append(faults, fmt.Sprintf("%s has two rows", r.pkg))
		}
		from := floor(r.pkg)
		if from < 0 {
			faults = append(faults, fmt.Sprintf("%s is on no floor of layers", r.pkg))
			continue
		}
		for _, imported := range r.imports {
			to := floor(imported)
			switch {
			case to < 0:
				fault(r, imported, "it is on no floor of layers")
			case to > from:
				fault(r, imported, "the arrow runs upwards")
			case within(imported, r.pkg) && !within(imported, r.pkg+"/internal"):
				fault(r, imported, "a parent never imports its child")
			case within(imported, "cmd/internal") && !within(r.pkg, "cmd"):
				fault(r, imported, "only cmd may import it")
			case imported == "internal/schematest":
				fault(r, imported, "it is for tests")
			}
			for _, pair := range apart {
				if within(r.pkg, pair[0]) && within(imported, pair[1]) || within(r.pkg, pair[1]) && within(imported, pair[0]) {
					fault(r, imported, pair[0]+" and "+pair[1]+" never import each other")
				}
			}
		}
	}
	return faults
}

// relative is an import path of the module, relative to it; "." is the module's own folder.
func relative(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

// ours returns those of paths that are of the module, relative to it, each once.
func ours(paths []string) []string {
	var out []string
	for _, path := range paths {
		if within(path, module) {
			out = append(out, relative(path))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// within reports whether pkg is tree or below it.
func within(pkg, tree string) bool { return pkg == tree || strings.HasPrefix(pkg, tree+"/") }

// floor returns the layer of a package, or -1.
func floor(pkg string) int {
	found, length := -1, 0
	for _, l := range layers {
		if within(pkg, l.prefix) && len(l.prefix) > length {
			found, length = l.floor, len(l.prefix)
		}
	}
	return found
}

// TestCheckFindsFaults shows that the checker finds what it is there to find.
func TestCheckFindsFaults(t *testing.T) {
	t.Parallel()
	table := []rule{{pkg: "schemas"}, {pkg: "producer", imports: []string{"schemas"}}, {pkg: "workers", imports: []string{"schemas"}}}
	path := func(rel string) string { return module + "/" + rel }
	sound := []node{
		{ImportPath: path("schemas"), Imports: []string{"fmt"}},
		{
			ImportPath:   path("producer"),
			Imports:      []string{"context", path("schemas")},
			TestImports:  []string{path("internal/embedded")},
			XTestImports: []string{path("producer"), path("internal/vllmsim")},
		},
		{ImportPath: path("workers"), Imports: []string{path("schemas")}},
	}
	for _, tc := range []struct {
		name string
		with func(pkgs []node) []node
		want []string
	}{
		{"a sound module", func(pkgs []node) []node { return pkgs }, nil},
		{
			"an import that no row allows",
			func(pkgs []node) []node {
				pkgs[1].Imports = append(pkgs[1].Imports, path("workers"), path("internal/vllmsim"))
				return pkgs
			},
			[]string{
				"producer imports internal/vllmsim: its row in rules_test.go does not allow it",
				"producer imports workers: its row in rules_test.go does not allow it",
			},
		},
		{
			"a test import that no row allows",
			func(pkgs []node) []node {
				pkgs[2].TestImports = []string{path("producer")}
				pkgs[2].XTestImports = []string{path("producer")}
				return pkgs
			},
			[]string{"a test of workers imports producer: neither its row nor forTests allows it"},
		},
		{
			"a package without a row",
			func(pkgs []node) []node { return append(pkgs, node{ImportPath: path("producer/batch")}) },
			[]string{"producer/batch has no row in rules_test.go: add one that says what it may import"},
		},
		{
			"the module's own folder",
			func(pkgs []node) []node { return append(pkgs, node{ImportPath: module}) },
			[]string{". has no row in rules_test.go: add one that says what it may import"},
		},
		{
			"a row without a package",
			func(pkgs []node) []node { return pkgs[:2] },
			[]string{"workers has a row in rules_test.go but is no package: remove the row"},
		},
		{
			"a foreign path that begins like ours",
			func(pkgs []node) []node {
				pkgs[0].Imports = []string{module + "-tools/lint"}
				return pkgs
			},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, check(tc.with(slices.Clone(sound)), table)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCheckRulesFindsFaults shows that a row cannot allow what the drawing forbids.
func TestCheckRulesFindsFaults(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rule rule
		want string
	}{
		{rule{pkg: "workers", imports: []string{"schemas", "internal/queue"}}, ""},
		{rule{pkg: "workers/vllm", imports: []string{"workers"}}, ""},
		{rule{pkg: "schemas", imports: []string{"internal/queue"}}, "the arrow runs upwards"},
		{rule{pkg: "internal/queue", imports: []string{"producer"}}, "the arrow runs upwards"},
		{rule{pkg: "conversation", imports: []string{"loadtest"}}, "the arrow runs upwards"},
		{rule{pkg: "schemas", imports: []string{"schemas/openai"}}, "a parent never imports its child"},
		{rule{pkg: "schemas", imports: []string{"schemas/internal/jsonscan"}}, ""},
		{rule{pkg: "producer", imports: []string{"workers"}}, "producer and workers never import each other"},
		{rule{pkg: "workers/vllm", imports: []string{"producer/batch"}}, "producer and workers never import each other"},
		{rule{pkg: "cmd/hxp", imports: []string{"cmd/internal/app"}}, ""},
		{rule{pkg: "workers", imports: []string{"internal/schematest"}}, "it is for tests"},
		{rule{pkg: "workers", imports: []string{"utility"}}, "it is on no floor of layers"},
		{rule{pkg: "loadtest", imports: []string{"cmd/internal/app"}}, "the arrow runs upwards"},
	} {
		t.Run(tc.rule.pkg+" "+strings.Join(tc.rule.imports, " "), func(t *testing.T) {
			t.Parallel()
			var want []string
			if tc.want != "" {
				want = []string{fmt.Sprintf("the row of %s allows %s: %s", tc.rule.pkg, tc.rule.imports[0], tc.want)}
			}
			if diff := cmp.Diff(want, checkRules([]rule{tc.rule})); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
	twice := checkRules([]rule{{pkg: "schemas"}, {pkg: "schemas"}, {pkg: "utility"}})
	if diff := cmp.Diff([]string{"schemas has two rows", "utility is on no floor of layers"}, twice); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}
