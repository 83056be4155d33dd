package testkit

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// codeBlock is a block of code in Markdown, and the comment before it.
var codeBlock = regexp.MustCompile("(?m)(?:^<!-- (.*) -->\n)?^```(\\w+)\n((?s:.*?))^```$")

// Quotes checks the blocks of code of a Markdown file. A comment before a block names
// a file, relative to root, which must have the lines of the block one behind the
// other, all with the same additional indentation. Blocks in one of the languages
// must have such a comment.
func Quotes(t testing.TB, root, markdown string, languages ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, markdown))
	if err != nil {
		t.Fatal(err)
	}
	quoted := 0
	for _, block := range codeBlock.FindAllStringSubmatch(string(text), -1) {
		file, language, code := block[1], block[2], block[3]
		if file == "" {
			if slices.Contains(languages, language) {
				t.Errorf("%s: no comment names the file with\n%s", markdown, code)
			}
			continue
		}
		quoted++
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Error(err)
			continue
		}
		if !hasLines(string(source), code) {
			t.Errorf("%s: %s does not have\n%s", markdown, file, code)
		}
	}
	if quoted == 0 {
		t.Errorf("%s quotes nothing", markdown)
	}
}

// hasLines reports whether source contains the lines of code, all with the same
// additional indentation.
func hasLines(source, code string) bool {
	lines, wanted := strings.Split(source, "\n"), strings.Split(strings.TrimSuffix(code, "\n"), "\n")
	for i := range lines {
		indent, found := strings.CutSuffix(lines[i], wanted[0])
		if !found || strings.TrimSpace(indent) != "" || i+len(wanted) > len(lines) {
			continue
		}
		if slices.EqualFunc(lines[i:i+len(wanted)], wanted, func(line, want string) bool {
			return line == want && want == "" || line == indent+want
		}) {
			return true
		}
	}
	return false
}
