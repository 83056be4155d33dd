package chanmq_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/chanmq/chanmq"

// TestFilesUseEachOtherOneWay: where files of the root package use each other in a
// circle, there are two of them and no more. And docs/architecture.md lists them in
// layers, each of which uses itself and those above it in the table.
func TestFilesUseEachOtherOneWay(t *testing.T) {
	uses := usesOfFiles(t)
	for _, cycle := range longCycles(uses) {
		var b strings.Builder
		for i, from := range cycle {
			to := cycle[(i+1)%len(cycle)]
			fmt.Fprintf(&b, "\n\t%s uses %s of %s", from, strings.Join(uses[from][to], ", "), to)
		}
		t.Errorf("%d files use each other in a circle:%s", len(cycle), b.String())
	}

	layer := make(map[string]int)
	for n, row := range architectureRows(t, true) {
		for _, file := range row[0] {
			layer[file] = n
		}
	}
	for _, from := range slices.Sorted(maps.Keys(uses)) {
		own, ok := layer[from]
		if !ok {
			t.Errorf("docs/architecture.md does not list %s", from)
			continue
		}
		for _, to := range slices.Sorted(maps.Keys(uses[from])) {
			if n, ok := layer[to]; ok && n > own {
				t.Errorf("%s uses %s of %s, which docs/architecture.md has in a later row", from, strings.Join(uses[from][to], ", "), to)
			}
		}
	}
}

// fileUses has the names that a file uses, by the file that defines them.
type fileUses map[string][]string

// usesOfFiles returns what each file of the root package uses of the others: types,
// functions, methods, fields, variables and constants.
func usesOfFiles(t *testing.T) map[string]fileUses {
	t.Helper()
	fset := token.NewFileSet()
	uses := make(map[string]fileUses)
	var files []*ast.File
	for _, file := range sourceFiles(t) {
		if path.Dir(file) != "." {
			continue
		}
		parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, parsed)
		uses[file] = make(fileUses)
	}
	info := types.Info{Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: importer.ForCompiler(fset, "source", nil)}
	pkg, err := config.Check(modulePath, fset, files, &info)
	if err != nil {
		t.Fatal(err)
	}
	for identifier, object := range info.Uses {
		if object.Pkg() != pkg {
			continue
		}
		from, to := fset.File(identifier.Pos()).Name(), fset.File(object.Pos()).Name()
		if name := object.Name(); from != to && !slices.Contains(uses[from][to], name) {
			uses[from][to] = append(uses[from][to], name)
		}
	}
	for _, of := range uses {
		for _, names := range of {
			slices.Sort(names)
		}
	}
	return uses
}

// longCycles returns, for each use that is part of a cycle of more than two files, the
// shortest such cycle, each once.
func longCycles(uses map[string]fileUses) [][]string {
	var cycles [][]string
	known := make(map[string]bool)
	for _, from := range slices.Sorted(maps.Keys(uses)) {
		for _, to := range slices.Sorted(maps.Keys(uses[from])) {
			cycle := shortestDetour(uses, to, from)
			if cycle == nil {
				continue
			}
			first := slices.Index(cycle, slices.Min(cycle))
			cycle = slices.Concat(cycle[first:], cycle[:first])
			if key := strings.Join(cycle, " "); !known[key] {
				known[key] = true
				cycles = append(cycles, cycle)
			}
		}
	}
	slices.SortFunc(cycles, func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
	return cycles
}

// shortestDetour returns the files on the shortest way between two, other than the
// direct one; nil if there is none.
func shortestDetour(uses map[string]fileUses, from, to string) []string {
	before := map[string]string{from: ""}
	for next := []string{from}; len(next) > 0; next = next[1:] {
		at := next[0]
		for _, file := range slices.Sorted(maps.Keys(uses[at])) {
			if _, seen := before[file]; seen || at == from && file == to {
				continue
			}
			before[file] = at
			next = append(next, file)
		}
	}
	if _, found := before[to]; !found {
		return nil
	}
	var way []string
	for file := to; file != ""; file = before[file] {
		way = append(way, file)
	}
	slices.Reverse(way)
	return way
}

// TestLongCycles: the check finds what it is for.
func TestLongCycles(t *testing.T) {
	name := []string{"x"}
	for _, test := range []struct {
		name string
		uses map[string]fileUses
		want [][]string
	}{
		{"one way", map[string]fileUses{"a": {"b": name, "c": name}, "b": {"c": name}}, nil},
		{"two", map[string]fileUses{"a": {"b": name}, "b": {"a": name, "c": name}, "c": {"b": name}}, nil},
		{"three", map[string]fileUses{"c": {"a": name}, "a": {"b": name}, "b": {"c": name}}, [][]string{{"a", "b", "c"}}},
		{"four, and two of them", map[string]fileUses{"a": {"b": name}, "b": {"a": name, "c": name}, "c": {"d": name}, "d": {"a": name}},
			[][]string{{"a", "b", "c", "d"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := longCycles(test.uses); !slices.EqualFunc(got, test.want, slices.Equal) {
				t.Errorf("cycles %v, want %v", got, test.want)
			}
		})
	}
}

// TestImports: packages import what docs/architecture.md says, whatever their build
// constraints; the system calls are in one package, and so is package unsafe, but for
// the codec of C structs.
func TestImports(t *testing.T) {
	documented := make(map[string][]string) // by package
	for _, row := range architectureRows(t, false) {
		if len(row) == 3 {
			for _, name := range row[0] {
				documented[name] = row[2]
			}
		}
	}
	imports := make(map[string][]string) // by package
	for _, file := range sourceFiles(t) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		pkg := path.Dir(file)
		switch {
		case pkg == ".":
			pkg = "chanmq"
		case path.Dir(pkg) == "examples":
			pkg = "examples/*"
		}
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if name == "unsafe" && pkg != "internal/sysv" && file != "codec/struct.go" {
				t.Errorf("%s imports unsafe", file)
			}
			if strings.HasPrefix(name, "golang.org/x/sys/") && pkg != "internal/sysv" {
				t.Errorf("%s imports %s", file, name)
			}
			if within, ok := strings.CutPrefix(name, modulePath+"/"); ok {
				name = within
			} else if name == modulePath {
				name = "chanmq"
			} else if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			if !slices.Contains(imports[pkg], name) {
				imports[pkg] = append(imports[pkg], name)
			}
		}
		if _, ok := documented[pkg]; !ok {
			t.Errorf("docs/architecture.md does not list package %s", pkg)
			documented[pkg] = nil
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(documented)) {
		got, want := slices.Sorted(slices.Values(imports[pkg])), slices.Sorted(slices.Values(documented[pkg]))
		if !slices.Equal(got, want) {
			t.Errorf("package %s imports %v, and docs/architecture.md says %v", pkg, got, want)
		}
	}
	for _, name := range imports["internal/wait"] {
		if name != "internal/sysv" && !strings.HasPrefix(name, "golang.org/x/sync/") {
			t.Errorf("internal/wait imports %s", name)
		}
	}
}

// sourceFiles returns the Go files of the root module that are not tests, whatever
// their build constraints, with slashes.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
		case entry.IsDir():
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return fs.SkipDir // another module
			}
			if base := entry.Name(); base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
				return fs.SkipDir // as the go command does
			}
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// architectureRows returns the rows of the tables of docs/architecture.md whose first
// cell has names, quoted, of files or else of packages: the quoted names of each cell.
func architectureRows(t *testing.T, files bool) (rows [][][]string) {
	t.Helper()
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		var row [][]string
		for cell := range strings.SplitSeq(strings.Trim(line, "|\n"), "|") {
			var names []string
			for _, name := range quoted.FindAllStringSubmatch(cell, -1) {
				names = append(names, name[1])
			}
			row = append(row, names)
		}
		if strings.HasSuffix(row[0][0], ".go") == files {
			rows = append(rows, row)
		}
	}
	if rows == nil {
		t.Fatal("docs/architecture.md has no such table")
	}
	return rows
}
