package testkit

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// namespaceVariable is set in the process that InNamespace starts.
const namespaceVariable = "CHANMQ_TEST_NAMESPACE"

// InNamespace reports whether the test runs in an IPC namespace of its own, where it
// may set limits and there are no other queues. If not, it runs the test again in a
// process with such a namespace, and the caller must return. It must be called from
// a test function, not from a subtest.
func InNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceVariable) != "" {
		return true
	}
	cmd := again("-test.v", "-test.run=^"+t.Name()+"$", "-test.timeout=5m")
	cmd.Env = append(cmd.Env, namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
	if os.Geteuid() != 0 {
		// Unsharing needs a privilege that a process has in a user namespace of
		// its own, if the system allows those.
		cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("this process may not have an IPC namespace of its own (unshare -i): %v", err)
	case err != nil:
		t.Errorf("in an IPC namespace of its own: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP"):
		t.Skipf("in an IPC namespace of its own:\n%s", text)
	case !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Errorf("in an IPC namespace of its own the test did not run:\n%s", text)
	}
	return false
}

// SetLimit sets a limit of the IPC namespace created by InNamespace, by the name of
// its sysctl: msgmax, msgmnb or msgmni.
func SetLimit(t testing.TB, name, value string) {
	t.Helper()
	if os.Getenv(namespaceVariable) == "" {
		t.Fatal("SetLimit outside InNamespace would change the limits of the machine")
	}
	if err := os.WriteFile("/proc/sys/kernel/"+name, []byte(value), 0); err != nil {
		t.Skipf("this process may not set kernel.%s of its own IPC namespace: %v", name, err)
	}
}
