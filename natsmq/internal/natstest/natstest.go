// Package natstest has what the tests of natsmq run on: JetStream servers, alone or three in
// a cluster, which can be killed, stopped and restarted, and a proxy before a server that
// loses, delays and changes what it answers.
//
// A server is a process of its own, which runs the test binary again. So a test package calls
// it in TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(natstest.Main(m, nil)) }
package natstest

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/internal/testkit"
)

// Main is testkit.Main with the servers as one more role. It returns the exit code.
func Main(m *testing.M, roles map[string]testkit.Role) int {
	all := maps.Clone(roles)
	if all == nil {
		all = make(map[string]testkit.Role)
	}
	all[serverRole] = serve
	return testkit.Main(m, all)
}

// Servers are the servers of a test. They and their files are gone when the test ends. Its
// methods are safe for concurrent use, but for those that start and end the same server.
type Servers struct {
	// Storage is what the test is for. The servers have a directory in both cases.
	Storage jetstream.StorageType

	t       testing.TB
	members []member
}

// member is one server, in a process of its own or in this one.
type member interface {
	start(t testing.TB)            // does not wait until it is ready
	signal(t testing.TB, s signal) // to the process
	running() bool                 // and not stopped
	ended() error                  // why it has ended by itself, if it has
	status() (status, error)
	log() string
}

// signal is what is done to a process. An operating system may have none of them.
type signal int

const (
	signalKill signal = iota
	signalTerminate
	signalStop
	signalContinue
)

// Single starts a server that is not in a cluster, and waits until it is ready. It skips the
// test where processes cannot be controlled, which is but on Linux.
func Single(t testing.TB, storage jetstream.StorageType) *Servers {
	t.Helper()
	return start(t, storage, 1)
}

// Three starts a cluster of three servers, and waits until it is ready: a stream may have
// three replicas at once. It skips the test as Single does.
func Three(t testing.TB, storage jetstream.StorageType) *Servers {
	t.Helper()
	return start(t, storage, 3)
}

func start(t testing.TB, storage jetstream.StorageType, n int) *Servers {
	t.Helper()
	s := &Servers{Storage: storage, t: t}
	dir := t.TempDir()
	configs := make([]config, n)
	for i := range configs {
		configs[i] = config{
			Name: name(i),
			Dir:  filepath.Join(dir, name(i)),
			Port: reservePort(t),
			HTTP: reservePort(t),
		}
		if n > 1 {
			configs[i].Cluster = reservePort(t)
		}
	}
	for i := range configs {
		for j := range configs {
			if n > 1 {
				// Itself as well: the server takes the number of routes for the size of the
				// cluster, and must not form one of two.
				configs[i].Routes = append(configs[i].Routes, configs[j].Cluster)
			}
		}
		s.members = append(s.members, newProcess(configs[i]))
	}
	s.reportOnFailure()
	for _, m := range s.members {
		m.start(t)
	}
	s.WaitReady()
	return s
}

// Embedded starts a server in this process, which is faster. It listens on a loopback address,
// too. Of what is done to servers, only Shutdown and Restart work.
func Embedded(t testing.TB, storage jetstream.StorageType) *Servers {
	t.Helper()
	c := config{Name: name(0), Dir: t.TempDir(), Port: reservePort(t)}
	s := &Servers{Storage: storage, t: t, members: []member{&embedded{config: c}}}
	s.members[0].start(t)
	s.WaitReady()
	return s
}

func name(i int) string { return fmt.Sprintf("server%d", i) }

// reportOnFailure has the end of the servers' logs in that of a test that fails.
func (s *Servers) reportOnFailure() {
	s.t.Cleanup(func() {
		if !s.t.Failed() {
			return
		}
		const most = 1 << 14 // bytes of each
		for i, m := range s.members {
			text := m.log()
			s.t.Logf("%s:\n%s", name(i), text[max(0, len(text)-most):])
		}
	})
}

// Len returns the number of servers, which is also how many replicas a stream may have.
func (s *Servers) Len() int { return len(s.members) }

// Name returns the name of server i, as in jetstream.ClusterInfo.
func (s *Servers) Name(i int) string { return name(i) }

// Addr returns the address of server i for NewProxy.
func (s *Servers) Addr(i int) string { return s.configOf(i).addr() }

// URL returns the address of server i for clients.
func (s *Servers) URL(i int) string { return "nats://" + s.Addr(i) }

// URLs returns the addresses of all servers, for nats.Connect.
func (s *Servers) URLs() string {
	urls := make([]string, s.Len())
	for i := range urls {
		urls[i] = s.URL(i)
	}
	return strings.Join(urls, ",")
}

func (s *Servers) configOf(i int) config {
	switch m := s.members[i].(type) {
	case *process:
		return m.config
	case *embedded:
		return m.config
	}
	panic("natstest: a member of another type")
}

// Connect connects to all servers, as the function Connect does.
func (s *Servers) Connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return Connect(t, s.URLs(), opts...)
}

// Connect connects to servers, until the test ends. The connection is made again, soon and for
// ever, and a message that is published meanwhile is refused rather than kept. If there is no
// server yet, the connection is returned in state RECONNECTING.
func Connect(t testing.TB, urls string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(urls, append([]nats.Option{
		nats.Name(t.Name()),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
		nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(20*time.Millisecond, 20*time.Millisecond),
		nats.Timeout(time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // not to standard error
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Proxies starts a proxy before each server, and returns them with their addresses for Connect.
func (s *Servers) Proxies(t testing.TB) (proxies []*Proxy, urls string) {
	t.Helper()
	var all []string
	for i := range s.members {
		p := NewProxy(t, s.Addr(i))
		proxies, all = append(proxies, p), append(all, p.URL())
	}
	return proxies, strings.Join(all, ",")
}

// UntilConnected waits until a server answers on the connection. For a moment after its server
// has ended, a connection does not know that, and what is sent then is lost.
func UntilConnected(t testing.TB, nc *nats.Conn) {
	t.Helper()
	testkit.Eventually(t, "connected", func() bool { return nc.FlushTimeout(time.Second) == nil })
}

// Kill ends server i by SIGKILL, also while it is stopped, and waits for the process.
func (s *Servers) Kill(i int) {
	s.t.Helper()
	s.members[i].signal(s.t, signalKill)
}

// Shutdown has server i end in an orderly way, and waits for it.
func (s *Servers) Shutdown(i int) {
	s.t.Helper()
	s.members[i].signal(s.t, signalTerminate)
}

// Stop stops server i by SIGSTOP: its connections stay, and nothing is answered.
func (s *Servers) Stop(i int) {
	s.t.Helper()
	s.members[i].signal(s.t, signalStop)
}

// Continue has server i continue after Stop.
func (s *Servers) Continue(i int) {
	s.t.Helper()
	s.members[i].signal(s.t, signalContinue)
}

// Restart starts server i again, with the same directory and ports, after Kill or Shutdown. It
// does not wait until the server is ready: WaitReady does.
func (s *Servers) Restart(i int) {
	s.t.Helper()
	s.members[i].start(s.t)
}

// WaitReady waits until all servers that run, and are not stopped, are ready: they are connected
// to one another; and the cluster, and every stream and consumer, has a leader, for which those
// of them that have a replica are current.
func (s *Servers) WaitReady() {
	s.t.Helper()
	s.wait("the servers are ready", s.ready)
}

// Leader waits until the stream has one leader, and returns its index. A server that was
// stopped may take itself for the leader for a while after Continue: then there are two.
func (s *Servers) Leader(stream string) int {
	s.t.Helper()
	return s.only("leader of stream "+stream, func(i int, status status) bool {
		return slices.ContainsFunc(status.groups, func(g group) bool {
			return g.name == "stream "+stream && g.leader == name(i)
		})
	})
}

// MetaLeader is Leader for the cluster itself. It is 0 if there is none.
func (s *Servers) MetaLeader() int {
	s.t.Helper()
	if s.Len() == 1 {
		return 0
	}
	return s.only("meta leader", func(i int, status status) bool {
		return len(status.groups) > 0 && status.groups[0].leader == name(i)
	})
}

// only waits until it is true for one of the servers that run, and returns its index.
func (s *Servers) only(what string, is func(int, status) bool) (index int) {
	s.t.Helper()
	s.wait("there is one "+what, func() error {
		var found []int
		for i, m := range s.members {
			if !m.running() {
				continue
			}
			status, err := m.status()
			if err != nil {
				return err
			}
			if is(i, status) {
				found = append(found, i)
			}
		}
		if len(found) != 1 {
			return fmt.Errorf("it is one of %v", found)
		}
		index = found[0]
		return nil
	})
	return index
}

// wait waits until there is no error, as testkit.Eventually does, but it asks less often, and
// knows what was missing last.
func (s *Servers) wait(what string, condition func() error) {
	s.t.Helper()
	const patience = time.Minute
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		for i, m := range s.members {
			if ended := m.ended(); ended != nil {
				s.t.Fatalf("%s has ended: %v", name(i), ended)
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v still not: %s: %v", patience, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ready returns what is missing.
func (s *Servers) ready() error {
	var running []string
	for i, m := range s.members {
		if m.running() {
			running = append(running, name(i))
		}
	}
	leaders := make(map[string]string) // by the name of the group
	for i, m := range s.members {
		if !m.running() {
			continue
		}
		status, err := m.status()
		if err != nil {
			return fmt.Errorf("%s: %w", name(i), err)
		}
		if status.health != "" {
			return fmt.Errorf("%s: %s", name(i), status.health)
		}
		if s.Len() == 1 {
			continue
		}
		for _, other := range running {
			if other != name(i) && !slices.Contains(status.routes, other) {
				return fmt.Errorf("%s has no route to %s", name(i), other)
			}
		}
		for _, g := range status.groups {
			if err := g.ready(name(i), running); err != nil {
				return fmt.Errorf("%s: %s: %w", name(i), g.name, err)
			}
			if leader := leaders[g.name]; leader != "" && leader != g.leader {
				return fmt.Errorf("the leader of %s is %s or %s", g.name, leader, g.leader)
			}
			leaders[g.name] = g.leader
		}
	}
	return nil
}

// status is what a server says of itself.
type status struct {
	health string   // what is wrong, or ""
	routes []string // the names of the servers it is connected to
	groups []group  // first the one for the cluster itself, if there is one
}

// group is servers with one leader: what Raft replicates.
type group struct {
	name     string
	leader   string
	replicas []*server.PeerInfo // all others
}

// ready returns what is missing according to a server that has a replica.
func (g group) ready(says string, running []string) error {
	if !slices.Contains(running, g.leader) {
		return fmt.Errorf("the leader is %q, which does not run", g.leader)
	}
	for _, peer := range g.replicas {
		// Only the leader knows.
		if says == g.leader && slices.Contains(running, peer.Name) && (!peer.Current || peer.Offline) {
			return fmt.Errorf("%s is not current", peer.Name)
		}
	}
	return nil
}

// statusOf makes one of what the server with the name has for monitoring.
func statusOf(self string, health server.HealthStatus, js server.JSInfo, routes server.Routez) status {
	var s status
	if health.Status != "ok" {
		s.health = health.Status + ": " + health.Error
	}
	for _, route := range routes.Routes {
		s.routes = append(s.routes, route.RemoteName)
	}
	add := func(name string, cluster *server.ClusterInfo) {
		if cluster == nil {
			cluster = &server.ClusterInfo{Leader: self}
		}
		s.groups = append(s.groups, group{name, cluster.Leader, cluster.Replicas})
	}
	if js.Meta != nil {
		add("meta", &server.ClusterInfo{Leader: js.Meta.Leader, Replicas: js.Meta.Replicas})
	}
	for _, account := range js.AccountDetails {
		for _, stream := range account.Streams {
			add("stream "+stream.Name, stream.Cluster)
			for _, consumer := range stream.Consumer {
				add("consumer "+stream.Name+" "+consumer.Name, consumer.Cluster)
			}
		}
	}
	return s
}
