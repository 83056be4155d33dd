package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// scrapedVariable is set in the process that runs TestPrometheus in an IPC namespace of its
// own.
const scrapedVariable = "CHANMQ_TEST_SCRAPED"

// TestPrometheus: a Prometheus scrapes the exporter, a full queue makes the alerts fire,
// a receive ends them, and every query of the dashboard has a result. The rules are those of
// contrib, but that they wait for a moment instead of minutes.
func TestPrometheus(t *testing.T) {
	if os.Getenv(scrapedVariable) != "" {
		scrapeQueues(t)
		return
	}
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skip("prometheus is not installed")
	}
	t.Parallel() // it looks for what to scrape every five seconds, whatever it is told
	inNamespace("TestPrometheus", scrapedVariable+"=1").report(t)
}

func scrapeQueues(t *testing.T) {
	full := testQueue(t, 0x2a01)
	must(t, full.Set(chanmq.Attr{MaxBytes: 100}))
	must(t, full.Send(t.Context(), 1, make([]byte, 100)))
	read := testQueue(t, 0x2a02) // by this process, which lives
	must(t, read.Send(t.Context(), 1, nil))
	must(t, read.Send(t.Context(), 1, nil))
	_, err := read.Receive(t.Context(), chanmq.Any())
	must(t, err)

	exporter := serverAt(t, `http://([^/]+)/metrics`, "chanmq", "metrics", "--listen", "127.0.0.1:0")
	dir := t.TempDir()
	rules, err := os.ReadFile("contrib/alerts.yml")
	must(t, err)
	hasty := regexp.MustCompile(`for: \d+m\b`).ReplaceAll(rules, []byte("for: 200ms"))
	must(t, os.WriteFile(filepath.Join(dir, "alerts.yml"), hasty, 0o600))
	config := fmt.Sprintf(`
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 200ms}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: chanmq
    static_configs: [{targets: ['%s']}]
`, exporter)
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))
	server := serverAt(t, `msg="Listening on" address=(127\.0\.0\.1:\d+)`, "prometheus",
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0")
	testkit.Eventually(t, "Prometheus is ready", func() bool {
		response, err := http.Get("http://" + server + "/-/ready")
		must(t, err)
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})

	awaitAlerts(t, server, "MessageQueueAlmostFull 0x00002a01", "MessageQueueWithoutReceiver 0x00002a01")
	for _, expr := range dashboardExprs(t) {
		testkit.Eventually(t, expr+" has a result", func() bool {
			var answer struct{ Result []json.RawMessage }
			query(t, server, "query?query="+url.QueryEscape(expr), &answer)
			return len(answer.Result) > 0
		})
	}
	_, err = full.Receive(t.Context(), chanmq.Any())
	must(t, err)
	awaitAlerts(t, server)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testQueue creates a queue, which is removed when the test ends.
func testQueue(t *testing.T, key chanmq.Key) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Create(key, 0o600, chanmq.WithRemoveOnClose())
	must(t, err)
	t.Cleanup(func() { _ = q.Close() }) // the namespace ends, too
	return q
}

// serverAt starts a server, and returns the address that it says on standard error, as the
// pattern finds it. When the test ends it is told to end, and has to.
func serverAt(t *testing.T, pattern string, command ...string) string {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	addresses := make(chan string, 1)
	ended := make(chan struct{})
	var said strings.Builder
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			if found := regexp.MustCompile(pattern).FindStringSubmatch(lines.Text()); found != nil {
				select {
				case addresses <- found[1]:
				default: // said before
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", command[0], err, said.String())
		}
	})
	select {
	case address := <-addresses:
		return address
	case <-ended:
		t.Fatalf("%s has ended:\n%s", command[0], said.String())
	case <-time.After(time.Minute):
		t.Fatalf("%s does not say where it listens", command[0])
	}
	panic("unreachable")
}

// awaitAlerts waits until these alerts fire, and no others.
func awaitAlerts(t *testing.T, server string, want ...string) {
	t.Helper()
	slices.Sort(want)
	testkit.Eventually(t, fmt.Sprintf("the alerts %q fire", want), func() bool {
		var answer struct {
			Alerts []struct {
				State  string
				Labels struct{ Alertname, Key string }
			}
		}
		query(t, server, "alerts", &answer)
		var firing []string
		for _, alert := range answer.Alerts {
			if alert.State == "firing" {
				firing = append(firing, alert.Labels.Alertname+" "+alert.Labels.Key)
			}
		}
		slices.Sort(firing)
		return slices.Equal(firing, want)
	})
}

// query asks the server for something of its API.
func query(t *testing.T, server, what string, data any) {
	t.Helper()
	response, err := http.Get("http://" + server + "/api/v1/" + what)
	must(t, err)
	defer response.Body.Close()
	answer := struct {
		Status string
		Error  string
		Data   any
	}{Data: data}
	must(t, json.NewDecoder(response.Body).Decode(&answer))
	if answer.Status != "success" {
		t.Fatalf("%s: %s", what, answer.Error)
	}
}
