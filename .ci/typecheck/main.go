// Typecheck checks the packages of the current directory's module, and their tests, for
// systems other than this one: it checks the types, and runs the passes of go vet. Unlike
// go vet it compiles nothing. What go vet knows of the imported packages is in what the
// compiler writes, so it compiles the standard library for each system; typecheck reads the
// sources.
//
//	typecheck GOOS/GOARCH...
//
// It prints each error with the first of the systems that have it, and exits with status 1
// if there are any.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/tools/go/analysis/checker"
	"golang.org/x/tools/go/packages"
)

func main() {
	targets := os.Args[1:]
	if len(targets) == 0 {
		fmt.Fprintln(os.Stderr, "usage: typecheck GOOS/GOARCH...")
		os.Exit(2)
	}
	// Most of what is there lives long, so collecting it less often is a sixth faster.
	debug.SetGCPercent(400)
	debug.SetMemoryLimit(3 << 30)
	sources := newSources()
	found := make([][]string, len(targets))
	var group errgroup.Group
	// Part of each is sequential, as go list is, so that two overlap well. More need more memory.
	group.SetLimit(2)
	for i, target := range targets {
		group.Go(func() error {
			found[i] = check(target, sources)
			return nil
		})
	}
	_ = group.Wait()
	seen := make(map[string]bool)
	for i, target := range targets {
		for _, text := range found[i] {
			if !seen[text] {
				seen[text] = true
				fmt.Printf("%s: %s\n", target, text)
			}
		}
	}
	if len(seen) > 0 {
		os.Exit(1)
	}
}

// check returns what is wrong on one system.
func check(target string, sources *sources) (found []string) {
	goos, goarch, ok := strings.Cut(target, "/")
	if !ok {
		return []string{"not GOOS/GOARCH"}
	}
	pkgs, err := packages.Load(&packages.Config{
		Mode: packages.LoadAllSyntax | packages.NeedModule,
		// As go vet has it where it is called for another system.
		Env:       append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0"),
		Fset:      sources.fset,
		ParseFile: sources.parse,
		Tests:     true,
	}, "./...")
	if err != nil {
		return []string{err.Error()}
	}
	if len(pkgs) == 0 {
		return []string{"no packages"} // it would have passed
	}
	packages.Visit(pkgs, nil, func(pkg *packages.Package) {
		for _, err := range pkg.Errors {
			found = append(found, err.Error())
		}
	})
	if len(found) > 0 {
		return found
	}
	// A package is part of its own with tests, and the main package of tests is generated.
	pkgs = slices.DeleteFunc(pkgs, func(pkg *packages.Package) bool {
		return strings.HasSuffix(pkg.ID, ".test") || slices.ContainsFunc(pkgs, func(other *packages.Package) bool {
			return other.ID != pkg.ID && other.PkgPath == pkg.PkgPath
		}) && pkg.ID == pkg.PkgPath
	})
	graph, err := checker.Analyze(passes, pkgs, nil)
	if err != nil {
		return []string{err.Error()}
	}
	for _, action := range graph.Roots {
		if action.Err != nil {
			found = append(found, fmt.Sprintf("%s: %s: %v", action.Package.ID, action.Analyzer.Name, action.Err))
		}
		for _, diagnostic := range action.Diagnostics {
			found = append(found, fmt.Sprintf("%s: %s", sources.fset.Position(diagnostic.Pos), diagnostic.Message))
		}
	}
	return found
}

// sources are the files that were read, most of which several systems share.
type sources struct {
	fset  *token.FileSet
	mu    sync.Mutex
	files map[string]func() (*ast.File, error)
}

func newSources() *sources {
	return &sources{fset: token.NewFileSet(), files: make(map[string]func() (*ast.File, error))}
}

// parse is a packages.Config's ParseFile. What it returns is not changed by anybody.
func (s *sources) parse(fset *token.FileSet, name string, text []byte) (*ast.File, error) {
	s.mu.Lock()
	file := s.files[name]
	if file == nil {
		file = sync.OnceValues(func() (*ast.File, error) {
			return parser.ParseFile(fset, name, text, parser.AllErrors|parser.ParseComments|parser.SkipObjectResolution)
		})
		s.files[name] = file
	}
	s.mu.Unlock()
	return file()
}
