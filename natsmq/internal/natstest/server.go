package natstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	loopback = "127.0.0.1"

	// serverRole is what a process is started for. Its argument is the config in JSON.
	serverRole = "nats-server"

	// patience is how long a server may take to listen. It only catches a hang.
	patience = 30 * time.Second
)

// config is what differs between the servers. A port is 0 if it is not listened on.
type config struct {
	Name    string
	Dir     string
	Port    int // for clients
	HTTP    int // for monitoring
	Cluster int // for the other servers
	Routes  []int
}

func (c config) addr() string { return address(c.Port) }

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

func (c config) options() *server.Options {
	opts := &server.Options{
		ServerName:             c.Name,
		Host:                   loopback,
		Port:                   c.Port,
		HTTPHost:               loopback,
		HTTPPort:               c.HTTP,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               c.Dir,
		Logtime:                true,
		// By default they depend on the memory and the disk of the machine.
		JetStreamMaxMemory: 1 << 30,
		JetStreamMaxStore:  8 << 30,
	}
	if c.Cluster != 0 {
		opts.Cluster = server.ClusterOpts{
			Name:        "natstest",
			Host:        loopback,
			Port:        c.Cluster,
			NoAdvertise: true, // clients stay on the addresses they are given
		}
		for _, port := range c.Routes {
			opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: address(port)})
		}
	}
	return opts
}

// serve is a server's process.
func serve(args []string) error {
	var c config
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return err
	}
	s, err := server.NewServer(c.options())
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	return nil
}

// embedded is a server in this process.
type embedded struct {
	config config

	mu     sync.Mutex
	server *server.Server // guarded by mu; nil if it does not run
}

func (e *embedded) start(t testing.TB) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		t.Fatal("the server runs already")
	}
	opts := e.config.options()
	opts.NoLog, opts.NoSigs = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(e.shutdown)
	e.server = s
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not listen")
	}
}

func (e *embedded) shutdown() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
		e.server = nil
	}
}

func (e *embedded) signal(t testing.TB, s signal) {
	t.Helper()
	if s != signalTerminate {
		t.Fatal("the server is in this process: use Single")
	}
	e.shutdown()
}

func (e *embedded) running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server != nil
}

func (e *embedded) ended() error { return nil }

func (e *embedded) log() string { return "" }

func (e *embedded) status() (status, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server == nil {
		return status{}, errors.New("it does not run")
	}
	js, err := e.server.Jsz(&server.JSzOptions{Consumer: true})
	if err != nil {
		return status{}, fmt.Errorf("jsz: %w", err)
	}
	return statusOf(e.config.Name, *e.server.Healthz(nil), *js, server.Routez{}), nil
}
