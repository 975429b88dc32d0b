package launch

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// TestMountsRefused: a mount that a person or a project file asks for hands the container no
// power over the host.
func TestMountsRefused(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(base, "home")
	roots := state.Roots{Config: filepath.Join(base, "etc", "terok"), Data: filepath.Join(base, "data", "terok"), Runtime: filepath.Join(base, "run", "terok")}
	for _, dir := range []string{roots.Config, roots.Data, roots.Runtime, filepath.Join(home, ".ssh"), filepath.Join(home, "src", "a,b"), filepath.Join(home, ".config", "systemd", "user")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(base, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(home, "src", "keys")
	if err := os.Symlink(filepath.Join(home, ".ssh"), link); err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(home, "src")
	for _, c := range []struct {
		source, target string
		ok             bool
	}{
		{src, "/data", true},
		{"src", "/data", false},
		{src, "data", false},
		{src, "/data:rw", false},
		{src, "/", false},
		{src, "/run", false},
		{src, "/run/terok/bin", false},
		{src, "/data/../run/terok", false},
		{src, "/etc/resolv.conf", false},
		{src, "/etc", false},
		{src, "/proc/self", false},
		{src, "/dev", false},
		{"/", "/data", false},
		{"/proc", "/data", false},
		{"/dev/null", "/data", false},
		{"/run", "/data", false},
		{filepath.Join(base, "s"), "/data", false},    // a socket
		{home, "/data", false},                        // holds .ssh
		{filepath.Join(home, ".ssh"), "/data", false}, // keys
		{link, "/data", false},                        // keys by another name
		{filepath.Join(home, ".config", "systemd", "user"), "/data", false}, // runs at the next login
		{roots.Data, "/data", false},
		{filepath.Dir(roots.Config), "/data", false},
		{filepath.Join(home, "missing"), "/data", false},
	} {
		m, err := checkMount(Mount{Source: c.source, Target: c.target}, roots, home)
		if (err == nil) != c.ok {
			t.Errorf("%s at %s: %+v, %v", c.source, c.target, m, err)
		}
		if err != nil && !problem.Is(err, "mount_refused") {
			t.Errorf("%s at %s: %v", c.source, c.target, err)
		}
	}
}

func testPlan(privilege Privilege) *plan {
	return &plan{spec: Spec{Key: "box", Privilege: privilege, Argv: []string{"--privileged"}, ShmSize: shmSize, PidsLimit: pidsLimit, StopTimeout: stopTimeout},
		file:  sandbox.File{Key: "box", Name: "terok-box", Dir: "/t", CIDFile: "/t/container.id", SigningKey: make([]byte, 32)},
		image: "sha256:1", seccomp: "/s.json", guest: "/g", resolv: "/r", hostname: "box", mounts: []Mount{{Source: "/a", Target: "/b", ReadOnly: true}}}
}

// TestArguments: what holds the container is in every launch, and nothing of the command is
// podman's.
func TestArguments(t *testing.T) {
	for _, privilege := range []Privilege{Sudo, None} {
		a := testPlan(privilege).argv()
		image := slices.Index(a, "sha256:1")
		for _, want := range []string{"--network=none", "--userns=keep-id:uid=1000,gid=1000", "--pull=never", "--cgroupns=private", "--ipc=private",
			"--pid=private", "--uts=private", "--http-proxy=false", "--systemd=false", "--image-volume=ignore", "seccomp=/s.json",
			"/g:" + sandbox.GuestProgram + ":ro,nosuid,nodev,z", "/a:/b:nosuid,nodev,ro",
			`["` + sandbox.GuestProgram + `","guest","init"]`} {
			if i := slices.Index(a, want); i < 0 || i > image {
				t.Errorf("%s: %s is missing", privilege, want)
			}
		}
		if privilege == None && (!slices.Contains(a, "--cap-drop=all") || !slices.Contains(a, "no-new-privileges")) {
			t.Error("none: capabilities stay")
		}
		if privilege == Sudo && (!slices.Contains(a, "--cap-drop=NET_ADMIN") || !slices.Contains(a, "--cap-drop=NET_RAW") || !slices.Contains(a, "--cap-drop=SYS_ADMIN")) {
			t.Error("sudo: a dangerous capability stays")
		}
		if i := slices.Index(a, "--privileged"); i < slices.Index(a, "--") {
			t.Errorf("the command's argument is podman's: %q", a)
		}
	}
}

// TestBoundingIsWhatIsLeft: what the hook accepts is exactly podman's default less what is dropped.
func TestBoundingIsWhatIsLeft(t *testing.T) {
	for _, c := range bounding {
		if slices.Contains(dropped, strings.TrimPrefix(c, "CAP_")) {
			t.Errorf("%s is dropped and accepted", c)
		}
	}
	if len(bounding)+len(dropped) != 41 { // CAP_LAST_CAP is 40 since Linux 5.9 (capabilities(7))
		t.Errorf("%d of 41 capabilities are judged", len(bounding)+len(dropped))
	}
}

// TestProfile: doors that the container's seccomp profile keeps shut.
func TestProfile(t *testing.T) {
	p, err := profile()
	if err != nil {
		t.Fatal(err)
	}
	if p.DefaultAction != "SCMP_ACT_ERRNO" || len(p.Architectures) != 1 {
		t.Errorf("default %s, architectures %v", p.DefaultAction, p.Architectures)
	}
	for _, rule := range p.Syscalls {
		if rule.Action != "SCMP_ACT_ALLOW" || len(rule.Args) > 0 {
			continue
		}
		for _, call := range []string{"socket", "personality", "bpf", "mount", "keyctl", "add_key", "setns", "io_uring_setup", "userfaultfd", "open_by_handle_at", "perf_event_open"} {
			if slices.Contains(rule.Names, call) {
				t.Errorf("%s is open without a condition", call)
			}
		}
	}
	for _, rule := range p.Syscalls {
		if slices.Contains(rule.Names, "socket") && rule.Action == "SCMP_ACT_ALLOW" && rule.Args[0].Value > 16 {
			t.Errorf("socket family %d is open", rule.Args[0].Value)
		}
	}
}

// TestHookDescriptor: podman runs our hook for our annotation, not for names that hold it.
func TestHookDescriptor(t *testing.T) {
	dir := t.TempDir()
	if err := writeHook(dir, "/usr/bin/terok"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "terok.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		When struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"when"`
		Stages []string `json:"stages"`
	}
	if err := json.Unmarshal(data, &d); err != nil || !slices.Equal(d.Stages, []string{"createRuntime"}) {
		t.Fatalf("%s: %v", data, err)
	}
	for key := range d.When.Annotations {
		re := regexp.MustCompile(key)
		if !re.MatchString(sandbox.Annotation) || re.MatchString("x"+sandbox.Annotation+"y") || re.MatchString("ioxterokxsandbox") {
			t.Errorf("the hook's pattern is %s", key)
		}
	}
}

// TestGuestIsAReadOnlyCopy: the host's program is never shared, and a copy that was changed is made anew.
func TestGuestIsAReadOnlyCopy(t *testing.T) {
	dir := t.TempDir()
	self := filepath.Join(dir, "terok")
	if err := os.WriteFile(self, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	roots := state.Roots{Data: filepath.Join(dir, "data")}
	path, digest, err := guestBinary(roots, self)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o555 || path == self || filepath.Base(filepath.Dir(path)) != digest {
		t.Errorf("%s: %v, %v", path, fi, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, _, err = guestBinary(roots, self); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "program" {
		t.Errorf("the changed copy is used: %q, %v", data, err)
	}
}
