package supervisor

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
)

// ours is a sandbox file and the OCI specification that goes with it.
func ours(t *testing.T) (*sandbox.File, *ociSpec) {
	t.Helper()
	dir := t.TempDir()
	digest := strings.Repeat("b", 64)
	guest := filepath.Join(dir, digest, "terok")
	if err := os.MkdirAll(filepath.Dir(guest), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(guest, nil, 0o555); err != nil {
		t.Fatal(err)
	}
	profile := sandbox.Seccomp{DefaultAction: "SCMP_ACT_ERRNO", Syscalls: []sandbox.SeccompSyscall{{Names: []string{"read"}, Action: "SCMP_ACT_ALLOW"}}}
	raw, err := json.Marshal(profile)
	if err != nil {
		t.Fatal(err)
	}
	f := &sandbox.File{Dir: dir, CIDFile: filepath.Join(dir, "container.id"), PanicLock: filepath.Join(dir, "panic.lock"),
		Bounding: []string{"CAP_CHOWN"}, NoNewPrivs: true, SeccompSHA256: profile.Digest(), GuestSHA256: digest}
	s := &ociSpec{}
	s.Process.Args = []string{sandbox.GuestProgram, "guest", "init", "--key=x", "--", "sh"}
	s.Process.Capabilities = map[string][]string{"bounding": {"CAP_CHOWN"}, "effective": {}}
	s.Process.NoNewPrivileges = true
	s.Mounts = []ociMount{{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/run/terok", Type: "tmpfs", Source: "tmpfs"},
		{Destination: sandbox.GuestProgram, Type: "bind", Source: guest, Options: []string{"ro", "rbind"}}}
	for _, ns := range privateNamespaces {
		s.Linux.Namespaces = append(s.Linux.Namespaces, struct {
			Type string `json:"type"`
			Path string `json:"path"`
		}{Type: ns})
	}
	s.Linux.Seccomp = raw
	return f, s
}

// TestHookRefusesSpecifications: what podman was asked for on the command line, by whomever,
// counts less than the sandbox file.
func TestHookRefusesSpecifications(t *testing.T) {
	f, s := ours(t)
	if err := s.check(f); err != nil {
		t.Fatal(err)
	}
	last := len(s.Mounts) - 1
	over := func(s *ociSpec, dest string) {
		s.Mounts = append(s.Mounts, ociMount{Destination: dest, Type: "bind", Source: "/tmp", Options: []string{"ro"}})
	}
	for name, attack := range map[string]func(f *sandbox.File, s *ociSpec){
		"another's network": func(_ *sandbox.File, s *ociSpec) { s.Linux.Namespaces[3].Path = "/proc/1/ns/net" },
		"the host's network": func(_ *sandbox.File, s *ociSpec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:3], s.Linux.Namespaces[4:]...)
		},
		"the host's processes": func(_ *sandbox.File, s *ociSpec) { s.Linux.Namespaces[4].Type = "time" },
		"a capability": func(_ *sandbox.File, s *ociSpec) {
			s.Process.Capabilities["bounding"] = []string{"CAP_CHOWN", "CAP_NET_ADMIN"}
		},
		"an ambient one": func(_ *sandbox.File, s *ociSpec) { s.Process.Capabilities["ambient"] = []string{"CAP_SYS_ADMIN"} },
		"new privileges": func(_ *sandbox.File, s *ociSpec) { s.Process.NoNewPrivileges = false },
		"no seccomp":     func(_ *sandbox.File, s *ociSpec) { s.Linux.Seccomp = nil },
		"seccomp null":   func(_ *sandbox.File, s *ociSpec) { s.Linux.Seccomp = json.RawMessage("null") },
		"another seccomp": func(_ *sandbox.File, s *ociSpec) {
			s.Linux.Seccomp = json.RawMessage(`{"defaultAction":"SCMP_ACT_ALLOW"}`)
		},
		"seccomp beyond what we know": func(_ *sandbox.File, s *ociSpec) {
			s.Linux.Seccomp = append(s.Linux.Seccomp[:len(s.Linux.Seccomp)-1:len(s.Linux.Seccomp)-1], `,"news":1}`...)
		},
		"another first process": func(_ *sandbox.File, s *ociSpec) { s.Process.Args = []string{"/bin/sh", "guest", "init"} },
		"another entry":         func(_ *sandbox.File, s *ociSpec) { s.Process.Args[1] = "oci-hook" },
		"no guest":              func(_ *sandbox.File, s *ociSpec) { s.Mounts = s.Mounts[:last] },
		"a guest to write":      func(_ *sandbox.File, s *ociSpec) { s.Mounts[last].Options = []string{"rw"} },
		"another guest":         func(f *sandbox.File, s *ociSpec) { f.GuestSHA256 = strings.Repeat("c", 64) },
		"the guest twice":       func(_ *sandbox.File, s *ociSpec) { s.Mounts = append(s.Mounts, s.Mounts[last]) },
		"something over it":     func(_ *sandbox.File, s *ociSpec) { over(s, sandbox.GuestProgram+"/x") },
		"a directory over it":   func(_ *sandbox.File, s *ociSpec) { over(s, filepath.Dir(sandbox.GuestProgram)+"/.") },
	} {
		f, s := ours(t)
		attack(f, s)
		if err := s.check(f); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	f, s = ours(t)
	if err := os.Chmod(s.Mounts[last].Source, 0o755); err != nil {
		t.Fatal(err)
	}
	if s.check(f) == nil {
		t.Error("a guest that can be written on the host: accepted")
	}
}

// TestHookRefusesContainers: the annotation alone makes no container ours, and nothing starts
// while panic holds.
func TestHookRefusesContainers(t *testing.T) {
	f, s := ours(t)
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	id := strings.Repeat("1", 64)
	for path, content := range map[string][]byte{filepath.Join(bundle, "config.json"): data, f.CIDFile: []byte(id + "\n")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(st *ociState, why string) {
		t.Helper()
		if err := judge(f, st); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("want %q, got %v", why, err)
		}
	}
	st := &ociState{ID: id, PID: os.Getpid(), Bundle: bundle}
	refused(st, "host's network namespace") // this process stands for a container that shares it
	other := *st
	other.ID = strings.Repeat("2", 64)
	refused(&other, "not the one that was launched")
	if err := os.WriteFile(f.PanicLock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(st, "panic")
}

func TestOCIState(t *testing.T) {
	id := strings.Repeat("a", 64)
	for in, ok := range map[string]bool{
		`{"id":"` + id + `","pid":7,"bundle":"/b"}`:                                     true,
		`{"id":"` + id + `","pid":1,"bundle":"/b"}`:                                     false,
		`{"id":"` + id + `","pid":7,"bundle":"b"}`:                                      false,
		`{"id":"../x","pid":7,"bundle":"/b"}`:                                           false,
		`{"id":"` + id + `","pid":7`:                                                    false,
		`{"id":"` + id + `","pid":7,"bundle":"/` + strings.Repeat("b", maxState) + `"}`: false,
	} {
		if _, err := parseState(strings.NewReader(in)); (err == nil) != ok {
			t.Errorf("%.90s: %v", in, err)
		}
	}
}

// TestStartIsHandedOutOnce: the workload can say hello as well; tokens go to the first only.
func TestStartIsHandedOutOnce(t *testing.T) {
	g := &guestAPI{hand: &handover{secrets: secrets{GateToken: "secret"}, File: sandbox.File{SigningKey: make([]byte, 32)}}, record: audit.Discard,
		say: func(byte) error { return nil }}
	hello := func() control.Welcome {
		t.Helper()
		body, err := json.Marshal(control.Hello{Nonce: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		g.handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/hello", bytes.NewReader(body)))
		var welcome control.Welcome
		if err := json.Unmarshal(w.Body.Bytes(), &welcome); err != nil {
			t.Fatal(err)
		}
		return welcome
	}
	if w := hello(); w.Start == nil || w.Start.GateToken != "secret" {
		t.Errorf("the first hello: %+v", w)
	}
	if w := hello(); w.Start != nil {
		t.Errorf("the second hello got the start: %+v", w)
	}
}

// TestUpstreamAddresses: whoever runs a provider's DNS cannot point the vault, which carries real
// credentials, into the private network or at the host.
func TestUpstreamAddresses(t *testing.T) {
	p := policy.New(nil, policy.Options{Posture: policy.Up, HostAddrs: []netip.Addr{netip.MustParseAddr("203.0.113.99")}})
	d := &upstreamDialer{rules: &rules{}}
	d.rules.current.Store(p)
	for addr, want := range map[string][2]bool{ // without and with allow_private
		"203.0.113.10":    {true, true},
		"2001:db8::1":     {true, true},
		"10.0.0.7":        {false, true},
		"fd00::7":         {false, true},
		"203.0.113.99":    {false, true},
		"127.0.0.1":       {false, true},
		"169.254.169.254": {false, false},
		"::ffff:10.0.0.7": {false, false},
	} {
		for i, private := range []bool{false, true} {
			if err := d.judge(netip.MustParseAddr(addr), 443, private); (err == nil) != want[i] {
				t.Errorf("%s, private %v: %v", addr, private, err)
			}
		}
	}
	d.rules.current.Store(policy.New(nil, policy.Options{Posture: policy.Quarantine}))
	if d.judge(netip.MustParseAddr("203.0.113.10"), 443, true) == nil {
		t.Error("quarantine lets the vault out")
	}
}

// TestUnreadableStateIsQuarantine: a torn or foreign file of the shield is never an empty one.
func TestUnreadableStateIsQuarantine(t *testing.T) {
	good, err := policy.EncodeDocument(policy.Document{Settings: policy.DefaultSettings()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		policy, session, posture string
		want                     control.Posture
	}{
		"nothing but the policy":  {string(good), "", "", control.Up},
		"a posture":               {string(good), string(good), `{"posture":"down"}`, control.Down},
		"no policy":               {"", "", "", control.Quarantine},
		"a torn policy":           {string(good[:len(good)/2]), "", "", control.Quarantine},
		"a torn session":          {string(good), string(good[:len(good)/2]), "", control.Quarantine},
		"a torn posture":          {string(good), "", `{"posture":"down`, control.Quarantine},
		"an empty posture":        {string(good), "", "\n", control.Quarantine},
		"an unknown posture":      {string(good), "", `{"posture":"open"}`, control.Quarantine},
		"a window that has ended": {string(good), "", `{"posture":"down-all","until":"2020-01-01T00:00:00Z"}`, control.Up},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(sandbox.PolicyPath(dir)), 0o700); err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string]string{sandbox.PolicyPath(dir): c.policy, sandbox.SessionPath(dir): c.session, sandbox.PosturePath(dir): c.posture} {
			if content == "" {
				continue
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := newRules(dir, false)
		if got := now(r); got != c.want || r.policy().Posture() != policy.Posture(c.want) {
			t.Errorf("%s: %s, policy %s", name, got, r.policy().Posture())
		}
		r.tamper()
		if r.policy().Posture() != policy.Quarantine {
			t.Errorf("%s: a container that was tampered with is in posture %s", name, r.policy().Posture())
		}
	}
}
