package chanmq_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReliabilityNamesExist: docs/reliability.md names the tests that hold each
// promise, and the files that hold them. Every one of them is in this repository.
func TestReliabilityNamesExist(t *testing.T) {
	text, err := os.ReadFile("docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := declaredTests(t)
	test := regexp.MustCompile(`^(?:Test|Benchmark|Fuzz|Example)\w*`)
	tests := 0
	for _, quoted := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
		name := quoted[1]
		switch {
		case test.MatchString(name):
			tests++
			function, _, _ := strings.Cut(name, "/") // of a subtest
			if !declared[function] {
				t.Errorf("no test file declares func %s", function)
			}
		case strings.HasSuffix(name, "_test.go"): // from the root; it may be a pattern
			if files, err := filepath.Glob(name); err != nil || len(files) == 0 {
				t.Errorf("no file %s, %v", name, err)
			}
		}
	}
	if tests == 0 {
		t.Error("it names no test")
	}
}

// declaredTests returns the names of all tests, benchmarks, fuzz tests and examples
// in this directory and below, whatever their module and build constraints.
func declaredTests(t *testing.T) map[string]bool {
	t.Helper()
	declared := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := entry.Name(); {
		case entry.IsDir() && path != "." && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")):
			return fs.SkipDir // as the go command does
		case entry.IsDir() || !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				declared[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return declared
}
