package main

import (
	"flag"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer is the command nats-server, as far as the scripts need it. With -url it writes its address
// into a file.
func natsServer() {
	var o server.Options
	flag.BoolVar(&o.JetStream, "js", false, "")
	flag.StringVar(&o.StoreDir, "sd", "", "")
	flag.StringVar(&o.Host, "a", "", "")
	flag.IntVar(&o.Port, "p", 0, "")
	url := flag.String("url", "", "")
	flag.Parse()
	if o.Port == 0 {
		o.Port = -1 // any
	}
	o.NoSigs = true
	s, err := server.NewServer(&o)
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		log.Fatal("not ready")
	}
	if *url != "" {
		if err := os.WriteFile(*url, []byte(s.ClientURL()), 0o600); err != nil {
			log.Fatal(err)
		}
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	<-end
	s.Shutdown()
	s.WaitForShutdown()
}

// needs skips the test where a command is missing.
func needs(t *testing.T, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if _, err := exec.LookPath(command); err != nil {
			t.Skip(command + " is not installed")
		}
	}
}

func needsPHP(t *testing.T) {
	t.Helper()
	needs(t, "php")
	if out, err := exec.Command("php", "-m").Output(); err != nil || !strings.Contains(string(out), "sysvmsg") {
		t.Skip("php has no sysvmsg")
	}
}

// TestTwoMachines: a C program on one machine talks to a PHP program on another one.
func TestTwoMachines(t *testing.T) {
	needsPHP(t)
	needs(t, "cc", "unshare")
	if out, err := exec.Command("unshare", "--ipc", "true").CombinedOutput(); err != nil && os.Geteuid() == 0 {
		t.Skipf("unshare --ipc: %v: %s", err, out)
	}
	t.Parallel()
	cmd := exec.Command("contrib/bridge/two-machines.sh", "200")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	timer := time.AfterFunc(90*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "200 orders were answered, in order") {
		t.Errorf("%v\n%s", err, out)
	}
}
