package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chanmq/chanmq/metrics"
)

// promtool runs promtool, and fails the test if that finds something wrong.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool (Debian: prometheus) is not installed")
	}
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %q: %v\n%s", args, err, out)
	}
}

// TestAlerts: the rules fire when they should, and not when they should not.
func TestAlerts(t *testing.T) {
	promtool(t, "check", "rules", "contrib/alerts.yml")
	promtool(t, "test", "rules", "contrib/alerts_test.yml")
}

// dashboardExprs returns the queries of the dashboard, with a value for each variable.
func dashboardExprs(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("contrib/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	var exprs []string
	ids := make(map[int]bool)
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || panel.Title == "" || len(panel.Targets) == 0 {
			t.Errorf("panel %d, %q: its id is not its own, or it has no title or no query", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			exprs = append(exprs, strings.NewReplacer("$instance", ".*", "$key", ".*", "$__rate_interval", "1m").Replace(target.Expr))
		}
	}
	if len(exprs) == 0 {
		t.Fatal("the dashboard has no queries")
	}
	return exprs
}

// TestDashboard: its queries are PromQL, as rules have to be.
func TestDashboard(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for n, expr := range dashboardExprs(t) {
		fmt.Fprintf(&rules, "  - record: expr%d\n    expr: %q\n", n, expr)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// TestContribMetrics: what the dashboard and the alerts ask for is what is exported, and
// the README lists all of that.
func TestContribMetrics(t *testing.T) {
	descs := make(chan *prometheus.Desc, 100)
	metrics.NewQueues(1).Describe(descs)
	close(descs)
	exported := make(map[string]bool)
	for desc := range descs {
		exported[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	for _, file := range []string{"contrib/dashboard.json", "contrib/alerts.yml", "contrib/alerts_test.yml", "README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\bchanmq_\w+`).FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metrics", file)
		}
		for _, name := range names {
			if !exported[name] {
				t.Errorf("%s names %s, which is not exported", file, name)
			}
		}
		if file != "README.md" {
			continue
		}
		for name := range exported {
			if !strings.Contains(string(text), "`"+name+"`") {
				t.Errorf("the README does not list %s", name)
			}
		}
	}
}
