package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// guardFile is a sandbox file of dir that Load accepts.
func guardFile(dir string) *File {
	return &File{
		Schema: Schema, Key: "box", Name: "terok-box", Launch: "0123456789abcdef", Mode: "command",
		Dir: dir, RuntimeDir: "/run/user/1000/terok/run/box", CIDFile: filepath.Join(dir, "container.id"),
		StartError: filepath.Join(dir, "start-error"), PanicLock: "/home/u/.local/share/terok/panic.lock",
		SeccompSHA256: strings.Repeat("a", 64), GuestSHA256: strings.Repeat("b", 64),
		Bounding: []string{}, SigningKey: make([]byte, 32), Start: Start{Env: map[string]string{}},
	}
}

func guardJSON(t testing.TB, f *File) []byte {
	t.Helper()
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// guardPath writes the sandbox file of a new directory and returns its path.
func guardPath(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := Path(dir)
	if err := os.WriteFile(path, guardJSON(t, guardFile(dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAnnotatedPaths: the path comes from an annotation, which everybody who can run podman writes.
func TestAnnotatedPaths(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, attack := range map[string]func(t *testing.T, path string) string{
		"a relative path": func(t *testing.T, path string) string { t.Chdir(filepath.Dir(path)); return "sandbox.json" },
		"a path with ..": func(_ *testing.T, path string) string {
			return filepath.Dir(path) + "/../" + filepath.Base(filepath.Dir(path)) + "/sandbox.json"
		},
		"a system's file": func(*testing.T, string) string { return "/etc/passwd" },
		"a link": func(t *testing.T, path string) string {
			must(t, os.Rename(path, path+".real"))
			must(t, os.Symlink(path+".real", path))
			return path
		},
		"a FIFO": func(t *testing.T, path string) string {
			must(t, os.Remove(path))
			must(t, unix.Mkfifo(path, 0o600))
			return path
		},
		"a shared file": func(t *testing.T, path string) string { must(t, os.Chmod(path, 0o620)); return path },
		"a shared directory": func(t *testing.T, path string) string {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
			return path
		},
		"a copy elsewhere": func(t *testing.T, path string) string {
			data, err := os.ReadFile(path)
			must(t, err)
			dir := filepath.Join(filepath.Dir(path), "other")
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(Path(dir), data, 0o600))
			return Path(dir)
		},
		"an endless file": func(t *testing.T, path string) string { must(t, os.Truncate(path, MaxFile+1)); return path },
	} {
		t.Run(name, func(t *testing.T) {
			if f, err := Load(attack(t, guardPath(t))); err == nil {
				t.Errorf("accepted: %+v", f)
			}
		})
	}
}

// TestOneReading: one file has one reading, and no field of it leads elsewhere.
func TestOneReading(t *testing.T) {
	const dir = "/home/u/task"
	if _, err := Decode(guardJSON(t, guardFile(dir))); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*File){
		"another schema":       func(f *File) { f.Schema++ },
		"a key with a slash":   func(f *File) { f.Key = "../x" },
		"a name as an option":  func(f *File) { f.Name = "--privileged" },
		"no launch":            func(f *File) { f.Launch = "" },
		"an id file elsewhere": func(f *File) { f.CIDFile = "/home/u/container.id" },
		"a reason elsewhere":   func(f *File) { f.StartError = "/home/u/.bashrc" },
		"a lock in /dev":       func(f *File) { f.PanicLock = "/dev/null/x" },
		"a relative runtime":   func(f *File) { f.RuntimeDir = "run" },
		"no seccomp digest":    func(f *File) { f.SeccompSHA256 = "" },
		"a short guest digest": func(f *File) { f.GuestSHA256 = "00" },
		"no signing key":       func(f *File) { f.SigningKey = nil },
	} {
		f := guardFile(dir)
		change(f)
		if _, err := Decode(guardJSON(t, f)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good := string(guardJSON(t, guardFile(dir)))
	for name, data := range map[string]string{
		"an unknown key": strings.Replace(good, `{"schema"`, `{"privileged":true,"schema"`, 1),
		"bytes behind":   good + good,
		"torn":           good[:len(good)/2],
	} {
		if _, err := Decode([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestDigestCoversAll: every difference in what a profile does gives another digest, order none.
func TestDigestCoversAll(t *testing.T) {
	one := uint(1)
	profile := func() *Seccomp {
		return &Seccomp{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: &one, Architectures: []string{"SCMP_ARCH_X86_64"},
			Syscalls: []SeccompSyscall{{Names: []string{"read", "write"}, Action: "SCMP_ACT_ALLOW"},
				{Names: []string{"socket"}, Action: "SCMP_ACT_ALLOW", Args: []SeccompArg{{Index: 0, Value: 2, Op: "SCMP_CMP_EQ"}}}}}
	}
	want := profile().Digest()
	same := profile()
	same.Syscalls = []SeccompSyscall{same.Syscalls[1], {Names: []string{"write", "read"}, Action: "SCMP_ACT_ALLOW"}}
	if same.Digest() != want {
		t.Error("the order matters")
	}
	for name, change := range map[string]func(*Seccomp){
		"default":      func(s *Seccomp) { s.DefaultAction = "SCMP_ACT_ALLOW" },
		"listener":     func(s *Seccomp) { s.ListenerPath = "/run/evil.sock" },
		"architecture": func(s *Seccomp) { s.Architectures = append(s.Architectures, "SCMP_ARCH_X86") },
		"flag":         func(s *Seccomp) { s.Flags = []string{"SECCOMP_FILTER_FLAG_SPEC_ALLOW"} },
		"one more":     func(s *Seccomp) { s.Syscalls[0].Names = append(s.Syscalls[0].Names, "mount") },
		"action":       func(s *Seccomp) { s.Syscalls[0].Action = "SCMP_ACT_NOTIFY" },
		"no condition": func(s *Seccomp) { s.Syscalls[1].Args = nil },
		"condition":    func(s *Seccomp) { s.Syscalls[1].Args[0].Value = 40 },
	} {
		p := profile()
		change(p)
		if p.Digest() == want {
			t.Errorf("%s: not in the digest", name)
		}
	}
}
