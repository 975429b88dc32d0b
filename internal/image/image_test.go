package image

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
)

func builder(t *testing.T) *Builder {
	t.Helper()
	d := t.TempDir()
	return &Builder{Roots: state.Roots{Config: d + "/c", Data: d + "/d", Runtime: d + "/r"}, Progress: io.Discard}
}

func TestTagOf(t *testing.T) {
	long := strings.Repeat("a/", 100) + "b"
	for base, want := range map[string]string{
		"ubuntu:24.04":                "ubuntu-24.04",
		"docker.io/library/debian:12": "debian-12",
		"localhost/debian:12":         "debian-12",
		"nvcr.io/nvidia/nvhpc:25.9":   "nvcr.io-nvidia-nvhpc-25.9",
		"host:5000/Fedora:44":         "host-5000-fedora-44",
	} {
		if got := tagOf(base); got != want {
			t.Errorf("tagOf(%q) = %q, want %q", base, got, want)
		}
	}
	if got := tagOf(long); len(got) > 128 || got == tagOf(long+"c") {
		t.Errorf("long names: %q", got)
	}
}

func TestQualify(t *testing.T) {
	for base, want := range map[string]string{
		"":                       "docker.io/library/debian:12 localhost/debian:12",
		"debian:12":              "docker.io/library/debian:12 localhost/debian:12",
		"localhost/debian:12":    "localhost/debian:12",
		"quay.io/podman/stable":  "quay.io/podman/stable",
		"rocm/dev:1":             "docker.io/rocm/dev:1",
		"host:5000/fedora:44":    "host:5000/fedora:44",
		"docker.io/library/a:b1": "docker.io/library/a:b1 localhost/a:b1",
	} {
		got, err := qualify(base)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("qualify(%q) = %v, %v, want %s", base, got, err, want)
		}
	}
	for _, bad := range []string{"--evil", "a b", "a\nRUN evil", "-x/y", "A:b", "a$(id)", "oci-archive:/etc/passwd:x y"} {
		if _, err := qualify(bad); problem.Of(err) == nil || problem.Of(err).Exit != problem.Usage {
			t.Errorf("qualify(%q): %v", bad, err)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"debian:12", "a/b/c:d@sha256:" + strings.Repeat("a", 64), "--x", "localhost/", "a//b", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		refs, err := qualify(s)
		if err != nil {
			return
		}
		for _, r := range refs {
			if strings.HasPrefix(r, "-") || strings.ContainsAny(r, " \t\n\r\x00\"'`$\\") || !strings.Contains(r, "/") {
				t.Errorf("qualify(%q) gives %q", s, r)
			}
			if tag := tagOf(r); tag == "" || len(tag) > 128 || tagUnsafe.MatchString(tag) || strings.HasPrefix(tag, "-") {
				t.Errorf("tagOf(%q) = %q", r, tag)
			}
		}
	})
}

func TestSources(t *testing.T) {
	lines, err := distros["debian:12"].sources(BootstrapOptions{Mirror: "http://m.example/debian/"})
	if err != nil || len(lines) != 3 || lines[2] != "deb http://m.example/debian-security bookworm-security main" {
		t.Errorf("%q, %v", lines, err)
	}
	if lines, err = distros["debian:12"].sources(BootstrapOptions{Security: "none"}); err != nil || len(lines) != 2 {
		t.Errorf("%q, %v", lines, err)
	}
	for _, bad := range []string{"m.example", "http://m example/x", "http://m/x [trusted=yes]", "http://m/\ndeb evil"} {
		if _, err := distros["debian:12"].sources(BootstrapOptions{Mirror: bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestLayerHash(t *testing.T) {
	h := l0.hash("id", []byte("recipe"))
	if h != l0.hash("id", []byte("recipe")) || h == l0.hash("id2", []byte("recipe")) || h == l0.hash("id", []byte("recipe2")) || h == buildNode.hash("id", []byte("recipe")) {
		t.Error("the hash does not follow its inputs")
	}
}

// TestHostileTree: what a package brings must not reach out of its bundle.
func TestHostileTree(t *testing.T) {
	for name, make := range map[string]func(dir string) error{
		"absolute link": func(d string) error { return os.Symlink("/etc/passwd", d+"/x") },
		"escaping link": func(d string) error { return os.Symlink("../../x", d+"/sub/x") },
		"setuid":        func(d string) error { return os.Chmod(d+"/sub/file", 0o755|os.ModeSetuid) },
		"socket":        func(d string) error { return mkfifo(d + "/pipe") },
	} {
		dir := tree(t)
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		if _, _, err := seal(dir); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDigest(t *testing.T) {
	a, b := tree(t), tree(t)
	da, size, err := seal(a)
	if err != nil || size != 5 {
		t.Fatal(err, size)
	}
	if db, _, err := seal(b); err != nil || db != da {
		t.Errorf("same trees: %s, %s, %v", da, db, err)
	}
	x := Bundle{Agent: "a", Dir: a, Digest: da}
	if err := x.Verify(); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(a + "/sub/file"); err != nil || fi.Mode().Perm() != 0o444 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	for name, change := range map[string]func() error{
		"content":    func() error { return rewrite(a+"/sub/file", "hellO") },
		"new file":   func() error { return os.WriteFile(a+"/new", nil, 0o444) },
		"executable": func() error { return os.Chmod(a+"/sub/file", 0o555) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := x.Verify(); !problem.Is(err, "bundle_damaged") {
			t.Errorf("%s is not noticed: %v", name, err)
		}
		if name == "new file" {
			os.Remove(a + "/new")
		}
		_ = rewrite(a+"/sub/file", "hello")
		_ = os.Chmod(a+"/sub/file", 0o444)
	}
}

func TestBundleLock(t *testing.T) {
	b := builder(t)
	if _, err := b.Bundle("claude"); !problem.Is(err, "agent_not_installed") {
		t.Fatal(err)
	}
	tmp := filepath.Join(b.Roots.BundlesDir(), "claude", ".new-1")
	adopt := func() (Bundle, error) {
		if err := os.MkdirAll(tmp+"/bin", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tmp+"/bin/claude", []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
		x := Bundle{Agent: "claude", Package: "p", Version: "1.2.3", Bin: "bin/claude", Installed: time.Unix(1, 0).UTC()}
		var err error
		if x.Digest, x.Bytes, err = seal(tmp); err != nil {
			t.Fatal(err)
		}
		return x, b.adopt(&x, tmp)
	}
	for range 2 { // the second time the directory is there
		if _, err := adopt(); err != nil {
			t.Fatal(err)
		}
	}
	x, err := b.Bundle("claude")
	if err != nil || !strings.HasPrefix(filepath.Base(x.Dir), "1.2.3-") {
		t.Fatalf("%+v, %v", x, err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.Roots.BundlesDir(), "claude", ".new-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := removeBundle(x.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Bundle("claude"); !problem.Is(err, "agent_not_installed") {
		t.Errorf("a bundle whose directory is gone: %v", err)
	}
	evil := strings.Replace(`{"schema":1,"agents":{"claude":{"agent":"claude","package":"p","version":"../../x","digest":"sha256:D","bin":"b","says":"","bytes":0,"installed":"2026-01-01T00:00:00Z"}}}`, "D", strings.Repeat("a", 64), 1)
	if err := os.WriteFile(b.Roots.AgentLock(), []byte(evil), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Bundle("claude"); err == nil {
		t.Error("a lock file that leads elsewhere is accepted")
	}
}

func TestPackageCheck(t *testing.T) {
	ok := Package{Agent: "claude", Package: "@anthropic-ai/claude-code-linux-x64", Version: "2.1.330", Bin: "node_modules/x/claude"}
	if err := ok.check(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Package){
		func(p *Package) { p.Agent = "../x" }, func(p *Package) { p.Package = "--registry=http://evil" },
		func(p *Package) { p.Package = "git+ssh://x" }, func(p *Package) { p.Version = "1.0.0 --x" },
		func(p *Package) { p.Version = "^1" }, func(p *Package) { p.Bin = "../../bin/sh" }, func(p *Package) { p.Bin = "/bin/sh" },
	} {
		p := ok
		change(&p)
		if err := p.check(); err == nil {
			t.Errorf("accepted: %+v", p)
		}
	}
}

func TestAuthorities(t *testing.T) {
	b := builder(t)
	if ca, err := b.authorities(); err != nil || ca != nil {
		t.Errorf("nothing configured: %v", err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	b.CA = []string{file}
	for _, content := range []string{"", "hello", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := b.authorities(); problem.Of(err) == nil || problem.Of(err).Exit != problem.Usage {
			t.Errorf("%q: %v", content, err)
		}
	}
	srv := httptest.NewTLSServer(nil)
	srv.Close()
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Note": "secret"}, Bytes: srv.Certificate().Raw}))
	if err := os.WriteFile(file, []byte("a comment\n"+cert+cert), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, err := Authorities([]string{file})
	if err != nil || strings.Count(string(ca), "BEGIN CERTIFICATE") != 2 || strings.Contains(string(ca), "secret") || strings.Contains(string(ca), "comment") {
		t.Errorf("%v in %s", err, ca)
	}
	b.CA = []string{filepath.Join(t.TempDir(), "missing.pem")}
	if _, err := b.authorities(); !problem.Is(err, "ca_unreadable") {
		t.Error(err)
	}
}

func TestLogKeepsAndCleans(t *testing.T) {
	b := builder(t)
	var shown bytes.Buffer
	b.Progress, b.Verbose = &shown, true
	for range keptLogs + 3 {
		l, err := b.openLog("x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte("a\x1b]0;evil\x07\r50%\rb\n")); err != nil {
			t.Fatal(err)
		}
		err = l.explain(t.Context(), "it failed", errors.New("exit 1"))
		if p := problem.Of(err); !strings.Contains(p.Message, "b") || strings.Contains(p.Message, "\x1b") || !strings.Contains(p.Hint, l.file.Name()) {
			t.Errorf("%+v", p)
		}
		l.Close()
	}
	if strings.Contains(shown.String(), "\x1b") || !strings.Contains(shown.String(), "[x] b\n") {
		t.Errorf("shown: %q", shown.String())
	}
	if logs, _ := filepath.Glob(filepath.Join(b.Roots.ImagesDir(), "logs", "*.log")); len(logs) != keptLogs {
		t.Errorf("%d logs are kept", len(logs))
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":"1.2.3"}`))
	f.Add([]byte(`{"version":"../../x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := parseVersionField(data); err == nil && strings.ContainsAny(v, "/\\ \x00\n") {
			t.Errorf("accepted %q", v)
		}
	})
}

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/sub/file", []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/file", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func rewrite(path, content string) error {
	if err := os.Chmod(path, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o444)
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

// TestWorkDirOfAFailure: a build that cannot begin leaves no directory.
func TestWorkDirOfAFailure(t *testing.T) {
	b := builder(t)
	b.CA = []string{"/nonexistent"}
	if _, _, err := b.workDir("x", nil); err == nil {
		t.Fatal("an unreadable authority is accepted")
	}
	if left, _ := filepath.Glob(filepath.Join(b.Roots.ImagesDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
