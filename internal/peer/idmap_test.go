package peer

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeadPeerWithALivingNamesake: the pid of a peer that has ended means somebody else by now,
// here this test, and what is read by that pid must not count.
func TestDeadPeerWithALivingNamesake(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &Peer{PID: os.Getpid(), pidfd: os.NewFile(uintptr(fd), "pidfd")}
	defer p.Close()
	_ = cmd.Wait()
	if err := p.judge(); !errors.Is(err, ErrForeign) {
		t.Errorf("got %v", err)
	}
}

func TestIDMaps(t *testing.T) {
	m := func(s string) []idRange {
		v, err := parseIDMap([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	podman := m("         0       1000          1\n         1     100000      65536\n")
	for name, c := range map[string]struct {
		theirs string
		ok     bool
	}{
		"the host":                 {"0 4294967295 4294967295\n", true},
		"a host in a container":    {"0 4294967295 65536\n100000 4294967295 65536\n", true},
		"a keep-id container":      {"0 1 1000\n1000 0 1\n1001 1001 64536\n", false},
		"a container as root":      {"0 0 65537\n", false},
		"bubblewrap beside":        {"1000 0 1\n", false},
		"a namespace half outside": {"0 4294967295 1\n1 0 1\n", false},
		"not from root":            {"1 4294967295 5\n", false},
	} {
		if got := outsideNamespace(m(c.theirs), podman); got != c.ok {
			t.Errorf("%s: %v", name, got)
		}
	}
	if outsideNamespace(m("0 4294967295 65536\n"), m("0 0 4294967295\n")) {
		t.Error("nothing is outside of the first namespace")
	}
	if !podmanMap(podman, 1000) || podmanMap(podman, 0) || podmanMap(m("0 1 1000\n1000 1000 1\n"), 1000) || podmanMap(m("0 1000 1\n"), 1000) {
		t.Error("podmanMap")
	}
	for _, bad := range []string{"", "\n", "0 1\n", "a b c\n", "0 0 99999999999\n"} {
		if v, err := parseIDMap([]byte(bad)); err == nil {
			t.Errorf("%q gives %v", bad, v)
		}
	}
}

func FuzzIDMap(f *testing.F) {
	f.Add([]byte("0 1000 1\n1 100000 65536\n"))
	f.Add([]byte("0 4294967295 4294967295\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseIDMap(data)
		if err == nil && len(m) == 0 {
			t.Fatal("an empty map")
		}
		if err == nil {
			outsideNamespace(m, []idRange{{0, 1000, 1}, {1, 100000, 65536}})
		}
	})
}
