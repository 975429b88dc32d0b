package supervisor

import (
	"encoding/json"
	"strings"
	"testing"

	"terok/internal/sandbox"
	"terok/internal/state"
)

// initStatus is /proc/<pid>/status of a container's init as the tests change it.
func initStatus(change ...string) []byte {
	s := "Name:\tterok\nNSpid:\t4711\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n" +
		"CapBnd:\t00000000000404fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"
	return []byte(strings.NewReplacer(change...).Replace(s))
}

func sudoFile() *sandbox.File {
	return &sandbox.File{NoNewPrivs: true, Bounding: []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
		"CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"}}
}

// TestAdoptionJudgesTheInit: a running container counts as ours only with what its sandbox file
// gives it, as the kernel tells.
func TestAdoptionJudgesTheInit(t *testing.T) {
	if err := checkInitStatus(initStatus(), sudoFile()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][]string{
		"a capability to gain":     {"00000000000404fb", "00000000000414fb"},
		"an effective one":         {"CapEff:\t0000000000000000", "CapEff:\t0000000000001000"},
		"an ambient one":           {"CapAmb:\t0000000000000000", "CapAmb:\t0000000000200000"},
		"one beyond those we know": {"00000000000404fb", "80000000000404fb"},
		"no bounding set":          {"CapBnd:\t00000000000404fb\n", ""},
		"no seccomp":               {"Seccomp:\t2", "Seccomp:\t0"},
		"strict seccomp":           {"Seccomp:\t2", "Seccomp:\t1"},
		"new privileges":           {"NoNewPrivs:\t1", "NoNewPrivs:\t0"},
		"another process inside":   {"4711\t1", "4711\t7"},
		"a process of the host":    {"4711\t1", "4711"},
		"a namespace deeper":       {"4711\t1", "4711\t9\t1"},
	} {
		if checkInitStatus(initStatus(change...), sudoFile()) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	f := sudoFile()
	f.Bounding = append(f.Bounding, "CAP_ALL")
	if checkInitStatus(initStatus(), f) == nil {
		t.Error("a capability that does not exist: accepted")
	}
	// A process names itself; the kernel escapes line breaks, and the first word counts anyway.
	if checkInitStatus(initStatus("Name:\tterok\n", "Name:\tx\nSeccomp:\t0\n"), sudoFile()) == nil {
		t.Error("two values: the second counts")
	}
}

func FuzzInitStatus(f *testing.F) {
	f.Add(initStatus())
	f.Add(initStatus("2", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkInitStatus(data, sudoFile()) == nil && !strings.Contains(string(data), "Seccomp") {
			t.Errorf("accepted %q", data)
		}
	})
}

// TestOneSupervisorAtATime: the second parent of a container ends before it has touched anything,
// and what the first one hands to its worker does not open the guest's box.
func TestOneSupervisorAtATime(t *testing.T) {
	dir := t.TempDir()
	unlock, err := state.TryLock(lockPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	file := sandbox.File{Dir: dir, SigningKey: make([]byte, 32), SealingKey: []byte(strings.Repeat("s", 32))}
	second := newParent(&file, true)
	if err := second.alone(); err == nil || err.Error() != heldReason {
		t.Errorf("a second parent: %v", err)
	}
	unlock()
	if err := second.alone(); err != nil {
		t.Errorf("after the first one ended: %v", err)
	}
	second.unlock()
	data, err := json.Marshal(second.hand)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "sealing_key") || len(second.sealing) != 32 {
		t.Errorf("the worker gets the key: %s", data)
	}
}

// TestOnlyOurOwnScope: what the status shows is where the process is, not what was asked for.
func TestOnlyOurOwnScope(t *testing.T) {
	for cgroup, want := range map[string]string{
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/terok-web-12.scope\n":       "terok-web-12.scope",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                                      "",
		"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ab.scope/terok-x\n": "",
		"4:memory:/x\n1:name=systemd:/terok-web-12.scope\n0::/\n":                               "terok-web-12.scope",
		"": "", "terok-a.scope": "",
	} {
		if got := ownScope([]byte(cgroup)); got != want {
			t.Errorf("%q: %q", cgroup, got)
		}
	}
	for name, c := range map[string]struct {
		uidMap string
		uid    int
		want   uint64
		ok     bool
	}{
		"in podman's namespace": {"         0       1000          1\n         1     100000      65536\n", 0, 1000, true},
		"a subordinate id":      {"0 1000 1\n1 100000 65536\n", 5, 100004, true},
		"on the host":           {"0 0 4294967295\n", 1000, 1000, true},
		"not mapped":            {"0 1000 1\n", 7, 0, false},
		"not a map":             {"x\n", 0, 0, false},
	} {
		got, err := hostUID([]byte(c.uidMap), c.uid)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}
